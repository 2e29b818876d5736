"""The teacher's table in the device's memory, for steps that are captured whole.

A captured step picks its answers by index on the device. What an epoch asks for and the table does
not have is asked of the live teacher just before the epoch's first step, in whole batches, so that
no step waits; new answers go to the table's files every few epochs and at the end.

The code knows no device: the tests run it on the CPU, to the bit. On CUDA it has not run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from kdbench.distiller import Outputs
from kdbench.engine.graph.backend import Machine
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import Unfit, parts_of
from kdbench.utils.plan import BatchPlan

#: Epochs after which new answers are written to the files.
FLUSH_EVERY = 20
#: Entries that are copied between files and device at once.
CHUNK = 2**16
#: Passes before the filling is captured: libraries start.
REHEARSALS = 2


class Resident:
    """The parts of ``table`` that lanes reading ``reads`` ("logits" or "pooled") need, (entries, D) each.

    Args:
        table: an open one that holds these parts.
        reads: the most that any lane reads.
        machine: what runs a captured step.
        room: bytes that it may take on the device.

    Raises:
        Unfit: it takes more than ``room``.
    """

    def __init__(self, table: TeacherTable, reads: str, machine: Machine, room: float) -> None:
        # Its filling may be captured, and refused, while graphs of training steps are alive.
        self.table, self._machine = table, machine.apart()
        count, self._names = table.images * table.views, parts_of(reads)
        size = sum(count * table.entry_bytes(name) for name in self._names)
        if size > room:
            raise Unfit(
                f"the teacher's {' and '.join(self._names)} take {size / 1e9:.1f} GB in the memory of"
                f" {table.device}, and it may take {room / 1e9:.1f}"
            )
        self._kept = {name: table.empty(name, count) for name in self._names}
        self._there = torch.zeros(count, dtype=torch.bool, device=table.device)
        self._ask = torch.zeros(table.batch, dtype=torch.int64, device=table.device)
        self._pass: Callable[[], object] | None = None
        self._new: list[Tensor] = []  # entries that the files do not have yet
        self._epochs = 0
        self._load()

    def covers(self, size: int) -> bool:
        """Whether a batch of ``size`` images is answered from here, not by the live teacher."""
        return size == self.table.batch or self.table.tail_alike

    def outputs(self, plan: BatchPlan) -> Outputs:
        """The teacher's outputs on part of a plan, (B,), which ``ready`` has been told of."""
        rows = self.table.rows_of(plan)
        return self.table.outputs({name: kept.index_select(0, rows) for name, kept in self._kept.items()})

    def ready(self, plan: BatchPlan) -> None:
        """Have the answers to a plan, (N,): the coming epoch's. Waits for the device."""
        rows = self.table.rows_of(plan)
        absent = rows[~self._there[rows]]
        if len(absent):
            step = self._pass or self._rehearsed(absent)
            b = self.table.batch
            for some in absent.split(b):
                self._ask[: len(some)].copy_(some)  # what is left of the batch before is asked once more
                step()
            self._there[absent] = True
            self._new.append(absent)
        self._epochs += 1
        if self._epochs % FLUSH_EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Write new answers to the table's files, where this process may."""
        if not self._new:
            return
        rows, self._new = torch.cat(self._new).sort().values, []
        for some in rows.split(CHUNK):
            if not self.table.fills:
                return
            self.table.keep(some.cpu().numpy(), {name: kept[some] for name, kept in self._kept.items()})

    # -- filling --------------------------------------------------------------------------

    def _load(self) -> None:
        """What the files have and is whole."""
        rows = self.table.parts[self._names[0]].filled()
        for first in range(0, len(rows), CHUNK):
            some = rows[first : first + CHUNK]
            at, good = torch.from_numpy(some), torch.ones(len(some), dtype=torch.bool)
            for name in self._names:
                values, whole = self.table.parts[name].read(some)
                self._kept[name][at.to(self.table.device)] = values.to(self.table.device)
                good &= whole
            self._there[at[good].to(self.table.device)] = True

    def _fill(self) -> None:
        """The live teacher on one whole batch of entries."""
        seen = self.table.look(self.table.image_of(self._ask))
        for name, kept in self._kept.items():
            kept.index_copy_(0, self._ask, getattr(seen, name).to(kept.dtype))

    def _rehearsed(self, rows: Tensor) -> Callable[[], object]:
        """``_fill`` as the machine repeats it; by itself where the teacher cannot be captured."""
        self._ask.copy_(rows[:1].expand_as(self._ask))
        self._pass = self._fill
        try:
            with self._machine.aside():
                for attempt in range(REHEARSALS):
                    with self._machine.strict() if attempt else nullcontext():
                        self._fill()
            if self._machine.captures:
                self._pass, _ = self._machine.record(self._fill)
        except RuntimeError:  # also torch's errors of CUDA; the plain call says what is wrong, if it is
            pass
        return self._pass


@contextmanager
def resident(table: TeacherTable, reads: str, machine: Machine, room: float) -> Iterator[Resident]:
    """A ``Resident`` whose new answers are in the files at the end, whatever the end is.

    >>> from pathlib import Path
    >>> from kdbench.data import Loader
    >>> from kdbench.engine.graph.backend import Eager
    >>> from kdbench.engine.teacher_cache.place import Place
    >>> from kdbench.models import create
    >>> images, labels = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8)
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> place, teacher = Place(Path("tables"), "zeros", {}), create("resnet8", 8).eval().requires_grad_(False)
    >>> table = TeacherTable.opened(place, loader, teacher, print, create="logits")
    the teacher's logits are kept as they are first asked for: up to 1 MB on disk, in tables/zeros-5e5fbf8b
    >>> with resident(table, "logits", Eager(), room=1e9) as kept:
    ...     kept.covers(4)
    True
    >>> table.close()
    """
    made = Resident(table, reads, machine, room)
    try:
        yield made
    finally:
        made.flush()
