"""Two processes that run the tries, each of which forks a process for every command."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.area import Area, Fault, Try, drawn


@dataclass(frozen=True)
class Result:
    """How a try ended: what it counts for; the sentence is empty if it held."""

    area: str
    name: str
    count: int
    seconds: float
    sentence: str


@dataclass(frozen=True)
class Plan:
    """All tries of a campaign."""

    areas: dict[str, Area]
    tries: Sequence[tuple[str, str]]  # area and name
    seed: int
    home: Path  # what the areas have prepared, a folder for each
    scratch: Path

    def one(self, number: int) -> Result:
        """Run a try."""
        area, name = self.tries[number]
        folder = self.scratch / f"{area}-{number}"
        folder.mkdir()
        started, count, sentence = time.monotonic(), 1, ""
        try:
            count = self.areas[area].hold(Try(name, drawn(self.seed, area, name), folder, self.home / area))
        except Fault as fault:
            sentence = str(fault)
        except Exception as error:  # of the campaign's own, which is to be seen
            sentence = f"{type(error).__name__}: {error} ({traceback.format_exc(limit=-3)})"
        shutil.rmtree(folder, ignore_errors=True)
        return Result(area, name, count, time.monotonic() - started, sentence)


def run(plan: Plan, workers: int, told: Callable[[Result, int], None]) -> list[Result]:
    """All tries, in as many processes; ``told`` hears of each, and how many are left."""
    queue, results = os.pipe(), os.pipe()
    os.set_inheritable(results[1], True)
    feeder = os.fork()
    if feeder == 0:  # numbers of tries, four bytes each, so that a read of four bytes takes one
        os.close(queue[0])
        try:
            for number in range(len(plan.tries)):
                os.write(queue[1], number.to_bytes(4, "little"))
        finally:
            os._exit(0)
    started = [feeder]
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            _work(plan, queue, results)
        started.append(pid)
    os.close(queue[0])
    os.close(queue[1])
    os.close(results[1])
    found = []
    with os.fdopen(results[0], encoding="utf-8") as lines:
        for line in lines:
            found.append(Result(**json.loads(line)))
            told(found[-1], len(plan.tries) - len(found))
    for pid in started:
        os.waitpid(pid, 0)
    return found


def _work(plan: Plan, queue: tuple[int, int], results: tuple[int, int]) -> Any:
    try:
        os.close(queue[1])
        os.close(results[0])
        while number := os.read(queue[0], 4):
            result = plan.one(int.from_bytes(number, "little"))
            line = json.dumps({**vars(result), "sentence": result.sentence[:1500]}) + "\n"
            os.write(results[1], line.encode())  # at once: shorter than what a pipe takes whole
    except KeyboardInterrupt:
        pass
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(0)
