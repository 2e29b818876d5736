"""Memory that a step takes at its highest: counted on the CPU, asked of the allocator on CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdbench.engine.lane import Lane
from kdbench.engine.torch_private import TorchDispatchMode


class Held(TorchDispatchMode):
    """Bytes of the tensors that operators make inside, for as long as anything keeps them.

    What was there before is not counted, a view costs nothing, and what a library takes for itself within one
    operator is not seen. So the number is that of the code alone: the same on every machine, at any load.

    Attributes:
        now: bytes held at this moment.
        highest: the most that were ever held at once.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # untyped, and mypy would not know `super()` for torch's
        self.now = self.highest = 0
        self._alive: dict[int, weakref.ref[Any]] = {}  # by the address of the first byte

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(made):
            if (storage := tensor.untyped_storage()).data_ptr() not in given:
                self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        where, size = storage.data_ptr(), storage.nbytes()
        if not size or where in self._alive:
            return

        def gone(_: object) -> None:
            del self._alive[where]
            self.now -= size

        self._alive[where] = weakref.ref(storage, gone)
        self.now += size
        self.highest = max(self.highest, self.now)


def _tensors(found: Any) -> Iterator[Tensor]:
    """Dense tensors in the arguments or results of an operator."""
    if isinstance(found, Tensor):
        if found.layout is torch.strided:
            yield found
    elif isinstance(found, Mapping):
        yield from _tensors(list(found.values()))
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for part in found:
            yield from _tensors(part)


def highest(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``step`` takes at its highest beyond what was there before. Run it once before: libraries start."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before: int = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    held = Held()
    with held:
        step()
    return held.highest


def standing(lane: Lane) -> int:
    """Bytes that a lane keeps while no step runs: parameters, buffers (banks, too) and momenta, no gradients."""
    kept = [tensor for part in (lane.student, lane.method) for tensor in (*part.parameters(), *part.buffers())]
    kept += [tensor for state in lane.optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)]
    storages = (tensor.untyped_storage() for tensor in kept)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
