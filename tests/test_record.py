"""A record is written whole, read back equal, and never believed when something touched it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench import record
from kdbench.record import Record, RecordDamaged
from kdbench.utils.sealing import checksum

SETTINGS: dict[str, Any] = {
    "suite": "semckd",
    "dataset": "cifar100",
    "convention": "semckd",
    "teacher": "resnet32x4",
    "student": "resnet8x4",
    "method": "semckd",
    "hyper": {"beta": 200.0},
    "seed": 1,
    "epochs": 2,
    "recipe": {"lr": 0.05, "milestones": (1, 2)},
}


def made(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "done",
        "method": "semckd[beta=200]",
        "quick": False,
        "settings": SETTINGS | {name: changes.pop(name) for name in list(changes) if name in SETTINGS},
        "top1_last": 71.25,
        "top1_best_test": 72.5,
        "top5_last": 90.0,
        "nll": 1.1,
        "ece": 3.3,
        "agreement": 80.0,
        "curve": [
            {"epoch": 1, "lr": 0.05, "seconds": 9.5, "terms": {"ce": 4.6}, "top1": 72.5},
            {"epoch": 2, "lr": 0.05, "seconds": 19.5, "terms": {"ce": 4.1}, "top1": 71.25},
        ],
        "weights_sha256": "ab" * 32,
        "teacher_sha256": "cd" * 32,
        "teacher_top1": 79.4,
        "group_seconds": 19.5,
        "group_lanes": 1,
        "images_per_second": 1000.0,
        "extra_train_params": 10,
        "extra_infer_params": 0,
        "provenance": "port",
        "modified_student": False,
        "code": {"kdbench": "0.1"},
        "environment": {"torch": "2.15"},
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Record(**values | changes)


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    sealed = record.write(made(), path)
    assert record.read(path) == sealed
    assert sealed.measured() == made().measured()
    assert os.listdir(path.parent) == ["a.json"]


def test_numbers_that_are_not_finite_are_kept_in_standard_json(tmp_path: Path) -> None:
    curve = [{"epoch": 1, "lr": 0.1, "seconds": 1.0, "terms": {"ce": float("nan"), "at": float("inf")}}]
    record.write(made(status="failed", reason="the loss is not finite", curve=curve), tmp_path / "a.failed.json")
    json.loads((tmp_path / "a.failed.json").read_text(), parse_constant=pytest.fail)
    terms = record.read(tmp_path / "a.failed.json").curve[0].terms
    assert terms["ce"] != terms["ce"]
    assert terms["at"] == float("inf")


def test_a_write_that_breaks_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    old = record.write(made(), path)

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        record.write(made(top1_last=1.0), path)
    assert record.read(path) == old
    assert os.listdir(tmp_path) == ["a.json"]


def _sealed_again(values: dict[str, Any]) -> None:
    values["checksum"] = checksum({k: v for k, v in values.items() if k != "checksum"})


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda text: text[: len(text) // 2], "truncated or not JSON"),
        (lambda text: "", "truncated or not JSON"),
        (lambda text: text.replace("71.25", "79.25"), "checksum differs"),
        (lambda text: text.replace('"seed": 1', '"seed": 2'), "checksum differs"),
        (lambda text: "[1, 2]", "not a record"),
        (
            lambda text: text.replace('"format": 2', '"format": 99'),
            "record format 99, this kdbench reads formats 1 to 2",
        ),
    ],
)
def test_a_harmed_file_is_refused_in_one_sentence(tmp_path: Path, harm: Callable[[str], str], sentence: str) -> None:
    path = tmp_path / "a.json"
    record.write(made(), path)
    path.write_text(harm(path.read_text()))
    with pytest.raises(RecordDamaged, match=sentence) as caught:
        record.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sealed_file_with_unknown_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record.write(made(), path)
    values = json.loads(path.read_text()) | {"top1_secret": 99.0}
    _sealed_again(values)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordDamaged, match="top1_secret"):
        record.read(path)


def test_an_old_format_is_read_through_upgrades(tmp_path: Path) -> None:
    """What kdbench 0.1.0 wrote; its seal is that of the file as it was."""
    new = json.loads(made().model_dump_json(exclude={"checksum"}))
    told = ("suite", "dataset", "convention", "teacher", "student", "seed", "epochs")
    settings = {name: value for name, value in new["settings"].items() if name not in ("convention", "assistant")}
    old = {name: value for name, value in new.items() if name not in ("data", "plugin_sha256", "group_lanes")}
    old |= {name: new["settings"][name] for name in told} | {"format": 1, "settings_hash": "0123abcd"}
    old |= {"settings": settings | {"precision": "exact"}, "train_seconds": 19.5, "peak_mem_mb": 512.0}
    old["environment"] = {"torch": "2.15", "data": "ab12"}
    for name in ("teacher_normalisation", "group_seconds"):
        del old[name]
    _sealed_again(old)
    (tmp_path / "a.json").write_text(json.dumps(old))
    found = record.read(tmp_path / "a.json")
    assert found.settings.hash == made().settings.hash
    assert found.settings.precision == "fp32"
    assert (found.data, found.environment) == ({"fingerprint": "ab12"}, {"torch": "2.15"})
    assert found.group_seconds is None, "its seconds were not its own"
    (tmp_path / "a.json").write_text(json.dumps(old).replace("71.25", "79.25"))
    with pytest.raises(RecordDamaged, match="checksum differs"):
        record.read(tmp_path / "a.json")


def odd(**changes: Any) -> str:
    values = json.loads(made().model_dump_json(exclude={"checksum"}))
    for path, value in changes.items():
        *above, last = path.split("__")
        inner: Any = values
        for name in above:
            inner = inner[name]
        inner[last] = value
    _sealed_again(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    "text",
    [
        odd(settings__seed=10**30),
        odd(settings__seed=-1),
        odd(settings__seed="x"),
        odd(settings__hyper=[1, 2]),
        odd(settings={}),
        odd(settings=None),
        odd(settings__recipe=7),
        odd(curve={"a": 1}),
        odd(environment=[]),
        odd(format=True),
        odd(format=[1]),
        odd(status="gone"),
        odd(top1_last=10**400),
        '{"format": 2, "checksum": "", "settings": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"format": 1, "checksum": ""}',
        "null",
    ],
)
def test_a_record_of_odd_types_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordDamaged) as caught:
        record.read(tmp_path / "a.json")
    assert len(str(caught.value)) < 2000
    assert record.read_all(tmp_path)[0] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_a_sentence(tmp_path: Path) -> None:
    record.write(made(), tmp_path / "a" / "a.json")
    (tmp_path / "a").chmod(0)
    try:
        assert "cannot be read" in record.read_all(tmp_path)[1][0]
    finally:
        (tmp_path / "a").chmod(0o755)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(RecordDamaged):
        record.read(tmp_path / "a.json")


def test_reading_a_folder_names_what_it_leaves_out(tmp_path: Path) -> None:
    record.write(made(seed=0), tmp_path / "p" / "a.json")
    record.write(made(seed=0, status="failed", reason="killed"), tmp_path / "p" / "a.failed.json")
    record.write(made(seed=1, status="failed", reason="killed"), tmp_path / "p" / "b.failed.json")
    (tmp_path / "p" / "c.json").write_text("{")
    (tmp_path / "p" / ".d.json.1.tmp").write_text("{")
    records, problems = record.read_all(tmp_path)
    assert [(one.seed, one.status) for one in records] == [(0, "done"), (1, "failed")]
    assert len(problems) == 1
    assert "c.json" in problems[0]


def test_measured_leaves_out_only_circumstances() -> None:
    other = made(
        group_seconds=1.0,
        images_per_second=2.0,
        group_lanes=3,
        environment={},
        code={},
        finished="2027-01-01",
        curve=[dict(point.model_dump(), seconds=0.0) for point in made().curve],
    )
    assert other.measured() == made().measured()
    moved = {"top1_last": 71.26, "weights_sha256": "00", "epochs": 3, "teacher_sha256": "00", "ece": 1.0}
    for name, value in moved.items():
        assert made(**{name: value}).measured() != made().measured(), name


def test_a_finished_run_has_its_accuracies_and_others_a_reason() -> None:
    with pytest.raises(ValueError, match="top1_last"):
        made(top1_last=None)
    with pytest.raises(ValueError, match="top1_best_test"):
        made(top1_best_test=float("nan"))
    with pytest.raises(ValueError, match="reason"):
        made(status="unsupported", top1_last=None)
    with pytest.raises(ValueError, match="colour"):
        made(colour="red")


def test_settings_hash_sees_numbers_not_their_writing() -> None:
    one = record.settings_hash({"beta": 400, "milestones": [1, 2], "lr": 1e-1})
    assert one == record.settings_hash({"lr": 0.1, "milestones": (1, 2), "beta": 400.0})
    assert len(one) == 8
    assert int(one, 16) >= 0
    assert one != record.settings_hash({"beta": 400, "milestones": [2, 1], "lr": 0.1})
    assert record.settings_hash({"a": True}) != record.settings_hash({"a": 1})


def test_names_of_files_are_readable_and_safe(tmp_path: Path) -> None:
    assert record.cell_stem("semckd[beta=200,tau=2]", 3, "0123abcd") == "semckd_beta-200_tau-2-s3-0123abcd"
    assert record.cell_stem("crd+kd", 0, "0123abcd") == "crd+kd-s0-0123abcd"
    assert record.cell_stem("../x y", 0, "0123abcd") == "_x_y-s0-0123abcd"
    folder = record.runs_folder(tmp_path, "semckd", "timm/resnet50", "resnet20")
    assert folder == tmp_path / "runs" / "semckd" / "timm_resnet50-resnet20"


def test_records_load_no_torch() -> None:
    program = "import kdbench.record, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
