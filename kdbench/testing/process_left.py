"""The check of the conformance kit that looks at the process, which other methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kdbench.distiller import Distiller
from kdbench.engine.guard import listed
from kdbench.engine.process import Process
from kdbench.testing.toys import TOYS, Problem, Toy, require, served
from kdbench.testing.trainee import Trainee


def check_process_is_left_alone(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Switches, threads, folders, streams, hooks of all modules, and random numbers of Python and numpy stay.

    >>> class Mine(Distiller):
    ...     def terms(self, student, teacher, batch):
    ...         torch.set_num_threads(torch.get_num_threads() + 1)
    ...         return {}
    >>> check_process_is_left_alone(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: the loss changes the number of threads; other methods run in the same process, ...
    """
    process = Process()
    process.note(thorough=True)
    problem = Problem(served(cls, toys)[0])  # which may build the method, too
    process.put_back()
    process.close()
    _left("__init__", lambda: cls.build(problem.pair))
    trainee = Trainee(problem, cls)
    for stage in trainee.stages:
        _left("on_stage", lambda stage=stage: trainee.enter(stage))  # type: ignore[misc]
        batch = trainee.some_batch()
        _left("the loss", lambda batch=batch: trainee.step(batch))  # type: ignore[misc]
    trainee.student.eval()
    trainee.method.eval()
    with torch.no_grad():
        _left("predict", lambda: trainee.method.predict(trainee.student(batch.image)))


def _left(what: str, call: Callable[[], object]) -> None:
    process = Process()
    try:
        for _ in range(2):  # what is made when it is first used, and stays, does not change the second time
            process.note(thorough=True)
            try:
                call()
            finally:
                changed = process.put_back()
    finally:
        process.close()
    require(
        not changed,
        f"{what} changes {listed(changed)}; other methods run in the same process, so leave it as it is",
    )
