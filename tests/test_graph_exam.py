"""A graph of the evaluation that says something else than the plain evaluation is left, with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import CPU, images, lane

from kdbench import models
from kdbench.data.loader import Plain
from kdbench.engine.evaluate import evaluate
from kdbench.engine.graph.backend import Eager, Machine
from kdbench.engine.graph.eval_step import Exam, Exams
from kdbench.engine.lane import Lane
from kdbench.run.batches import plain_batches

pytestmark = pytest.mark.core
RECIPE = {"mean": (0.3,) * 3, "std": (0.4,) * 3}


def shown() -> Plain:
    one = images()
    return plain_batches(one.test_images[:96], one.test_labels[:96], RECIPE, CPU)


class Wrong(Eager):
    """Its replays from number ``first`` on put a number of logits into another order."""

    captures = True

    def __init__(self, first: int, rows: int) -> None:
        self.first, self.rows, self.replays = first, rows, 0

    def apart(self) -> Machine:
        return self

    def record(self, step: Any) -> tuple[Callable[[], object], Any]:
        made: Exam = step.func.__self__

        def replay() -> None:
            step()
            self.replays += 1
            if self.replays > self.first:
                for logits in made._logits.values():
                    right = made._test.labels[: self.rows]
                    logits[: self.rows] = -torch.nn.functional.one_hot(right, logits.shape[1]).float()

        return replay, None


def lanes(folder: Path, *names: str) -> list[Lane]:
    found = [lane(name, folder) for name in names]
    for one in found:
        for _ in range(3):  # to answer some of the images right
            with one.own_rng():
                one.student(torch.randn(16, 3, 8, 8))
    return found


def reports(given: list[Lane], exams: Exams) -> list[dict[str, float]]:
    exams.evaluate(given, shown, None)
    return [one.report for one in given]


def test_a_wrong_evaluation_is_found_at_once(tmp_path: Path) -> None:
    some, notes = lanes(tmp_path, "kd", "crd"), list[str]()
    exams = Exams(Wrong(0, 96), notes.append, models.fold)
    found = reports(some, exams)
    evaluate(some, shown, None, models.fold)
    assert found == [one.report for one in some]
    assert len(notes) == 1
    assert notes[0].startswith(
        "this group is evaluated without a CUDA graph: its graph says 0.00% of kd-resnet8, and the"
    )
    reports(some[:1], exams)  # no other graph is made
    assert len(notes) == 1


def test_one_that_goes_wrong_later_is_found_at_the_last(tmp_path: Path) -> None:
    some, notes = lanes(tmp_path, "kd", "crd"), list[str]()
    batches = len(list(shown()))
    exams = Exams(Wrong(batches, 96), notes.append, models.fold)
    reports(some, exams)
    reports(some, exams)
    assert notes == []
    for one in some:
        one.epoch = one.plan.epochs
    reports(some, exams)
    assert "of crd-resnet8" in notes[0]  # another one each time


def test_what_two_images_change_is_allowed(tmp_path: Path) -> None:
    some, notes = lanes(tmp_path, "kd"), list[str]()
    reports(some, Exams(Wrong(0, 2), notes.append, models.fold))
    assert notes == []
