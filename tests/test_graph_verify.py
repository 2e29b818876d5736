"""`--verify`: what a graph gets wrong over an epoch is found by the same epoch, called; the numbers are then the loop's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from replaying import Replaying, skipped
from training import assert_same, lane, loader, result, setting, train

from kdbench.distiller import Batch, Outputs
from kdbench.engine.graph.canary import difference
from kdbench.engine.graph.train_step import Captured
from kdbench.engine.lane import Lane
from kdbench.run import session

pytestmark = pytest.mark.core

STEPS, LOOKS = 4, 2  # replays of an epoch, and of the look at both sizes of batches before it


def verified(lanes: Sequence[Lane], machine: Replaying, *, verify: bool = True) -> list[str]:
    notes: list[str] = []
    train(lanes, setting(loader(), machine=machine, note=notes.append, verify=verify))
    return notes


def plain(name: str, folder: Path) -> Lane:
    one = lane(name, folder / "plain")
    train([one])
    return one


@pytest.mark.parametrize("name", ["kd", "crd", "ft"])  # ft has a stage before the main one
def test_an_epoch_that_is_right_is_said_and_moves_no_bit(name: str, tmp_path: Path) -> None:
    one = lane(name, tmp_path)
    (said,) = verified([one], Replaying())
    assert said.startswith(f"{one.key}: epoch 1 was trained by the graph and step by step"), said
    assert said.endswith("differ by less than 0.1% at most")
    assert_same(result(one), result(plain(name, tmp_path)))


def test_nothing_is_said_where_nothing_was_asked(tmp_path: Path) -> None:
    assert verified([lane("kd", tmp_path)], Replaying(), verify=False) == []


def test_a_graph_that_goes_wrong_between_two_looks_is_left_and_the_epoch_is_the_loops(tmp_path: Path) -> None:
    lanes = [lane(name, tmp_path / "ours") for name in ("kd", "crd")]

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        return skipped(made, lanes[0].key) if LOOKS <= number < LOOKS + STEPS else nullcontext()

    machine = Replaying(spoil)
    (said,) = verified(lanes, machine)
    assert said.startswith(f"{lanes[0].key} runs beside the graph, step by step: its epoch 1 is not what the graph")
    assert "the mean of its term 'kd' is" in said
    assert machine.held[-1] == [lanes[1].key]  # captured anew, without it
    for one, name in zip(lanes, ("kd", "crd"), strict=True):
        assert_same(result(one), result(plain(name, tmp_path / name)))


def test_the_same_goes_unseen_without_it(tmp_path: Path) -> None:
    """Else the test above would show nothing of the canary."""
    one = lane("kd", tmp_path / "ours")

    def spoil(made: Captured, number: int) -> AbstractContextManager[object]:
        return skipped(made, one.key) if LOOKS <= number < LOOKS + STEPS else nullcontext()

    assert verified([one], Replaying(spoil), verify=False) == []
    assert result(one) != result(plain("kd", tmp_path))


def test_a_lane_that_fails_when_called_leaves_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, step, seen = lane("kd", tmp_path), Lane.step, list[int]()

    def broken(self: Lane, teacher: Outputs | None, batch: Batch) -> None:
        seen.append(1)
        if len(seen) == 2:
            raise RuntimeError("not twice")
        step(self, teacher, batch)

    monkeypatch.setattr(Lane, "step", broken)
    (said,) = verified([one], Replaying())
    assert said.endswith("its epoch 1 works in the graph only: RuntimeError in epoch 1: not twice"), said
    assert one.failure is None
    monkeypatch.setattr(Lane, "step", step)
    assert_same(result(one), result(plain("kd", tmp_path)))


@pytest.mark.parametrize(
    ("ours", "theirs", "apart"),
    [
        ({"ce": 1.04}, {"ce": 1.0}, False),
        ({"ce": 1.06}, {"ce": 1.0}, True),
        ({"ce": 1.0, "small": 3e-4}, {"ce": 1.0, "small": 1e-4}, False),  # of the loss it is nothing
        ({"ce": 1.0, "small": 3e-3}, {"ce": 1.0, "small": 1e-3}, True),
        ({"ce": float("nan")}, {"ce": 1.0}, True),
        ({"ce": float("nan")}, {"ce": float("nan")}, False),  # it diverges either way, and says so
        ({"ce": 1.0}, {"kd": 1.0}, True),
        ({"ce": 0.0}, {"ce": 0.0}, False),
    ],
)
def test_what_is_apart(ours: dict[str, float], theirs: dict[str, float], apart: bool) -> None:
    assert bool(difference(ours, theirs)[0]) is apart


@pytest.mark.parametrize(
    ("words", "why"),
    [({}, "on the CPU the loop itself trains"), ({"graphs": "off"}, "on the CPU"), ({"verify": False}, "")],
)
def test_a_cpu_says_that_there_is_nothing_to_compare(words: dict[str, object], why: str) -> None:
    request = {"suite": "digits", "device": "cpu", "verify": True} | words
    notes = [note for note in session.resolve(session.Request("kd", **request)).notes if "--verify" in note]  # type: ignore[arg-type]
    assert len(notes) == bool(why)
    assert all(why in note for note in notes)
