"""``--budget 4h``: the largest part of a grid that fits into a time, cut in a stated order.

First pairs are left out, the dearest first; then seeds, the last first; then epochs, down to a tenth of the suite's;
then methods, the dearest first, but `student` and `kd` last. Each cut goes no further than it must, and the next
begins where one pair, one seed or a tenth of the epochs is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kdbench.utils.wording import count, duration, quoted

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Share of the suite's epochs below which no proposal goes, and rows that are left out last.
SHORTEST, LAST = 0.1, ("kd", "student")
#: Ten years.
LONGEST = 3650 * 86400

Pair = tuple[str, str]


def seconds(text: str) -> float:
    """``90m``, ``1.5h``, ``1h30m`` -> seconds.

    Raises:
        ValueError: it is not written so, or is no time at all.

    >>> seconds("1h30m")
    5400.0
    """
    plain = re.sub(r"\s", "", text).lower()
    parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", plain)
    units = [unit for _, unit in parts]
    if not parts or "".join(number + unit for number, unit in parts) != plain or len(set(units)) < len(units):
        raise ValueError(
            f"--budget takes a number and a unit of s, m, h or d, such as 45m, 4h or 1h30m, not {quoted(text)}"
        )
    found = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0 < found <= LONGEST:
        raise ValueError(f"--budget takes more than no time and at most ten years, not {quoted(text)}")
    return found


@dataclass(frozen=True)
class Choice:
    """What a grid is made of.

    >>> Choice(("student", "kd"), (("resnet20", "resnet8"),), (0, 1, 2), 20).epochs
    20
    """

    methods: tuple[str, ...]  # as they are written on a command line
    pairs: tuple[Pair, ...]
    seeds: tuple[int, ...]
    epochs: int


Cost = Callable[[Choice], float]  # seconds


def propose(whole: Choice, budget: float, cost: Cost, suite_epochs: int) -> Choice:
    """The first choice of the stated order that fits; ``whole`` where it does as it is.

    Raises:
        ValueError: not even the smallest fits; the sentence says what it takes.

    >>> whole = Choice(("student", "kd"), (("resnet20", "resnet8"), ("wrn_16_2", "resnet8")), (0, 1, 2), 20)
    >>> propose(whole, 60.0, lambda one: len(one.pairs) * len(one.seeds) * one.epochs, 20).pairs
    (('resnet20', 'resnet8'),)
    """
    if cost(whole) <= budget:
        return whole
    now = whole
    cheap = sorted(now.pairs, key=lambda pair: cost(replace(now, pairs=(pair,)))) if len(now.pairs) > 1 else now.pairs
    shortest = min(now.epochs, max(1, round(SHORTEST * suite_epochs)))

    def pairs(n: int) -> Choice:
        kept = set(cheap[:n])
        return replace(now, pairs=tuple(pair for pair in now.pairs if pair in kept))

    def seeds(n: int) -> Choice:
        return replace(now, seeds=now.seeds[:n])

    def epochs(n: int) -> Choice:
        return replace(now, epochs=n)

    for least, most, cut in ((1, len(now.pairs), pairs), (1, len(now.seeds), seeds), (shortest, now.epochs, epochs)):
        now = cut(_largest(least, most, lambda n, cut=cut: cost(cut(n)) <= budget))  # type: ignore[misc]
        if cost(now) <= budget:
            return now
    dear = sorted(now.methods, key=lambda name: (name not in LAST, cost(replace(now, methods=(name,)))))

    def methods(n: int) -> Choice:
        kept = set(dear[:n])
        return replace(now, methods=tuple(name for name in now.methods if name in kept))

    now = methods(_largest(1, len(dear), lambda n: cost(methods(n)) <= budget))
    if (smallest := cost(now)) > budget:
        teacher, student = now.pairs[0]
        raise ValueError(
            f"--budget has {duration(budget)}, and even {now.methods[0]} alone on {teacher}:{student} with one seed and"
            f" {count(now.epochs, 'epoch')} takes about {duration(smallest)}; a teacher that is"
            " imported (`kdbench teacher`) or trained shorter (--set teacher.epochs=N) may help"
        )
    return now


def _largest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where fewer fit if more do; ``least`` where none does."""
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    return least


def cuts(whole: Choice, now: Choice) -> list[str]:
    """What a proposal leaves out, a sentence for each kind.

    >>> whole = Choice(("student", "kd"), (("resnet20", "resnet8"),), (0, 1, 2), 20)
    >>> cuts(whole, replace(whole, seeds=(0,), methods=("kd",)))
    ['1 of 3 seeds', '1 of 2 methods, without student']
    """
    said = []
    if gone := [f"{teacher}:{student}" for teacher, student in whole.pairs if (teacher, student) not in now.pairs]:
        said.append(f"{len(now.pairs)} of {count(len(whole.pairs), 'pair')}, without {_few(gone)}")
    if len(now.seeds) < len(whole.seeds):
        said.append(f"{len(now.seeds)} of {count(len(whole.seeds), 'seed')}")
    if now.epochs < whole.epochs:
        said.append(f"{now.epochs} of {count(whole.epochs, 'epoch')}")
    if gone := [name for name in whole.methods if name not in now.methods]:
        said.append(f"{len(now.methods)} of {count(len(whole.methods), 'method')}, without {_few(gone)}")
    return said


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
