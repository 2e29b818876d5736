"""What runs really took against their estimates: ``<out>/estimates.csv``, a row for each run that did all it was to do.

The same numbers correct the next estimate on this machine (``kdbench.run.speeds``).
"""

from __future__ import annotations

import csv
import io
import math
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from filelock import FileLock

from kdbench.run import speeds
from kdbench.run.clock import Clock
from kdbench.run.estimate import Estimate
from kdbench.run.speeds import Machine
from kdbench.utils.files import atomic_write
from kdbench.utils.wording import duration

#: Others count where they make a run slower or faster than at its beginning by this, in natural logarithms.
OTHERS = 0.1

COLUMNS = (
    "finished",
    "verb",
    "suite",
    "cells",
    "parts_seconds",
    "factor",
    "busy",
    "sooner",
    "starting_seconds",
    "estimated_seconds",
    "taken_seconds",
    "worked_seconds",
    "taken_over_estimated",
    "worked_over_estimated",
    *Machine.model_fields,
)


def path(out: Path) -> Path:
    """The file of an output folder."""
    return out / "estimates.csv"


def note(out: Path, verb: str, suite: str, machine: Machine, made: Estimate, seconds: float, worked: float) -> None:
    """Write down what a run took that trained every cell it set out to train, and let it correct the next estimate.

    ``seconds`` on the wall, ``worked`` by ``kdbench.run.clock``.

    Raises:
        OSError: the file cannot be written.

    >>> from kdbench.run.estimate import Part
    >>> made = Estimate(1, (Part("students", "resnet20:resnet8", "kd", 8.0),), "cpu")
    >>> note(Path("results"), "run", "digits", Machine.of("cpu", "fp32"), made, 10.0, 9.0)
    >>> len(path(Path("results")).read_text().splitlines())
    2
    """
    row = [
        datetime.now(UTC).isoformat(timespec="seconds"),
        verb,
        suite,
        made.cells,
        f"{made.measured:.2f}",
        f"{made.factor:.4f}",
        f"{made.busy:.4f}",
        f"{made.sooner:.4f}",
        f"{made.starting:.2f}",
        f"{made.seconds:.2f}",
        f"{seconds:.2f}",
        f"{worked:.2f}",
        f"{seconds / made.seconds:.4f}" if made.seconds else "",
        f"{worked / made.work:.4f}" if made.work else "",
        *machine.model_dump().values(),
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(row)
    file, lock = path(out), out / ".locks" / "estimates.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # two runs on one folder may end together
        _append(file, text.getvalue())
    kept = speeds.load(machine)
    if Clock.of(machine.device, machine.threads).alone:
        kept.ran(suite, made.measured, worked - made.loading)
    else:  # seconds on the wall, in which all workers worked
        kept.ran(suite, made.measured / made.sooner, worked - made.starting)
    kept.keep()


def _append(file: Path, row: str) -> None:
    before = ""
    with suppress(FileNotFoundError, UnicodeDecodeError):  # the first one, or nothing that kdbench wrote
        before = file.read_text(encoding="utf-8")
    head = ",".join(COLUMNS) + "\n"
    if not before.startswith(head):  # begun by another version, whose rows have other columns
        if file.exists():
            file.replace(_aside(file))
        before = head
    with atomic_write(file, "w", newline="") as opened:
        opened.write(before + ("" if before.endswith("\n") else "\n") + row)


def _aside(file: Path) -> Path:
    """``estimates-1.csv``, or the first number that is free."""
    names = (file.with_stem(f"{file.stem}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def sentence(made: Estimate, seconds: float, worked: float) -> str:
    """``estimated 3 min, taken 3 min 20 s (11% more)``; also how far the work was off, where others slowed it.

    ``seconds`` on the wall, ``worked`` by ``kdbench.run.clock``.

    >>> from kdbench.run.estimate import Part
    >>> sentence(Estimate(1, (Part("students", "resnet20:resnet8", "kd", 8.0),), "cpu"), 10.0, 10.0)
    'estimated 8 s, taken 10 s (25% more)'
    >>> sentence(Estimate(1, (Part("students", "resnet20:resnet8", "kd", 1.0),), "cpu"), 37.0, 37.0)
    'estimated 1 s, taken 37 s (37 times as much)'
    """
    if not made.seconds:
        return f"taken {duration(seconds)}"
    said = _off(seconds / made.seconds)
    if worked < seconds and abs(math.log(seconds / worked / made.busy)) > OTHERS:
        now = "more" if seconds / worked > made.busy else "less"
        said += f"; of work {_off(worked / made.work)}, others used {now} of the machine than at the beginning"
    return f"estimated {duration(made.seconds)}, taken {duration(seconds)} ({said})"


def _off(ratio: float) -> str:
    if ratio >= 3:  # percents of more than that are hard to read
        return f"{ratio:.0f} times as much"
    percent = round(100 * (ratio - 1))
    return f"{abs(percent)}% {'more' if percent > 0 else 'less'}" if percent else "as estimated"
