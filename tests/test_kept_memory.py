"""On the CPU the memory of one step serves the next, and goes back to the system where it is asked for."""

import platform
import subprocess
import sys

import pytest
import torch

from kdbench.bench import clock
from kdbench.engine.fit import Watcher, fit
from kdbench.testing.examples import lanes, setting
from kdbench.utils import memory

STEPS = """
import resource
from kdbench.utils import memory

def step():
    return len([b"x" * (4 << 20) for _ in range(16)])  # 64 MiB

def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(), step(), step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
assert memory.keep_freed()
print(plain, faults())
before = memory.resident()
memory.trim()
print((before - memory.resident()) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_a_step_frees_serves_the_next_and_can_go_back() -> None:
    """In a process of its own, for it cannot be undone."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    plain, kept, given = map(int, done.stdout.split())
    assert kept < 100 < 10_000 < plain  # 64 MiB are 16,384 pages
    assert given > 50


def test_runs_keep_it_on_the_cpu_and_give_it_back_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(Watcher):
        """Says nothing."""

        def step(self, lanes: int) -> None:
            """Not now."""

        def epoch(self, stage: str, lanes: object) -> None:
            """Nor now."""

    called: list[str] = []
    for name in ("keep_freed", "trim"):
        monkeypatch.setattr(memory, name, lambda name=name: called.append(name))
    fit(setting(), lanes("kd"), Quiet(), finish=lambda lane: called.append("finished"))
    assert [called[0], called[-1]] == ["trim", "trim"]
    assert called.index("keep_freed") < called.index("finished")


def test_where_the_c_library_cannot_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A C library without ``mallopt``."""

        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr("ctypes.CDLL", Other)
    assert memory.keep_freed.__wrapped__() is False
    memory.trim()


def test_a_peak_begins_without_what_was_freed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(clock, "trim", lambda: called.append("trim"))
    clock.forget_peak(torch.device("cpu"))
    assert called == ["trim"]
