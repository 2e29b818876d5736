"""What a pair's shapes refuse is told before a teacher is trained for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from commands import SMALL, fine, kdbench

from kdbench import record, registry
from kdbench.data import load
from kdbench.distiller import Distiller, Pair
from kdbench.run import foreseen
from kdbench.run.session import Request, resolve

REFUSED = "this pair shares taps 0 to 3"


def test_no_teacher_is_trained_for_what_its_shapes_refuse(tmp_path: Path) -> None:
    result = kdbench("run", *SMALL, "--methods", "fitnet[tap=9]", "--seeds", 2, "--out", tmp_path)
    assert result.exit_code == 1
    assert "training it" not in result.output
    assert not list(tmp_path.glob("teachers/**/*.safetensors"))
    said = [record.read(path) for path in tmp_path.glob("runs/*/*/*.json")]
    assert [(one.status, REFUSED in one.reason) for one in said] == [("unsupported", True)] * 2
    fine("report", "--out", tmp_path)
    assert REFUSED in (tmp_path / "digits" / "leaderboard.md").read_text()


def test_the_sentence_is_that_of_a_trained_teacher(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "after")
    before, after = tmp_path / "before", tmp_path / "after"
    for out in (before, after):
        kdbench("run", *SMALL, "--methods", "kd,fitnet[tap=9]", "--out", out, "--seeds", 1)
    one, other = (record.read(next(out.glob("runs/*/*/fitnet_tap-9*.json"))) for out in (before, after))
    assert one.reason == other.reason
    assert (one.teacher_sha256, bool(other.teacher_sha256)) == ("", True)  # nobody had taught yet
    assert len(list(before.glob("runs/*/*/kd*.json"))) == 1  # the others went on


def test_what_is_no_refusal_is_left_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubtful(pair: Pair, **hyper: object) -> Distiller:
        torch.manual_seed(7)
        raise ZeroDivisionError

    monkeypatch.setattr(registry.get("kd"), "build", doubtful)
    cells = resolve(Request("kd", "resnet20:resnet8", "digits", seeds="2")).cells
    before = torch.get_rng_state()
    assert foreseen.refusals(cells, load("digits"), lambda cell: True, print) == {}
    assert torch.equal(before, torch.get_rng_state())


def test_each_method_on_a_pair_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(foreseen, "method_of", lambda cell, _: built.append(cell.label))
    monkeypatch.setattr(foreseen, "MANY", 1)
    said: list[str] = []
    cells = resolve(Request("kd,fitnet,student", "resnet20:resnet8", "digits", seeds="3")).cells
    foreseen.refusals(cells, load("digits"), lambda cell: True, said.append)
    assert built == ["kd", "fitnet"]
    assert said == ["first a look at whether 2 methods on pairs go together, before teachers are trained"]
    foreseen.refusals(cells, load("digits"), lambda cell: False, said.append)
    assert len(built) == 2


PLUGIN = """
import torch
from kdbench import Distiller, register

@register
class Keepers(Distiller):
    'loss = CE + what the channels are worth that the teacher weighs more than others.'

    reference = "mine"
    provenance = "reading"

    def __init__(self, pair, *, beta=1.0, **common):
        super().__init__(pair, **common)
        scale = pair.teacher_norms[-1][0].detach().abs()
        if not (scale > scale.median()).any():
            raise ValueError("keepers: no channel of the teacher is more important than another")
        self.beta = beta

    def terms(self, student, teacher, batch):
        return {"kept": self.beta * student.pooled.square().mean()}
"""


@pytest.mark.usefixtures("own_registry")
def test_a_method_that_looks_at_the_teachers_weights_sees_those_of_a_trained_one(tmp_path: Path) -> None:
    file = tmp_path / "keepers.py"
    file.write_text(PLUGIN)
    said = fine("run", *SMALL, "--methods", "keepers", "--plugin", file, "--out", tmp_path / "out")
    assert "1 of 1 cell is there" in said


def test_a_student_without_an_assistant_is_refused_by_its_name(tmp_path: Path) -> None:
    words = [
        "--suite",
        "digits",
        "--epochs",
        1,
        "--limit-train",
        64,
        "--seeds",
        1,
        "--pairs",
        "resnet20:timm/test_resnet",
    ]
    result = kdbench("run", *words, "--methods", "hkd", "--out", tmp_path)
    assert "no teacher assistant for timm/test_resnet" in " ".join(result.output.split())
    assert not list(tmp_path.glob("teachers/**/*.safetensors"))


def test_a_folder_that_cannot_be_written_is_told_as_ever(tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "resnet14-resnet8").touch()
    result = kdbench("run", *SMALL, "--methods", "fitnet[tap=9]", "--out", tmp_path)
    assert result.exit_code == 1
    assert "repeat the command when that is mended" in " ".join(result.output.split())
