"""Every probe by its name, and a command's words turned into settings."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from kdbench.probes import alpha, cka, expense, fidelity, linear, reliability, robust, whole
from kdbench.probes.probe import Probe, Settings
from kdbench.utils.wording import quoted

#: The order in which they are measured and shown; the dear ones come last.
PROBES: dict[str, Probe[Any]] = {
    one.name: one
    for one in (
        reliability.PROBE,
        fidelity.PROBE,
        cka.PROBE,
        alpha.PROBE,
        expense.PROBE,
        robust.PROBE,
        linear.PROBE,
        whole.PROBE,
    )
}


def choose(words: Sequence[str]) -> list[Probe[Any]]:
    """``all``, or probes by name, with commas or blanks between, in the order of ``PROBES``.

    Raises:
        ValueError: no such probe, or none.

    >>> [probe.name for probe in choose(["cost,calibration"])]
    ['calibration', 'cost']
    >>> choose(["calibrate"])
    Traceback (most recent call last):
    ValueError: no probe 'calibrate'; did you mean calibration?
    """
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    for name in names:
        if name not in PROBES and name != "all":
            near = get_close_matches(name, PROBES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PROBES)} and all"
            raise ValueError(f"no probe {quoted(name)}; {hint}")
    if not names:
        raise ValueError(f"name a probe: {', '.join(PROBES)} or all")
    return [probe for name, probe in PROBES.items() if name in names or "all" in names]


def settings(probes: Sequence[Probe[Any]], overrides: Sequence[str]) -> tuple[dict[str, Settings], frozenset[str]]:
    """``probe.key=value`` words -> settings by probe, and the ``probe.key`` that were said.

    Raises:
        ValueError: a word is not written so, or its probe was not asked for.

    >>> found, said = settings(choose(["transfer"]), ["transfer.data=stl10"])
    >>> found["transfer"].data, said
    (('stl10',), frozenset({'transfer.data'}))
    """
    said: dict[str, dict[str, str]] = {probe.name: {} for probe in probes}
    for word in overrides:
        key, equals, value = word.partition("=")
        name, dot, field = key.strip().partition(".")
        if not equals or not dot:
            raise ValueError(f"--set takes probe.key=value, such as transfer.data=stl10, not {quoted(word)}")
        if name not in said:
            others = ", ".join(said)
            why = "is not asked for" if name in PROBES else "does not exist"
            raise ValueError(f"--set {quoted(word)} is of the probe {quoted(name)}, which {why}; asked for: {others}")
        said[name][field] = value
    found = {probe.name: probe.set(said[probe.name]) for probe in probes}
    return found, frozenset(f"{name}.{field}" for name, fields in said.items() for field in fields)
