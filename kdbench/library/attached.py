"""A method that sits beside a training loop of the user's: images and labels in, one loss out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdbench.distiller import Batch, Distiller, Outputs
from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.engine.schedule import Plan, set_rate
from kdbench.engine.terms import check_terms
from kdbench.engine.torch_private import versions
from kdbench.library.checks import Checks, gives_logits, pictures, refuse_one_image
from kdbench.library.facts import Facts, batch_class
from kdbench.library.networks import Networks
from kdbench.library.numbers import whole_number
from kdbench.library.preparing import counted, kind, parts, rate, steps_of
from kdbench.models.tapped import evaluating
from kdbench.utils.wording import printable

#: Names of views that are made of any image here; the others belong to whoever augments.
_TURNS = {"rot90": 1, "rot180": 2, "rot270": 3}
_LATEST = 1 - 2**-24  # progress lies below 1, in float32, too


class Attached(nn.Module):
    """What ``kdbench.attach`` gives: the loss of a method on batches of yours.

    ``parameters()`` and ``state_dict()`` are those of the method alone: give the first to your optimizer beside the
    student's, keep the second beside the student's.

    Attributes:
        method: the loss module itself.
        pair: shapes and facts that it was built with.
        terms: the last call's scalars by name, without a graph; their sum is the loss.
        logits: the student's logits of the last call, (V * B, K), without a graph.
        stages: ``("train",)``, or ``("pretrain", "train")`` of a method with a stage before the main one.
        stage: the present one; "" until ``on_stage`` or ``prepare`` begins the first of two.
        progress: share of the stage that is done, in [0, 1); yours to set, unless ``steps`` were given.
        needs_teacher: whether the present stage asks the teacher.
    """

    def __init__(
        self,
        method: Distiller,
        name: str,
        networks: Networks,
        pair: Facts,
        image_shape: tuple[int, int, int],
        steps: int | None,
    ) -> None:
        super().__init__()
        self.method, self.name, self.pair = method, name, pair
        self._networks: Networks | None = networks
        self._checks = Checks(name, pair, image_shape, method.views)
        self.stages = ("pretrain", "train") if method.pretrain_epochs else ("train",)
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None
        self.stage, self.calls = "", 0
        self._begun: set[str] = set()
        self._steps = {"train": steps}
        self._progress: float | None = None
        self.clock: Tensor
        self.register_buffer("clock", torch.zeros(3, dtype=torch.int64))
        # Hooks get the module, so that a copy of it writes its own clock. torch gives them no types.
        self.register_state_dict_pre_hook(Attached._write_clock)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(Attached._write_clock)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(Attached._read_clock)  # type: ignore[no-untyped-call]
        if len(self.stages) == 1:
            self.on_stage("train", steps=steps)

    # -- the loss ------------------------------------------------------------------------

    # Its checks are Python's; a student that was compiled in place runs compiled all the same.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor, labels: Tensor, idx: Tensor | None = None) -> Tensor:
        """The loss of the present stage, a scalar; its parts are in ``terms``.

        Args:
            images: (B, C, H, W), normalised; of a method with further views all of them, the plain one first. Those
                that are turned by 90 degrees are made here where they are left out.
            labels: (B,) classes.
            idx: (B,) positions in the training set, for methods that keep something of every image.

        Raises:
            ValueError: what of the call cannot be, in one sentence.
        """
        networks = self._attached()
        if not self.stage:
            raise ValueError(
                f"{self.name} has a stage before the main one: call d.prepare(loader), or d.on_stage('pretrain'),"
                " train d.parameters() and then d.on_stage('train')"
            )
        images, labels, idx = self._checks(images, labels, idx, training=self._counts)
        networks.check(images, self.method)
        networks.follow(self.method)
        batch = self._batch(images, labels, idx)
        try:
            seen, teacher = self._look(networks, batch.image)
            terms = (self.method.loss if self.stage == "train" else self.method.pretrain_terms)(seen, teacher, batch)
        except ValueError as error:
            refuse_one_image(error, self.name, len(labels))
            raise
        check_terms(terms)
        if not terms:
            raise ValueError(f"{self.name} has no term to minimise: with these weights nothing of its loss is left")
        total = torch.stack([term.to(torch.promote_types(term.dtype, torch.float32)) for term in terms.values()]).sum()
        self.terms = {name: term.detach() for name, term in terms.items()}
        self.logits = seen.logits.detach()
        if self._counts:
            self.calls += 1
            self._begun.add(self.stage)
        return total

    @property
    def _counts(self) -> bool:
        """Whether a call is a step of training."""
        return self.training and torch.is_grad_enabled()

    def _batch(self, images: Tensor, labels: Tensor, idx: Tensor | None) -> Batch:
        device, progress = self._attached().device, self.progress
        unsaid = ("idx",) * (idx is None) + ("progress",) * (progress is None)
        images = images.to(device, non_blocking=True)
        turns = [_TURNS.get(view) for view in self.method.views]
        if len(images) == len(labels) and turns:
            images = torch.cat([images, *(torch.rot90(images, turn or 0, (2, 3)) for turn in turns)])
        return batch_class(*unsaid)(
            images,
            labels.to(device, non_blocking=True),
            torch.empty(0, dtype=torch.int64) if idx is None else idx.to(device, non_blocking=True),
            torch.tensor(0.0 if progress is None else progress, device=device),
        )

    def _look(self, networks: Networks, images: Tensor) -> tuple[Outputs, Outputs]:
        """What the present stage's loss is told: the student's outputs, and the teacher's."""
        student, k = networks.student.tapped, vars(self.pair)["num_classes"]
        written = versions([] if images.is_inference() else [images])
        if self.stage == "train" or self.method.pretrain_student:
            seen: Outputs = student(images)
        else:
            with evaluating(student):
                seen = student(images)
        seen = _wide(seen)
        gives_logits(seen, len(images), k, f"the student {student.name}")
        if written and versions([images]) != written:
            raise ValueError(f"the student {student.name} writes into its images, which others see, too; clone them")
        answering = networks.answering if self.method.needs_teacher else None
        if answering is None:
            return seen, seen.map(Tensor.detach)
        with torch.no_grad():
            # Its classifier is its own parameter, whatever the mode: without a detach it would be given a gradient.
            shown = _wide(answering(images)).map(Tensor.detach)
        gives_logits(shown, len(images), k, f"the teacher {answering.name}")
        return seen, shown

    def _attached(self) -> Networks:
        if self._networks is None:
            raise ValueError(f"{self.name} was detached from its student; attach it again")
        return self._networks

    # -- stages and time -----------------------------------------------------------------

    @property
    def needs_teacher(self) -> bool:
        """Whether the present stage asks the teacher."""
        return bool(self.method.needs_teacher)

    @property
    def trains_student(self) -> bool:
        """Whether the present stage trains the student's body, and not the method's modules alone."""
        return self.stage != "pretrain" or self.method.pretrain_student

    @property
    def progress(self) -> float | None:
        """Share of the stage that is done; None: nobody has said."""
        steps = self._steps.get(self.stage)
        return self._progress if self._progress is not None or steps is None else min(self.calls / steps, _LATEST)

    @progress.setter
    def progress(self, share: float | None) -> None:
        try:
            number = None if share is None or isinstance(share, str | bool) else float(share)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = math.nan
        if (number is None and share is not None) or (number is not None and not 0 <= number < 1):
            raise ValueError(
                "progress is the share of the stage that is done, 0 or more and below 1, not"
                f" {printable(repr(share) if isinstance(share, str) else str(share), 60)}"
            )
        self._progress = None if number is None else min(number, _LATEST)

    def on_stage(self, stage: str, *, steps: int | None = None) -> Self:
        """Begin a stage: what the method freezes is frozen, what the stage trains can be trained.

        Give every stage an optimizer of its own: on ``d.parameters()``, and on the student's where
        ``d.trains_student``.

        Args:
            stage: "pretrain" or "train".
            steps: calls that the stage will have, so that ``progress`` counts itself.

        Raises:
            ValueError: no such stage, or the main one of a method that has not been pre-trained.
        """
        if stage not in self.stages:
            raise ValueError(f"{self.name} has {_names(self.stages)}, not a stage {stage!r}")
        if stage == "train" and len(self.stages) == 2 and "pretrain" not in self._begun:
            raise ValueError(
                f"{self.name} has not been pre-trained: call d.prepare(loader), or d.on_stage('pretrain') and train"
                " d.parameters() first"
            )
        steps = steps_of(steps)
        self.stage, self.calls, self._progress = stage, 0, None
        if steps is not None:
            self._steps[stage] = steps
        self._settle()
        return self

    def _settle(self) -> None:
        """Tell the method its stage; what it may draw for that is taken from nobody."""
        device = self._attached().device
        before = rng_state(device)
        try:
            self.method.on_stage(self.stage)
        finally:
            set_rng_state(before, device)

    def train(self, mode: bool = True) -> Self:
        """As torch's; the student's mode is yours."""
        super().train(mode)
        if mode and self.stage and self._networks is not None:
            self._settle()
        return self

    def prepare(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        total_epochs: int = 240,
        steps: int | None = None,
    ) -> int:
        """Train the stage before the main one, if the method has one, as the engine does; then begin the main one.

        Args:
            loader: gives (images, labels) or (images, labels, idx), again for every epoch.
            epochs: length of the stage; None: as the method states it, for a run of ``total_epochs``.
            lr: learning rate, where the method states none.
            momentum: of SGD.
            weight_decay: of SGD.
            total_epochs: length of your run, to which the stage is scaled.
            steps: calls of the main stage, as for ``on_stage``.

        Returns:
            epochs that were trained; 0 where there is no such stage.

        Raises:
            ValueError: as for a call; or the loader gives nothing.
        """
        if len(self.stages) == 1:
            self.on_stage("train", steps=steps)
            return 0
        steps, length = steps_of(steps), whole_number(total_epochs)
        if length is None or length < 1:
            raise ValueError(f"total_epochs is the length of your run, 1 or more, not {total_epochs!r}")
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if isinstance(value, bool | str) or not isinstance(value, Real) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is a number, 0 or more, not {printable(repr(value), 60)}")
        plan = Plan(length, float(lr), float(momentum), weight_decay=float(weight_decay))
        total = plan.pretrain_epochs(self.method) if epochs is None else whole_number(epochs)
        if total is None or total < 1:
            raise ValueError(f"epochs is the length of the stage, 1 or more, not {epochs!r}")
        if isinstance(loader, str | bytes) or not isinstance(loader, Iterable):
            raise ValueError(f"the loader gives (images, labels) again for every epoch, and is no {kind(loader)}")
        self.on_stage("pretrain")
        networks, mode = self._attached(), self.training
        student = networks.student.given
        networks.follow(self.method)
        self.train()
        trained = [student, self.method] if self.method.pretrain_student else [self.method]
        optimizer = plan.optimizer(
            [p for part in trained for p in part.parameters() if p.requires_grad], networks.device
        )
        was = {module: module.training for module in student.modules()}
        student.train(self.method.pretrain_student)
        try:
            with torch.enable_grad():
                for epoch in range(total):
                    set_rate(optimizer, rate(plan, self.method, epoch, total))
                    batches = counted(loader)
                    loss = torch.tensor(math.nan)
                    for number, batch in enumerate(batches):
                        self.progress = min((epoch + number / len(batches)) / total, _LATEST)
                        optimizer.zero_grad(set_to_none=True)
                        loss = self(*parts(batch))
                        if loss.device.type == "cpu":
                            self._finite(loss, epoch)
                        loss.backward()
                        optimizer.step()
                    if not len(batches):
                        raise ValueError(
                            "the loader gives no batch to pre-train with; it is gone through once an epoch"
                        )
                    self._finite(loss, epoch)  # once an epoch, for a device must be waited for
        finally:
            for module, training in was.items():
                module.training = training
            optimizer.zero_grad(set_to_none=True)
            super().train(mode)
        self.on_stage("train", steps=steps)
        self.train(mode)
        return total

    def _finite(self, loss: Tensor, epoch: int) -> None:
        if not loss.isfinite():
            raise ValueError(
                f"in epoch {epoch + 1} of pre-training the loss of {self.name} is {loss.item()}; look at the images,"
                " or take a smaller lr"
            )

    # -- what is deployed ----------------------------------------------------------------

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits of the network as it is deployed, in eval mode.

        The student's own, save for methods that change the network, such as simkd.
        """
        networks = self._attached()
        pictures(images)
        networks.check(images, self.method)
        networks.follow(self.method)
        with evaluating(networks.student.tapped), evaluating(self.method):
            return self.method.predict(_wide(networks.student.tapped(images.to(networks.device))))

    def detach(self) -> None:
        """Remove every hook from student and teacher; the loss cannot be called after that."""
        if self._networks is not None:
            for side in (self._networks.student, self._networks.teacher):
                if side is not None:
                    side.detach()
        self._networks = None

    # -- state ---------------------------------------------------------------------------

    def _write_clock(self, *_: Any) -> None:
        """Stage, which were begun, calls: what a resumed loop must know besides the method's tensors."""
        stage = self.stages.index(self.stage) + 1 if self.stage else 0
        self.clock.copy_(torch.tensor([stage, len(self._begun), self.calls]))

    def _read_clock(self, *_: Any) -> None:
        try:
            stage, begun, calls = map(int, self.clock)
        except (ValueError, OverflowError):
            stage = begun = calls = -1
        if not (0 <= stage <= len(self.stages) and 0 <= begun <= len(self.stages) and calls >= 0):
            raise ValueError(
                f"this state is not one of {self.name}, or it was changed: its clock says {self.clock.tolist()}"
            )
        self._begun = set(self.stages[:begun])
        self.stage, self.calls = (self.stages[stage - 1] if stage else ""), calls
        if self.stage:
            self._settle()


def _wide(seen: Outputs) -> Outputs:
    """Logits in fp32 at least."""
    return seen._replace(logits=seen.logits.to(torch.promote_types(seen.logits.dtype, torch.float32)))


def _names(stages: tuple[str, ...]) -> str:
    return "one stage, 'train'" if len(stages) == 1 else "the stages 'pretrain' and 'train'"
