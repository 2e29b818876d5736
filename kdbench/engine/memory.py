"""How many lanes fit into the memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kdbench.engine.lane import Lane

#: Share of the free memory that lanes may take; the rest is for evaluation and fragmentation.
SHARE = 0.85


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def pack(needs: Sequence[int], free: int, *, share: float = SHARE) -> list[int]:
    """Sizes of consecutive groups of lanes, each of which fits into ``share`` of the free memory.

    ``needs`` and ``free`` are bytes. A lane that alone is too large is a group of its own: that
    it does not fit is for the device to say.
    """
    sizes: list[int] = []
    left = 0.0
    for need in needs:
        if sizes and need <= left:
            sizes[-1] += 1
        else:
            sizes.append(1)
            left = share * free
        left -= need
    return sizes


def standing(lane: Lane) -> int:
    """Bytes of a lane between steps: weights, gradients, momenta and buffers."""
    trained = {id(p) for group in lane.optimizer.param_groups for p in group["params"]}
    total = 0
    for module in (lane.student, lane.method):
        total += sum(p.nbytes * (3 if id(p) in trained else 1) for p in module.parameters())
        total += sum(b.nbytes for b in module.buffers())
    return total


def peak(device: torch.device, step: Callable[[], object]) -> int:
    """Bytes that ``step`` takes beyond what is there, at its highest, on a CUDA device."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
