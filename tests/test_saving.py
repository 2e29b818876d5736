"""Checkpoints by time, from a thread: whole ones, of states that nobody changes any more, and none after the record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Silent, assert_same, lane, nothing, result, setting, train

from kdbench.engine import checkpoint, saving
from kdbench.engine import fit as engine
from kdbench.engine.errors import Failed
from kdbench.engine.lane import Lane
from kdbench.engine.saving import Saver, on_the_host

pytestmark = pytest.mark.core


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lanes_are_saved_together_once_the_time_has_passed(tmp_path: Path) -> None:
    clock, some = Clock(), [lane(name, tmp_path) for name in ("kd", "crd")]
    saver = Saver(30.0, clock)
    assert saver.due(some) == set()
    clock.now = 29.0
    assert saver.due(some) == set()
    clock.now = 31.0
    assert saver.due(some) == set(some)
    assert saver.due(some) == set()
    some[0].stage = "pretrain"  # another than before
    assert saver.due(some) == {some[0]}


def test_on_the_cpu_every_epoch_is_due_and_no_thread_begins(tmp_path: Path) -> None:
    one, before = lane("kd", tmp_path), threading.active_count()
    with Saver(0.0) as saver:
        assert saver.due([one]) == saver.due([one]) == {one}
        saver.save(one)
        assert threading.active_count() == before
        assert one.path.exists()


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on CUDA, with no time between."""
    monkeypatch.setattr(engine, "Saver", lambda every, **_: Saver(1e-9))
    monkeypatch.setattr(saving, "RAREST", 0.0)
    yield
    assert not [one for one in threading.enumerate() if one.name == "kdbench checkpoints"]


@pytest.mark.parametrize("name", ["crd", "ofd", "fitnet"])
def test_what_a_thread_wrote_goes_on_to_the_bit(name: str, by_thread: None, tmp_path: Path) -> None:
    whole = lane(name, tmp_path / "whole")
    train([whole])
    with pytest.raises(KeyboardInterrupt):
        train([lane(name, tmp_path / "cut")], stop_after=2)
    rest = lane(name, tmp_path / "cut")
    assert rest.resume()
    assert rest.epoch > 0 or rest.stage == "train"
    train([rest])
    assert_same(result(rest), result(whole))


def test_an_interrupt_costs_no_full_epoch_and_a_kill_what_was_not_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Saver", lambda every, **_: Saver(1e9))
    cut, written = lane("crd", tmp_path), list[int]()
    usual = checkpoint.save

    def save(path: Path, state: dict[str, Any]) -> None:
        written.append(state["epoch"])
        usual(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train([cut], stop_after=2)
    assert written == [2]
    rest = lane("crd", tmp_path)
    assert rest.resume()
    assert rest.epoch == 2
    train([rest])
    whole = lane("crd", tmp_path / "whole")
    train([whole])
    assert_same(result(rest), result(whole))
    assert written == [2]  # and none of a finished lane


def test_methods_are_not_blamed_for_the_thread(by_thread: None, tmp_path: Path) -> None:
    some = [lane(name, tmp_path) for name in ("kd", "crd")]
    train(some)
    assert [one.failure for one in some] == [None, None]


def test_nothing_is_written_after_a_lane_was_finished(
    by_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, told = checkpoint.save, list[str]()

    def slow(path: Path, state: dict[str, Any]) -> None:
        threading.Event().wait(0.2)
        usual(path, state)
        told.append("written")

    monkeypatch.setattr(checkpoint, "save", slow)
    one = lane("kd", tmp_path)
    engine.fit(setting(), [one], Silent(), lambda lane: told.append("finished"))
    assert told.count("written") >= 2
    assert told.index("finished") == len(told) - 1


def test_a_full_disk_ends_the_training(by_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, state: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        engine.fit(setting(), [lane("kd", tmp_path)], Silent(), nothing)


def test_a_state_that_cannot_be_kept_is_the_lanes_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lane("kd", tmp_path)
    state = one.state() | {"curve": [object()]}
    monkeypatch.setattr(Lane, "state", lambda lane: state)
    with Saver(1.0) as saver, pytest.raises(Failed, match="which no checkpoint can keep"):
        saver.save(one)


def test_what_is_handed_over_is_a_copy_with_its_strides() -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    copied = on_the_host({"a": [weight, {"b": (1, weight)}], "c": "text"})
    ours = copied["a"][0]
    assert torch.equal(ours, weight)
    assert ours.stride() == weight.stride()
    assert not ours.requires_grad
    assert ours.data_ptr() != weight.data_ptr()
    assert copied["a"][1]["b"][0] == 1
    assert copied["c"] == "text"
