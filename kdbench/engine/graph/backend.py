"""How a captured step is run: at once, on any device, or as a CUDA graph.

What is assumed of torch on CUDA, from its documentation and source (2.9 to 2.15), and not yet
verified on hardware:

* Random numbers: a kernel takes them from the state that the device's default generator points
  to while it is captured (``graphsafe_set_state``), and a replay moves that state on by what the
  graph drew from it. So a lane's numbers, and the bytes of its state, are those of the eager loop.
* A failed capture leaves the process usable. Older releases leave a generator state in capture
  mode then, so only states made for captures are ever pointed to, and they are thrown away.
* Streams forked and joined by events inside a capture become branches of one graph, and memory
  allocated on any of them comes from the graph's own pool.
* ``torch.optim.SGD(fused=True)`` reads a rate that is a tensor on the device without a sync, and so
  the loss scale and the verdict on the gradients that torch's GradScaler hands it (``precision``).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch

from kdbench.engine.lane import Lane

#: Branches of a graph that run side by side. One student of CIFAR size fills a sixth of a large GPU or less.
STREAMS = 6

T = TypeVar("T")


class Machine(Protocol):
    """What runs a step.

    >>> machine: Machine = Eager()  # the same steps without graphs, for the CPU and for tests
    >>> machine.captures
    False
    """

    captures: bool  # whether a step is recorded, or called every time

    def apart(self) -> Machine:
        """Another one for the same device, which shares no random numbers with this one."""

    def strict(self) -> AbstractContextManager[object]:
        """Inside, what a capture would forbid raises where the device can tell."""

    def aside(self) -> AbstractContextManager[object]:
        """Work inside is not on the default stream; what follows waits for it."""

    def dice(self, lanes: Sequence[Lane]) -> None:
        """Take over the random numbers of these lanes, as they stand."""

    def put_dice(self, lanes: Sequence[Lane]) -> None:
        """Give their states back to the lanes."""

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        """Do ``work`` for each lane, on a branch of its own and with its random numbers; then join."""

    def record(self, step: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Make ``step`` repeatable: what repeats it, and what it returns (the same tensors every time)."""


class Eager:
    """Calls the step every time: the captured path without a graph, on any device."""

    captures = False

    def apart(self) -> Machine:
        """There is nothing to share."""
        return Eager()

    def strict(self) -> AbstractContextManager[object]:
        """The CPU can tell nothing."""
        return nullcontext()

    def aside(self) -> AbstractContextManager[object]:
        """There is one stream."""
        return nullcontext()

    def dice(self, lanes: Sequence[Lane]) -> None:
        """Nothing to do: ``branches`` uses the lanes' own."""

    def put_dice(self, lanes: Sequence[Lane]) -> None:
        """As ``dice``."""

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        """One after the other."""
        for lane in lanes:
            with lane.own_rng():
                work(lane)

    def record(self, step: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Never asked for."""
        raise NotImplementedError("there is no graph to record into")


class Graphs:
    """CUDA graphs on one device; see the module's docstring for what they rely on.

    Args:
        device: a CUDA device.
        streams: branches that run side by side; 1 puts all lanes in one row.
    """

    captures = True

    def __init__(self, device: torch.device, streams: int = STREAMS) -> None:
        self.device = device
        self._main = torch.cuda.Stream(device)
        self._side = [torch.cuda.Stream(device) for _ in range(streams)] if streams > 1 else []
        self._dice: dict[Lane, torch.Generator] = {}
        index = torch.cuda.current_device() if device.index is None else device.index
        self._default = torch.cuda.default_generators[index]

    def apart(self) -> Machine:
        """One without branches; what its failed captures spoil is its own."""
        return Graphs(self.device, streams=1)

    @contextmanager
    def strict(self) -> Iterator[None]:
        """Whatever waits for the device raises RuntimeError, before a capture could be spoilt by it."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that captures are made on."""
        self._main.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(self._main):
                yield
        finally:
            torch.cuda.current_stream(self.device).wait_stream(self._main)

    def dice(self, lanes: Sequence[Lane]) -> None:
        """One generator per lane, whose state the graphs move on."""
        for lane in lanes:
            self._dice.setdefault(lane, torch.Generator(self.device)).set_state(lane.rng["cuda"])

    def put_dice(self, lanes: Sequence[Lane]) -> None:
        """Their states, which the host knows without asking the device."""
        for lane in lanes:
            lane.rng = lane.rng | {"cuda": self._dice[lane].get_state()}

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        """Lane i on side stream i modulo their number, all of which wait for the trunk and are waited for."""
        trunk = torch.cuda.current_stream(self.device)
        streams = self._side[: len(lanes)] or [trunk]
        before = self._default.graphsafe_get_state()
        for stream in streams:
            stream.wait_stream(trunk)
        try:
            for number, lane in enumerate(lanes):
                self._default.graphsafe_set_state(self._dice[lane])
                with torch.cuda.stream(streams[number % len(streams)]):
                    work(lane)
        finally:
            self._default.graphsafe_set_state(before)
        for stream in streams:
            trunk.wait_stream(stream)

    def record(self, step: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Capture ``step``.

        Raises:
            Exception: whatever it does that a graph cannot hold.
        """
        graph = torch.cuda.CUDAGraph()
        spare = torch.Generator(self.device)
        self._register(graph, [spare, *self._dice.values()])
        before = self._default.graphsafe_get_state()
        gc.collect()  # no gradient node of an earlier step may outlive it: it would belong to another stream
        self._default.graphsafe_set_state(spare)  # capture marks whatever the default generator points to
        try:
            with torch.cuda.graph(graph, stream=self._main):
                result = step()
        except BaseException:
            self._dice = {lane: _copy(state, self.device) for lane, state in self._dice.items()}
            raise
        finally:
            self._default.graphsafe_set_state(before)
        return graph.replay, result

    @staticmethod
    def _register(graph: torch.cuda.CUDAGraph, states: Sequence[torch.Generator]) -> None:
        with warnings.catch_warnings():  # torch 2.12 and later register by themselves and warn
            warnings.simplefilter("ignore")
            for state in states:
                graph.register_generator_state(state)


def machine_for(device: torch.device, graphs: str = "auto") -> Machine | None:
    """What runs whole steps on a device; None where the plain loop does: on the CPU, and with ``graphs`` "off".

    >>> machine_for(torch.device("cpu")) is None
    True
    """
    return Graphs(device) if device.type == "cuda" and graphs != "off" else None


def _copy(state: torch.Generator, device: torch.device) -> torch.Generator:
    fresh = torch.Generator(device)
    fresh.set_state(state.get_state())
    return fresh


def host_draws(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> bool:
    """Whether random numbers were drawn on the CPU between two states of a lane on CUDA."""
    return "cuda" in before and not torch.equal(before["cpu"], after["cpu"])
