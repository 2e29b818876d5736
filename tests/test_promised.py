"""Two commands side by side do not plan with the same memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_lanes_at_once import lanes_of, setting

from kdbench.engine import memory as packing
from kdbench.engine.fit import split
from kdbench.run import hearts, promised
from kdbench.run.group import Work, run_group
from kdbench.run.promised import Promise, planning
from kdbench.run.session import Request, resolve
from kdbench.utils import environment, memory

GIGABYTE = 10**9
pytestmark = pytest.mark.skipif(hearts.space() == "", reason="this system does not tell one process of another")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def other() -> Any:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def put(process: int, total: int, **changed: Any) -> Path:
    facts = {"space": hearts.space(), "pid": process, "born": hearts.born(process), "group": memory.control_group()}
    promised.folder().mkdir(parents=True, exist_ok=True)
    path = promised.folder() / f"{process}-x.promise"
    path.write_text(Promise(**{**facts, "total": total, **changed}).model_dump_json())
    return path


def test_what_another_has_planned_and_not_taken_is_not_free(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held", lambda process: 2 * GIGABYTE)
    put(other.pid, 5 * GIGABYTE)
    assert promised.others() == (3 * GIGABYTE, 3 * GIGABYTE)
    put(other.pid, 1 * GIGABYTE)  # it has more than it said
    assert promised.others() == (0, 0)


def test_limits_of_a_container_count_what_is_planned_in_it(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held", lambda process: 0)
    put(other.pid, 3 * GIGABYTE, group="0::/another")
    assert promised.others() == (3 * GIGABYTE, 0)
    monkeypatch.setattr(memory, "_of_machine", lambda: 10 * GIGABYTE)
    monkeypatch.setattr(memory, "_of_container", lambda: 6 * GIGABYTE)
    monkeypatch.setattr(memory, "_of_process", list)
    assert memory.free(promised.others()) == 6 * GIGABYTE
    put(other.pid, 3 * GIGABYTE)
    assert memory.free(promised.others()) == 3 * GIGABYTE
    put(other.pid, 30 * GIGABYTE)
    assert environment.free_memory(promised=promised.others()) == 0


def test_who_is_gone_has_planned_nothing(other: Any) -> None:
    path = put(other.pid, 5 * GIGABYTE)
    other.kill()
    other.wait()
    assert promised.others() == (0, 0)
    assert not path.exists()
    far = put(1, 5 * GIGABYTE, space="another machine, whose processes nobody here knows")
    assert promised.others() == (0, 0)
    assert far.exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\xff"])
def test_a_damaged_file_counts_nothing(content: bytes) -> None:
    put(1, 1).write_bytes(content)
    assert promised.others() == (0, 0)


def test_ones_own_plan_is_none_of_the_others() -> None:
    with planning() as mine:
        mine.take(GIGABYTE)
        with mine.looking() as seen:
            assert seen == (0, 0)
        assert 0.9 * GIGABYTE < promised.others().machine <= GIGABYTE
        mine.take(0)
        assert promised.others().machine < 0.1 * GIGABYTE
    assert not [*promised.folder().glob("*.promise")]


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "file"))
    with planning() as mine, mine.looking() as seen:
        mine.take(GIGABYTE)
        assert seen == (0, 0)


def test_lanes_say_what_they_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CPU_SHARE", 1.0)
    monkeypatch.setattr(packing, "gained", lambda lane: 10)
    monkeypatch.setattr(packing, "standing", lambda lane: 5)
    monkeypatch.setattr(packing, "of_a_step", lambda *of: 60)
    told: list[int] = []
    assert list(map(len, split(setting(), lanes_of(tmp_path, 6), 100, told.append))) == [4, 2]
    assert told == [60 + 4 * 10]


def test_a_group_packs_what_the_others_leave(tmp_path: Path, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    said: list[list[Path]] = []

    def look(setting: Any, lanes: Any, free: int | None, plan: Callable[[int], object]) -> list[Any]:
        asked.append(free)
        (path,) = [one for one in promised.folder().glob("*.promise") if not one.name.startswith(f"{other.pid}-")]
        mine = Promise.model_validate_json(path.read_bytes())
        assert mine.pid == os.getpid()
        assert mine.total >= 0.7 * 4 * GIGABYTE  # until it is measured, as much as lanes may have
        said.append([path])
        return [list(lanes)]

    monkeypatch.setattr("kdbench.engine.fit.split", look)
    real = memory.held
    monkeypatch.setattr(memory, "held", lambda process: 0 if process == other.pid else real(process))
    monkeypatch.setattr(memory, "_of_machine", lambda: 10 * GIGABYTE)
    monkeypatch.setattr(memory, "_of_container", lambda: None)
    monkeypatch.setattr(memory, "_of_process", list)
    put(other.pid, 6 * GIGABYTE)
    words: dict[str, Any] = {"seeds": "1", "epochs": 1, "limit_train": 64, "device": "cpu"}
    job = resolve(Request("student,label_smoothing", "resnet14:resnet8", "digits", **words))
    work = Work(job.suite, tuple(job.cells), tmp_path / "out", "cpu", "fp32", epochs=1, limit_train=64)
    done = run_group(work, lambda event: None)
    assert [one.status for one in done.records.values()] == ["done", "done"]
    assert asked == [4 * GIGABYTE]
    assert not said[0][0].exists()
