"""``make campaign``: all areas, or some; a table of what was tried and what held; 1 where not all of it did."""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the kdbench beside these files, wherever else one is installed

from campaign import child  # noqa: E402

#: Failures of an area that are shown in full.
SHOWN = 20


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--area", default="", help="areas, comma separated; all by default")
    parser.add_argument("--tries", default="", help="of each area; as many as it usually has by default")
    parser.add_argument("--seed", default="", help="of all that is drawn; a new one by default")
    parser.add_argument("--only", default="", help="the tries of this name, or such as pack/*")
    parser.add_argument("--workers", type=int, default=2, help="processes that run tries (2)")
    asked = parser.parse_args(words)
    child.warm()
    from campaign.areas import AREAS

    chosen = [name.strip() for name in asked.area.split(",") if name.strip()] or list(AREAS)
    if unknown := [name for name in chosen if name not in AREAS]:
        parser.error(f"no area {unknown[0]}; there are {', '.join(AREAS)}")
    seed = int(asked.seed or random.randrange(10**6))
    with tempfile.TemporaryDirectory(prefix="kdbench-campaign-") as folder:
        return campaign(
            chosen, int(asked.tries or 0), seed=seed, only=asked.only, workers=asked.workers, folder=Path(folder)
        )


def campaign(
    chosen: Sequence[str], tries: int, *, seed: int, only: str, workers: int, folder: Path, quiet: bool = False
) -> int:
    """Prepare the areas, run their tries, print a line for each that does not hold, and the table.

    Args:
        chosen: areas.
        tries: of each; 0: as many as it usually has.
        seed: of all that is drawn.
        only: the tries of this name, in which * stands for anything; empty: all.
        workers: processes.
        folder: an empty one.
        quiet: say nothing on the way.
    """
    from campaign import workers as working
    from campaign.areas import AREAS

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    started = time.monotonic()
    (folder / "home").mkdir()
    (folder / "scratch").mkdir()
    names: list[tuple[str, str]] = []
    for name in chosen:
        home = folder / "home" / name
        home.mkdir()
        AREAS[name].prepare(home)
        every = AREAS[name].names(home, tries or AREAS[name].usual)
        names += [(name, one) for one in every if not only or fnmatchcase(one, only)]
    if not names:
        print(f"no try is named {only!r}")
        return 2
    print(f"campaign of {len(names)} tries, seed {seed}, prepared in {time.monotonic() - started:.0f} s", flush=True)
    said, shown = time.monotonic(), collections.Counter[str]()

    def told(result: working.Result, left: int) -> None:
        nonlocal said
        shown[result.area] += bool(result.sentence)
        if result.sentence and shown[result.area] <= SHOWN:
            again = f"make campaign AREA={result.area} SEED={seed} TRIES={tries or AREAS[result.area].usual}"
            print(f"\n{again} ONLY={shlex.quote(result.name)}\n    {result.sentence}", flush=True)
        if time.monotonic() - said > 60 and not quiet:
            said = time.monotonic()
            print(f"... {left} tries to go after {said - started:.0f} s", flush=True)

    plan = working.Plan({name: AREAS[name] for name in chosen}, names, seed, folder / "home", folder / "scratch")
    found = working.run(plan, workers, told)
    return table(chosen, found, len(names), time.monotonic() - started)


def table(chosen: Sequence[str], found: Sequence[object], wanted: int, seconds: float) -> int:
    """Print what was tried and what held; 1 where not all did, or tries are missing."""
    from campaign.workers import Result

    results = [one for one in found if isinstance(one, Result)]
    print(f"\n{'area':<10} {'tried':>7} {'held':>7} {'seconds':>8}")
    all_held = True
    for name in chosen:
        own = [one for one in results if one.area == name]
        held = sum(one.count for one in own if not one.sentence)
        tried = held + sum(one.count for one in own if one.sentence)
        all_held &= held == tried
        print(f"{name:<10} {tried:>7} {held:>7} {sum(one.seconds for one in own):>8.0f}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{len(results)} of {wanted} tries in {seconds:.0f} s, {cpu:.0f} s of the processor")
    return 0 if all_held and len(results) == wanted else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted")
        sys.exit(130)
