"""CIFAR-100 itself, on the CPU, from the command line to the table: shorter than the recipe, not smaller."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import fine
from narrow import there
from small_cifar import small_cifar

from kdbench import record
from kdbench.run import session

UNPACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"
#: At its beta of 400 semckd diverges with a teacher of one short epoch; 50 is the authors' on ImageNet.
METHODS = ("semckd[beta=50]", "kd", "crd")


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with cifar-100-python as torchvision expects it; its own check sums are those of the official files."""
    if not UNPACK.is_file():
        pytest.skip("CIFAR-100 (../shared/data) is not here")
    spec = importlib.util.spec_from_file_location("unpack", UNPACK)
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder = tmp_path_factory.mktemp("cifar100")
    unpack.cifar("cifar100", str(folder))
    yield folder
    shutil.rmtree(folder)  # 180 MB, which pytest would keep for three sessions


def train(data: Path, out: Path, pair: str, *words: str, epochs: int, images: int) -> dict[str, record.Record]:
    """Run and report; method -> its record."""
    said = fine(
        "run",
        "--suite",
        "semckd",
        "--pairs",
        pair,
        "--methods",
        ",".join(METHODS),
        "--epochs",
        str(epochs),
        "--limit-train",
        str(images),
        "--seeds",
        "1",
        "--data-dir",
        data,
        "--out",
        out,
        "--device",
        "cpu",
        *words,
    )
    assert "3 of 3 cells are there" in said
    said = fine("report", "--formats", "csv,md", "--out", out)
    assert "quick run" in said
    assert f"{images} training images" in said
    found, damaged = record.read_all(out / "runs")
    assert not damaged
    return {one.method: one for one in found}


def check(records: dict[str, record.Record], out: Path, pair: str, *, epochs: int, images: int, tested: int) -> None:
    """What holds for a run of any length."""
    assert set(records) == set(METHODS)
    for one in records.values():
        assert (one.suite, one.dataset, one.pair, one.seed) == ("semckd", "cifar100", pair, 0)
        assert one.quick
        assert len(one.curve) == one.epochs == epochs
        assert one.settings.limit_train == images
        assert (one.settings.hyper["ce_weight"], one.settings.hyper["kd_weight"]) == (1.0, 1.0)
        right = tested * there(one.top1_last) / 100  # all test images were looked at, and no other number of them
        assert right == pytest.approx(round(right), abs=1e-2)
        assert one.teacher_sha256 == records["kd"].teacher_sha256
        assert one.extra_infer_params == 0
    assert records["kd"].extra_train_params == 0
    assert records["crd"].extra_train_params == 2 * (64 * 128 + 128)  # both embeddings of 64 to 128
    rows = {row["method"]: row for row in csv.DictReader((out / "semckd.csv").read_text().splitlines())}
    assert set(rows) == set(METHODS)
    for method, row in rows.items():
        assert (row["dataset"], row["teacher"], row["student"]) == ("cifar100", *pair.split(":"))
        assert (row["epochs"], row["status"]) == (str(epochs), "done")
        assert float(row["top1_last"]) == pytest.approx(records[method].top1_last, abs=0.01)


def one_epoch(folder: Path, out: Path, *words: str, images: int, tested: int) -> None:
    pair = "resnet8:resnet8"  # of a larger teacher the test images alone take half a minute
    records = train(folder, out, pair, *words, epochs=1, images=images)
    check(records, out, pair, epochs=1, images=images, tested=tested)
    for one in records.values():
        assert one.curve[0].terms["ce"] < 6.0  # ln 100 = 4.6
    assert (out / "semckd" / "leaderboard.md").stat().st_size > 500


def test_one_epoch_of_images_that_nobody_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_cifar(tmp_path / "data", monkeypatch, train=200, test=250, classes=100)
    # A worker, which the suite is given by itself, takes seconds to begin.
    one_epoch(tmp_path / "data", tmp_path / "out", "--executor", "here", images=150, tested=250)


@pytest.mark.slow
def test_one_epoch_of_a_thousand_images(cifar100: Path, tmp_path: Path) -> None:
    one_epoch(cifar100, tmp_path, images=1000, tested=10_000)


@pytest.mark.slow
def test_students_learn(cifar100: Path, tmp_path: Path) -> None:
    pair = "resnet14:resnet8"
    records = train(cifar100, tmp_path, pair, epochs=3, images=5000)
    check(records, tmp_path, pair, epochs=3, images=5000, tested=10_000)
    for one in records.values():
        ce = [point.terms["ce"] for point in one.curve]
        assert ce == sorted(ce, reverse=True), f"the loss of {one.method} does not fall: {ce}"
        assert there(one.top1_last) > 3.0, f"{one.method} is at chance, which is 1%"


def test_conventions_differ(tmp_path: Path) -> None:
    """The weights of suite crd are RepDistiller's: no KL beside a feature loss, .1 and .9 for KD alone."""

    def weights(suite: str) -> dict[str, tuple[object, object]]:
        job = session.resolve(
            session.Request(methods="semckd,kd,crd", pairs="resnet14:resnet8", suite=suite, out=tmp_path)
        )
        hyper = {cell.method: cell.settings.hyper for cell in job.cells}
        return {name: (values["ce_weight"], values["kd_weight"]) for name, values in hyper.items()}

    assert weights("semckd") == {"semckd": (1.0, 1.0), "kd": (1.0, 1.0), "crd": (1.0, 1.0)}
    assert weights("crd") == {"semckd": (1.0, 0.0), "kd": (0.1, 0.9), "crd": (1.0, 0.0)}
