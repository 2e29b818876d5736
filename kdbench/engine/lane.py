"""A lane: one student under training with its method, optimizer and random numbers.

Nothing in here knows of other lanes, which is why a lane ends the same alone and in company.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdbench.distiller import Batch, Distiller, Outputs
from kdbench.engine import checkpoint, gradients, resuming, stepping
from kdbench.engine.attending import attention_state
from kdbench.engine.averaging import Average
from kdbench.engine.checkpoint import state_sha256
from kdbench.engine.counting import used_in_prediction
from kdbench.engine.errors import Failed, holds, said
from kdbench.engine.meter import Meter
from kdbench.engine.precision import Precision
from kdbench.engine.remedy import remedy
from kdbench.engine.rng import fresh_rng, rng_state, set_rng_state
from kdbench.engine.schedule import Plan, set_rate
from kdbench.engine.terms import check_terms, smoothed

if TYPE_CHECKING:
    from kdbench.engine.compiled import Compiler  # imports this file

STAGES = ("pretrain", "train")


class Diverged(Failed):
    """A loss term stopped being finite; the message names the term and the epoch.

    >>> raise Diverged("term ce is nan in epoch 1")
    Traceback (most recent call last):
    kdbench.engine.lane.Diverged: term ce is nan in epoch 1
    """


class NothingToTrain(ValueError):
    """A method freezes all that a stage could train; the message names the stage.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> _ = lane.student.requires_grad_(False)
    >>> lane.enter("train")
    Traceback (most recent call last):
    kdbench.engine.lane.NothingToTrain: stage 'train' has nothing to train: no parameter requires a gradient there
    """


class Lane:
    """One student under training.

    Args:
        key: the cell's name, for messages.
        student: the network, already initialised; any module that gives ``Outputs``.
        method: the loss module, already initialised.
        plan: the recipe.
        seed: of the lane's own random numbers.
        path: where the checkpoint lies.
        settings: hash of everything that changes numbers.
        teacher: sha256 of the teacher's weights.
        data: fingerprint of the data set.
        plugin: sha256 of the method's file, where it is not kdbench's own.
        recipe: where the suite has its recipe, for messages: "recipe", or "teacher" of a teacher's own training.
        compiler: compiles the student's training pass; None: it runs as it is written.

    Raises:
        NothingToTrain, ValueError: its first stage trains nothing; the plan's gradients are not for this method.

    >>> from kdbench.testing.examples import lanes, setting
    >>> (lane,), shared = lanes("kd"), setting()
    >>> lane.start_epoch()
    >>> for image, label, idx in shared.train.epoch(0):
    ...     batch = Batch(image, label, idx, torch.tensor(0.0))
    ...     lane.step(shared.teacher(image), batch)
    >>> lane.end_epoch(0.0)
    >>> lane.epoch, list(lane.curve[0]["terms"])
    (1, ['ce', 'kd'])
    """

    def __init__(
        self,
        key: str,
        student: nn.Module,
        method: Distiller,
        plan: Plan,
        *,
        seed: int,
        path: Path,
        settings: str,
        teacher: str,
        device: torch.device,
        precision: Precision,
        compiler: Compiler | None = None,
        data: str = "",
        plugin: str = "",
        recipe: str = "recipe",
    ) -> None:
        self.key, self.plan, self.path, self.recipe = key, plan, path, recipe
        self.belongs = {"settings": settings, "teacher": teacher, "data": data, "plugin": plugin}
        self.device, self.precision = device, precision
        with holds(f"the student of {key}", device):
            self.student = student.to(device).to(memory_format=torch.channels_last)
            self.compiled = None if compiler is None else compiler.of(self.student)
            self.method = method.to(device)
        self.curve: list[dict[str, Any]] = []
        self.seconds, self.images = 0.0, 0
        self.failure: str | None = None
        self.report: dict[str, float] = {}  # what the last evaluation measured
        self._inferred: int | None = None
        self._kept_state: dict[str, Tensor] | None = None
        self.rng = fresh_rng(seed, device)
        self.meter = Meter()  # of the present epoch
        self._extra, self.waiting = 0, 0  # waiting: batches that await a step
        self.begun, self.shared = 0, 0.0  # batches of the present epoch behind it, and its share of data and teacher
        self.average = Average(self.student, plan.ema) if plan.ema else None
        gradients.prepare(plan, method, compiles=compiler is not None)
        self.pretrain_total = plan.pretrain_epochs(method)
        self.epoch = 0
        with holds(f"the optimizer of {key}", device):
            self.enter("pretrain" if self.pretrain_total else "train")

    # -- where it stands ------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Epochs of the present stage."""
        return self.pretrain_total if self.stage == "pretrain" else self.plan.epochs

    @property
    def done(self) -> bool:
        """Whether every epoch of the main stage is behind."""
        return self.stage == "train" and self.epoch >= self.plan.epochs

    @property
    def trains_student(self) -> bool:
        """Whether the present stage trains the student's body."""
        return self.stage == "train" or self.method.pretrain_student

    @property
    def stage_loss(self) -> Callable[[Outputs, Outputs, Batch], dict[str, Tensor]]:
        """What the present stage minimises: terms by name."""
        return self.method.loss if self.stage == "train" else self.method.pretrain_terms

    def enter(self, stage: str) -> None:
        """Begin a stage: what it trains, and a fresh optimizer and loss scale for it.

        Raises:
            NothingToTrain: there is nothing.
        """
        self.stage, self.epoch, self.begun, self._asked = stage, 0, 0, ("", -1)
        self.needs_teacher = bool(self.method.needs_teacher)
        self.train_mode()
        parts: list[nn.Module] = [self.method]
        if self.trains_student:
            parts.insert(0, self.student)
        trained = [p for part in parts for p in part.parameters() if p.requires_grad]
        if not trained:
            raise NothingToTrain(f"stage {stage!r} has nothing to train: no parameter requires a gradient there")
        stepping.begin(self)
        self.scaler = self.precision.scaler(self.device)
        self.optimizer = gradients.optimizer(self, trained)

    def train_mode(self) -> None:
        """Modes of the present stage; a student that the stage does not train is in eval mode."""
        self.student.train(self.trains_student)
        self.method.train()
        rng = self.rng
        with self.own_rng():  # called any number of times: what it may draw is the same each time
            self.method.on_stage(self.stage)
        self.rng = rng

    # -- one epoch ------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask the method what the coming epoch needs; in mid-epoch what was asked when it began still holds."""
        if not self.begun:
            self.needs_teacher = bool(self.method.needs_teacher)
        if self.stage == "train":
            self.rate = self.plan.rate(self.epoch)
        else:
            self.rate = self.plan.pretrain_rate(self.method, self.epoch)
        self._asked = self.stage, self.epoch

    def start_epoch(self) -> None:
        """Set the epoch's learning rate and, where it has not begun, empty the meter; ``ask`` comes before it."""
        if self._asked != (self.stage, self.epoch):
            self.ask()
        set_rate(self.optimizer, self.rate)
        if not self.begun:
            self.meter = Meter()

    def step(self, teacher: Outputs | None, batch: Batch) -> None:
        """One optimizer step on one batch. ``teacher`` may be None when the method needs none."""
        started = time.perf_counter()
        with self.own_rng():
            terms = self.update(teacher, batch)
        self.saw(self.meter.steps, len(batch.label), {name: term[None] for name, term in terms.items()})
        self.seconds += time.perf_counter() - started

    def update(self, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """The work of a step: losses, gradients, new weights. All on the device, so it can be captured.

        Returns:
            the terms, () each, without a graph.
        """
        with self.precision.autocast(self.device):
            terms = self.terms(teacher, batch)
            check_terms(terms)
            totals = gradients.totals(self, terms)
        gradients.backward(self, totals)
        return {name: term.detach().float() for name, term in terms.items()}

    def saw(self, first: int, images: int, values: dict[str, Tensor]) -> None:
        """Keep the terms of the steps from ``first`` on, (steps,) each, of batches of so many images."""
        self.meter.saw(first, images, values)

    def terms(self, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """The present stage's loss on a batch, by name."""
        student, teacher = self.look(teacher, batch)
        return self.stage_loss(student, teacher, smoothed(batch, student.logits.shape[1], self.plan.label_smoothing))

    def look(self, teacher: Outputs | None, batch: Batch) -> tuple[Outputs, Outputs]:
        """What the present stage's loss is told of a batch: the student's outputs, and the teacher's."""
        with torch.set_grad_enabled(self.trains_student):
            seen = self._see(batch.image)
        if teacher is None or not self.needs_teacher:
            teacher = seen.map(Tensor.detach)  # whatever the company, such a method sees no teacher
        return seen, teacher

    def _see(self, image: Tensor) -> Outputs:
        seen: Outputs = self.student(image) if self.compiled is None else self.compiled(image)
        return seen._replace(logits=seen.logits.float())

    def end_epoch(self, shared_seconds: float) -> None:
        """Close the epoch: curve point, divergence check, next epoch or next stage.

        ``shared_seconds`` is this lane's share of the time spent on data and teacher.

        Raises:
            Diverged: a term is not finite, or every step overflowed and lower scales do not help.
            Failed: see ``stepping.check``.
        """
        stepping.check(self)
        gradients.finish(self)
        self.begun, self.shared = 0, 0.0
        self.seconds += shared_seconds
        self.images += self.meter.images if self.stage == "train" else 0
        means = self._means()
        scale = self.scaler.end_epoch(-(-self.meter.steps // self.plan.accumulate))
        # A short epoch may pass before a scale is found; torch takes less than 1 for a sign that there is none.
        if scale is not None and (scale < 1 or self.epoch + 1 == self.total):
            raise Diverged(
                f"every step of {self._when()} overflowed in fp16, down to a loss scale of {scale:g}, and"
                " was skipped; try precision bf16 or fp32"
            )
        if self.stage == "train":
            self.curve.append({"epoch": self.epoch + 1, "lr": self.rate, "seconds": self.seconds, "terms": means})
        self.epoch += 1
        if self.stage == "pretrain" and self.epoch >= self.pretrain_total:
            self.enter("train")

    def _means(self) -> dict[str, float]:
        """Mean of each term; the epoch's one wait for the device.

        Raises:
            Diverged: naming the term that was the first to be infinite or no number.
        """
        means, bad = self.meter.means()
        if bad is not None:
            raise Diverged(f"term {bad[0]!r} was {bad[1]} in {self._when()}; try {self.remedy()}")
        return means

    def remedy(self) -> str:
        """What may keep it finite, for the sentence of a lane that diverged."""
        return remedy(self.method, clipped=self.plan.clip_grad, recipe=self.recipe)

    def _when(self) -> str:
        return f"epoch {self.epoch + 1}" + ("" if self.stage == "train" else " of the pre-training stage")

    def when(self) -> str:
        """For the sentence of a lane that fails."""
        return f" in {self._when()}"

    # -- checkpoints ----------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.path, self.state())

    def state(self) -> dict[str, Any]:
        """All that a resumed lane needs."""
        try:
            own = {"student": self.student.state_dict(), "method": self.method.state_dict()}
        except OSError as error:  # not the disk's: nothing has been written yet
            raise Failed(said(error, " when its state was asked for")) from None
        for whose, state in own.items():
            if not isinstance(state, dict):
                raise Failed(f"its state holds {whose}, of type {type(state).__name__}, no dict")
        return {
            **self.belongs,
            "stage": self.stage,
            "epoch": self.epoch,
            **own,
            "optimizer": self.optimizer.state_dict(),
            **({"ema": self.average.state} if self.average else {}),
            "scaler": self.scaler.state_dict(),
            "rng": self.rng,
            "curve": self.curve,
            "seconds": self.seconds + self.shared,
            "images": self.images,
            "report": self.report,
            **({"partial": resuming.partial(self)} if self.begun else {}),
        }

    def resume(self) -> bool:
        """Continue from the checkpoint; False when there is none.

        Raises:
            checkpoint.CheckpointDamaged, checkpoint.CheckpointForeign: see there.
        """
        state = checkpoint.load(self.path, self.belongs)
        if state is not None:
            resuming.check_results(state, self)
            self.restore(state)
        return state is not None

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what ``state`` gave, perhaps on another device or in another process.

        Raises:
            checkpoint.CheckpointDamaged, checkpoint.CheckpointForeign: see ``resuming.restore``.
        """
        resuming.restore(self, state)

    # -- what the record needs ------------------------------------------------------------

    def close(self, example: Callable[[], Tensor]) -> None:
        """Ask the method, for the last time, what the record and the kept student need.

        ``example`` makes a batch of images, (B, 3, H, W).
        """
        self.kept_state()
        self.weights_sha256()
        self.extra_train_params()
        if self.method.modifies_student():
            self.extra_infer_params(example())

    def forget(self) -> None:
        """Let go of what a lane that trains no more holds: gradients, momenta, what ``close`` has asked for."""
        self._kept_state = None
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()

    def kept_state(self) -> dict[str, Tensor]:
        """What is kept of a finished lane: the student, and of the method what prediction or its attention needs."""
        if self._kept_state is None:
            state = {f"student.{k}": v for k, v in self.student.state_dict().items()}
            if self.method.modifies_student():
                state |= {f"method.{k}": v for k, v in self.method.state_dict().items()}
            else:
                state |= {f"method.{k}": v for k, v in attention_state(self.method).items()}
            state |= {f"ema.{k}": v for k, v in stepping.averaged(self).items()}
            self._kept_state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
        return self._kept_state

    def weights_sha256(self) -> str:
        """Hash of the student's state: names, shapes and bytes."""
        return state_sha256(self.student.state_dict())

    def extra_train_params(self) -> int:
        """Parameters that training needs beside the student's, as the method last told."""
        with suppress(Exception):  # the record of a lane that has failed asks, too
            self._extra = sum(p.numel() for p in self.method.parameters())
        return self._extra

    def extra_infer_params(self, image: Tensor) -> int:
        """Of those, how many the evaluated network uses. ``image``: (B, 3, H, W)."""
        if self._inferred is not None:
            return self._inferred
        if not self.method.modifies_student() or not any(True for _ in self.method.parameters()):
            return 0
        self._inferred = used_in_prediction(self.student, self.method, image)
        self.train_mode()
        return self._inferred

    @contextmanager
    def own_rng(self) -> Iterator[None]:
        """torch's default generators hold this lane's state inside, and the caller's after."""
        before = rng_state(self.device)
        set_rng_state(self.rng, self.device)
        try:
            yield
            self.rng = rng_state(self.device)
        finally:
            set_rng_state(before, self.device)
