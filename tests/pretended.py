"""torch.cuda as far as ``Graphs`` deals with its random numbers, on the CPU: what is drawn are real numbers.

There is one stream, and a graph is what was drawn while it was captured, so neither order nor speed shows here:
``tests/test_gpu.py`` has what only a device can tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.engine.graph import capture

_CPU = torch.Generator


class Generator:
    """A generator of the device; the default one can point to its state."""

    def __init__(self, seed: int = 0) -> None:
        self.bits = _CPU().manual_seed(seed).get_state()
        self.capturing = False  # a capture that failed leaves a state so

    def set_state(self, bits: Tensor) -> Generator:
        self.bits = bits.clone()
        return self

    def get_state(self) -> Tensor:
        return self.bits.clone()

    def draw(self) -> list[float]:
        """The next three numbers."""
        if self.capturing:
            raise RuntimeError("this generator is still in a capture")
        drawing = _CPU()
        drawing.set_state(self.bits)
        numbers: list[float] = torch.rand(3, generator=drawing).tolist()
        self.bits = drawing.get_state()
        return numbers


class Graph:
    """Draws at a replay, from the states that it was captured with, what was drawn in the capture."""

    def __init__(self) -> None:
        self.states: list[Generator] = []
        self.drawn: list[Generator] = []

    def register_generator_state(self, state: Generator) -> None:
        self.states.append(state)

    def replay(self) -> list[float]:
        return [number for state in self.drawn for number in state.draw()]


class Device:
    """Draws from the state that its default generator points to."""

    def __init__(self, seed: int) -> None:
        self._points = Generator(seed)
        self._graph: Graph | None = None  # of the capture that goes on

    def graphsafe_get_state(self) -> Generator:
        return self._points

    def graphsafe_set_state(self, state: Generator) -> None:
        self._points = state

    def draw(self) -> list[float]:
        """The next three numbers; in a capture none are drawn."""
        if self._graph is None:
            return self._points.draw()
        if self._points not in self._graph.states:
            raise RuntimeError("this generator is not registered with the graph")
        self._graph.drawn.append(self._points)
        return []

    @contextmanager
    def capture(self, graph: Graph, stream: object, pool: object) -> Iterator[None]:
        """A capture that fails leaves the states that it knew unusable."""
        marked = [self._points, *graph.states]
        self._graph = graph
        try:
            yield
        except BaseException:
            for state in marked:
                state.capturing = True
            raise
        finally:
            self._graph = None


def pretend(monkeypatch: pytest.MonkeyPatch, seed: int) -> Device:
    """torch.cuda stands for a device with these random numbers."""
    device, stream, pools = Device(seed), SimpleNamespace(wait_stream=lambda other: None), itertools.count(1)
    stand_ins: dict[str, Any] = {
        "Stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device: stream,
        "CUDAGraph": Graph,
        "default_generators": (),  # as torch has it until CUDA was used
        "init": lambda: monkeypatch.setattr(torch.cuda, "default_generators", (device,)),
        "current_device": lambda: 0,
        "set_stream": lambda stream: None,
        "graph_pool_handle": lambda: (0, next(pools)),  # a pair of numbers, as torch's
        "get_sync_debug_mode": lambda: 0,
        "graph": device.capture,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(capture, "trouble", lambda device: "")
    monkeypatch.setattr(capture, "_streams", {})
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": _CPU() if str(device) == "cpu" else Generator())
    return device
