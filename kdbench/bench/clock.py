"""Time and memory of a piece of code, and two pieces in turn."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from kdbench.utils import environment
from kdbench.utils.memory import trim


class Span(NamedTuple):
    """Seconds: of this process on the CPU, of those in the kernel, of the wall clock, between two CUDA events."""

    cpu: float
    system: float
    wall: float
    device: float | None = None

    @property
    def cost(self) -> float:
        """What ratios are made of: CPU seconds, or the device's on CUDA."""
        return self.cpu if self.device is None else self.device


def timed(work: Callable[[], object], device: torch.device) -> Span:
    """Run ``work`` once; on CUDA all that was queued before and by it has ended.

    >>> span = timed(lambda: sum(range(1000)), torch.device("cpu"))
    >>> span.wall > 0, span.device, span.cost == span.cpu
    (True, None, True)
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
    before = _clocks()
    work()
    between = None
    if device.type == "cuda":
        last.record()
        torch.cuda.synchronize(device)
        between = first.elapsed_time(last) / 1e3
    cpu, system, wall = (b - a for a, b in zip(before, _clocks(), strict=True))
    return Span(cpu, system, wall, between)


def _clocks() -> tuple[float, float, float]:
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()


def alternate(
    first: Callable[[], object], second: Callable[[], object], repeat: int, device: torch.device
) -> list[tuple[Span, Span]]:
    """first, second, first, second, ...: what slows the machine for a while slows both."""
    return [(timed(first, device), timed(second, device)) for _ in range(repeat)]


class Parts:
    """Seconds by part of a step, added up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to ``name``: CPU seconds, or the wall's with waits on CUDA."""
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def forget_peak(device: torch.device) -> bool:
    """Start a new measurement of the largest memory; False where the system does not offer it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    trim()  # what was freed before is none of it
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mb(device: torch.device) -> float | None:
    """Largest memory in MiB since ``forget_peak``: the device's on CUDA, else this process's."""
    if device.type == "cuda":
        return environment.peak_memory_mb(str(device))
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None
