"""The executor of a job, and the units that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdbench.data import Dataset
from kdbench.run.executors import plan
from kdbench.run.executors.here import Here
from kdbench.run.executors.processes import Processes
from kdbench.run.executors.slots import slots
from kdbench.run.executors.strangers import Unlike, known
from kdbench.run.executors.unit import Executor, Unit
from kdbench.run.group import Work
from kdbench.run.session import Job

Say = Callable[[str], None]


def choose(job: Job, works: Sequence[Work], images: Dataset, note: Say) -> tuple[Executor, list[Unit]]:
    """Who trains these works, and in which units; ``note`` is told where it is not who was asked for.

    Raises:
        ValueError: the executor that was asked for cannot be had.

    >>> from kdbench.run.session import Request, resolve
    >>> from kdbench.data import load
    >>> job = resolve(Request("kd", "resnet20:resnet8", "digits", device="cpu"))
    >>> type(choose(job, [], load("digits"), print)[0]).__name__
    'Here'
    """
    hands = job.hands.alone if job.hands.auto else job.hands
    if hands.executor == "here":
        return Here(images), plan.in_a_row(works)
    try:
        known()
    except Unlike as error:
        if hands.executor == "ray":
            raise ValueError(f"a cluster cannot know the same methods: {error}") from error
        note(f"one process does it all: {error}")
        return Here(images), plan.in_a_row(works)
    if hands.executor == "ray":
        from kdbench.run.executors.cluster.driven import Driven

        return Driven(images, hands.address, hands.workers, hands.devices[0]), plan.abreast(works, hands.workers)
    places = slots(hands.devices, hands.workers)
    units = plan.abreast(works, len(places))
    lanes = sum(len(unit.work.cells) for unit in units if not unit.work.teacher_only)
    return Processes(images, places[: max(1, lanes)]), units
