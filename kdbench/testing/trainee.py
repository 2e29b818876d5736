"""A method under training on a toy problem: an engine's lane, and the batches and the teacher that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.distiller import Batch, Distiller, Outputs
from kdbench.engine import checkpoint
from kdbench.engine.evaluate import answer, in_eval_mode
from kdbench.engine.lane import Lane, NothingToTrain
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.testing.toys import EPOCHS, LR, B, Broken, Problem, seeded

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Course(Plan):
    """The kit's recipe: as many epochs of a pre-training stage as of the main one, both at a small rate.

    >>> issubclass(Course, Plan)
    True
    """

    def pretrain_epochs(self, method: Distiller | type[Distiller]) -> int:
        """Of a pre-training stage, where there is one; enough of them to be cut in the middle."""
        return EPOCHS["pretrain"] if method.pretrain_epochs else 0

    def pretrain_rate(self, method: Distiller, epoch: int) -> float:
        """That of the main stage, whatever the method asks for: toy networks are narrow."""
        return self.lr


class Trainee:
    """A lane of the engine with its problem; what it does to a method is what the engine does.

    Args:
        problem: networks, images and labels.
        cls: the method.
        seed: of the student's and the method's first weights and of the lane's random numbers.
        precision: the lane's number format.
        hyper: hyper-parameters that are to be otherwise.

    Raises:
        Broken: the method's pre-training stage trains nothing.

    >>> from kdbench.testing.toys import ALIKE
    >>> Trainee(Problem(ALIKE), Distiller).stages
    ['train']
    """

    def __init__(
        self,
        problem: Problem,
        cls: type[Distiller],
        *,
        seed: int = 0,
        precision: str = "",
        hyper: Mapping[str, Any] | None = None,
    ) -> None:
        self.problem = problem
        self.stages = ["pretrain", "train"] if cls.pretrain_epochs else ["train"]
        with seeded(seed):
            self.student, method = problem.student(), cls.build(problem.pair, **(hyper or {}))
        with _said():
            self.lane = Lane(
                cls.__name__,
                self.student,
                method,
                Course(EPOCHS["train"], LR),
                seed=1000 + seed,
                path=Path(),  # nothing is written: ``save`` gives bytes
                settings="",
                teacher="",
                device=CPU,
                precision=Precision(precision) if precision else Precision(),
            )
        self.lane.start_epoch()

    @property
    def method(self) -> Distiller:
        """The loss module under training."""
        return self.lane.method

    @property
    def stage(self) -> str:
        """The present one."""
        return self.lane.stage

    @property
    def stage_loss(self) -> Callable[[Outputs, Outputs, Batch], dict[str, Tensor]]:
        """What the present stage minimises."""
        return self.lane.stage_loss

    @property
    def done(self) -> bool:
        """Whether every epoch is behind."""
        return self.lane.done

    def own_rng(self) -> AbstractContextManager[None]:
        """torch's default generator holds the trainee's numbers inside, and the caller's after."""
        return self.lane.own_rng()

    def enter(self, stage: str) -> None:
        """Begin a stage with a fresh optimizer.

        Raises:
            Broken: the stage trains nothing.
        """
        with _said():
            self.lane.enter(stage)
        self.lane.start_epoch()

    def batches(self, *, stray: bool = False) -> Iterator[Batch]:
        """The present epoch's, with every view that the method asks for."""
        views = 1 + len(self.method.views)
        return self.problem.batches(self.lane.epoch, self.lane.total, views, stray=stray)

    def some_batch(self) -> Batch:
        """A whole batch in the middle of the stage, when every warm-up has begun."""
        return next(self.batches())._replace(progress=torch.tensor(0.5))

    def look(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """What student and teacher show on a batch; a method that needs no teacher sees none."""
        with self.lane.precision.autocast(CPU):
            return self.lane.look(self._teacher(batch), batch)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The present stage's loss on a batch, with random numbers of the trainee's own."""
        with self.own_rng(), self.lane.precision.autocast(CPU):
            return self.lane.terms(self._teacher(batch), batch)

    def step(self, batch: Batch) -> None:
        """One step of the optimizer."""
        self.lane.step(self._teacher(batch), batch)

    def end_epoch(self) -> None:
        """Close the epoch and evaluate, as the engine does; go on to the next epoch or stage.

        Raises:
            Diverged: a term was not finite.
            Broken: the next stage trains nothing.
        """
        evaluated = self.stage == "train"
        with _said():
            self.lane.end_epoch(0.0)
        if evaluated:
            with in_eval_mode(self.lane):
                answer(self.lane, self.student, self.problem.image[:B])
        self.lane.start_epoch()

    def wander(self, stage: str) -> None:
        """More than an epoch on other batches in each stage up to ``stage``: whatever it keeps becomes another."""
        for each_stage in self.stages[: self.stages.index(stage) + 1]:
            self.enter(each_stage)
            for batch in (*self.batches(stray=True), self.some_batch()):
                self.step(batch)

    def save(self) -> bytes:
        """The checkpoint, as its file would hold it."""
        return checkpoint.pack(self.lane.state())

    def load(self, saved: bytes) -> None:
        """Continue from a checkpoint."""
        self.lane.restore(checkpoint.unpack(saved, "of the kit"))
        self.lane.start_epoch()

    def everything(self) -> dict[str, Tensor]:
        """Copies of all that training leaves behind: state_dicts, and parameters and buffers outside them."""
        kept: dict[str, Tensor] = {}
        for side, module in (("student", self.student), ("method", self.method)):
            for found in (module.named_parameters(), module.named_buffers()):
                kept |= {f"{side} {name}": tensor.detach().clone() for name, tensor in found}
        return kept

    def _teacher(self, batch: Batch) -> Outputs | None:
        if not self.method.needs_teacher:
            return None
        with self.lane.precision.autocast(CPU):
            return self.problem.show(batch.image)


@contextmanager
def _said() -> Iterator[None]:
    """A stage without anything to train, as a sentence of the kit."""
    try:
        yield
    except NothingToTrain as error:
        raise Broken(f"{error}; is something detached or frozen?") from None
