"""How a captured step is run: at once, on any device, or as a CUDA graph.

What is assumed of torch on CUDA, from its documentation and source (2.9 to 2.15). One NVIDIA H200
with torch 2.11 bears out all but what a failed capture leaves (`docs/speed.md`):

* Random numbers: a kernel takes them from the state that the device's default generator points
  to while it is captured (``graphsafe_set_state``), and a replay moves that state on by what the
  graph drew from it. So a lane's numbers, and the bytes of its state, are those of the eager loop.
* A failed capture may leave a generator state in capture mode, so only states made for captures are
  ever pointed to, and they are thrown away. What else it leaves, ``capture`` looks at.
* Streams forked and joined by events inside a capture become branches of one graph, and memory
  allocated on any of them comes from the graph's own pool.
* ``torch.optim.SGD(fused=True)`` reads a rate that is a tensor on the device without a sync, and so
  the loss scale and the verdict on the gradients that torch's GradScaler hands it (``precision``).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol, TypeVar

import torch

from kdbench.engine.graph import capture
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

    @property
    def over(self) -> str:
        """Why no step can be recorded any more; "" where it can."""

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

    def drawing(self, lanes: Sequence[Lane]) -> None:
        """Of the lanes whose random numbers were taken over, those whose steps draw any."""

    def together(self) -> AbstractContextManager[object]:
        """Steps recorded inside share their memory: they are repeated one after the other, never at once."""

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        """Do ``work`` for each lane, on a branch of its own and with its random numbers; then join."""

    def record(self, step: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Make ``step`` repeatable: what repeats it, and what it returns (the same tensors every time)."""


class Eager:
    """Calls the step every time: the captured path without a graph, on any device.

    >>> from kdbench.testing.examples import lanes
    >>> Eager().branches(lanes("kd", "fitnet"), lambda lane: print(lane.key))
    kd
    fitnet
    """

    captures = False
    over = ""

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

    def drawing(self, lanes: Sequence[Lane]) -> None:
        """As ``dice``."""

    def together(self) -> AbstractContextManager[object]:
        """Nothing is recorded."""
        return nullcontext()

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
        self.device, self._count = device, streams if streams > 1 else 0
        self._dice: dict[Lane, torch.Generator] = {}
        self._drawing: Sequence[Lane] | None = None  # None: any may
        self._pool: capture.Pool = None
        torch.cuda.init()  # until CUDA has been used, torch lists no generators
        self._default = torch.cuda.default_generators[capture.index_of(device)]

    @property
    def over(self) -> str:
        """Why no step can be recorded any more on this device."""
        return capture.over(self.device)

    def apart(self) -> Machine:
        """One without branches; what its failed captures spoil is its own."""
        return Graphs(self.device, streams=1)

    def strict(self) -> AbstractContextManager[None]:
        """Whatever waits for the device raises RuntimeError, before a capture could be spoilt by it."""
        return capture.strict()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that captures are made on."""
        main, _ = self._streams()
        main.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(main):
                yield
        finally:
            torch.cuda.current_stream(self.device).wait_stream(main)

    def dice(self, lanes: Sequence[Lane]) -> None:
        """One generator per lane, whose state the graphs move on; those of other lanes are let go."""
        known = self._dice
        self._dice = {lane: known[lane] if lane in known else torch.Generator(self.device) for lane in lanes}
        for lane, state in self._dice.items():
            state.set_state(lane.rng["cuda"])

    def put_dice(self, lanes: Sequence[Lane]) -> None:
        """Their states, which the host knows without asking the device."""
        for lane in lanes:
            lane.rng = lane.rng | {"cuda": self._dice[lane].get_state()}

    def drawing(self, lanes: Sequence[Lane]) -> None:
        """Replays of older torches fill two tensors for each state that is registered, whether it is drawn from or not.

        A lane that draws all the same cannot be captured by these.
        """
        self._drawing = lanes

    @contextmanager
    def together(self) -> Iterator[None]:
        """One memory pool for what is recorded inside."""
        self._pool = torch.cuda.graph_pool_handle()
        try:
            yield
        finally:
            self._pool = None

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        """Lane i on side stream i modulo their number, all of which wait for the trunk and are waited for.

        They are waited for after an error, too: a capture with loose branches ends in an error of its own, and that
        of the work would be lost behind it.
        """
        trunk = torch.cuda.current_stream(self.device)
        streams = self._streams()[1][: len(lanes)] or [trunk]
        before = self._default.graphsafe_get_state()
        forked: list[torch.cuda.Stream] = []
        try:
            for stream in streams:
                stream.wait_stream(trunk)
                forked.append(stream)
            for number, lane in enumerate(lanes):
                self._default.graphsafe_set_state(self._dice[lane])
                with torch.cuda.stream(streams[number % len(streams)]):
                    work(lane)
        except BaseException:
            for stream in forked:
                with suppress(RuntimeError):  # the capture may be past joining
                    trunk.wait_stream(stream)
            raise
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
        drawing = [state for lane, state in self._dice.items() if self._drawing is None or lane in self._drawing]
        self._register(graph, [spare, *drawing])
        pool = torch.cuda.graph_pool_handle() if self._pool is None else self._pool
        before = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(spare)  # capture marks whatever the default generator points to
        try:
            result = capture.capture(graph, step, device=self.device, stream=self._streams()[0], pool=pool)
        except BaseException:
            self._dice = {lane: _copy(state, self.device) for lane, state in self._dice.items()}
            raise
        finally:
            self._default.graphsafe_set_state(before)
        return graph.replay, result

    def _streams(self) -> tuple[torch.cuda.Stream, list[torch.cuda.Stream]]:
        """Asked for anew each time: a failed capture takes its streams with it."""
        return capture.streams(self.device, self._count)

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
    if device.type != "cuda" or graphs == "off":
        return None
    # Read when a stream first multiplies; see ``memory.WORKSPACE``.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    return Graphs(device)


def _copy(state: torch.Generator, device: torch.device) -> torch.Generator:
    fresh = torch.Generator(device)
    fresh.set_state(state.get_state())
    return fresh


def host_draws(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> bool:
    """Whether random numbers were drawn on the CPU between two states of a lane on CUDA."""
    return "cuda" in before and not torch.equal(before["cpu"], after["cpu"])
