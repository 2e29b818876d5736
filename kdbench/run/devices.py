"""Which devices a run uses, and how many processes train on them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kdbench.utils import cores, environment
from kdbench.utils.wording import count, quoted

AUTO = "auto"
EXECUTORS = ("here", "processes", "ray")
#: Processes that one machine is asked for at most.
MOST = 1024
#: Seconds of work below which `auto` stays in one process: to start others takes as long as it spares.
PAYS = 45.0


@dataclass(frozen=True)
class Hands:
    """How a run is done: by which executor, with how many workers, on which devices.

    >>> Hands().workers
    1
    """

    executor: str = "here"
    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)
    auto: bool = False  # nobody has said how many: one process where more do not pay
    address: str | None = None  # of a Ray cluster; None: there is none yet, or none is asked

    def after(self, seconds: float, cells: int) -> Hands:
        """These, once it is known that one process would take so many seconds for so many cells.

        >>> [Hands("processes", 2, auto=True).after(*known).executor for known in ((10.0, 6), (900.0, 6), (900.0, 1))]
        ['here', 'processes', 'here']
        """
        pays = seconds >= PAYS and cells > 1  # one cell and its teacher train one after the other
        return self.decided if not self.auto or pays else self.alone

    @property
    def decided(self) -> Hands:
        """These, without a doubt."""
        return replace(self, auto=False)

    @property
    def at_once(self) -> int:
        """Workers that do not take their time from each other. What those that share a GPU do is not known ahead.

        >>> Hands("processes", 1000, ("cpu",)).at_once <= cores.usable()
        True
        """
        if self.executor != "processes" or self.devices[0] != "cpu":
            return self.workers
        return min(self.workers, _abreast())

    @property
    def crowded(self) -> bool:
        """Whether several workers have one GPU between them.

        >>> Hands("processes", 4, ("cuda:0",)).crowded, Hands("processes", 4, ("cpu",)).crowded
        (True, False)
        """
        return self.executor == "processes" and self.devices[0] != "cpu" and self.workers > len(self.devices)

    @property
    def alone(self) -> Hands:
        """This process, on the first of the devices."""
        return Hands(devices=self.devices[:1])


def choose(wanted: str, one: Callable[[str], str]) -> tuple[str, ...]:
    """``cuda`` is every device that torch sees, ``cuda:0,2`` are those two; ``auto`` is the first, or the CPU.

    Args:
        wanted: as ``--device`` has it.
        one: of a single device, its name; raises ValueError where it is not there.

    Raises:
        ValueError: there is no such device.

    >>> choose("cuda:0,2", one=str)
    ('cuda:0', 'cuda:2')
    >>> choose("cuda:0,x", one=str)
    Traceback (most recent call last):
    ValueError: no device 'cuda:0,x'; write cpu, cuda, cuda:N or cuda:N,M
    """
    if wanted in (AUTO, "cpu"):
        return (one(wanted),)
    if wanted == "cuda":
        import torch

        first = one(wanted)
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or (first,)
    if "," in wanted:
        match = re.fullmatch(r"cuda:([0-9]{1,3}(?:,(?:cuda:)?[0-9]{1,3})+)", wanted.replace(" ", ""))
        if match is None:
            raise ValueError(f"no device {quoted(wanted)}; write cpu, cuda, cuda:N or cuda:N,M")
        numbers = [int(part.removeprefix("cuda:")) for part in match[1].split(",")]
        return tuple(one(f"cuda:{number}") for number in dict.fromkeys(numbers))
    return (one(wanted),)


def hands(executor: str, workers: str, devices: Sequence[str]) -> Hands:
    """What ``--executor`` and ``--workers`` ask for.

    Raises:
        ValueError: one of them is none, or they contradict each other.

    >>> hands("auto", "2", ["cpu"])
    Hands(executor='processes', workers=2, devices=('cpu',), auto=False, address=None)
    >>> hands("here", "2", ["cpu"])
    Traceback (most recent call last):
    ValueError: --executor here trains in one process, and --workers asks for 2; leave one of them out
    """
    known(executor)
    asked = number(workers)
    if executor == "here" and asked not in (None, 1):
        raise ValueError(
            f"--executor here trains in one process, and --workers asks for {asked}; leave one of them out"
        )
    if asked is not None:
        devices = devices[:asked]
    if executor == "here" or asked == 1:
        return Hands("processes" if executor == "processes" else "here", 1, tuple(devices[:1]))
    if asked is not None:
        return Hands("processes", asked, tuple(devices))
    many = len(devices) if devices[0] != "cpu" else _abreast()
    if many == 1 and executor == AUTO:
        return Hands(devices=tuple(devices))
    return Hands("processes", many, tuple(devices), auto=executor == AUTO)


def _abreast() -> int:
    """Workers that this machine's cores have room for, each with as many threads as it is told."""
    return max(1, cores.usable() // environment.threads())


def known(executor: str) -> None:
    """Raises: ValueError: there is no such executor.

    >>> known("ray")
    """
    if executor not in (AUTO, *EXECUTORS):
        raise ValueError(
            f"--executor takes auto, {', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}, not {quoted(executor)}"
        )


def number(text: str) -> int | None:
    """``--workers``; None: auto."""
    if text.strip() == AUTO:
        return None
    if not re.fullmatch("[0-9]{1,9}", text.strip()) or not 1 <= int(text) <= MOST:
        raise ValueError(f"--workers takes auto or a number from 1 to {MOST:,}, not {quoted(text)}")
    return int(text)


def named(made: Hands) -> str:
    """``cpu``, ``2 workers on cpu``, ``4 workers on cuda:0, cuda:1``.

    >>> named(Hands()), named(Hands("processes", 2))
    ('cpu', 'cpu with 2 workers')
    """
    where = "Ray" if made.executor == "ray" else ", ".join(made.devices)
    return f"{where} with {count(made.workers, 'worker')}" if made.workers > 1 else where
