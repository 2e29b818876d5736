"""The teacher as a table: its answers to every view of every image, kept on disk.

A crop with padding p and a flip have V = (2p + 1)^2 * 2 views. The teacher is frozen, so what it says
is a function of (image, view): said once, it serves every later epoch, seed and method that reads no
more than logits or the pooled vector.

On the CPU a kept answer is the live one to the bit, or it is not used. An image's outputs depend there
on the number of images in the batch (kernels are chosen by shapes) but not on which others they are. So
every entry comes from a pass over a whole batch, and both facts are tried when a table is made: the
answers must not change with the company, and those to an epoch's shorter last batch are taken from
the table only where they are equal, too. Where the library may choose another kernel from one process
to the next (CUDA), answers are compared within ``Place.tolerance`` instead.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from kdbench.distiller import READS, Outputs
from kdbench.engine.teacher_cache.place import FORMAT, Ints, Loader, Place, Unfit, count_views, parts_of
from kdbench.engine.teacher_cache.rows import Rows
from kdbench.utils.files import content
from kdbench.utils.plan import BatchPlan

#: Entries that are compared with the live teacher, to the bit, whenever a table is opened.
CHECKED = 100


class TeacherTable:
    """Answers of one teacher to (image, view); open it with ``opened``, close it after use.

    One process fills a table at a time (a file lock); others read what is there and ask the live
    teacher for the rest.

    Args:
        place: where it lies.
        loader: of the training images.
        look: the live teacher, (B, 3, H, W) -> ``Outputs``.
        note: told in sentences what the user should know.

    >>> from kdbench.data import Loader
    >>> from kdbench.models import create
    >>> images, labels = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8)
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> place, teacher = Place(Path("tables"), "zeros", {}), create("resnet8", 8).eval().requires_grad_(False)
    >>> table = TeacherTable.opened(place, loader, teacher, print, create="logits")
    the teacher's logits are kept as they are first asked for: up to 1 MB on disk, in tables/zeros-5e5fbf8b
    >>> list(table.fill_all("logits"))[-1], table.answers(np.arange(4), "logits").logits.shape
    (4, torch.Size([4, 8]))
    >>> table.close()
    """

    def __init__(
        self, place: Place, loader: Loader, look: Callable[[Tensor], Outputs], note: Callable[[str], None]
    ) -> None:
        self.place, self.loader, self.look, self.note = place, loader, look, note
        self.views = count_views(loader.crop_padding, loader.flip)
        self.images, self.batch, self.device = len(loader.labels), loader.batch_size, loader.labels.device
        self.parts: dict[str, Rows] = {}
        self.tail_alike = False
        self.fills = False
        self._lock = FileLock(place.folder.with_name(place.folder.name + ".lock"))

    # -- open and close -------------------------------------------------------------------

    @classmethod
    def opened(
        cls,
        place: Place,
        loader: Loader,
        look: Callable[[Tensor], Outputs],
        note: Callable[[str], None],
        *,
        create: str | None,
    ) -> TeacherTable | None:
        """The table at ``place``, checked against the live teacher; None when there is none to use.

        ``create`` ("logits" or "pooled") makes what is not there yet of these; None only uses what is.

        Raises:
            Unfit: this teacher, device or augmentation has none.
        """
        if loader.views:
            raise Unfit(f"views {', '.join(loader.views)} are drawn or turned, a table holds crops and flips only")
        if create is None and not (place.folder / "table.json").exists():
            return None
        table = cls(place, loader, look, note)
        place.home.mkdir(parents=True, exist_ok=True)
        try:
            table._lock.acquire(timeout=0)
            table.fills = True
        except Timeout:
            pass
        ready = False
        try:
            ready = table._prepare(create)
        finally:
            if not ready:
                table.close()
        return table if ready else None

    def close(self) -> None:
        """Let another process fill it."""
        for part in self.parts.values():
            part.close()
        self.parts = {}
        if self.fills:
            self.fills = False
            self._lock.release()

    def _prepare(self, create: str | None) -> bool:
        """Read or make the files; False when there is nothing to use."""
        self._example = self.look(self._image(np.zeros(1, np.int64)))  # shapes, and the classifier
        self._like = _kept(self._example)
        if (self.place.folder / "table.json").exists():
            reason = self._read_header() or self._spot_check()
            if reason and not self.fills:
                self.note(f"{reason}; another process has it, so it stays unused here")
                return False
            if reason:
                aside = self._set_aside()
                self.note(f"{reason}; set aside as {aside.name}, to be made anew")
        if not self.parts:
            if not self.fills or create is None:
                return False
            self._begin()
        if create is not None and self.fills:
            self._add(READS[: READS.index(create) + 1])
        return bool(self.parts)

    def _begin(self) -> None:
        """Try the facts that a table rests on.

        Raises:
            Unfit: they do not hold for this teacher.
        """
        rows = self._some_rows(2 * self.batch)
        first, second = rows[: self.batch], rows[self.batch :]
        mixed = np.concatenate([second[: self.batch // 2], first[::-1]])[: self.batch]
        from_first = np.flatnonzero(np.isin(mixed, first))
        wanted = np.array([int(np.flatnonzero(first == mixed[at])[0]) for at in from_first])
        alone, company = self._ask(first), self._ask(mixed)
        tail = self.images % self.batch
        short = self.look(self._image(first[:tail])) if tail > 1 else None
        for name, values in alone.items():
            if values.ndim != 2 or not values.is_contiguous():
                raise Unfit(f"the teacher's {name} are not a plain (B, D) tensor")
            if not self.alike(values[wanted], company[name][from_first]):
                raise Unfit(f"the teacher's {name} for an image change with the other images of its batch")
        self.tail_alike = short is None or all(
            self.alike(getattr(short, name).cpu(), values[:tail]) for name, values in alone.items()
        )

    def _add(self, names: Sequence[str]) -> None:
        """Make the files of parts that are not there yet."""
        absent = [name for name in names if name not in self.parts]
        if not absent:
            return
        count = self.images * self.views
        size = sum(count * (self.entry_bytes(name) + 4) for name in absent)
        free = shutil.disk_usage(self.place.home).free
        if size > free / 2:
            raise Unfit(
                f"a table of the teacher's {' and '.join(absent)} takes up to {_gb(size)}, and only {_gb(free)}"
                f" are free in {self.place.home}; it may take half of that"
            )
        for name in absent:
            Rows.make(self.place.folder, name, count, self._like[name])
        self._write_header([*self.parts, *absent])
        self._read_header()
        self.note(
            f"the teacher's {' and '.join(absent)} are kept as they are first asked for: up to {_gb(size)}"
            f" on disk, in {self.place.folder}"
        )

    def _write_header(self, names: Sequence[str]) -> None:
        parts = {name: Rows.header_of(self._like[name]) for name in names}
        whole = {
            "format": FORMAT,
            "facts": dict(self.place.facts),
            "rows": self.images * self.views,
            "tail_alike": self.tail_alike,
            "parts": parts,
        }
        aside = self.place.folder / "table.json.tmp"
        aside.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.place.folder / "table.json")

    def _read_header(self) -> str:
        """Open the parts; a sentence when the files are not whole."""
        for part in self.parts.values():
            part.close()
        self.parts = {}
        damaged = f"the teacher's table {self.place.folder.name} is damaged"
        try:
            found = json.loads(content(self.place.folder / "table.json"))
            if found["format"] != FORMAT or found["facts"] != json.loads(json.dumps(dict(self.place.facts))):
                return damaged
            self.tail_alike = found["tail_alike"] is True
            for name, header in found["parts"].items():
                if header != Rows.header_of(self._like[name]):
                    return damaged
                self.parts[name] = Rows(self.place.folder, name, self.images * self.views, self._like[name])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return damaged
        return ""

    def _spot_check(self) -> str:
        """Compare entries with the live teacher; a sentence when one differs by a bit."""
        for name, part in self.parts.items():
            filled = part.filled()
            if not len(filled):
                continue
            rows = np.random.default_rng().choice(filled, min(CHECKED, len(filled)), replace=False)
            for some in np.array_split(rows, -(-len(rows) // self.batch)):
                kept, good = part.read(some)
                live = self._ask(some)[name]
                if not self.alike(kept[good].to(live.dtype), live[good]):
                    return f"the teacher's table {self.place.folder.name} does not say what the teacher says"
        return ""

    def _set_aside(self) -> Path:
        for part in self.parts.values():
            part.close()
        self.parts = {}
        number = 1
        while (aside := self.place.folder.with_name(f"{self.place.folder.name}.aside-{number}")).exists():
            number += 1
        os.replace(self.place.folder, aside)
        return aside

    # -- questions and answers ------------------------------------------------------------

    def rows(self, epoch: int) -> Ints:
        """(N,) the entries that an epoch of the main stage asks for, in its order."""
        return self.rows_of(self.loader.plan(epoch, "train")).cpu().numpy()

    def rows_of(self, plan: BatchPlan) -> Tensor:
        """(N,) int64 the entries of a plan or part of one, on its device."""
        view = plan.row * (2 * self.loader.crop_padding + 1) + plan.column
        return plan.order * self.views + (view * 2 + plan.flip if self.loader.flip else view)

    def image_of(self, rows: Tensor) -> Tensor:
        """(B, 3, H, W) the views of (B,) entries, on their device: the inverse of ``rows_of``."""
        idx, view = rows // self.views, rows % self.views
        flip = view % 2 == 1 if self.loader.flip else torch.zeros_like(view, dtype=torch.bool)
        crop = view // 2 if self.loader.flip else view
        side = 2 * self.loader.crop_padding + 1
        return self.loader.gather(BatchPlan(idx, crop // side, crop % side, flip))

    def alike(self, one: Tensor, other: Tensor) -> bool:
        """Whether two answers of the same teacher are the same."""
        if not self.place.tolerance or one.shape != other.shape:
            return _same_bits(one, other)
        if not one.numel():
            return True
        apart, largest = (one - other).abs().max().item(), other.abs().max().item()
        return apart <= self.place.tolerance * largest

    def serves(self, reads: str) -> bool:
        """Whether answers to lanes that read ``reads`` can come from here."""
        return reads != "maps" and all(name in self.parts for name in parts_of(reads))

    def answers(self, rows: Ints, reads: str) -> Outputs | None:
        """Kept outputs (B, ...); None when one is missing. What ``reads`` leaves out is NaN."""
        found = {}
        for name in parts_of(reads):
            values, good = self.parts[name].read(rows)
            if not good.all():
                return None
            found[name] = values.to(self.device)
        return self.outputs(found)

    def outputs(self, kept: Mapping[str, Tensor]) -> Outputs:
        """Kept values (B, D) of some parts as a teacher's outputs; those that are not kept are NaN."""
        example = self._example
        found = {name: values.to(getattr(example, name).dtype) for name, values in kept.items()}
        b = len(found["logits"])

        def blind(like: Tensor) -> Tensor:
            return torch.full((), torch.nan, dtype=like.dtype, device=like.device).expand(b, *like.shape[1:])

        whole = example._replace(classifier=None).map(blind)._replace(classifier=example.classifier)
        return whole._replace(logits=found["logits"], pooled=found.get("pooled", whole.pooled))

    def empty(self, name: str, count: int) -> Tensor:
        """(count, D) room on the device for entries of a part, as they are kept."""
        like = self._like[name]
        return torch.empty(count, like.shape[1], dtype=like.dtype, device=self.device)

    def entry_bytes(self, name: str) -> int:
        """Of one entry of a part."""
        return int(self._like[name].shape[1] * self._like[name].element_size())

    def fill(self, rows: Ints) -> None:
        """Ask the live teacher about at most a batch of entries, and keep what it says."""
        self.keep(rows, self._ask(rows))

    def keep(self, rows: Ints, said: Mapping[str, Tensor]) -> None:
        """Write what is missing or damaged of these entries, in the parts that are said."""
        try:
            for name in [name for name in said if name in self.parts]:
                part = self.parts[name]
                there = part.has(rows)  # what was never written need not be looked at
                new = torch.from_numpy(~there)
                if there.any():
                    new[torch.from_numpy(there)] = ~part.read(rows[there])[1]
                values = said[name].cpu()[new]
                kept = values.to(self._like[name].dtype)
                if new.any() and _same_bits(kept.to(values.dtype), values):
                    part.write(rows[new.numpy()], kept)
        except OSError as error:
            self.fills = False
            self._lock.release()
            self.note(
                f"the teacher's table in {self.place.folder} cannot grow ({error.strerror or error});"
                " the live teacher answers what is missing"
            )

    def fill_all(self, reads: str) -> Iterator[int]:
        """Fill every entry that is missing, in batches; yields how many were made, after each."""
        missing = self.missing(None, reads)
        for first in range(0, len(missing), self.batch):
            some = missing[first : first + self.batch]
            self.fill(some)
            if not self.fills:
                raise Unfit(f"the table in {self.place.folder} could not be filled")
            yield len(some)

    def missing(self, rows: Ints | None, reads: str) -> Ints:
        """Places in ``rows`` (None: all there are) without an answer to lanes that read ``reads``."""
        rows = np.arange(self.images * self.views, dtype=np.int64) if rows is None else rows
        return np.flatnonzero(~np.logical_and.reduce([self.parts[name].has(rows) for name in parts_of(reads)]))

    def _ask(self, rows: Ints) -> dict[str, Tensor]:
        """What the live teacher says to at most a batch of entries, as in a whole batch; on the CPU."""
        seen = self.look(self._image(np.resize(rows, self.batch)))
        return {"logits": seen.logits[: len(rows)].cpu(), "pooled": seen.pooled[: len(rows)].cpu()}

    def _image(self, rows: Ints) -> Tensor:
        return self.image_of(torch.from_numpy(np.ascontiguousarray(rows)).to(self.device))

    def _some_rows(self, count: int) -> Ints:
        rng = np.random.default_rng()
        return rng.choice(self.images * self.views, min(count, self.images * self.views), replace=False)


def _kept(seen: Outputs) -> dict[str, Tensor]:
    """The outputs that a table can hold, as it holds them: logits without the zeros that widening gave them."""
    narrow = seen.logits.to(seen.pooled.dtype)
    lossless = _same_bits(narrow.to(seen.logits.dtype), seen.logits)
    return {"logits": narrow if lossless else seen.logits, "pooled": seen.pooled}


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
