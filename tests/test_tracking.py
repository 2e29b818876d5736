"""--track: curves in CSV files, TensorBoard's and Weights & Biases, and trackers that break and stop nobody."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import measured

from kdbench import record
from kdbench.cli import main
from kdbench.run import runner, session
from kdbench.run.outcome import Standing
from kdbench.tracking import channel
from kdbench.tracking.channel import Channel
from kdbench.tracking.csv_files import CsvFiles
from kdbench.tracking.tracker import Point

WORDS = {"pairs": "resnet14:resnet8", "suite": "digits", "seeds": "1", "limit_train": 64, "device": "cpu"}


class Heard:
    """Keeps the sentences; ``stop`` interrupts after so many epochs of the students."""

    def __init__(self, stop: int = 0) -> None:
        self.notes: list[str] = []
        self.left = stop

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        if not lanes[0].key.startswith("teacher"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def train(out: Path, track: str | None, watch: Heard | None = None, **words: Any) -> Heard:
    heard = watch or Heard()
    request = session.Request(**{"methods": "kd", "epochs": 3, **WORDS, **words}, out=out, track=track)
    outcome = runner.run(session.resolve(request), heard)
    assert outcome.exit_code == 0, outcome.failed
    return heard


def rows(out: Path) -> list[dict[str, str]]:
    (file,) = (out / "track/csv/digits").glob("*/*.csv")
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was interrupted after the second and went on."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.raises(KeyboardInterrupt):
        train(folder, "csv,tensorboard", Heard(stop=2))
    assert train(folder, "csv,tensorboard").notes
    return folder


def curve(out: Path) -> list[Any]:
    (one,) = record.read_all(out / "runs")[0]
    return list(one.curve)


def test_a_csv_file_has_the_records_curve_and_no_epoch_twice(out: Path) -> None:
    found, curves = rows(out), curve(out)
    assert [int(one["epoch"]) for one in found] == [1, 2, 3]
    for row, point in zip(found, curves, strict=True):
        assert float(row["accuracy/test"]) == point.top1
        assert float(row["lr"]) == point.lr
        assert {name: float(row[f"loss/{name}"]) for name in point.terms} == point.terms
        assert float(row["images_per_second"]) > 0
        assert float(row["memory_mib"]) > 10
    assert len(list((out / "track/csv/teachers/digits").glob("*.csv"))) == 1


@pytest.mark.parametrize("epoch", ["9" * 5000, "\u0663", "\u00b2", "-1", "1.0", ""])
def test_a_row_of_no_epoch_is_left_out(epoch: str, tmp_path: Path) -> None:
    (tmp_path / "kd.csv").write_text(f"epoch,lr\n1,0.5\n{epoch},1\n", encoding="utf-8")
    CsvFiles(tmp_path).point(Point("kd", "kd", 2, {"lr": 0.25}))
    assert (tmp_path / "kd.csv").read_text(encoding="utf-8") == "epoch,lr\n1,0.5\n2,0.25\n"


def test_tensorboard_reads_every_epoch_once_over_both_runs(out: Path) -> None:
    (folder,) = (path for path in (out / "track/tensorboard/digits").glob("*/*") if path.is_dir())
    assert len(list(folder.iterdir())) == 2  # a file of each run
    found = scalars(folder)
    assert [step for step, _ in found["loss/total"]] == [1, 2, 3]
    assert [value for _, value in found["accuracy/test"]] == pytest.approx([one.top1 for one in curve(out)])
    assert {"loss/ce", "loss/kd", "lr", "images_per_second", "memory_mib"} <= set(found)


def test_a_cell_that_is_trained_anew_takes_its_series_over(out: Path) -> None:
    train(out, "csv,tensorboard", force=True)
    assert [int(one["epoch"]) for one in rows(out)] == [1, 2, 3]
    (folder,) = (path for path in (out / "track/tensorboard/digits").glob("*/*") if path.is_dir())
    assert [step for step, _ in scalars(folder)["lr"]] == [1, 2, 3]


def test_validation_and_averaged_weights_are_tracked_too(tmp_path: Path) -> None:
    train(tmp_path, "csv", overrides=("recipe.validation=0.2", "recipe.ema=0.9"), methods="student", epochs=1)
    (row,) = rows(tmp_path)
    (point,) = curve(tmp_path)
    assert float(row["accuracy/validation"]) == point.val_top1
    assert float(row["accuracy/ema"]) == point.ema_top1


# -- trackers that break --------------------------------------------------------------------------

BROKEN = {
    "missing": ("raise ModuleNotFoundError('no wandb', name='wandb')", "the package wandb is not installed"),
    "raises at import": ("raise RuntimeError('cannot')", "RuntimeError: cannot"),
    "raises at init": ("def init(**_):\n    raise OSError('network gone')", "network gone"),
    "ends the process": ("import os\ndef init(**_):\n    os._exit(7)", "its process has ended with code 7"),
    "wants to exit": ("import sys\ndef init(**_):\n    sys.exit('enough')", "SystemExit: enough"),
    "hangs": ("import time\ndef init(**_):\n    time.sleep(3600)", "did not end in time"),
    "fills the output": (
        "import os\ndef init(**_):\n    os.write(1, b'x' * 10**6)\n    print('y' * 10**6)\n    raise OSError('full')",
        "full",
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run without trackers measures."""
    folder = tmp_path_factory.mktemp("plain")
    train(folder, None, methods="student", epochs=2)
    return measured(folder)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_tracker_is_one_sentence_and_changes_nothing(
    kind: str, plain: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, sentence = BROKEN[kind]
    (tmp_path / "wandb.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(channel, "PATIENCE", 1.0 if kind == "hangs" else 30.0)
    heard = train(tmp_path / "out", "wandb", methods="student", epochs=2)
    said = [note for note in heard.notes if "tracking" in note]
    assert len(said) == 1, heard.notes
    assert sentence in said[0]
    assert measured(tmp_path / "out") == plain


def test_a_folder_that_cannot_be_written_is_one_sentence(plain: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "track").write_text("a file")
    heard = train(tmp_path, "csv", methods="student", epochs=2)
    (said,) = [note for note in heard.notes if "tracking" in note]
    assert "Not a directory" in said or "File exists" in said
    assert measured(tmp_path) == plain


def test_nobody_waits_for_a_tracker_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(channel, "HURRY", 0.3)
    deaf = Channel("csv", tmp_path, said.append, [sys.executable, "-c", "import time; time.sleep(60)"])
    began = time.monotonic()
    for epoch in range(2000):  # more than a pipe holds
        deaf.send(Point("a/b", "b", epoch, {"loss": 1.0}, {"text": "x" * 200}))
    assert time.monotonic() - began < 5
    assert not said
    deaf.close(hurry=True)
    assert said == ["tracking by csv did not end in time; its last points may be missing"]
    monkeypatch.setattr(channel, "MOST", 1000)
    deaf = Channel("csv", tmp_path, said.append, [sys.executable, "-c", "import time; time.sleep(60)"])
    for epoch in range(2000):
        deaf.send(Point("a/b", "b", epoch, {"loss": 1.0}, {"text": "x" * 2000}))
    assert not deaf.open
    assert len(said) == 2
    assert "has not taken" in said[1]


def test_a_tracker_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    said: list[str] = []
    gone = Channel("csv", tmp_path, said.append, [str(tmp_path / "no such program")])
    gone.send(Point("a", "a", 1, {}))
    gone.close()
    assert len(said) == 1
    assert "No such file" in said[0]


def test_an_unknown_tracker_is_refused_before_anything_runs(tmp_path: Path) -> None:
    words = ["run", "--suite", "digits", "--device", "cpu", "--out", str(tmp_path), "--track", "csv,tensorbord"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "--track takes csv, tensorboard or wandb" in done.output
    assert not list(tmp_path.iterdir())


# -- Weights & Biases -----------------------------------------------------------------------------

STANDIN = """
import json, os
class Run:
    def __init__(self, words):
        self.words = words
        self.say("init", words)
    def say(self, what, more):
        with open(os.environ["HEARD"], "a") as file:
            file.write(json.dumps([what, self.words["id"], more]) + "\\n")
    def log(self, values, step):
        print("chatter")
        self.say("log", [step, values])
    def finish(self):
        self.say("finish", None)
def init(**words):
    return Run(words)
"""


def test_wandb_has_a_run_per_cell_and_every_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text(STANDIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HEARD", str(tmp_path / "heard.txt"))
    out = tmp_path / "out"
    words: dict[str, Any] = {"methods": "student", "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        train(out, "wandb", Heard(stop=2), **words)
    (sent,) = (out / "track/wandb/sent").rglob("*.json")
    assert json.loads(sent.read_text()) == {"epoch": 2, "times": 0}
    sent.write_text(json.dumps({"epoch": 3, "times": 0}))  # an epoch was sent that a kill took from the checkpoint
    train(out, "wandb", **words)
    sent.write_text(json.dumps({"epoch": 2, "times": 0}))
    train(out, "wandb", **words, force=True)
    heard = [json.loads(line) for line in (tmp_path / "heard.txt").read_text().splitlines()]
    first, again, anew = (number for number, one in enumerate(heard) if one[0] == "init")
    steps = [[one[2][0] for one in heard[begin:end] if one[0] == "log"] for begin, end in
             ((first, again), (again, anew), (anew, None))]  # fmt: skip
    assert steps == [[1, 2], [], [1, 2, 3]]
    assert heard[first][1] == heard[again][1] != heard[anew][1]
    assert heard[first][2]["config"]["method"] == "student"
    assert heard[first][2]["resume"] == "allow"
    assert [one[0] for one in heard].count("finish") == 3
    assert "accuracy/test" in next(one[2][1] for one in heard if one[0] == "log")


@pytest.mark.slow
def test_wandb_writes_files_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    heard = train(tmp_path, "wandb", methods="student", epochs=2)
    assert not [note for note in heard.notes if "tracking" in note]
    (run,) = (tmp_path / "track/wandb/wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    assert os.path.getsize(file) > 500
