"""A graph that repeats another step than was asked for is found, by name, before a number of it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from replaying import Replaying, at_rate, other_batch, skipped
from training import PLAN, assert_same, lane, loader, result, setting, train

from kdbench.engine.fit import look
from kdbench.engine.graph import proof
from kdbench.engine.graph.proof import Moment, difference, due, share
from kdbench.engine.graph.train_step import Captured
from kdbench.engine.lane import Lane
from kdbench.engine.precision import put_switches, switches
from kdbench.run import choices, session

pytestmark = pytest.mark.core

STEPS = 4  # of an epoch: three batches of 16 and one of 8
Spoil = Callable[[Captured, int], AbstractContextManager[object]]


def trained(lanes: list[Lane], machine: Replaying) -> list[str]:
    notes: list[str] = []
    train(lanes, setting(loader(views=lanes[0].method.views), machine=machine, note=notes.append))
    return notes


def plain(name: str, folder: Path, epochs: int = 0) -> Lane:
    one = longer(lane(name, folder / "plain"), epochs)
    train([one])
    return one


def longer(one: Lane, epochs: int) -> Lane:
    one.plan = PLAN if not epochs else PLAN.__class__(epochs, PLAN.lr, milestones=(2,))
    return one


def captured(one: Lane) -> Captured:
    feed, notes = loader(), list[str]()
    show = partial(look, setting(feed))
    made = Captured(feed, [one], "train", show=show, machine=Replaying(), note=notes.append)
    assert made.lanes == [one], notes
    return made


@pytest.mark.parametrize("name", ["kd", "crd", "semckd", "ctkd", "ofd"])
def test_a_graph_that_repeats_the_step_gives_the_bits_of_the_loop(name: str, tmp_path: Path) -> None:
    ours, machine = lane(name, tmp_path / "ours"), Replaying()
    assert trained([ours], machine) == []
    theirs = plain(name, tmp_path)
    assert_same(result(ours), result(theirs))
    assert torch.equal(ours.rng["cpu"], theirs.rng["cpu"])
    assert machine.replays > 3 * STEPS  # it was looked at


@pytest.mark.parametrize(
    ("spoil", "who", "why"),
    [
        (lambda made, _: skipped(made, "crd-resnet8"), ["crd"], "the student's net.conv1.weight differs by"),
        (lambda made, _: at_rate(made, 10), ["kd", "crd"], "differs by"),
        (lambda made, _: other_batch(made), ["kd", "crd"], "the term 'ce'"),
    ],
    ids=["a lost branch", "another rate", "another batch"],
)
def test_a_wrong_graph_is_left_with_a_sentence_and_the_numbers_are_right(
    spoil: Spoil, who: list[str], why: str, tmp_path: Path
) -> None:
    lanes = [lane(name, tmp_path / "ours") for name in ("kd", "crd")]
    notes = trained(lanes, Replaying(spoil))
    assert [note.split("-")[0] for note in notes] == who
    assert all(
        "runs beside the graph, step by step: its step in epoch 1 is not what the graph repeats" in n for n in notes
    )
    assert all(why in note for note in notes), notes
    for one, name in zip(lanes, ("kd", "crd"), strict=True):
        assert_same(result(one), result(plain(name, tmp_path / name)))


def test_what_goes_wrong_later_is_found_at_the_next_look(tmp_path: Path) -> None:
    one = longer(lane("kd", tmp_path / "ours"), 6)
    first = 2 + 3 * STEPS + 2 * 2  # replays of the looks of both sizes, and of three epochs
    notes = trained([one], Replaying(lambda made, n: skipped(made, one.key) if n >= first + STEPS else nullcontext()))
    assert len(notes) == 1
    assert "its step in epoch 5 is not" in notes[0]


def test_a_step_that_is_not_counted_fails_the_lane(tmp_path: Path) -> None:
    one = longer(lane("kd", tmp_path), 6)
    fourth = 3 * STEPS + 3 * 2  # the first replay of an epoch that is not looked at

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        return other_batch(made) if number == fourth else nullcontext()

    trained([one], Replaying(spoil))
    assert one.failure is not None
    assert "the repeated step went wrong in epoch 4" in one.failure
    assert "on images of other numbers than were drawn" in one.failure
    assert one.failure.endswith("try --graphs off, and tell us")


def test_an_epoch_that_leaves_an_image_out_is_right(tmp_path: Path) -> None:
    one, notes = lane("kd", tmp_path), list[str]()
    train([one], setting(loader(49), machine=Replaying(), note=notes.append))  # three batches of 16
    assert (one.failure, notes) == (None, [])


def test_a_rate_of_another_day_fails_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lane("kd", tmp_path)
    monkeypatch.setattr(Captured, "prove", lambda *_: None)
    one.optimizer.param_groups[0]["lr"] = torch.tensor(PLAN.lr)
    keep = at_rate

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        return keep(made, 0.1) if number == 1 else nullcontext()

    trained([one], Replaying(spoil))
    assert one.failure is not None
    assert "steps were made at rates from 0.005 to 0.05, not at 0.05" in one.failure


def test_random_numbers_that_go_on_otherwise_fail_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lane("kd", tmp_path)
    one.start_epoch()
    made = captured(one)
    track = made.tracks()[one]
    track.draws = {16: 8, 8: 4}
    state = torch.zeros(16, dtype=torch.uint8)
    moved = state.clone()
    moved[8] = 3 * 8 + 4
    one.rng = one.rng | {"cuda": moved}
    assert made._wrong_draws(track, {"cuda": state}) == ""
    track.draws = {16: 8, 8: 8}
    assert made._wrong_draws(track, {"cuda": state}) == "random numbers went on by 28, not by 32"


def test_a_tensor_that_moved_makes_a_new_capture(tmp_path: Path) -> None:
    one, theirs = longer(lane("kd", tmp_path / "ours"), 5), plain("kd", tmp_path, 5)
    machine = Replaying()
    move = STEPS + 2  # after the first epoch

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        if number == move + STEPS + 1:
            weight = next(one.student.parameters())
            weight.data = weight.data.clone()
        return nullcontext()

    machine.spoil = spoil
    notes = trained([one], machine)
    assert notes == ["tensors of kd-resnet8 lie elsewhere than when its step was captured; it is captured anew"]
    assert_same(result(one), result(theirs))


def test_switches_that_others_change_are_put_back_with_a_sentence(tmp_path: Path) -> None:
    before = switches()
    one = lane("kd", tmp_path)

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        if number == STEPS:
            torch.backends.cudnn.benchmark = True
        return nullcontext()

    try:
        notes = trained([one], Replaying(spoil))
        assert switches() == before
    finally:
        put_switches(before)
    assert "they are put back" in notes[0]


def test_a_lane_that_passed_is_not_rehearsed_again_and_one_that_left_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[str] = []
    usual = Captured._rehearse

    def noting(made: Captured, track: Any, seen: Any) -> None:
        rehearsed.append(track.lane.key)
        usual(made, track, seen)

    monkeypatch.setattr(Captured, "_rehearse", noting)
    short, long, bad = (lane(name, tmp_path) for name in ("at", "crd", "fitnet"))
    short.method.beta = float("inf")  # type: ignore[assignment]
    machine = Replaying(lambda made, _: skipped(made, bad.key))
    notes = trained([short, long, bad], machine)
    assert rehearsed == [one.key for one in (short, long, bad)]
    everyone = [one.key for one in (short, long, bad)]
    assert machine.held[::2] == [everyone, everyone[:2], everyone[1:2]]  # the second is of the shorter batch
    assert len(notes) == 1
    assert short.failure is not None
    assert short.failure.startswith("term ")
    assert all(one.failure is None for one in (long, bad))


class Compiled:
    """A student's compiled pass, whose logits are wrong by a factor."""

    def __init__(self, one: Lane, factor: float) -> None:
        self.student, self.factor = one.student, factor

    def __call__(self, image: torch.Tensor) -> Any:
        seen = self.student(image)
        return seen._replace(logits=seen.logits * self.factor)

    def drop_unreached(self) -> None:
        pass


def test_a_compiled_step_that_is_another_fails_its_lane_and_only_it(tmp_path: Path) -> None:
    wrong, right, other = (lane(name, tmp_path) for name in ("kd", "crd", "fitnet"))
    wrong.compiled, right.compiled = Compiled(wrong, 1.5), Compiled(right, 1.0)  # type: ignore[assignment]
    notes = trained([wrong, right, other], Replaying())
    assert wrong.failure is not None
    assert wrong.failure.startswith("its compiled step in epoch 1 is not the step as it is written: ")
    assert wrong.failure.endswith("; try --no-compile")
    assert notes == []
    assert (right.failure, other.failure) == (None, None)
    right.compiled = None
    assert_same(result(right), result(plain("crd", tmp_path)))


@pytest.mark.parametrize(
    ("device", "triton", "on"), [("cuda:0", True, True), ("cuda:0", False, False), ("cpu", True, False)]
)
def test_students_are_compiled_on_cuda_with_triton_unless_somebody_says(
    device: str, triton: bool, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(session, "choose_device", lambda wanted: device)
    for said, wanted in ((None, on), (True, True), (False, False)):
        request = session.Request(suite="digits", methods="kd", seeds="1", compile=said)
        assert {cell.settings.compile for cell in session.resolve(request).cells} == {wanted}


# -- the comparison ---------------------------------------------------------------------------------


def moments(change: float, apart: float, noise: float) -> tuple[Moment, Moment, Moment, Moment]:
    def of(value: torch.Tensor) -> Moment:
        return Moment({"w": value}, {"ce": torch.tensor(1.0)}, {}, {})

    before = torch.linspace(-1, 1, 9)
    called = before + change
    return of(before), of(called + apart), of(called), of(called + noise)


@pytest.mark.parametrize(
    ("precision", "apart", "noise", "ok"),
    [
        ("fp32", 0.0, 0.0, True),
        ("fp32", 5e-7, 0.0, True),
        ("fp32", 1e-4, 0.0, False),
        ("fp32", 1e-4, 5e-5, True),
        ("amp", 1e-4, 0.0, True),
        ("amp", 1e-3, 0.0, False),
        ("bf16", 5e-4, 0.0, True),
        ("bf16", 5e-3, 0.0, False),
        ("bf16", float("nan"), 0.0, False),
    ],
)
def test_what_is_allowed_is_a_share_of_the_change_and_the_noise(
    precision: str, apart: float, noise: float, ok: bool
) -> None:
    assert (difference(*moments(1e-2, apart, noise), precision) == "") is ok


def test_the_looks_of_a_run_cost_less_than_half_a_percent() -> None:
    assert [epoch for epoch in range(20) if due(epoch)] == [0, 1, 2, 4, 8, 16]
    assert share(240, 782, 2) < 0.001
    assert share(240, 782, 2, slower=10.0) < 0.003
    assert share(12, 782, 2) < 0.01


def test_the_looks_take_no_more_time_than_their_steps(tmp_path: Path) -> None:
    """Measured on the stand-in, where a call is as slow as a repeat: the looks of an epoch, in steps of the epoch."""
    one = lane("kd", tmp_path)
    one.start_epoch()
    made = captured(one)
    times = []
    for work in (lambda: list(made.epoch(0)), lambda: made.prove(0, lambda _: None)) * 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    step, look = min(times[0::2]) / STEPS, min(times[1::2])
    assert look < 25 * step, (look, step)  # six steps and the copies; of 187,680 steps less than half a percent:
    assert sum(due(epoch) for epoch in range(240)) * 25 < 0.005 * 240 * 782


def test_every_precision_has_a_floor() -> None:
    from kdbench.utils.precisions import NAMES

    assert set(proof.FLOOR) == set(NAMES)
