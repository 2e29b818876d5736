"""What a GPU's memory would hold of a grid: computed from shapes, for a device that is not there.

Each lane's loss is built on tensors without values, and the bytes that its backward pass keeps are counted. What
libraries, graphs, guards and the evaluation take beside it is arithmetic (``engine.memory``). None of it was measured
on a GPU; a run on one measures for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from kdbench import models, registry
from kdbench.distiller import Batch, Outputs
from kdbench.engine import memory
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.torch_private import without_values
from kdbench.models import Tapped
from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.lanes import plan
from kdbench.run.networks import network
from kdbench.run.session import Job
from kdbench.utils.wording import count, quoted

CPU = torch.device("cpu")
#: A process on a GPU before anything is allocated: context, libraries, loaded kernels.
CONTEXT = 5 * 10**8
#: What the backward pass holds at its highest beside what was kept for it, as a share of that.
BACKWARD = 0.25
#: What a loss keeps that cannot be looked into, as a share of what the student keeps.
LOSS = 0.25
#: Images of the evaluation's batches on CUDA.
TESTED = 1000
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:GB|G)?", re.IGNORECASE)


@dataclass(frozen=True)
class Need:
    """Bytes of one lane: between steps, and of a step beside that."""

    standing: int
    step: int


def sizes(text: str) -> list[float]:
    """ "24GB" or "8,24,80,141GB" as bytes.

    Raises:
        ValueError: it is no size.
    """
    found = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        if match is None or not 0 < float(match[1]) < 1e6:
            raise ValueError(f"--device-memory takes a size in GB, such as 24GB or 8,24,80, not {quoted(text)}")
        found.append(float(match[1]) * 1e9)
    return found


def sentences(job: Job, text: str) -> list[str]:
    """For each group of cells of the first seed, how many of its lanes each size holds.

    Raises:
        ValueError: ``text`` is no size, see ``sizes``.

    >>> from kdbench.run.session import Request, resolve
    >>> job = resolve(Request("kd", "resnet20:resnet8", "digits", device="cpu"))
    >>> sentences(job, "24GB")[1]
    '  resnet20 -> resnet8: 1 lane and what they share take ... GB; at once: 24 GB all 1'
    """
    wanted = sizes(text)
    said = ["memory on a GPU, computed from shapes and not measured (a run measures for itself):"]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for group in grid.groups(job.cells):
        key = group[0].teacher, tuple(cell.student for cell in group)
        if key in seen:
            continue
        seen.add(key)
        said.append(_of_group(job, group, wanted))
    return said


def _of_group(job: Job, group: Sequence[Cell], wanted: Sequence[float]) -> str:
    first = group[0]
    who = first.teacher or "no teacher"
    try:
        needs, shared = group_needs(job, group)
    except Exception as error:  # a network or method that does not run without values
        return f"  {who}: cannot be computed ({type(error).__name__})"
    whole = (shared + sum(need.standing + need.step for need in needs)) / 1e9
    held = [f"{size / 1e9:g} GB {_held(needs, size - shared)}" for size in wanted]
    students = ", ".join(dict.fromkeys(cell.student for cell in group))
    return f"  {who} -> {students}: {count(len(group), 'lane')} and what they share take {whole:.1f} GB; at once: " + (
        ", ".join(held)
    )


def _held(needs: Sequence[Need], free: float) -> str:
    """How many of the lanes train at once."""
    room = free * memory.SHARE
    if max(need.standing + need.step for need in needs) > room:
        return "not every single one"
    parts = memory.pack([need.standing + need.step for need in needs], int(free), memory.SHARE)
    return f"all {len(needs)}" if len(parts) == 1 else f"{max(parts)} of {len(needs)}"


def group_needs(job: Job, group: Sequence[Cell]) -> tuple[list[Need], int]:
    """Of each cell's lane; and what the lanes of a group share: data, teacher, libraries, the evaluation."""
    suite, first = job.suite, group[0]
    image_shape = (3, suite.image_size, suite.image_size)
    labels = torch.arange(50_000) % suite.num_classes
    batch = int(first.recipe["batch_size"])
    half = Precision(job.request.precision).dtype(torch.device("cuda")) is not None
    tutor = network(first.teacher, suite.num_classes, image_size=suite.image_size) if first.teacher else None
    needs, largest = [], 0
    teacher = None if tutor is None else models.fold(tutor)
    for cell in group:
        lane = _lane(cell, job, image_shape, labels, batch, tutor)
        with without_values(), Guard() as guard:
            image = torch.zeros(batch * (1 + len(lane.method.views)), *image_shape)
            kept, said = _kept(lane, teacher, image, batch, half=half)
            largest = max(largest, memory.evaluated(lane, image[:batch], guard))
        needs.append(Need(memory.standing(lane) + memory.compared(lane), int((1 + BACKWARD) * kept)))
    once = CONTEXT + memory.once(largest * TESTED // batch, half=half)
    side = suite.image_size + 2 * int(first.recipe["crop_padding"])
    data = len(labels) * 3 * side * side + 10_000 * 3 * suite.image_size**2
    shared = once + data
    if teacher is not None:  # its outputs, and as much again for those of the layers between
        shared += sum(p.nbytes for p in teacher.parameters()) + 2 * said
    return needs, shared


def _lane(
    cell: Cell, job: Job, image_shape: tuple[int, int, int], labels: Tensor, batch: int, tutor: Tapped | None
) -> Lane:
    student = network(cell.student, job.suite.num_classes, image_size=job.suite.image_size)
    pair = models.make_pair(
        student,
        student if tutor is None else tutor,
        image_shape=image_shape,
        num_classes=job.suite.num_classes,
        train_labels=labels,
        batch_size=batch,
    )
    method = registry.get(cell.method).build(pair, **cell.settings.hyper)
    return Lane(
        str(cell),
        student,
        method,
        plan(cell.epochs, cell.recipe),
        seed=0,
        path=Path("none"),
        settings="",
        teacher="",
        device=CPU,
        precision=Precision(),
    )


def _kept(lane: Lane, teacher: Tapped | None, image: Tensor, batch: int, *, half: bool) -> tuple[int, int]:
    """Bytes of the activations that a backward pass of the main stage needs, and of what the teacher shows.

    In half precision maps count by half.
    """
    lane.enter("train")
    with torch.no_grad():
        said: Outputs | None = None if teacher is None else teacher(image)
    lent = {_memory(tensor): tensor.nbytes for tensor in ([] if said is None else said.tensors().values())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or not tensor.requires_grad:  # weights are counted elsewhere
            size = tensor.untyped_storage().nbytes()
            found[_memory(tensor)] = size // 2 if half and tensor.ndim == 4 else size
        return tensor

    idx = torch.zeros(batch, dtype=torch.int64)
    shown = Batch(image, idx, idx, torch.zeros(()))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        seen, taught = lane.look(said, shown)
        students = sum(found.values())
        try:
            terms = lane.stage_loss(seen, taught, shown)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            terms, found[-1] = {}, int(LOSS * students)  # torch.func takes no hooks; its gradients are made at once
    kept = sum(size for where, size in found.items() if where not in lent)
    del terms
    return kept, sum(lent.values())


def _memory(tensor: Tensor) -> int:
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)
