"""One student under training on a toy problem, as the engine trains it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kdbench.distiller import Batch, Distiller, Outputs
from kdbench.testing.toys import EPOCHS, LR, B, Problem, seeded


class Trainee:
    """Student, method, optimizer and random numbers of their own: what the engine calls a lane."""

    def __init__(self, problem: Problem, cls: type[Distiller], *, seed: int = 0) -> None:
        self.problem = problem
        with seeded(seed):
            self.student = problem.student()
            self.method = cls.build(problem.pair)
            self.rng = torch.get_rng_state()
        self.views = 1 + len(cls.views)
        self.stages = ["pretrain", "train"] if cls.pretrain_epochs else ["train"]
        self.enter(self.stages[0])

    @property
    def trains_student(self) -> bool:
        """Whether the present stage trains the student's body."""
        return self.stage == "train" or self.method.pretrain_student

    @property
    def stage_loss(self) -> Callable[[Outputs, Outputs, Batch], dict[str, Tensor]]:
        """What the present stage minimises."""
        return self.method.loss if self.stage == "train" else self.method.pretrain_terms

    @property
    def done(self) -> bool:
        """Whether every epoch is behind."""
        return self.stage == "train" and self.epoch >= EPOCHS["train"]

    def enter(self, stage: str) -> None:
        """Begin a stage with a fresh optimizer."""
        self.stage, self.epoch = stage, 0
        self.train_mode()
        trained = [p for p in self.method.parameters() if p.requires_grad]
        if self.trains_student:
            trained += self.student.parameters()
        self.optimizer = torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=5e-4) if trained else None

    def train_mode(self) -> None:
        """Modes of the present stage."""
        self.student.train(self.trains_student)
        self.method.train()
        self.method.on_stage(self.stage)

    def batches(self, *, stray: bool = False) -> Iterator[Batch]:
        """The present epoch's."""
        return self.problem.batches(self.epoch, EPOCHS[self.stage], self.views, stray=stray)

    def some_batch(self) -> Batch:
        """A whole batch in the middle of the stage, when every warm-up has begun."""
        return next(self.batches())._replace(progress=torch.tensor(0.5))

    def look(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """What student and teacher show on a batch; a method that needs no teacher sees none."""
        with torch.set_grad_enabled(self.trains_student):
            student: Outputs = self.student(batch.image)
        student = student._replace(logits=student.logits.float())
        teacher = self.problem.show(batch.image) if self.method.needs_teacher else student.map(Tensor.detach)
        return student, teacher

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The present stage's loss on a batch, with random numbers of the trainee's own."""
        with self.own_rng():
            return self.stage_loss(*self.look(batch), batch)

    def step(self, batch: Batch) -> None:
        """One step of the optimizer."""
        with self.own_rng():
            total = torch.stack([term.float() for term in self.stage_loss(*self.look(batch), batch).values()]).sum()
            if self.optimizer is None:
                return
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            self.optimizer.step()

    def end_epoch(self) -> None:
        """Evaluate, as the engine does, and go on to the next epoch or stage."""
        if self.stage == "train":
            self.student.eval()
            self.method.eval()
            with torch.no_grad():
                self.method.predict(self.student(self.problem.image[:B]))
            self.train_mode()
        self.epoch += 1
        if self.stage == "pretrain" and self.epoch >= EPOCHS["pretrain"]:
            self.enter("train")

    def wander(self, stage: str) -> None:
        """More than an epoch on other batches in each stage up to ``stage``: whatever it keeps becomes another."""
        for each_stage in self.stages[: self.stages.index(stage) + 1]:
            self.enter(each_stage)
            for batch in (*self.batches(stray=True), self.some_batch()):
                self.step(batch)

    def save(self) -> bytes:
        """The checkpoint, as a file would hold it."""
        assert self.optimizer is not None
        file = io.BytesIO()
        torch.save(
            {
                "stage": self.stage,
                "epoch": self.epoch,
                "rng": self.rng,
                "student": self.student.state_dict(),
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            file,
        )
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        """Continue from a checkpoint."""
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.enter(state["stage"])
        assert self.optimizer is not None
        self.epoch, self.rng = state["epoch"], state["rng"]
        self.student.load_state_dict(state["student"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def own_rng(self) -> Iterator[None]:
        """torch's default generator holds the trainee's numbers inside, and the caller's after."""
        before = torch.get_rng_state()
        torch.set_rng_state(self.rng)
        try:
            yield
            self.rng = torch.get_rng_state()
        finally:
            torch.set_rng_state(before)

    def everything(self) -> dict[str, Tensor]:
        """Copies of all that training leaves behind: state_dicts, and parameters and buffers outside them."""
        kept: dict[str, Tensor] = {}
        for side, module in (("student", self.student), ("method", self.method)):
            for found in (module.named_parameters(), module.named_buffers()):
                kept |= {f"{side} {name}": tensor.detach().clone() for name, tensor in found}
        return kept
