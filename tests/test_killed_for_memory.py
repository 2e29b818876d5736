"""A process that the system kills for memory costs lanes at once, never a cell unheard; a plain kill costs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import flat, measured, run
from forking import forked

from kdbench.engine.lane import Lane
from kdbench.run import grid, hearts, held
from kdbench.run.executors.board import Board
from kdbench.run.executors.unit import Unit
from kdbench.run.group import Work
from kdbench.run.held import Mark, holding
from kdbench.run.outcome import Note
from kdbench.run.session import Request, resolve

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system has not")


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """The system's count of processes that it killed for memory, as the test wants it; None: it does not tell."""
    proc = tmp_path / "proc"
    (proc / "sys/kernel/random").mkdir(parents=True)
    (proc / "sys/kernel/random/boot_id").write_text("first\n")
    monkeypatch.setattr(held, "_PROC", proc)

    def put(number: int | None) -> None:
        (proc / "vmstat").write_text("pgfault 3\n" + ("" if number is None else f"oom_kill {number}\n"))

    put(4)
    return put


def cells(methods: str = "kd,at,sp,fitnet") -> list[Any]:
    return resolve(Request(methods, "resnet14:resnet8", "digits", seeds="1", device="cpu")).cells


def died(out: Path, some: list[Any], *lanes: list[Any]) -> None:
    """What a process leaves that took these cells, trained these lanes one after the other, and was killed."""
    dying = held.Held(out, out)
    dying.take(some, killed=False)
    for now in lanes or [some]:
        dying.lanes(now)


def begun(out: Path, some: list[Any], *, killed: bool = False) -> tuple[int | None, dict[Any, str], list[str]]:
    """What the next one learns, which ends well."""
    said: list[Any] = []
    with holding(out, out, some, said.append, killed=killed) as now:
        now.lanes(some)
        assert len(marks(out)) >= 1
    return now.most, now.doomed, [note.sentence for note in said if isinstance(note, Note)]


def interrupted(out: Path, some: list[Any], most: int) -> None:
    """Who takes them is to have so many at once, and hears Ctrl-C."""
    with suppress(KeyboardInterrupt), holding(out, out, some, lambda event: None) as now:
        assert now.most == most
        now.lanes(some[:most])
        raise KeyboardInterrupt


def marks(out: Path) -> list[Path]:
    return sorted(hearts.folder(out).glob("*.held"))


Counter = Callable[[int | None], None]


def test_a_plain_kill_costs_nothing(tmp_path: Path, counter: Counter) -> None:
    died(tmp_path, cells())
    assert begun(tmp_path, cells()) == (None, {}, [])
    assert not hearts.folder(tmp_path).exists(), "who ended well leaves nothing behind"


def test_after_a_kill_for_memory_half_of_the_lanes_train_at_once(tmp_path: Path, counter: Counter) -> None:
    died(tmp_path, cells())
    counter(5)
    most, doomed, said = begun(tmp_path, cells())
    assert (most, doomed) == (2, {})
    assert said == [
        "the system ended a process for want of memory while it trained 4 lanes at once; going on with 2 (--lanes 2"
        " begins there)"
    ]
    assert begun(tmp_path, cells()) == (None, {}, []), "it recovers where a group ended well"


@pytest.mark.parametrize("how", ["untold before", "untold now", "another boot"])
def test_where_the_system_does_not_tell_half_is_safe(how: str, tmp_path: Path, counter: Counter) -> None:
    counter(None if how == "untold before" else 4)
    died(tmp_path, cells())
    counter(None if how == "untold now" else 4)
    if how == "another boot":
        (held._PROC / "sys/kernel/random/boot_id").write_text("second\n")
    most, _, (sentence,) = begun(tmp_path, cells())
    assert most == 2
    assert sentence.startswith("a process died, perhaps of memory, while it trained 4 lanes at once; going on with 2")


def test_each_death_halves_again_and_an_interruption_forgets_nothing(tmp_path: Path, counter: Counter) -> None:
    counter(None)
    some = cells()
    died(tmp_path, some)
    died(tmp_path, some, some[:2])
    (left,) = marks(tmp_path)
    mark = Mark.model_validate_json(left.read_bytes())
    assert (mark.lanes, mark.most, len(mark.cells)) == (2, 2, 2)
    interrupted(tmp_path, some, 1)
    interrupted(tmp_path, some, 1)
    assert begun(tmp_path, some)[0] == 1
    assert marks(tmp_path) == []


def test_who_takes_a_part_leaves_the_file_for_the_others(tmp_path: Path, counter: Counter) -> None:
    some = cells()
    died(tmp_path, some)
    counter(5)
    assert begun(tmp_path, some[:1])[0] == 2
    assert begun(tmp_path, cells("simkd"))[0] is None
    assert begun(tmp_path, some[1:])[0] == 2
    assert marks(tmp_path) == []


def test_the_files_of_another_folder_are_its_own(tmp_path: Path, counter: Counter) -> None:
    counter(None)
    dying = held.Held(tmp_path, tmp_path / "other")
    dying.take(cells(), killed=False)
    dying.lanes(cells())
    assert begun(tmp_path, cells())[0] is None
    assert len(marks(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"cells": 3}', b"\xff\x00", b"[" * 100_000])
def test_a_damaged_file_stands_in_nobodys_way(content: bytes, tmp_path: Path, counter: Counter) -> None:
    hearts.folder(tmp_path).mkdir()
    (hearts.folder(tmp_path) / "1-a.held").write_bytes(content)
    assert begun(tmp_path, cells()) == (None, {}, [])


def test_a_cell_that_dies_alone_again_and_again_fails_once(tmp_path: Path, counter: Counter) -> None:
    one = cells("kd")
    counter(None)
    died(tmp_path, one)
    died(tmp_path, one)
    most, doomed, _ = begun(tmp_path, one)
    assert most == 1
    assert doomed == {
        one[
            0
        ]: "out of memory: a process died, perhaps of memory, 2 times in a row while it trained this lane alone; the"
        " command repeated tries again"
    }
    assert begun(tmp_path, one) == (None, {}, [])


def test_one_that_went_on_between_its_deaths_does_not_fail(tmp_path: Path, counter: Counter) -> None:
    one = cells("kd")
    counter(None)
    died(tmp_path, one)
    died(tmp_path, one)
    where = grid.files(tmp_path, one[0]).checkpoint
    where.parent.mkdir(parents=True)
    where.write_bytes(b"later")
    os.utime(where, (2e9, 2e9))
    assert begun(tmp_path, one)[1] == {}


def test_a_worker_that_was_killed_is_believed_whatever_the_counter_says(tmp_path: Path, counter: Counter) -> None:
    died(tmp_path, cells())
    assert begun(tmp_path, cells(), killed=True)[0] == 2


def test_the_unit_of_a_killed_worker_says_so(tmp_path: Path) -> None:
    some = tuple(cells())
    job = resolve(Request("kd", "resnet14:resnet8", "digits", seeds="1", device="cpu"))
    unit = Unit(0, Work(job.suite, some, tmp_path, "cpu", "fp32"))
    board = Board([unit], print)
    assert board.take() is not None
    assert list(board.lost(replace(unit, work=replace(unit.work, killed=True)), {}, "killed by SIGKILL")) == []
    again = board.take()
    assert again is not None
    assert again.work.killed


@needs_fork
def test_a_run_that_was_killed_goes_on_with_fewer_lanes_and_the_same_numbers(
    finished: Path, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Lane.step, []

    def deadly(lane: Lane, *rest: Any) -> None:
        if marks(tmp_path):  # before, it is a step that the estimate times
            os.kill(os.getpid(), signal.SIGKILL)
        real(lane, *rest)

    def work() -> int:
        monkeypatch.setattr(Lane, "step", deadly)
        return run(tmp_path).exit_code

    (tmp_path / "teachers").symlink_to(finished / "teachers")
    counter(None)
    status = os.waitpid(forked(work), 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(marks(tmp_path)) == 1

    def step(lane: Lane, *rest: Any) -> None:
        if marks(tmp_path):
            seen.append(lane.key)
        real(lane, *rest)

    monkeypatch.setattr(Lane, "step", step)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "a process died, perhaps of memory, while it trained 2 lanes at once; going on with 1" in flat(result.output)
    assert seen
    assert seen == sorted(seen, key=seen.index), "one after the other"
    assert measured(tmp_path) == measured(finished)
    assert not marks(tmp_path)
