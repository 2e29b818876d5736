"""The check of the conformance kit that mixes labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench.distiller import Distiller
from kdbench.testing.toys import TOYS, Problem, Toy, differing, require, served
from kdbench.testing.trainee import Trainee


def check_hard_labels_are_declared(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """A method that reads ``batch.label``, or keeps something by ``batch.idx``, says ``needs_hard_labels``.

    Under mixup neither tells what is in a picture; cross-entropies take ``batch.truth``.

    >>> class Mine(Distiller):
    ...     def terms(self, student, teacher, batch):
    ...         return {"own": (student.logits.mean(dim=1) * batch.label).mean()}
    >>> check_hard_labels_are_declared(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: term own changes with batch.label or batch.idx while batch.target stays; say ...
    """
    if cls.needs_hard_labels or cls.views:  # further views are refused with mixed images
        return
    for toy in served(cls, toys):
        trainee = Trainee(Problem(toy), cls)
        for stage in trainee.stages:
            trainee.enter(stage)
            batch, saved = trainee.some_batch(), trainee.save()
            student, teacher = trainee.look(batch)
            even = torch.full_like(student.logits, 1 / student.logits.shape[1]).detach()
            found = []
            for turn in (0, 0, 1):
                trainee.load(saved)
                seen = batch._replace(target=even, label=batch.label.roll(turn), idx=batch.idx.roll(turn))
                with trainee.own_rng():
                    found.append(trainee.stage_loss(student, teacher, seen))
            first, again, other = found
            if differing(first, again):  # random numbers of another generator: other checks name them
                return
            wrong = differing(first, other)
            require(
                not wrong,
                f"term {', '.join(wrong)} changes with batch.label or batch.idx while batch.target stays; say"
                " `needs_hard_labels = True`, or give batch.truth to its cross-entropy",
            )
