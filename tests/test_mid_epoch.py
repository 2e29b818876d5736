"""A checkpoint in the middle of an epoch goes on to the bit, whatever the method, the data and the recipe."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import measured
from telling import fast
from training import COMBINATIONS, PLAN, Silent, assert_same, lane, lane_of, loader, nothing, pair_of, result, setting

from kdbench import models, registry
from kdbench.data import Loader
from kdbench.engine import checkpoint, saving
from kdbench.engine import fit as engine
from kdbench.engine.checkpoint import CheckpointDamaged
from kdbench.engine.lane import Lane
from kdbench.engine.saving import Saver
from kdbench.engine.schedule import Plan

pytestmark = pytest.mark.core

STEPS = 4  # of an epoch
TWO = replace(PLAN, epochs=2, milestones=(1,))


class Eager(Saver):
    """Saves every lane between any two steps, whoever else writes."""

    def turn(self, lanes: Sequence[Lane]) -> list[Lane]:
        return list(lanes)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "Saver", lambda every, **more: Eager(1e-9, **more))
    monkeypatch.setattr(saving, "RAREST", 0.0)


class Cut(Silent):
    """Ends the training in its n-th step, before what it was is saved."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def step(self, lanes: int) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise KeyboardInterrupt


def made(name: str, folder: Path, plan: Plan = TWO) -> Lane:
    torch.manual_seed(1)
    net = models.create("resnet8", 10, image_size=8)
    pair = pair_of(net)
    torch.manual_seed(2)
    return lane_of(name, net, registry.get(name).build(pair), folder, plan=plan)


def cut_and_resumed(
    make: Callable[[Path], Lane], folder: Path, steps: int, feed: Callable[[], Loader], begun: int | None = None
) -> None:
    """Trained at one go, and stopped after so many steps and resumed: the same."""
    whole = make(folder / "whole")
    engine.fit(setting(feed()), [whole], Silent(), nothing)
    assert whole.failure is None
    with pytest.raises(KeyboardInterrupt):
        engine.fit(setting(feed()), [make(folder / "cut")], Cut(steps), nothing)
    rest = make(folder / "cut")
    torch.manual_seed(7)
    assert rest.resume()
    assert rest.begun == (steps % STEPS if begun is None else begun)
    engine.fit(setting(feed()), [rest], Silent(), nothing)
    assert_same(result(rest), result(whole))


@pytest.mark.parametrize("name", fast([*registry.names(), *COMBINATIONS]))
def test_every_method_goes_on_in_mid_epoch(name: str, tmp_path: Path) -> None:
    try:
        one = made(name, tmp_path)
    except ValueError as error:
        pytest.skip(f"the method refuses the pair: {error}")
    views = one.method.views
    for steps in (STEPS + 2, STEPS * (1 + one.pretrain_total) + 3)[: 2 if one.pretrain_total else 1]:
        folder = tmp_path / str(steps)
        cut_and_resumed(lambda place: made(name, place), folder, steps, lambda: loader(views=views))


RECIPES: dict[str, dict[str, Any]] = {
    "averaged": {"ema": 0.9},
    "clipped": {"clip_grad": 0.5},
    "adamw": {"optimizer_name": "adamw", "lr": 1e-3},
    "two momenta": {"gradients": "dot"},
    "smoothed": {"label_smoothing": 0.1},
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_on_in_mid_epoch(name: str, tmp_path: Path) -> None:
    cut_and_resumed(lambda place: made("kd", place, replace(TWO, **RECIPES[name])), tmp_path, STEPS + 1, loader)


def test_between_batches_of_one_step_nothing_is_saved(tmp_path: Path) -> None:
    plan = replace(TWO, accumulate=2)
    cut_and_resumed(lambda place: made("kd", place, plan), tmp_path, STEPS + 3, loader, begun=2)


FEEDS: dict[str, dict[str, Any]] = {
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "num_classes": 10},
    "erased": {"random_erasing": 0.5},
    "made on the host": {"augment": "rrc"},
    "made by workers": {"augment": "rrc", "workers": 1},
}


#: Workers are processes, which take seconds to begin; tests/test_sources.py has them in the fast suite.
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("workers" in name)) for name in FEEDS])
def test_every_kind_of_batches_goes_on_in_mid_epoch(name: str, tmp_path: Path) -> None:
    cut_and_resumed(lambda place: made("kd", place), tmp_path, STEPS + 2, lambda: loader(**FEEDS[name]))


def test_lanes_that_stand_at_different_batches_join_in_time(tmp_path: Path) -> None:
    whole = [made(name, tmp_path / "whole") for name in ("crd", "kd", "at")]
    for one in whole:
        engine.fit(setting(loader()), [one], Silent(), nothing)
    for name, steps in (("crd", STEPS + 1), ("kd", STEPS + 3)):
        with pytest.raises(KeyboardInterrupt):
            engine.fit(setting(loader()), [made(name, tmp_path / "cut")], Cut(steps), nothing)
    some = [made(name, tmp_path / "cut") for name in ("crd", "kd", "at")]
    assert [one.resume() for one in some] == [True, True, False]
    assert [(one.epoch, one.begun) for one in some] == [(1, 1), (1, 3), (0, 0)]
    engine.fit(setting(loader()), some, Silent(), nothing)
    for one, same in zip(some, whole, strict=True):
        assert_same(result(one), result(same))


def test_lanes_take_turns_once_the_one_before_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "RAREST", 600.0)
    now, written = [0.0], threading.Event()
    monkeypatch.setattr(checkpoint, "save", lambda path, state: written.wait(20))
    some = [lane(name, tmp_path) for name in ("kd", "crd")]
    with Saver(30.0, lambda: now[0]) as saver:
        assert saver.turn(some) == []
        now[0] = 31.0
        assert saver.turn(some) == [some[0]]
        saver._todo.put((some[0], {"epoch": 0}))
        assert saver.turn(some) == []  # it is being written
        written.set()
        saver._todo.join()
        assert saver.turn(some) == [some[1]]
        assert saver.turn(some) == []
        now[0] = 62.0
        assert saver.turn(some) == [some[0]]
        assert saver.due(some) == {some[1]}  # the rest of the round, at the end of the epoch
        saver._spent = 1.0  # a hundredth of 100 s
        now[0] = 62.0 + 99
        assert saver.turn(some) == []
        now[0] = 62.0 + 101
        assert saver.turn(some) == [some[0]]


def test_an_error_of_the_writer_costs_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, state: dict[str, Any]) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(checkpoint, "save", broken)
    said: list[str] = []
    one = made("kd", tmp_path)
    engine.fit(setting(loader(), note=said.append), [one], Silent(), nothing)
    assert one.done
    assert one.failure is None
    assert "a checkpoint of kd could not be written, an older one stays: RuntimeError" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"batches": 0},
        {"batches": "1"},
        {"needs_teacher": 1},
        {"scale": None},
        {"meter": None},
        {"meter": {"steps": 1, "images": 1, "terms": {"ce": (torch.zeros(2), torch.zeros(2), torch.zeros(2))}}},
        {"meter": {"steps": 1, "images": 1, "terms": {"ce": torch.zeros(2)}}},
    ],
    ids=str,
)
def test_what_is_no_part_of_an_epoch_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        engine.fit(setting(loader()), [made("kd", tmp_path)], Cut(STEPS + 2), nothing)
    one = made("kd", tmp_path)
    state = checkpoint.peek(one.path)
    state["partial"] |= change
    checkpoint.save(one.path, state)
    with pytest.raises(CheckpointDamaged, match="was not written by kdbench"):
        one.resume()


def test_an_older_kdbench_does_not_take_it_for_the_end_of_an_epoch() -> None:
    assert checkpoint.pack({"epoch": 1}).startswith(b"kdbench checkpoint 1\n")
    assert checkpoint.pack({"epoch": 1, "partial": {}}).startswith(b"kdbench checkpoint 2\n")


KILLED = """
import os, sys
from pathlib import Path
from kdbench.engine import fit, saving
from kdbench.run import runner, session
class Quiet:
    def __init__(self, steps): self.steps = steps
    def step(self, lanes):
        self.steps -= 1
        if self.steps == 0: os.kill(os.getpid(), 9)
    def note(self, sentence): print(sentence)
    def __getattr__(self, name): return lambda *a: None
saving.SHARE = 1e9
out, steps = Path(sys.argv[1]), int(sys.argv[2])
words = dict(methods="kd,crd", pairs="resnet14:resnet8", suite="digits", seeds="1", epochs=2, limit_train=96)
request = session.Request(out=out, device="cpu", **words, checkpoint_minutes=float(sys.argv[3]))
sys.exit(runner.run(session.resolve(request), Quiet(steps)).exit_code)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_in_mid_epoch(tmp_path: Path) -> None:
    def run(out: Path, steps: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(out), str(steps), "0.000001"]
        return subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert run(tmp_path / "whole", 10**9).returncode == 0
    for steps in (2, 7):  # of the teacher, and of the students
        assert run(tmp_path / "cut", steps).returncode == -9
    done = run(tmp_path / "cut", 10**9)
    assert done.returncode == 0, done.stderr
    assert "batch" in done.stdout
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_no_time_between_checkpoints_is_refused() -> None:
    from kdbench.run import session

    for minutes in (-1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="--checkpoint-minutes takes"):
            session.resolve(session.Request("kd", suite="digits", checkpoint_minutes=minutes))
