"""kill -9 at any moment, and the grid ends with the records of an uninterrupted one.

Each round forks a child that goes on with the same grid and dies by SIGKILL: at a random time,
or exactly inside the k-th write, fsync or rename of a checkpoint, teacher or record.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import measured
from forking import forked

from kdbench.run import runner, session

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system has not")

WORDS: dict[str, Any] = {
    "suite": "digits",
    "seeds": "1",
    "epochs": 3,
    "limit_train": 96,
    "device": "cpu",
}
KILLS = 2, pytest.param(30, marks=pytest.mark.slow)
GRIDS: dict[int, dict[str, Any]] = {
    2: {"methods": "fitnet,mag", "pairs": "resnet14:resnet8"},
    30: {"methods": "kd,fitnet,mag", "pairs": "resnet14:resnet8,resnet14:wrn_16_1"},
}


class Silent:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def grid(out: Path, kills: int) -> int:
    torch.set_num_threads(1)
    request = session.Request(out=out, **WORDS, **GRIDS[kills], checkpoint_minutes=0.0)
    outcome = runner.run(session.resolve(request), Silent())
    (out / "why.txt").write_text("\n".join(outcome.failed.values()))
    return outcome.exit_code


def child(out: Path, kills: int, prepare: Callable[[], None]) -> int:
    """Go on with the grid in a forked child; returns its wait status."""

    def work() -> int:
        prepare()
        return grid(out, kills)

    return os.waitpid(forked(work), 0)[1]


def die_at(calls: int) -> Callable[[], None]:
    """Patch the system calls that make files whole: the ``calls``-th of them is the last."""
    left = calls

    def deadly(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    def prepare() -> None:
        os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)  # type: ignore[assignment]

    return prepare


def die_in(seconds: float) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return prepare


@pytest.mark.parametrize("kills", KILLS)
def test_a_grid_that_is_killed_again_and_again_ends_with_the_same_records(kills: int, tmp_path: Path) -> None:
    """In a process of its own: a process that forks must not have run threads of autograd, as other tests do."""
    if "KDBENCH_TEST_KILL" not in os.environ:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", f"[{kills}]", __file__]
        done = subprocess.run(
            [sys.executable, *words],
            env=os.environ | {"KDBENCH_TEST_KILL": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return
    kill_again_and_again(kills, tmp_path)


def kill_again_and_again(kills: int, tmp_path: Path) -> None:
    started = time.monotonic()
    assert grid(tmp_path / "whole", kills) == 0
    whole = time.monotonic() - started
    draw = random.Random(0)
    kinds = [("random", draw.uniform(0, 0.35 * whole)) for _ in range(kills // 2)]
    kinds += [("placed", 1 + place % 12) for place in draw.sample(range(36), kills // 2)]
    draw.shuffle(kinds)
    killed, rounds = 0, 0
    out = tmp_path / "killed0"
    for kind, at in kinds:
        status = child(out, kills, die_in(at) if kind == "random" else die_at(int(at)))
        if os.WIFSIGNALED(status):
            killed += 1
            assert os.WTERMSIG(status) == signal.SIGKILL
        else:  # it came to its end before its death: compare, and begin another
            assert os.WEXITSTATUS(status) == 0, (out / "why.txt").read_text()
            assert measured(out) == measured(tmp_path / "whole")
            rounds += 1
            out = tmp_path / f"killed{rounds}"
    while killed < kills:
        status = child(out, kills, die_at(draw.randint(1, 12)))
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            rounds += 1
            out = tmp_path / f"killed{rounds}"
    assert os.waitstatus_to_exitcode(child(out, kills, lambda: None)) == 0
    assert measured(out) == measured(tmp_path / "whole")
