"""How many lanes fit into the memory at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench.distiller import Batch, Outputs
from kdbench.engine.graph.rollback import undone
from kdbench.engine.lane import Lane

#: Share of a GPU's free memory that steps may take; the rest is for the graph of an epoch's shorter
#: batch, for evaluation and for fragmentation.
SHARE = 0.85

#: As ``SHARE``, on the CPU, where only what a lane keeps is known beforehand; lanes take their steps
#: one after the other there, so what a step takes on top is needed once.
CPU_SHARE = 0.5


def pack(needs: Sequence[int], free: int, share: float) -> list[int]:
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


def peak(lane: Lane, teacher: Outputs | None, batch: Batch) -> int:
    """Bytes that a step of a lane on a CUDA device takes beyond what it keeps, at its highest; nothing changes."""
    with undone(lane):
        for _ in range(2):  # the first one starts libraries, whose memory stays
            lane.optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize(lane.device)
            before = torch.cuda.memory_allocated(lane.device)
            torch.cuda.reset_peak_memory_stats(lane.device)
            with lane.own_rng():
                lane.update(teacher, batch)
            torch.cuda.synchronize(lane.device)
            highest = torch.cuda.max_memory_allocated(lane.device)
    return highest - before


def free(device: torch.device) -> int:
    """Bytes that can still be had on a CUDA device."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
