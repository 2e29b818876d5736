"""Full disks: one sentence, nothing that was there is lost, and with more room the command goes on to the same end."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign import facts, full, kill
from campaign.area import Area, Fault, Try
from campaign.child import Ended, command, copied, forked
from campaign.judging import shortened, sound
from campaign.kill import SCENARIOS, Scenario
from campaign.ledger import Ledger

SIZES = 20
_MB = 2**20
#: Bytes that standard error, a file too, must be able to hold.
_SENTENCE = 1000
#: What the system says of a disk that takes no more, or of a file that may not grow.
_FULL = ("No space left on device", "File too large", "are free in")


def prepare(home: Path) -> None:
    """As for the kills; and how much every command writes, and whether a real disk can be had."""
    kill.prepare(home)
    for name, scenario in SCENARIOS.items():
        out = copied(home / scenario.base, home / f"written-{name}")
        budget = full.Budget(out, float("inf"))
        sound(command(scenario.asked(home, out), home, before=budget.before), {0})
        (home / f"written-{name}.json").write_text(json.dumps(budget.spent))
    (home / "disk").mkdir()
    made = forked(lambda: full.small_disk(home / "disk", _MB) or 0, home)  # type: ignore[func-returns-value]
    if made.code == 0:
        (home / "disks can be made").touch()
    else:
        print("disk: no small disks are tried, this system lets us make none", file=sys.stderr)


def names(home: Path, most: int) -> list[str]:
    """Every scenario on disks of twenty sizes in turn, in memory, by the kernel's limit, and as real disks."""
    ways = ["budget", "limit", *(["disk"] if (home / "disks can be made").exists() else [])]
    made = [f"{way}-{name}-{size}" for size in range(SIZES) for name in SCENARIOS for way in ways]
    random.Random(0).shuffle(made)
    return made[:most]


def hold(one: Try) -> int:
    """One command on a full disk, and again with room."""
    way, name, number = one.name.split("-")
    scenario = SCENARIOS[name]
    largest = json.loads((one.home / f"whole-{name}.json").read_text())["largest"]
    total = largest if way == "limit" else json.loads((one.home / f"written-{name}.json").read_text())
    size = full.sizes(total, SIZES)[int(number)]
    ledger = Ledger(one.folder / "out", one.folder / "ledger.txt")
    first, second = (
        _on_disk(one, scenario, ledger, size) if way == "disk" else _in_place(one, scenario, ledger, way, size)
    )
    try:
        _first(first, f"{way} of {size:,} bytes")
        sound(second, {0})
        wanted, found = (scenario.look(where) for where in (one.home / f"whole-{name}", ledger.out))
        if name == "filling":  # a table that cannot grow costs time, not the run
            wanted, found = (
                {key: value for key, value in one.items() if "tables" not in key} for one in (wanted, found)
            )
        facts.same(found, wanted)
        if scenario.thrifty:
            ledger.check()
    except Fault as fault:
        raise Fault(f"{way} of {size:,} bytes: {fault} (first: {shortened(first.said)})") from None
    return 1


def _first(ended: Ended, how: str) -> None:
    sound(ended, {0, 1, 2})
    if ended.code and not any(text in ended.said for text in _FULL):
        raise Fault(f"exit code {ended.code}, and it does not say that the disk is full")


def _in_place(one: Try, scenario: Scenario, ledger: Ledger, way: str, size: int) -> tuple[Ended, Ended]:
    copied(one.home / scenario.base, ledger.out)
    short: Callable[[], None] = (
        full.Budget(ledger.out, size).before if way == "budget" else full.limit(max(size, _SENTENCE))
    )
    words = scenario.asked(one.home, ledger.out)
    first = command(words, one.folder, before=ledger.writing(short))
    if scenario.between is not None:
        scenario.between(one.home / scenario.base, ledger.out)
    return first, command(words, one.folder, before=ledger.writing(None))


def _on_disk(one: Try, scenario: Scenario, ledger: Ledger, size: int) -> tuple[Ended, Ended]:
    """The same on a disk of its own, which only a child can see; what lies on it at the end is brought here."""
    point, told = one.folder / "disk", one.folder / "told.json"
    point.mkdir()

    def act() -> int:
        full.small_disk(point, 64 * _MB)
        out = copied(one.home / scenario.base, point / "out")
        used = sum(path.stat().st_blocks * 512 for path in out.rglob("*"))
        full.enlarge(point, used + size + 4096)
        words = scenario.asked(one.home, out)
        first = command(words, one.folder, before=ledger.writing(None))
        full.enlarge(point, 256 * _MB)
        second = command(words, one.folder, before=ledger.writing(None))
        told.write_text(json.dumps([_packed(first), _packed(second)]))
        copied(out, ledger.out)
        return 0

    done = forked(act, one.folder)
    if done.code or not told.exists():
        raise Fault(f"the small disk could not be tried: {shortened(done.said)}")
    first, second = (Ended(code, said.encode(), b"") for code, said in json.loads(told.read_text()))
    return first, second


def _packed(ended: Ended) -> list[Any]:
    return [ended.code, ended.said]


AREA = Area("disk", 440, prepare, names, hold)
