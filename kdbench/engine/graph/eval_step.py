"""Evaluation as one repeatable piece, so that CUDA can hold it in a graph.

One pass over a batch of test images: a counter on the device picks the batch, every lane answers
it, and the logits go to their place in a tensor that holds those of all images. The host repeats
it for every batch (a shorter last one is a second graph) and reads the scores once, at the end.

Weights change in place between evaluations, so a graph stays valid as long as its lanes stay
together; where students are folded, the copies that the graph knows are refreshed in place before
the first batch. The lanes follow each other in one row: a batch of a thousand images fills the
device, and one lane's activations lie in the memory of the one before.

As ``capture``, this is called instead of captured on the CPU, and must give the bits of
``evaluate``. On a GPU the verdict of the first and of the last evaluation is compared with that
of the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdbench.engine.errors import OutOfMemory, holds
from kdbench.engine.evaluate import Batches, Fold, answer, eval_mode, evaluate, read, scores, when
from kdbench.engine.graph.backend import Machine
from kdbench.engine.graph.capturable import REHEARSALS, CannotCapture, capturable
from kdbench.engine.graph.rollback import undone
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane

#: Test images whose verdict another order of sums may change.
SLACK = 2


@runtime_checkable
class Placed(Protocol):
    """Test images that lie on the device, where any batch of them can be made."""

    batch_size: int
    labels: Tensor

    def images(self, idx: Tensor) -> Tensor:
        """(B,) positions -> (B, C, H, W)."""
        ...


class Exam:
    """The evaluation of some lanes.

    Args:
        test: images and labels.
        lanes: who is evaluated.
        fold: as ``evaluate`` takes it.
        machine: what runs a pass; shared with nobody, since a failed capture spoils its random numbers.
        note: told in a sentence which lane stays outside, and why.
        guard: that of the group; None: the methods are trusted.

    Raises:
        CannotCapture: the batches themselves need the host, or the graph was refused.

    >>> from kdbench.data import Loader
    >>> from kdbench.data.loader import Plain
    >>> from kdbench.engine.graph.backend import Eager
    >>> from kdbench.testing.examples import lanes
    >>> images, labels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.arange(8) % 5
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> (lane,) = lanes("kd")
    >>> exam = Exam(Plain(loader, batch_size=4), [lane], fold=None, machine=Eager(), note=print)
    >>> [lane.key for lane in exam.lanes]
    ['kd']
    """

    def __init__(
        self,
        test: Placed,
        lanes: Sequence[Lane],
        *,
        fold: Fold | None,
        machine: Machine,
        note: Callable[[str], None],
        guard: Guard | None = None,
    ) -> None:
        self._test, self._fold, self._machine, self._guard = test, fold, machine, guard
        device, n, b = test.labels.device, len(test.labels), test.batch_size
        self._sizes = [min(b, n - first) for first in range(0, n, b)]
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(b, device=device)
        self._nets: dict[Lane, nn.Module] = {}
        self._logits: dict[Lane, Tensor] = {}  # (N, K) float32
        self._passes: dict[int, Callable[[], object]] = {}  # by batch size
        with self._evaluating(lanes):
            pictures = self._look_ahead()
            for lane in lanes:
                try:
                    if not lane.failure:
                        self._rehearse(lane, pictures)
                except CannotCapture as error:
                    note(f"{lane.key} is evaluated beside the graph, batch by batch: {error}")
            machine.drawing([])
            with machine.together():
                for size in dict.fromkeys(self._sizes if self._nets else ()):
                    self._passes[size] = partial(self._pass, size)
                    if machine.captures:
                        with capturable("the graph of the evaluation", device, guard):
                            self._passes[size] = machine.record(self._passes[size])[0]

    @property
    def lanes(self) -> list[Lane]:
        """Lanes that are in it; the caller evaluates the others."""
        return list(self._nets)

    def run(self, teacher: Tensor | None) -> None:
        """Score the lanes as they stand now; as ``evaluate`` does."""
        with self._evaluating(self.lanes):
            self._refresh()
            self.replay()
        well = [lane for lane in self._nets if not lane.failure]
        with torch.no_grad():
            found = [scores(self._logits[lane], self._test.labels, teacher) for lane in well]
        for lane, report in zip(well, read(found), strict=True):
            lane.report = report

    @contextmanager
    def _evaluating(self, lanes: Sequence[Lane]) -> Iterator[None]:
        """In eval mode inside, without gradients; a mode is a method's code, too."""
        with torch.no_grad():
            if self._guard is not None:
                self._guard.note(thorough=True)
            for lane in lanes:
                self._do(lane, partial(eval_mode, lane))
            try:
                yield
            finally:
                for lane in lanes:
                    self._do(lane, lane.train_mode)

    def _do(self, lane: Lane, work: Callable[[], object]) -> None:
        """``work`` of a lane that has not failed."""
        if self._guard is None:
            work()
        elif not lane.failure:
            self._guard.run(lane, when(lane), work, what=f"the evaluation of {lane.key}")

    def replay(self) -> None:
        """The passes over all images, with the weights of the last refresh. Nothing in here waits for the device."""
        self._number.zero_()
        for size in self._sizes:
            self._passes[size]()

    def _pass(self, size: int) -> None:
        """Every lane on the batch that the counter points to. Nothing in here asks the device anything."""
        at, image = self._batch(size)
        for lane, net in self._nets.items():
            if self._machine.captures:
                self._answer(lane, net, at, image)
            else:
                self._do(lane, partial(self._answer, lane, net, at, image))
        self._number += 1

    def _answer(self, lane: Lane, net: nn.Module, at: Tensor, image: Tensor) -> None:
        self._logits[lane].index_copy_(0, at, answer(lane, net, image))

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        at = self._number * self._test.batch_size + self._places[:size]
        return at, self._test.images(at)

    def _refresh(self) -> None:
        """The students' weights of today in the copies, where the graph looks for them."""
        if self._fold is None:
            return
        for lane, net in self._nets.items():
            self._do(lane, partial(self._refold, lane, net))

    def _refold(self, lane: Lane, net: nn.Module) -> None:
        assert self._fold is not None
        for old, new in zip(_tensors(net), _tensors(self._fold(lane.student)), strict=True):
            old.copy_(new)

    def _look_ahead(self) -> list[Tensor]:
        """A batch of every size.

        Raises:
            CannotCapture: making it needs the host.
        """
        found = []
        with capturable("a batch of test images", self._test.labels.device), self._machine.aside():
            for size in dict.fromkeys(self._sizes):
                self._number.fill_(self._sizes.index(size))
                self._batch(size)  # the first use may start libraries
                with self._machine.strict():
                    found.append(self._batch(size)[1])
        return found

    def _rehearse(self, lane: Lane, pictures: Sequence[Tensor]) -> None:
        """Let a lane answer a batch of each size, and take it in.

        Raises:
            CannotCapture: it does what a repeated pass must not.
        """
        # ``evaluate`` says what else goes wrong.
        with capturable(f"the evaluation of {lane.key}", lane.device, self._guard):
            net = lane.student if self._fold is None else self._fold(lane.student)
            with undone(lane) as replaced, self._machine.aside():
                before = lane.rng
                for image in pictures:
                    for attempt in range(REHEARSALS):
                        last = attempt == REHEARSALS - 1
                        with lane.own_rng(), self._machine.strict() if last else nullcontext():
                            found = answer(lane, net, image)
                drew = any(not torch.equal(before[name], lane.rng[name]) for name in before)
        if replaced:
            raise CannotCapture(f"every pass puts something new into {replaced[0]}, where a graph has the old")
        if drew:
            raise CannotCapture("its prediction draws random numbers")
        self._nets[lane] = net
        self._logits[lane] = found.new_empty(len(self._test.labels), found.shape[1])


class Exams:
    """The evaluations of a group of lanes: made at the first, made anew when other lanes are evaluated.

    Args:
        machine: what runs the group's steps; evaluation has one of its own.
        note: told in a sentence what is not captured, and why.
        fold: as ``evaluate`` takes it.
        guard: that of the group; None: the methods are trusted.
    """

    def __init__(
        self, machine: Machine, note: Callable[[str], None], fold: Fold | None, guard: Guard | None = None
    ) -> None:
        self._machine, self._note, self._fold, self._guard = machine, note, fold, guard
        self._lanes: list[Lane] = []
        self._now: Exam | None = None
        self._looks = 0  # at whether the graph says what the plain evaluation says
        self._refused = False

    def evaluate(self, lanes: Sequence[Lane], test: Callable[[], Batches], teacher: Tensor | None) -> None:
        """As ``evaluate`` of the plain loop, which takes the lanes that cannot be captured."""
        fresh = list(lanes) != self._lanes
        if fresh:
            self._lanes, self._now = list(lanes), None  # the old graph's memory first
            self._now = None if self._refused else self._made(lanes, test())
        inside = [] if self._now is None else self._now.lanes
        if self._now is not None:
            self._now.run(teacher)
            last = any(lane.epoch >= lane.plan.epochs for lane in inside)
            if self._machine.captures and (fresh or last) and (why := self._differs(inside, test, teacher)):
                self._note(f"this group is evaluated without a CUDA graph: {why}")
                self._now, self._refused, inside = None, True, []
        evaluate([lane for lane in lanes if lane not in inside], test, teacher, self._fold, self._guard)

    def _differs(self, lanes: Sequence[Lane], test: Callable[[], Batches], teacher: Tensor | None) -> str:
        """Evaluate one lane plainly, another one each time; how its graph's verdict differs, "" if not.

        Its report stays the graph's.
        """
        well = [lane for lane in lanes if not lane.failure]
        if not well:
            return ""
        lane = well[self._looks % len(well)]
        self._looks += 1
        ours = lane.report
        evaluate([lane], test, teacher, self._fold, self._guard)
        theirs, lane.report = lane.report, ours
        if lane.failure:
            return ""
        images = 100 / len(test().labels)  # type: ignore[attr-defined]
        if abs(ours["top1"] - theirs["top1"]) <= SLACK * images * 1.001:
            return ""
        return f"its graph says {ours['top1']:.2f}% of {lane.key}, and the plain evaluation {theirs['top1']:.2f}%"

    def _made(self, lanes: Sequence[Lane], test: Batches) -> Exam | None:
        why = "its test images come as a stream"
        if isinstance(test, Placed):
            try:
                with holds("the evaluation", test.labels.device):
                    own = self._machine.apart()
                    made = Exam(test, lanes, fold=self._fold, machine=own, note=self._note, guard=self._guard)
                return made if made.lanes else None
            except CannotCapture as error:
                why = own.over or str(error)
            except OutOfMemory:
                why = "the memory does not hold it"
        self._note(f"this group is evaluated without a CUDA graph: {why}")
        return None


def _tensors(net: nn.Module) -> chain[Tensor]:
    return chain(net.parameters(), net.buffers())
