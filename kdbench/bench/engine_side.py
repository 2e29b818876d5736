"""The engine under the clock: its own loop on the benchmark's work, and one step taken apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kdbench import models
from kdbench.bench.clock import Parts
from kdbench.bench.steps import Steps
from kdbench.bench.work import MOMENTUM, RATE, WEIGHT_DECAY, Work
from kdbench.distiller import Batch, Outputs
from kdbench.engine import fit
from kdbench.engine.graph.backend import Machine
from kdbench.engine.graph.train_step import Captured, Captures
from kdbench.engine.lane import Lane
from kdbench.engine.schedule import Plan
from kdbench.models import Tapped
from kdbench.registry import Spec

_ENDLESS = 10**9


class _Silent:
    def step(self, lanes: int) -> None:
        pass

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        pass


class _Captures(Captures):
    """Knows which captured step it gave last."""

    last: Captured | None = None

    def of(
        self, loader: object, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
    ) -> Captured | None:
        self.last = super().of(loader, lanes, stage, show)
        return self.last


class Engine:
    """Lanes for every method of a piece of work, in the main stage.

    Args:
        work: what they do.
        folder: where ``Lane.save`` writes; training alone does not.
        machine: what runs whole steps in `kdbench run` on this device; None: the engine's plain loop.

    Attributes:
        setting: of the loop; what it says of the training data counts for one run only.
        notes: what the engine said, such as which lane stays outside a CUDA graph, and why.
        asked: forward passes of the live teacher so far. A graph that is replayed does not count them; the
            step that it was recorded from did.
    """

    def __init__(self, work: Work, folder: Path = Path(), machine: Machine | None = None) -> None:
        self.work, self.folder = work, folder
        self.notes: list[str] = []
        self.asked = 0
        work.precision.prepare(work.device)
        teacher = work.teacher()
        self.lanes = [self._lane(number, spec, teacher) for number, spec in enumerate(work.specs)]
        shown = models.fold(teacher).to(work.device).to(memory_format=torch.channels_last)
        shown.register_forward_hook(self._count)
        self.loader = work.loader()
        self.setting = fit.Setting(shown, self.loader, lambda: [], work.device, work.precision, machine=machine)
        self._guard = self.setting.guard()
        self._row: tuple[Steps, _Captures | None] | None = None
        self._stream = work.batches(self.loader)

    def _lane(self, number: int, spec: Spec, teacher: Tapped) -> Lane:
        student, method = self.work.build(spec, teacher)
        plan = Plan(_ENDLESS, RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
        lane = Lane(
            str(spec),
            student,
            method,
            plan,
            seed=number,
            path=self.folder / f"{number}.ckpt",
            settings="bench",
            teacher="bench",
            device=self.work.device,
            precision=self.work.precision,
        )
        if lane.stage != "train":
            lane.enter("train")
        return lane

    def run(self, steps: int) -> None:
        """So many steps of every lane, as `kdbench run` makes them.

        A graph is made when another number of steps than the last is asked for.

        Raises:
            ValueError: a lane failed, so that its time would mean nothing.
        """
        train = self.steps(steps)
        assert self._row is not None
        self._run(train, self._row[1])

    def run_eager(self, steps: int) -> None:
        """As ``run``, every kernel launched by itself: what looks into a step cannot look into a graph."""
        self._run(Steps(self.loader, steps), None)

    @property
    def captured(self) -> int:
        """Lanes in the captured step of the last ``run``; 0 where the loop ran."""
        captures = self._row and self._row[1]
        return len(captures.last.lanes) if captures and captures.last else 0

    def steps(self, steps: int) -> Steps:
        """The batches that ``run(steps)`` takes, from the lanes' epoch on."""
        if self._row is None or len(self._row[0]) != steps:
            self._row = None  # its graphs' memory first
            machine = self.setting.machine
            captures = None if machine is None else _Captures(machine, self._note, self.setting.resident, self._guard)
            self._row = Steps(self.loader, steps), captures
        return self._row[0]

    def lend(self, setting: fit.Setting) -> None:
        """Go on with another setting, such as one with a table of the teacher."""
        self.setting, self._row = setting, None

    def _run(self, train: Steps, captures: Captures | None) -> None:
        self.work.precision.prepare(self.work.device)
        setting = replace(self.setting, train=train)
        with self._guard:
            fit.train_epoch(setting, self.lanes, "train", self.lanes[0].epoch, _Silent(), captures, self._guard)
        for lane in self.lanes:
            if lane.failure:
                raise ValueError(f"bench cannot time {lane.key}: {lane.failure}")

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _count(self, *_: object) -> None:
        self.asked += 1

    def batch(self) -> Batch:
        """The next batch."""
        image, label, idx = next(self._stream)
        return Batch(image, label, idx, torch.tensor(0.0, device=self.work.device))

    def look(self, batch: Batch) -> Outputs:
        """The teacher's outputs."""
        return fit.look(self.setting, batch.image)

    def split(self, steps: int) -> dict[str, float]:
        """Seconds of a step by part.

        The graph is cut at the student's outputs, so that the backward pass through a loss and
        the one through the student are timed apart; the numbers stay the same.
        """
        parts = Parts(self.work.device)
        for _ in range(steps):
            with parts.part("data"):
                batch = self.batch()
            with parts.part("teacher"):
                seen = self.look(batch)
            for lane in self.lanes:
                self._split_lane(lane, seen, batch, parts)
        return {name: seconds / steps for name, seconds in parts.seconds.items()}

    def _split_lane(self, lane: Lane, seen: Outputs, batch: Batch, parts: Parts) -> None:
        with parts.part("optimiser"):
            lane.optimizer.zero_grad(set_to_none=True)
        with parts.part("students"), lane.precision.autocast(lane.device):
            outputs = lane.student(batch.image)
        own, leaves = cut(outputs)
        with parts.part("losses"):
            with lane.precision.autocast(lane.device):
                terms = lane.method.loss(leaves._replace(logits=leaves.logits.float()), seen, batch)
                total = torch.stack([term.float() for term in terms.values()]).sum()
            lane.scaler.scale(total).backward()
        with parts.part("students"):
            pairs = [(o, leaf.grad) for o, leaf in own if leaf.grad is not None]
            torch.autograd.backward([o for o, _ in pairs], [grad for _, grad in pairs])
        with parts.part("optimiser"):
            lane.scaler.step(lane.optimizer)


def cut(outputs: Outputs) -> tuple[list[tuple[Tensor, Tensor]], Outputs]:
    """Outputs behind a cut: pairs (original, leaf that collects its gradient), and the leaves as ``Outputs``.

    A tensor that shows up twice (a tap that is also ``last``) has one leaf.
    """
    leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def leaf(tensor: Tensor) -> Tensor:
        return leaves.setdefault(id(tensor), (tensor, tensor.detach().requires_grad_(True)))[1]

    behind = outputs._replace(classifier=None).map(leaf)._replace(classifier=outputs.classifier)
    return list(leaves.values()), behind
