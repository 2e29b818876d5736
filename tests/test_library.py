"""The verbs as functions: the command line's words, sentences and records, and nothing on a screen."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import kdbench
from kdbench import record
from kdbench.cli import main
from kdbench.engine.evaluate import measure
from kdbench.library import words
from kdbench.run import batches
from kdbench.run import teachers as teaching

PAIR = "resnet14:resnet8"
#: Words of a conversation on a terminal; a function asks nobody.
DIALOGUE = ("budget", "yes", "device_memory")
SMALL: dict[str, Any] = {"pairs": PAIR, "suite": "digits", "epochs": 1, "limit_train": 96, "seeds": 1}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two methods' runs; tests must not change what is there."""
    folder = tmp_path_factory.mktemp("library")
    kdbench.run(["kd", "simkd", "student"], **SMALL, out=folder)
    return folder


def test_a_run_gives_the_records_that_the_command_line_writes(out: Path, tmp_path: Path) -> None:
    said: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = kdbench.run("simkd,kd", **SMALL, out=out, say=said.append)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert [(one.method, one.status, one.seed) for one in found] == [("simkd", "done", 0), ("kd", "done", 0)]
    assert found[1] in record.read_all(out / "runs")[0]
    line = ["run", "-m", "kd", "-p", PAIR, "-s", "digits", "--epochs", "1", "--limit-train", "96", "--seeds", "1"]
    assert CliRunner().invoke(main, [*line, "--out", str(tmp_path)]).exit_code == 0
    (theirs,) = record.read_all(tmp_path / "runs")[0]
    assert theirs.measured() == found[1].measured()


def test_a_dry_run_trains_nothing(out: Path, tmp_path: Path) -> None:
    assert kdbench.run("kd", **SMALL, out=tmp_path, dry_run=True) == []
    assert not [*tmp_path.iterdir()]
    assert len(kdbench.run("kd,fitnet", **SMALL, out=out, dry_run=True)) == 1


def test_what_failed_is_a_record_or_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **more: object) -> None:
        raise teaching.TeacherFailed("the teacher is ill")

    refused, *_ = kdbench.run("fitnet[tap=9],student", **SMALL, out=tmp_path)
    assert (refused.status, refused.reason[:11]) == ("unsupported", "fitnet: tap")
    monkeypatch.setattr("kdbench.run.teachers.get", failing)
    with pytest.warns(UserWarning, match="kd on resnet14:resnet8, seed 0 failed and has no record: the teacher is ill"):
        assert kdbench.run("kd", **SMALL, out=tmp_path) == []
    with pytest.raises(RuntimeError, match="--fail-fast"):
        kdbench.run("kd", **SMALL, out=tmp_path, fail_fast=True)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"methods": "kdd"}, ["run", "-m", "kdd"]),
        ({"methods": ["kd[tau=-1]"]}, ["run", "-m", "kd[tau=-1]"]),
        ({"pairs": "resnet9"}, ["run", "-p", "resnet9"]),
        ({"suite": "nowhere"}, ["run", "-s", "nowhere"]),
        ({"seeds": 0}, ["run", "--seeds", "0"]),
        ({"seeds": [-1]}, ["run", "--seeds", "-1,"]),
        ({"epochs": 0}, ["run", "--epochs", "0"]),
        ({"limit_train": 1}, ["run", "--limit-train", "1"]),
        ({"set": {"recipe.lrr": 1}}, ["run", "--set", "recipe.lrr=1"]),
        ({"set": ["recipe.lr"]}, ["run", "--set", "recipe.lr"]),
        ({"precision": "fp64"}, ["run", "--precision", "fp64"]),
        ({"device": "tpu"}, ["run", "--device", "tpu"]),
        ({"graphs": "on"}, ["run", "--graphs", "on"]),
        ({"table": "on"}, ["run", "--table", "on"]),
        ({"weights": "best"}, ["run", "--weights", "best"]),
        ({"shard": "3/2"}, ["run", "--shard", "3/2"]),
        ({"lanes": 0}, ["run", "--lanes", "0"]),
    ],
)
def test_sentences_are_the_command_lines(given: dict[str, Any], line: list[str], tmp_path: Path) -> None:
    words = {"suite": "digits"} | given
    told = CliRunner().invoke(main, [*line, *([] if "-s" in line else ["-s", "digits"]), "--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r".") as error:
        kdbench.run(**words, out=tmp_path)
    assert told.exit_code == 2
    assert told.stderr.strip() == f"Error: {error.value}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"methods": []}, "."),
        ({"methods": ""}, "."),
        ({"methods": 3}, "."),
        ({"pairs": []}, "no pair was asked for"),
        ({"seeds": True}, "--seeds takes a count such as 3 or a list such as 0,1,2, not True"),
        ({"seeds": []}, "--seeds takes a count"),
        ({"seeds": 1.5}, "--seeds takes a count"),
        ({"epochs": "3"}, "--epochs takes a whole number, not '3'"),
        ({"epochs": 2.0}, "--epochs takes a whole number, not 2.0"),
        ({"lanes": True}, "--lanes takes a whole number, not True"),
        ({"precision": None}, "--precision takes a text, not None"),
        ({"suite": 3}, "--suite takes a text, not 3"),
        ({"suite": Path("nowhere.toml")}, "nowhere.toml"),
        ({"device": torch.device("meta")}, "device 'meta' is not supported"),
        ({"force": "no"}, "--force takes True or False, not 'no'"),
        ({"retry_failed": None}, "--retry-failed takes True or False, not None"),
        ({"fail_fast": 1}, "--fail-fast takes True or False, not 1"),
        ({"dry_run": "no"}, "--dry-run takes True or False, not 'no'"),
        ({"compile": "yes"}, "--compile takes True or False, not 'yes'"),
        ({"say": 5}, "say is a function of one sentence, such as print, not 5"),
        ({"shard": (1, 2)}, r"--shard takes a text, not \(1, 2\)"),
        ({"seeds": b"3"}, "--seeds takes a count such as 3 or a list such as 0,1,2, not b'3'"),
        ({"seeds": {"a": 1}}, "--seeds takes a count"),
        ({"methods": b"kd"}, "are texts, or lists of them, not b'kd'"),
        ({"methods": {"kd": 1}}, "are texts, or lists of them, not {'kd': 1}"),
        ({"pairs": [("resnet20", "resnet8")]}, r"are texts, or lists of them, not \[\('resnet20', 'resnet8'\)\]"),
        ({"track": [None]}, r"are texts, or lists of them, not \[None\]"),
        ({"set": 5}, "--set takes KEY=VALUE, a list of such or a mapping, not 5"),
        ({"set": [1]}, r"--set takes KEY=VALUE, a list of such or a mapping, not \[1\]"),
        ({"set": b"recipe.lr=1"}, "--set takes KEY=VALUE"),
        ({"plugin": 5}, "--plugin takes a path or a list of paths, not 5"),
        ({"plugin": [None]}, "--plugin takes a path or a list of paths"),
        ({"out": 5}, "a path is a text or a pathlib.Path, not 5"),
        ({"out": "a\0b"}, "a path is a text or a pathlib.Path, not"),
        ({"data_dir": b"x"}, "a path is a text or a pathlib.Path, not b'x'"),
        ({"notify": " "}, "--notify takes a command for the shell, not ''"),
        ({"notify": "a\0b"}, "--notify takes a command for the shell, not"),
    ],
)
def test_what_only_python_can_say_is_a_sentence_too(words: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"suite": "digits", "methods": "kd", "out": tmp_path, **words}
    with pytest.raises(ValueError, match=sentence):
        kdbench.run(**given)


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [
        ("report", (), {"out": 5}),
        ("report", (), {"say": 5}),
        ("load_records", (), {"out": 5}),
        ("load_records", (), {"suite": 5}),
        ("load_student", ("kd",), {"out": 5}),
        ("load_teacher", (5,), {}),
        ("load_teacher", ("resnet20", 5), {}),
        ("tune", ("kd",), {"trials": None}),
        ("tune", ("kd",), {"seeds": None}),
        ("tune", ("kd",), {"say": "x"}),
    ],
)
def test_other_functions_know_wrong_types_too(
    verb: str, args: tuple[Any, ...], words: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"takes a|is a text or|is a function"):
        getattr(kdbench, verb)(*args, **({"out": tmp_path} | words))


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"pairs": "all", "plugin": (), "data_dir": None, "out": tmp_path, "methods": "kd"}
    numbers: dict[str, Any] = {
        "epochs": np.int64(3),
        "lanes": np.int32(2),
        "force": np.bool_(True),
        "checkpoint_minutes": np.float32(2),
    }
    given = {"recipe.lr": np.float64(0.1), "recipe.flip": np.bool_(False), "recipe.milestones": np.array([1, 2])}
    asked = words.request(**plain, **numbers, set=given | {"recipe.weight_decay": torch.tensor(0.5)})
    assert (asked.epochs, asked.lanes, asked.force, asked.checkpoint_minutes) == (3, 2, True, 2.0)
    assert [type(one) for one in (asked.epochs, asked.force, asked.checkpoint_minutes)] == [int, bool, float]
    wanted = ("recipe.lr=0.1", "recipe.flip=false", "recipe.milestones=1,2", "recipe.weight_decay=0.5")
    assert asked.overrides == wanted
    counts: list[Any] = [np.int64(2), np.array(3), np.arange(2), torch.arange(2)]
    assert [words.seeds(one) for one in counts] == [
        "2",
        "3",
        "0,1,",
        "0,1,",
    ]


def test_words_may_be_pythons_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"plugin": (), "data_dir": None, "out": tmp_path}
    one = words.request(methods=["kd", "at"], pairs=[PAIR], set={"recipe.lr": 0.1}, **plain)  # type: ignore[arg-type]
    two = words.request(methods="kd,at", pairs=PAIR, set="recipe.lr=0.1", **plain)  # type: ignore[arg-type]
    assert one == two
    monkeypatch.setenv("KDBENCH_OUT", str(tmp_path))
    monkeypatch.setenv("KDBENCH_DATA", "~/data")
    three = words.request(methods=None, pairs="all", set=(), plugin=(), data_dir=None, out=None)
    assert (three.out, three.data_dir) == (tmp_path, Path("~/data").expanduser())
    with pytest.raises(ValueError, match=r"no plug-in file 'nowhere\.py'"):
        kdbench.run("kd", plugin="nowhere.py")


def test_the_command_line_has_no_word_that_a_function_lacks() -> None:
    other = {"overrides": "set", "plugins": "plugin", "chosen": "suite", "file": "out", "cell": "cell"}
    for verb in ("run", "tune", "report", "export"):
        asked = {other.get(one.name or "", one.name) for one in main.commands[verb].params} - {"help"}
        known = set(inspect.signature(getattr(kdbench, verb)).parameters)
        assert asked - {"plugin", *DIALOGUE} <= known, verb


def test_a_choice_of_weights_is_a_record_of_its_trials(tmp_path: Path) -> None:
    small = {name: SMALL[name] for name in ("pairs", "suite", "epochs", "limit_train")}
    (choice,) = kdbench.tune("kd,student", **small, trials=2, out=tmp_path)
    assert (choice.method, len(choice.trials), choice.pair) == ("kd", 2, PAIR)
    assert kdbench.tune("kd,at", **small, trials=2, out=tmp_path, dry_run=True) == [choice]
    assert kdbench.tune("student", **small, out=tmp_path) == []


def test_reports_and_records_are_frames(out: Path) -> None:
    said: list[str] = []
    board = kdbench.report(out=out, formats=["csv"], say=said.append)["digits"]
    assert set(board["method"]) == {"kd", "simkd", "student"}
    assert any(sentence.startswith("wrote 4 files of suite digits") for sentence in said)
    frame = kdbench.load_records(out)
    assert sorted(frame["method"]) == ["kd", "simkd", "student"]
    assert list(frame.columns) == (out / "digits.csv").read_text().splitlines()[0].split(",")
    (kd,) = (one for one in record.read_all(out / "runs")[0] if one.method == "kd")
    assert frame.set_index("method").loc["kd", "top1_last"] == kd.top1_last
    with pytest.raises(ValueError, match=r"no run records of suite 'crd' under .*; there are some of digits"):
        kdbench.load_records(out, suite="crd")


def test_a_report_has_the_bytes_of_the_command_lines(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "runs", tmp_path / "runs")
    kdbench.report(out=out, formats="md,tex,csv")
    assert CliRunner().invoke(main, ["report", "--out", str(tmp_path), "--formats", "md,tex,csv"]).exit_code == 0
    for name in ("digits/leaderboard.md", "digits/leaderboard.tex", "digits.csv"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_damaged_record_is_left_out_with_a_warning(out: Path, tmp_path: Path) -> None:
    for path in (out / "runs").rglob("*.json"):
        copy = tmp_path / path.relative_to(out)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(
            path.read_text().replace('"done"', '"dine"') if path.name.startswith("kd-") else path.read_text()
        )
    with pytest.warns(UserWarning, match="left out: .*kd-s0"):
        assert len(kdbench.load_records(tmp_path)) == 2


@pytest.mark.parametrize("method", ["kd", "simkd", "student"])
def test_a_kept_student_measures_as_its_record_says(out: Path, method: str) -> None:
    found = kdbench.load_student(f"{method} resnet8 0", out=out)
    assert found.classes == tuple("0123456789")
    assert found.record.method == method
    from kdbench import data

    logits, labels = [], []
    for image, label in batches.test_batches(data.load("digits"), found.record.settings.recipe, torch.device("cpu")):
        logits.append(found(image))
        labels.append(label)
    top1 = measure(torch.cat(logits), torch.cat(labels))["top1"]
    assert top1 == pytest.approx(found.record.top1_last, abs=0.2)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


def test_a_kept_student_teaches_another(out: Path) -> None:
    from kdbench import models

    teacher, student = kdbench.load_student("kd", out=out).student, models.create("resnet8", 10, image_size=8)
    d = kdbench.attach(student, teacher, "fitnet", batch_size=4, image_size=8)
    assert d(torch.randn(4, 3, 8, 8), torch.arange(4)).isfinite()


def test_a_stored_teacher_is_loaded(tmp_path: Path) -> None:
    from kdbench import models
    from kdbench.models import teachers

    net = models.create("resnet8", 10, image_size=8)
    teachers.store(
        tmp_path / "teachers",
        net,
        dataset="digits",
        name="resnet8",
        num_classes=10,
        image_size=8,
        top1=None,
        source="imported",
        recipe={},
        half=False,
    )
    found = kdbench.load_teacher("resnet8", out=tmp_path)
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(found(image).logits, net.eval()(image).logits)
    assert not found.training


def test_a_wing_is_called_as_its_function_whoever_imported_it_first() -> None:
    import kdbench.report.make
    import kdbench.run.session

    for name in ("run", "report", "export"):
        wing: Any = getattr(kdbench, name)
        assert type(wing).__mro__[1] is types.ModuleType
        assert "out" in inspect.signature(wing).parameters
    with pytest.raises(ValueError, match="no method"):
        kdbench.run("kdd", suite="digits")


def test_import_kdbench_loads_nothing_heavy() -> None:
    code = "import sys, kdbench; kdbench.run; kdbench.export; print([n for n in ('torch', 'pandas', 'rich') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in kdbench.__all__ if not name.startswith("_") and name.islower()])
def test_a_public_function_shows_an_example_and_says_what_it_raises(name: str) -> None:
    found: Any = getattr(kdbench, name)
    text = inspect.getdoc(inspect.unwrap(found)) or ""  # a wing wraps its function
    assert ">>>" in text
    assert "Raises:" in text or name == "kl"
    signature = inspect.signature(found)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
