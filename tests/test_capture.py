"""The captured step, called instead of captured, gives the bits of the ordinary loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_engine import BATCH, CPU, IMAGES, Silent, assert_same, lane, loader, result, scored, supported, teacher, train
from torch import Tensor

from kdbench import models
from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.fit import Setting, fit
from kdbench.engine.lane import Lane
from kdbench.engine.machine import Eager
from kdbench.engine.precision import Precision

METHODS = ["crd", "semckd", "fitnet", "mag", "student", "vid", "sskd", "ofd", "crd+mag"]


def captured(lanes: list[Lane], notes: list[str] | None = None, *, stop_after: int | None = None) -> None:
    """As ``test_engine.train``, through the captured step."""
    told: Callable[[str], None] = (lambda sentence: None) if notes is None else notes.append
    setting = Setting(models.fold(teacher()), loader(lanes[0].method.views), scored, CPU, Precision(), Eager(), told)
    fit(setting, lanes, Silent(stop_after), lambda lane: None)


@pytest.mark.parametrize("name", METHODS)
def test_the_captured_step_gives_the_bits_of_the_loop(name: str, tmp_path: Path) -> None:
    plain, ours = supported(name, tmp_path / "plain"), supported(name, tmp_path / "ours")
    train([plain])
    notes: list[str] = []
    captured([ours], notes)
    assert notes == []
    assert_same(result(ours), result(plain))
    assert torch.equal(ours.rng["cpu"], plain.rng["cpu"])


def test_in_company_and_resumed_into_the_other_loop(tmp_path: Path) -> None:
    plain = lane("crd", tmp_path / "plain")
    train([plain])
    company = [lane("mag", tmp_path), lane("crd", tmp_path), lane("semckd", tmp_path, student="resnet14")]
    captured(company)
    assert_same(result(company[1]), result(plain))
    for first, second in ((train, captured), (captured, train)):
        folder = tmp_path / first.__name__
        with pytest.raises(KeyboardInterrupt):
            first([lane("crd", folder)], stop_after=1)
        resumed = lane("crd", folder)
        assert resumed.resume()
        second([resumed])
        assert_same(result(resumed), result(plain))


def test_a_diverging_term_is_named_as_in_the_loop_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good, plain = (lane(name, tmp_path / name) for name in ("fitnet", "kd", "student"))
    bad.method.beta = float("inf")  # type: ignore[assignment]
    captured([bad, good, plain])
    assert bad.failure == "term 'hint' was inf in epoch 1"
    alone = lane("kd", tmp_path / "alone")
    train([alone])
    assert_same(result(good), result(alone))
    assert plain.done


class _Odd(Distiller):
    """What a captured step cannot hold."""

    memory: Tensor

    def __init__(self, pair: Pair, *, kind: str = "") -> None:
        super().__init__(pair)
        self.kind, self.count = kind, 0
        self.register_buffer("memory", torch.ones(()))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.kind == "counter":
            self.count += 1
        if self.kind == "buffer":
            self.memory = self.memory * 0.5
        if self.kind == "raises":
            raise TypeError("no such thing")
        return {"odd": self.memory * student.pooled.mean() * (1 + self.count)}


def odd(kind: str, folder: Path) -> Lane:
    """A lane of ``_Odd``."""
    one = lane("kd", folder)
    pair = models.make_pair(one.student, teacher(), image_shape=(3, 8, 8), num_classes=10,  # type: ignore[arg-type]
                            train_labels=torch.zeros(IMAGES, dtype=torch.int64), batch_size=BATCH)
    one.method = _Odd(pair, kind=kind)
    one.enter("train")
    return one


@pytest.mark.parametrize(("kind", "why"), [
    ("counter", "every step puts something new into the method's count"),
    ("buffer", "every step puts something new into the method's memory"),
])
def test_a_lane_that_cannot_be_captured_runs_beside(kind: str, why: str, tmp_path: Path) -> None:
    plain, plain_good = odd(kind, tmp_path / "plain"), lane("crd", tmp_path / "plain")
    train([plain, plain_good])
    ours, good, notes = odd(kind, tmp_path / "ours"), lane("crd", tmp_path / "ours"), list[str]()
    captured([ours, good], notes)
    assert len(notes) == 1
    assert why in notes[0]
    assert_same(result(good), result(plain_good))
    assert_same(result(ours), result(plain))  # rehearsed, found out, undone


def test_a_method_that_raises_fails_in_the_usual_words(tmp_path: Path) -> None:
    bad, good = odd("raises", tmp_path / "bad"), lane("kd", tmp_path / "good")
    captured([bad, good])
    assert bad.failure == "TypeError in epoch 1: no such thing"
    assert good.done
