"""How many lanes fit into the memory at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn

from kdbench.distiller import Batch
from kdbench.engine import gradients
from kdbench.engine.evaluate import in_eval_mode
from kdbench.engine.graph.backend import STREAMS
from kdbench.engine.graph.capture import give_back
from kdbench.engine.graph.rollback import undone
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane
from kdbench.engine.shared import Shown, tensors_of
from kdbench.utils import memory

#: Share of a GPU's free memory that steps may take; the rest is for the graph of an epoch's shorter
#: batch, for evaluation and for fragmentation.
SHARE = 0.85

#: As ``SHARE``, on the CPU. The rest is for evaluation and for what else runs on the machine.
CPU_SHARE = 0.7

#: Bytes of a workspace of cuBLAS with ``CUBLAS_WORKSPACE_CONFIG=:4096:2``, which ``machine_for`` sets where nothing is
#: set: 2 of 4096 KiB. Left to itself it takes 32 MiB on Hopper.
WORKSPACE = 2 * 4096 * 1024

#: Where so many of the largest step so far fit beside all lanes, the steps of the others are not measured.
PLENTY = 8

#: Copies of a lane's state that are made while its checkpoint is written, beside the one that is kept of every lane.
COPIES = 3

#: Is told how many bytes will be taken.
Say = Callable[[int], object] | None


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Inside, what steps on the CPU free is kept for the next; before and after, what is free goes back to the system.

    >>> with kept(torch.device("cpu")):
    ...     pass
    """
    memory.trim()  # what the lanes before these have freed
    if device.type == "cpu":
        memory.keep_freed()
    try:
        yield
    finally:
        memory.trim()


def pack(needs: Sequence[int], free: int, share: float, once: int = 0) -> list[int]:
    """Sizes of consecutive groups of lanes, each of which fits into ``share`` of the free memory.

    ``needs``, ``free`` and ``once`` are bytes; ``once`` is needed by a group of any size. A lane that alone is too
    large is a group of its own: that it does not fit is for the device to say.

    >>> pack([30, 30, 30], free=100, share=0.85)
    [2, 1]
    """
    sizes: list[int] = []
    left = 0.0
    for need in needs:
        if sizes and need <= left:
            sizes[-1] += 1
        else:
            sizes.append(1)
            left = share * free - once
        left -= need
    return sizes


def largest(needs: Sequence[int], sizes: Sequence[int], once: int = 0) -> int:
    """Bytes of the largest of the groups that ``pack`` has made.

    >>> largest([30, 30, 40], [2, 1], once=5)
    65
    """
    ends = list(accumulate(sizes))
    return once + max(sum(needs[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def together(lanes: Sequence[Lane], shown: Shown, guard: Guard, free: int, plan: Say = None) -> list[int]:
    """As ``pack``, for lanes on the CPU, where they take their steps one after the other. ``plan`` is told the bytes.

    What a lane gains when it trains (gradients, momenta) is counted for each, and a copy of its state at the end of
    the last epoch (``saving``). What a step takes beyond that, or
    a checkpoint, is needed once, and measured: a copy of each lane takes a step. ``free`` is of before.

    Raises:
        OutOfMemory: one copy's step does not fit.
    """
    kept = [standing(lane) - gained(lane) // 2 for lane in lanes]
    needs = [gained(lane) + copied for lane, copied in zip(lanes, kept, strict=True)]
    once, known = COPIES * max(kept), True
    for lane in lanes:
        taken = of_a_step(lane, shown, guard)
        known = known and taken is not None
        once = max(once, taken or 0)
        if known and sum(needs) + PLENTY * once < CPU_SHARE * free:
            break
    # Where the system tells nothing of steps, they may take as much again as the lanes keep.
    needs = needs if known else [2 * need for need in needs]
    sizes = pack(needs, free, CPU_SHARE, once)
    if plan is not None:
        plan(largest(needs, sizes, once))
    return sizes


def of_a_step(lane: Lane, shown: Shown, guard: Guard) -> int | None:
    """Bytes that a step takes beyond what a lane gains, measured on a copy of it; None where it cannot be told.

    Whatever goes wrong in it, goes wrong in training, and is told there: 0.

    Raises:
        OutOfMemory: it does not fit.
    """
    found: list[int | None] = []

    def measure() -> None:
        twin = copy.deepcopy(lane)
        twin.ask()
        lent = shown.lent()
        batch = Batch(lent.image, lent.label, lent.idx, torch.tensor(0.0))

        def step() -> None:
            with twin.own_rng():
                twin.update(lent.teacher, batch)

        found.append(memory.highest(step))

    guard.note(shown)
    failed = guard.attempt("", measure, what=f"a step of {lane.key}", device=lane.device)
    if failed or not found:
        return 0
    return None if found[0] is None else max(0, found[0] - gained(lane))


def gained(lane: Lane) -> int:
    """Bytes that a lane has between steps beyond those that it was built with: gradients and momenta."""
    trained: list[Tensor] = [p for group in lane.optimizer.param_groups for p in group["params"]]
    return gradients.standing(lane.optimizer) * sum(p.nbytes for p in trained)


def standing(lane: Lane) -> int:
    """Bytes of a lane between steps: weights, gradients, momenta and buffers.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> 3 * sum(p.nbytes for p in lane.student.parameters()) < standing(lane)  # its buffers are there, too
    True
    """
    trained = {id(p) for group in lane.optimizer.param_groups for p in group["params"]}
    total, copies = 0, gradients.standing(lane.optimizer)
    for module in (lane.student, lane.method):
        total += sum(p.nbytes * (1 + copies if id(p) in trained else 1) for p in module.parameters())
        total += sum(b.nbytes for b in module.buffers())
    return total


def compared(lane: Lane) -> int:
    """Bytes of the copies of a lane's state that are compared when a captured step is looked at (``graph.proof``).

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> compared(lane) > gained(lane)
    True
    """
    momenta = gained(lane) // 2
    return 2 * (momenta + sum(t.nbytes for part in (lane.student, lane.method) for t in tensors_of(part)))


def evaluated(lane: Lane, image: torch.Tensor, guard: Guard) -> int:
    """Bytes of fp32 that a layer of the student reads and writes at most, for a batch of images of this shape.

    0 where a method raises: it says so when it is evaluated.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> with Guard() as guard:
    ...     few, many = (evaluated(lane, torch.zeros(n, 3, 16, 16), guard) for n in (2, 20))
    >>> few > 0, many == 10 * few
    (True, True)
    """
    few, most = image[:2], [0]

    def look(module: nn.Module, given: tuple[object, ...], made: object) -> None:
        tensors = [one for one in (*given, made) if isinstance(one, torch.Tensor)]
        most[0] = max(most[0], sum(4 * one.numel() for one in tensors))

    def measure() -> None:
        handles = [module.register_forward_hook(look) for module in lane.student.modules()]
        try:
            with in_eval_mode(lane):
                lane.student(few)
        finally:
            for handle in handles:
                handle.remove()

    guard.note()
    guard.attempt("", measure, what=f"the evaluation of {lane.key}", device=lane.device)
    return most[0] * len(image) // len(few)


def once(evaluated: int, *, half: bool) -> int:
    """Bytes on a CUDA device that lanes need once, however many they are.

    cuBLAS keeps a workspace for each stream that multiplies, on the thread of the forward and on that of the backward
    pass. The evaluation's graph holds the feats of one lane (``evaluated``, the most that a layer reads and writes, of
    fp32) and the copy that is evaluated; those of a shorter batch lie in the memory of the whole one's.

    >>> once(10**9, half=True) - once(0, half=True), once(10**9, half=False) - once(0, half=False)
    (1000000000, 2000000000)
    """
    return WORKSPACE * 2 * (STREAMS + 2) + (evaluated // 2 if half else evaluated) * 2


def peak(lane: Lane, shown: Shown, guard: Guard) -> int:
    """Bytes that a step of a lane on a CUDA device takes beyond what it keeps, at its highest; nothing changes.

    Of a method that raises nothing is known, and 0 is told: it says so when it is trained.
    """
    found = [0]

    def measure() -> None:
        lent = shown.lent()
        batch = Batch(lent.image, lent.label, lent.idx, torch.tensor(0.0, device=lane.device))
        with undone(lane):
            for _ in range(2):  # the first one starts libraries, whose memory stays
                lane.optimizer.zero_grad(set_to_none=True)
                torch.cuda.synchronize(lane.device)
                before = torch.cuda.memory_allocated(lane.device)
                torch.cuda.reset_peak_memory_stats(lane.device)
                with lane.own_rng():
                    lane.update(lent.teacher, batch)
                torch.cuda.synchronize(lane.device)
                found.append(torch.cuda.max_memory_allocated(lane.device) - before)

    guard.note(shown)
    guard.attempt("", measure, what="one lane", device=lane.device)
    return found[-1]


def free(device: torch.device) -> int:
    """Bytes that this process can still have on a CUDA device: of what is free, its part where others share it."""
    give_back(device)
    left, whole = torch.cuda.mem_get_info(device)
    mine = torch.cuda.get_per_process_memory_fraction(device) * whole - torch.cuda.memory_reserved(device)
    return max(0, min(left, int(mine)))
