"""Which groups are taught by a table of the teacher's outputs, and where it lies: ``<out>/tables``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdbench.data import Dataset, Loader, safe_name
from kdbench.distiller import READS
from kdbench.engine import fit as engine
from kdbench.engine import memory
from kdbench.engine.checkpoint import state_sha256
from kdbench.engine.graph.cached_teacher import resident
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import Place, Unfit, count_views, parts_of
from kdbench.utils import environment

#: Share of the device's free memory that a table may take; the lanes have the rest.
ON_DEVICE = 0.5
#: How far a kept answer may be from the live one on CUDA, by precision: the rounding of the inputs of
#: products (11 bits in tf32 and fp16, 8 in bf16) with room for another order of sums. Not verified on hardware.
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "amp": 1e-2, "bf16": 5e-2}


@contextmanager
def taught(
    out: Path,
    name: str,
    images: Dataset,
    recipe: Mapping[str, Any],
    setting: engine.Setting,
    loader: Loader,
    lanes: Sequence[Lane],
    *,
    visits: int,
    note: Callable[[str], None],
    switch: str = "auto",
) -> Iterator[engine.Setting]:
    """The setting, with a table where one is there or pays.

    One that is there is always used. A new one is begun when the run looks at every image more
    often (``visits``: epochs times seeds) than half the number of its views.

    Args:
        out: tables lie in its folder ``tables``.
        name: the teacher's, for the folder.
        switch: "off" for none at all.

    >>> from kdbench import data
    >>> from kdbench.testing.examples import setting
    >>> shared = setting()
    >>> facts = (Path("out"), "toy", data.load("digits"), {}, shared, shared.train)
    >>> with taught(*facts, lanes=[], visits=1, note=print) as same:  # no lane, so no table
    ...     same is shared
    True
    """
    lanes = [lane for lane in lanes if lane.method.needs_teacher]
    below = [lane.method.reads for lane in lanes if lane.method.reads in READS[:-1]]
    # In a loop whose teacher must be live for some lane, what it says is kept for methods to come; a
    # captured step keeps nothing.
    useful = len(below) == len(lanes) if setting.machine is not None else True
    if switch == "off" or not lanes or setting.teacher is None or loader.views or not loader.countable or not useful:
        yield setting
        return
    pays = visits > count_views(loader.crop_padding, loader.flip) / 2
    place = where(out, name, images, recipe, setting.teacher, setting.precision, setting.device)
    with ExitStack() as opened:
        try:
            table = TeacherTable.opened(
                place,
                loader,
                partial(engine.look, setting),
                note,
                create=max(below, key=READS.index, default="logits") if pays else None,
            )
            if table is not None:
                opened.callback(table.close)
                setting = _lend(setting, table, max(below, key=READS.index, default="logits"), opened)
        except Unfit as error:
            note(f"no table of teacher {name}: {error}")
        yield setting


def _lend(setting: engine.Setting, table: TeacherTable, reads: str, opened: ExitStack) -> engine.Setting:
    if setting.machine is None:
        return replace(setting, table=table)
    if not table.serves(reads):
        return setting
    free = memory.free(setting.device) if setting.device.type == "cuda" else environment.free_memory()
    room = math.inf if free is None else free * ON_DEVICE
    return replace(setting, table=table, resident=opened.enter_context(resident(table, reads, setting.machine, room)))


def kept_share(out: Path, dataset: str, name: str, precision: str, batch_size: int, reads: str) -> float | None:
    """Share of its entries that the fullest table of a teacher of this name has; None where there is none.

    For an estimate: neither the teacher's weights nor the entries are looked at.

    Args:
        out: as ``taught``.
        dataset: its name.
        name: the teacher's.
        precision: its name; tables of another one do not count.
        batch_size: images of a batch; as precision.
        reads: what must be kept, as ``Distiller.reads``.
    """
    shares = []
    for header in (out / "tables").glob(f"{safe_name(dataset)}-{name.replace('/', '_')}-*/table.json"):
        try:
            found = json.loads(header.read_text(encoding="utf-8"))
            same = found["facts"]["precision"] == precision and found["facts"]["batch_size"] == batch_size
            sums = [np.fromfile(header.with_name(f"{part}.sums"), np.uint32) for part in parts_of(reads)]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            shares.append(float(np.logical_and.reduce(sums).mean()))
    return max(shares, default=None)


def where(
    out: Path,
    name: str,
    images: Dataset,
    recipe: Mapping[str, Any],
    teacher: nn.Module,
    precision: Precision,
    device: torch.device,
) -> Place:
    """The table's place: another one for whatever may change a bit of the teacher's answers.

    ``teacher`` is the folded one that answers.

    >>> from kdbench import data, models, suites
    >>> images, recipe = data.load("digits"), suites.load("digits").recipe.model_dump()
    >>> teacher = models.create("resnet20", 10)
    >>> where(Path("results"), "resnet20", images, recipe, teacher, Precision(), torch.device("cpu")).title
    'digits-resnet20'
    """
    machine = environment.describe(str(device))
    facts = {
        "dataset": images.name,
        "fingerprint": images.fingerprint,
        "images": len(images.train_labels),
        "teacher": state_sha256(teacher.state_dict()),
        "precision": precision.name,
        **{key: recipe[key] for key in ("batch_size", "crop_padding", "flip")},
        **{key: list(recipe[key]) for key in ("mean", "std")},
        "torch": machine["torch"],
    }
    if device.type == "cuda":
        facts |= {"gpu": machine["gpu"], "cudnn": torch.backends.cudnn.version()}
    else:
        facts |= {
            "cpu": machine["cpu"],
            "threads": machine["threads"],
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    tolerance = TOLERANCE[precision.name] if device.type == "cuda" else 0.0
    return Place(out / "tables", f"{safe_name(images.name)}-{name.replace('/', '_')}", facts, tolerance)
