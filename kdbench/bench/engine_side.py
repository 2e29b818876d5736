"""The engine under the clock: its own loop on the benchmark's work, and one step taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from kdbench import models
from kdbench.bench.clock import Parts
from kdbench.bench.work import MOMENTUM, RATE, WEIGHT_DECAY, Work
from kdbench.distiller import Batch, Outputs
from kdbench.engine import fit
from kdbench.engine.lane import Lane
from kdbench.engine.schedule import Plan
from kdbench.models import Tapped
from kdbench.registry import Spec

_ENDLESS = 10**9


class _Steps:
    """So many batches of an endless stream: an epoch of any length over the whole set."""

    def __init__(self, stream: Iterator[tuple[Tensor, Tensor, Tensor]], steps: int) -> None:
        self.stream, self.steps = stream, steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The next batches."""
        return islice(self.stream, self.steps)


class _Silent:
    def step(self, lanes: int) -> None:
        pass

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        pass


class Engine:
    """Lanes for every method of a piece of work, in the main stage.

    ``folder`` is where ``Lane.save`` writes; training alone does not.
    """

    def __init__(self, work: Work, folder: Path = Path()) -> None:
        self.work, self.folder = work, folder
        work.precision.prepare(work.device)
        teacher = work.teacher()
        self.lanes = [self._lane(number, spec, teacher) for number, spec in enumerate(work.specs)]
        shown = models.fold(teacher).to(work.device).to(memory_format=torch.channels_last)
        self.stream = work.batches()
        self.setting = fit.Setting(shown, _Steps(self.stream, 1), lambda: [], work.device, work.precision)

    def _lane(self, number: int, spec: Spec, teacher: Tapped) -> Lane:
        student, method = self.work.build(spec, teacher)
        plan = Plan(_ENDLESS, RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
        lane = Lane(
            str(spec), student, method, plan, seed=number, path=self.folder / f"{number}.ckpt",
            settings="bench", teacher="bench", device=self.work.device, precision=self.work.precision,
        )
        if lane.stage != "train":
            lane.enter("train")
        return lane

    def run(self, steps: int) -> None:
        """So many steps of every lane, in the engine's own loop.

        Raises:
            ValueError: a lane failed, so that its time would mean nothing.
        """
        self.work.precision.prepare(self.work.device)
        setting = replace(self.setting, train=_Steps(self.stream, steps))
        fit.train_epoch(setting, self.lanes, "train", self.lanes[0].epoch, _Silent())
        for lane in self.lanes:
            if lane.failure:
                raise ValueError(f"bench cannot time {lane.key}: {lane.failure}")

    def batch(self) -> Batch:
        """The next batch."""
        return Batch(*next(self.stream), torch.tensor(0.0, device=self.work.device))

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
            total.backward()
        with parts.part("students"):
            pairs = [(o, leaf.grad) for o, leaf in own if leaf.grad is not None]
            torch.autograd.backward([o for o, _ in pairs], [grad for _, grad in pairs])
        with parts.part("optimiser"):
            lane.optimizer.step()


def cut(outputs: Outputs) -> tuple[list[tuple[Tensor, Tensor]], Outputs]:
    """Outputs behind a cut: pairs (original, leaf that collects its gradient), and the leaves as ``Outputs``.

    A tensor that shows up twice (a tap that is also ``last``) has one leaf.
    """
    leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def leaf(tensor: Tensor) -> Tensor:
        return leaves.setdefault(id(tensor), (tensor, tensor.detach().requires_grad_(True)))[1]

    behind = outputs._replace(
        feats=tuple(map(leaf, outputs.feats)), last=leaf(outputs.last), pooled=leaf(outputs.pooled),
        logits=leaf(outputs.logits), preacts=None if outputs.preacts is None else tuple(map(leaf, outputs.preacts)),
    )
    return list(leaves.values()), behind
