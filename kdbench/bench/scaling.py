"""How much sooner a grid ends with more workers: the same cells, trained anew by 1, 2, ... processes, in turn.

``python -m kdbench.bench.scaling`` measures the grid of ``make run``. Only a machine without other work tells anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import cast

from kdbench.run import devices, runner, session
from kdbench.run.outcome import Watcher
from kdbench.run.session import Request
from kdbench.utils.wording import duration

#: The grid of ``make run``.
GRID = Request("semckd,crd,fitnet,kd,student", "all", "digits", seeds="1", device="cpu")


class _Quiet:
    """Hears everything and says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told, **more: None


def scaling(
    request: Request, workers: Sequence[int], repeat: int = 1, say: Callable[[str], None] = print
) -> dict[int, float]:
    """Seconds on the wall of the whole grid, its teachers and the start of its processes included, by workers.

    Numbers of workers alternate, so that a machine that slows down slows all of them; the medians count.

    Raises:
        ValueError: the grid makes no sense.
        RuntimeError: a cell failed.

    >>> small = Request("student", "resnet20:resnet8", "digits", seeds="1", epochs=1, limit_train=64, device="cpu")
    >>> list(scaling(small, workers=[1], say=lambda sentence: None))
    [1]
    """
    taken: dict[int, list[float]] = {number: [] for number in workers}
    for _ in range(repeat):
        for number in workers:
            with tempfile.TemporaryDirectory(prefix="kdbench-scaling-") as folder:
                job = session.resolve(replace(request, workers=str(number), out=Path(folder)))
                started = time.perf_counter()
                outcome = runner.run(job, cast(Watcher, _Quiet()))
                taken[number].append(time.perf_counter() - started)
                if outcome.exit_code:
                    raise RuntimeError(f"the grid did not end: {'; '.join(outcome.failed.values())}")
            say(f"{devices.named(job.hands)}: {duration(taken[number][-1])}")
    return {number: median(found) for number, found in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    found = scaling(GRID, [int(number) for number in asked.workers.split(",")], asked.repeat)
    first = next(iter(found.values()))
    for number, seconds in found.items():
        print(f"{number} workers: {seconds:.1f} s, {first / seconds:.2f} times as fast (medians, n = {asked.repeat})")


if __name__ == "__main__":
    main()
