"""How many lanes train at once on a CPU: what they gain and what a step takes are known before the first one."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from strangers import BATCH, bad, good, loader, teacher, train
from training import CPU

from kdbench.engine import memory as packing
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.fit import Setting, split
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.shared import tensors_of
from kdbench.utils import memory

MEGABYTE = 2**20


def test_the_most_that_work_takes_is_measured() -> None:
    def work() -> None:
        first = torch.ones(40 * MEGABYTE // 4)
        del first
        second = torch.ones(30 * MEGABYTE // 4)
        assert second[0] == 1

    taken = memory.highest(work)
    if taken is None:
        pytest.skip("this system does not tell the highest memory of a process")
    assert 38 * MEGABYTE < taken < 90 * MEGABYTE  # what is freed may stay in the process


def test_what_is_free_follows_the_narrowest_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "a" / "b").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 90 kB\n")
    (proc / "self" / "status").write_text("VmSize: 30 kB\nVmData: 20 kB\nVmRSS: 10 kB\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUP", cgroup)
    unlimited = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits.get(kind, unlimited))
    assert memory.free() == 90 * 1024
    assert memory.resident() == 10 * 1024
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    assert memory.free() == 90 * 1024
    for folder, most in ((cgroup / "a" / "b", "max"), (cgroup / "a", str(50 * 1024))):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{20 * 1024}\n")
        (folder / "memory.stat").write_text("anon 3\ninactive_file 1024\n")
    assert memory.free() == 31 * 1024
    limits[resource.RLIMIT_AS] = 45 * 1024, resource.RLIM_INFINITY
    assert memory.free() == 15 * 1024
    limits[resource.RLIMIT_DATA] = 19 * 1024, resource.RLIM_INFINITY
    assert memory.free() == 0
    limits.clear()
    (cgroup / "memory").mkdir()
    (cgroup / "memory" / "memory.limit_in_bytes").write_text(f"{30 * 1024}\n")
    (cgroup / "memory" / "memory.usage_in_bytes").write_text(f"{25 * 1024}\n")
    (cgroup / "memory" / "memory.stat").write_text("total_inactive_file 0\n")
    assert memory.free() == 5 * 1024


def lanes_of(folder: Path, count: int) -> list[Lane]:
    return [good("kd", folder / str(number)) for number in range(count)]


def setting() -> Setting:
    return Setting(teacher(), loader(), lambda: loader().plain(BATCH), CPU, Precision())


def test_what_is_needed_once_is_not_counted_for_each() -> None:
    assert packing.pack([10] * 6, 100, 1, once=40) == [6]
    assert packing.pack([10] * 6, 100, 1, once=60) == [4, 2]
    assert packing.pack([10] * 3, 100, 1, once=95) == [1, 1, 1]


@pytest.mark.parametrize(
    ("step", "free", "sizes", "measured"),
    [
        (0, 10**9, [6], 1),  # plenty: one step says enough
        (5, 101, [6], 1),
        (5, 100, [6], 6),
        (40, 100, [6], 6),
        (60, 100, [4, 2], 6),
        (90, 100, [1, 1, 1, 1, 1, 1], 6),
        (None, 100, [5, 1], 6),
    ],
)
def test_lanes_on_the_cpu_share_what_a_step_takes(
    step: int | None, free: int, sizes: list[int], measured: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Lane] = []
    monkeypatch.setattr(packing, "CPU_SHARE", 1.0)
    monkeypatch.setattr(packing, "gained", lambda lane: 10)
    monkeypatch.setattr(packing, "standing", lambda lane: 5)

    def of_a_step(lane: Lane, *_: object) -> int | None:
        seen.append(lane)
        return step

    monkeypatch.setattr(packing, "of_a_step", of_a_step)
    lanes = lanes_of(tmp_path, 6)
    assert [len(part) for part in split(setting(), lanes, free)] == sizes
    assert len(seen) == measured
    assert split(setting(), lanes, None) == [lanes]
    assert split(setting(), lanes[:1], 0) == [lanes[:1]]


def test_a_step_is_measured_on_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = lanes_of(tmp_path, 2)
    student, rng = {k: v.clone() for k, v in own.student.state_dict().items()}, own.rng["cpu"].clone()
    usual = own.method.terms

    def huge(*given: Any) -> dict[str, torch.Tensor]:
        big = torch.ones(60 * MEGABYTE // 4)
        return usual(*given) | {"own": 0 * big[:1].sum() + given[0].pooled.mean()}

    monkeypatch.setattr(own.method, "terms", huge)
    seen: list[int | None] = []
    real = packing.of_a_step

    def measured(*given: Any) -> int | None:
        seen.append(real(*given))
        return seen[-1]

    monkeypatch.setattr(packing, "of_a_step", measured)
    parts = split(setting(), [own, other], 64 * MEGABYTE)
    if seen[0] is None:
        pytest.skip("this system does not tell the highest memory of a process")
    assert 55 * MEGABYTE < seen[0] < 90 * MEGABYTE
    assert parts == [[own], [other]]
    assert all(torch.equal(value, student[name]) for name, value in own.student.state_dict().items())
    assert own.optimizer.state == {}
    assert all(parameter.grad is None for parameter in own.student.parameters())
    assert torch.equal(own.rng["cpu"], rng)


def test_what_goes_wrong_in_a_measured_step_is_told_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = bad("raising", tmp_path, kind="odd", place="terms")
    greedy = bad("tensors", tmp_path / "greedy", kind="classifier in place")
    before = [tensor.clone() for tensor in tensors_of(teacher())]
    split(setting(), [stranger, greedy, *lanes_of(tmp_path, 2)], 1)
    assert stranger.failure is greedy.failure is None
    assert all(torch.equal(one, old) for one, old in zip(tensors_of(teacher()), before, strict=True))
    monkeypatch.setattr(stranger.method, "terms", lambda *_: torch.empty(2**60))
    with pytest.raises(OutOfMemory, match=r"^a step of stranger does not fit into the memory of cpu$"):
        split(setting(), [stranger, greedy], 1)


def test_a_lane_that_is_finished_keeps_no_momenta(tmp_path: Path) -> None:
    one = good("kd", tmp_path)
    train([one])
    assert one.optimizer.state == {}
    assert all(parameter.grad is None for parameter in one.student.parameters())


WIDE = """
import resource, sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_lanes_at_once import budget
budget(Path({folder!r}), {free})
"""


def budget(folder: Path, free: int) -> None:
    """Train eight lanes that gain 32 MB each, with steps of 100 MB, in the parts that ``free`` bytes allow."""
    lanes = []
    for one in lanes_of(folder, 8):
        one.method.wide = torch.nn.Parameter(torch.zeros(16 * MEGABYTE // 4))
        usual = one.method.terms

        def terms(
            *given: object, own: torch.Tensor = one.method.wide, usual: Callable[..., dict[str, torch.Tensor]] = usual
        ) -> dict[str, torch.Tensor]:
            large = torch.ones(100 * MEGABYTE // 4)
            return usual(*given) | {"wide": own.sum() * 0 + large[:1].sum() * 0}

        one.method.terms = terms  # type: ignore[assignment, method-assign]
        one.enter("train")
        lanes.append(one)
    before = memory.resident() or 0
    parts = split(setting(), lanes, free)
    taken = memory.highest(lambda: [train(part) for part in parts])
    print([len(part) for part in parts], before // MEGABYTE, (taken or 0) // MEGABYTE)
    assert not any(one.failure for one in lanes)
    assert taken is None or taken < free
    assert 1 < len(parts) < 8


@pytest.mark.slow
def test_a_budget_is_kept_by_packing(tmp_path: Path) -> None:
    """In a process of its own, whose memory is not that of the tests before."""
    if memory.highest(lambda: None) is None:
        pytest.skip("this system does not tell the highest memory of a process")
    root = Path(__file__).resolve().parents[1]
    words = WIDE.format(paths=[str(root), str(root / "tests")], folder=str(tmp_path), free=340 * MEGABYTE)
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
