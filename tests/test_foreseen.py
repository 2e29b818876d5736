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
    class Doubtful(Distiller):
        """Raises another error at each pair."""

        def __init__(self, pair: Pair) -> None:
            super().__init__(pair)
            torch.manual_seed(7)
            raise ZeroDivisionError

    monkeypatch.setattr(registry, "get", lambda name: Doubtful)
    cells = resolve(Request("kd", "resnet20:resnet8", "digits", seeds="2")).cells
    before = torch.get_rng_state()
    assert foreseen.refusals(cells, load("digits"), lambda cell: True, print) == {}
    assert torch.equal(before, torch.get_rng_state())


def test_each_method_on_a_pair_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(foreseen, "served", lambda cell, *_, **__: built.append(cell.label))
    monkeypatch.setattr(foreseen, "MANY", 1)
    said: list[str] = []
    cells = resolve(Request("kd,fitnet,student", "resnet20:resnet8", "digits", seeds="3")).cells
    foreseen.refusals(cells, load("digits"), lambda cell: True, said.append)
    assert built == ["kd", "fitnet"]
    assert said == ["first a look at whether 2 methods on pairs go together, before teachers are trained"]
    foreseen.refusals(cells, load("digits"), lambda cell: False, said.append)
    assert len(built) == 2
