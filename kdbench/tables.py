"""Which groups are taught by a table of the teacher's outputs, and where it lies: ``<out>/tables``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbench import environment
from kdbench.data import Dataset, Loader
from kdbench.distiller import SEES
from kdbench.engine import fit as engine
from kdbench.engine.lane import Lane, state_sha256
from kdbench.engine.precision import Precision
from kdbench.engine.table import Place, TeacherTable, Unfit, count_views
from kdbench.session import Request


@contextmanager
def taught(
    request: Request, name: str, images: Dataset, recipe: Mapping[str, Any], setting: engine.Setting, loader: Loader,
    lanes: Sequence[Lane], *, visits: int, note: Callable[[str], None],
) -> Iterator[engine.Setting]:
    """The setting, with a table where one is there or pays.

    One that is there is always used. A new one is begun when the run looks at every image more
    often (``visits``: epochs times seeds) than half the number of its views.

    Args:
        name: the teacher's, for the folder.
    """
    lanes = [lane for lane in lanes if lane.method.needs_teacher]
    if request.table == "off" or not lanes or setting.teacher is None or setting.device.type != "cpu" or loader.views:
        yield setting
        return
    # Where some lane needs maps the teacher is live, and what it says is kept for methods to come.
    below = [lane.method.sees for lane in lanes if lane.method.sees in SEES[:-1]]
    pays = visits > count_views(loader.crop_padding, loader.flip) / 2
    place = where(request.out, name, images, recipe, setting.teacher, setting.precision)
    try:
        table = TeacherTable.opened(
            place, loader, partial(engine.look, setting), note,
            create=max(below, key=SEES.index, default="logits") if pays else None,
        )
    except Unfit as error:
        note(f"no table of teacher {name}: {error}")
        table = None
    try:
        yield setting if table is None else replace(setting, table=table)
    finally:
        if table is not None:
            table.close()


def where(
    out: Path, name: str, images: Dataset, recipe: Mapping[str, Any], teacher: nn.Module, precision: Precision
) -> Place:
    """The table's place: another one for whatever may change a bit of the teacher's answers.

    ``teacher`` is the folded one that answers.
    """
    machine = environment.describe("cpu")
    facts = {
        "dataset": images.name, "fingerprint": images.fingerprint, "images": len(images.train_labels),
        "teacher": state_sha256(teacher.state_dict()), "precision": precision.name,
        **{key: recipe[key] for key in ("batch_size", "crop_padding", "flip")},
        **{key: list(recipe[key]) for key in ("mean", "std")},
        **{key: machine[key] for key in ("torch", "cpu", "threads")},
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    return Place(out / "tables", f"{images.name}-{name.replace('/', '_')}", facts)
