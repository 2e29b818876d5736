"""The checks of the conformance kit that a method meets with other numbers: of images, of classes, of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kdbench.distiller import Distiller
from kdbench.testing.one_batch import step
from kdbench.testing.toys import TOYS, Problem, Toy, require, seeded, served
from kdbench.testing.trainee import Trainee

_IMAGES, _CLASSES, _BATCH = 41, 7, 12  # batches of 12, 12, 12 and 5


def check_other_sizes_work(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It serves a data set of another size, with more classes and in larger batches than the other checks.

    >>> class Mine(Distiller):
    ...     def terms(self, student, teacher, batch):
    ...         weight = torch.linspace(1, 2, 8)[: len(batch.label)]
    ...         return {"match": (weight * (student.pooled.mean(1) - teacher.pooled.mean(1)) ** 2).mean()}
    >>> check_other_sizes_work(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: with 41 images of 7 classes in batches of 12 it fails with RuntimeError...
    """
    where = f"with {_IMAGES} images of {_CLASSES} classes in batches of {_BATCH}"
    for toy in served(cls, toys):
        problem = Problem(toy, _CLASSES, _IMAGES, _BATCH)
        try:
            trainee = Trainee(problem, cls)
        except ValueError:  # the way to refuse
            continue
        for stage in trainee.stages:
            trainee.enter(stage)
            first, *_, last = trainee.batches()
            for batch in (first, last):
                step(trainee, batch, where)
        trainee.student.eval()
        trainee.method.eval()
        with torch.no_grad():
            logits = trainee.method.predict(trainee.student(problem.image[:_BATCH]))
        wanted = (_BATCH, _CLASSES)
        require(logits.shape == wanted, f"{where} predict gives shape {tuple(logits.shape)}, not {wanted}")


def check_it_never_seeds(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It draws from torch's default generator and never sets it: a seed is the run's, and another one is another draw.

    >>> class Mine(Distiller):
    ...     def __init__(self, pair, **common):
    ...         super().__init__(pair, **common)
    ...         torch.manual_seed(0)
    >>> check_it_never_seeds(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: __init__ sets the state of torch's random numbers, so that every seed ...
    """
    problem = Problem(served(cls, toys)[0])
    _never_seeds("__init__", lambda: cls.build(problem.pair))
    trainee = Trainee(problem, cls)
    for stage in trainee.stages:
        trainee.enter(stage)
        _never_seeds("on_stage", lambda stage=stage: trainee.method.on_stage(stage))  # type: ignore[misc]
        batch = trainee.some_batch()
        student, teacher = trainee.look(batch)
        _never_seeds("the loss", lambda s=student, t=teacher, b=batch: trainee.stage_loss(s, t, b))  # type: ignore[misc]
    trainee.student.eval()
    trainee.method.eval()
    with torch.no_grad():
        _never_seeds("predict", lambda: trainee.method.predict(trainee.student(batch.image)))


def _never_seeds(what: str, call: Callable[[], object]) -> None:
    """Whether the states that two seeds lead to are still two."""
    states = []
    for seed in (1, 2):
        with seeded(seed):
            call()
            states.append(torch.get_rng_state())
    require(
        not torch.equal(*states),
        f"{what} sets the state of torch's random numbers, so that every seed goes on alike; draw from the default"
        " generator as it is, without manual_seed, seed or set_rng_state",
    )
