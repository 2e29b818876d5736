"""The clock of an estimate: how long this process works, apart from how much of the machine others leave it.

On one thread of a CPU that is the time for which the process has had the processor: others slow a run, and do not
change what its parts take beside each other. Elsewhere it is the time on the wall.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

#: Seconds of the look at how busy the machine is, and the busiest that is believed.
LOOK, BUSIEST = 0.25, 10.0


@dataclass(frozen=True)
class Clock:
    """Seconds of work."""

    alone: bool  # one thread of a CPU

    @classmethod
    def of(cls, device: str, threads: int) -> Clock:
        """That of runs on a device."""
        return cls(device.split(":")[0] == "cpu" and threads == 1)

    def now(self) -> float:
        """Of differences alone."""
        if not self.alone:
            return time.perf_counter()
        told = os.times()  # of workers, when they have ended
        return time.process_time() + told.children_user + told.children_system

    def busy(self) -> float:
        """Seconds on the wall for a second of work, just now; 1 where that cannot be told."""
        if not self.alone:
            return 1.0
        started, worked = time.perf_counter(), time.process_time()
        while time.perf_counter() - started < LOOK:
            pass
        spent = time.process_time() - worked
        found = (time.perf_counter() - started) / spent if spent > 0 else 1.0
        return 1.0 if found < 1.05 else min(found, BUSIEST)
