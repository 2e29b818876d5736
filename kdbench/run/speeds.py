"""What is known of this machine's speed: measured once, kept in the user's cache folder, never trusted blindly.

One file for each device, version of torch and of kdbench, number of threads and precision. A file that is gone, cut or
odd is measured again, and one that cannot be written is done without: an estimate never ends a run.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from kdbench.utils import environment
from kdbench.utils.files import atomic_write, expanded, is_file
from kdbench.utils.sealing import canonical
from kdbench.utils.turns import turn

#: Names the folder of what kdbench measures of a machine.
CACHE = "KDBENCH_CACHE"
#: Of runs that ended, the last so many tell how far the speeds are off; shorter ones (seconds) tell nothing.
RUNS, SHORTEST = 20, 15.0
#: No run is so many times slower or faster than what was measured of its parts: something else was the matter.
FARTHEST = 8.0
#: Bytes of a file of speeds, at most.
LARGEST = 2**22
#: Seconds that are waited for another process which writes them at this moment.
PATIENCE = 5.0

Seconds = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, lt=1e10, allow_inf_nan=False)]


class Machine(BaseModel):
    """What a speed belongs to; where any of it differs, it is another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str  # cpu or cuda
    processor: str
    torch: str
    threads: int
    precision: str
    kdbench: str

    @classmethod
    def of(cls, device: str, precision: str) -> Machine:
        """This one, as a run would use it."""
        told = environment.describe(device)
        return cls(
            device=device.split(":")[0],
            processor=told.get("gpu") or f"{told['cpu']} ({told['instructions']})",
            torch=told["torch"],
            threads=environment.threads(),
            precision=precision,
            kdbench=environment.code()["kdbench"],
        )


class Taken(BaseModel):
    """A run that trained all that it was to train: what its parts add up to as measured, and for how long it worked.

    See ``kdbench.run.clock``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    parts: Positive  # seconds
    seconds: Positive


class Size(BaseModel):
    """What a network's time follows from where nobody has timed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]  # multiply-accumulates, forward, of one image
    params: Annotated[int, Field(ge=0, lt=10**15)]


class Speeds(BaseModel):
    """The speeds of a machine; ``seconds`` are of one image, by what is timed."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[3] = 3  # of what the seconds are
    machine: Machine
    seconds: dict[str, Seconds] = {}
    in_part: set[str] = set()  # of these the names that were timed on a part of a batch, for want of time
    sizes: dict[str, Size] = {}
    runs: list[Taken] = []
    _own: list[Taken] = PrivateAttr(default_factory=list)  # runs that are not in the file yet

    @property
    def counts(self) -> tuple[int, int, int]:
        """Changes with whatever is measured."""
        return len(self.seconds), len(self.in_part), len(self.sizes)

    @property
    def path(self) -> Path:
        """Where they are kept."""
        name = hashlib.sha256(canonical(self.machine.model_dump()).encode()).hexdigest()[:12]
        return folder() / "speeds" / f"{self.machine.device}-{name}.json"

    def ran(self, suite: str, parts: float, seconds: float) -> None:
        """Count in what a run took; one that is too short, or took what nothing explains, is left out."""
        if parts > 0 and seconds >= SHORTEST and 1 / FARTHEST <= seconds / parts <= FARTHEST:
            one = Taken(suite=suite, parts=parts, seconds=seconds)
            self.runs, self._own = [*self.runs, one][-RUNS:], [*self._own, one]

    def factor(self, suite: str) -> tuple[float, int]:
        """By how much runs took longer than their parts, and how many runs say so: those of the suite, else all.

        The median of the last five; 1 where there are none.
        """
        own = [one for one in self.runs if one.suite == suite] or self.runs
        ratios = [one.seconds / one.parts for one in own[-5:]]
        return (median(ratios), len(ratios)) if ratios else (1.0, 0)

    def keep(self) -> None:
        """Write them, with what another process has measured meanwhile; no error where the folder cannot be written."""
        with turn(self.path.with_suffix(".lock"), patience=PATIENCE):
            now = load(self.machine)
            self.in_part |= now.in_part - self.seconds.keys()
            self.seconds, self.sizes = now.seconds | self.seconds, now.sizes | self.sizes
            self.runs, self._own = [*now.runs, *self._own][-RUNS:], []
            with suppress(OSError), atomic_write(self.path, "w") as file:
                json.dump(self.model_dump(mode="json"), file, indent=1, allow_nan=False)


def folder() -> Path:
    """The folder of what kdbench knows of this machine: $KDBENCH_CACHE, else kdbench in the user's cache folder.

    >>> folder() == expanded(os.environ.get("KDBENCH_CACHE") or "~/.cache/kdbench")
    True
    """
    if said := os.environ.get(CACHE, "").strip():
        return expanded(said)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdbench"


def load(machine: Machine) -> Speeds:
    """What is kept of a machine; nothing where there is no such file or it is not what kdbench wrote."""
    fresh = Speeds(machine=machine)
    if not is_file(fresh.path):  # a pipe in its place would never end
        return fresh
    try:
        with open(fresh.path, "rb") as file:
            content = file.read(LARGEST + 1)
        found = Speeds.model_validate(json.loads(content)) if len(content) <= LARGEST else fresh
    except (OSError, ValueError, ValidationError, RecursionError):
        return fresh
    return found if found.machine == machine else fresh
