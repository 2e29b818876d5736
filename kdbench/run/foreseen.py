"""Refusals that a network's shapes give away, found before anybody trains a teacher for them.

A pair may refuse what no method alone can: a ninth tap of a network that has four. The teacher's weights have no part
in it, so a teacher that is still to be trained, for hours, is not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from kdbench import models
from kdbench.data import Dataset
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.guard import NotBuilt, built
from kdbench.models import Tapped
from kdbench.run.grid import Cell
from kdbench.run.lanes import reach, served
from kdbench.utils.seeding import stable_seed

#: Looks of a tenth of a second that are taken without a word.
MANY = 100


def refusals(
    cells: Iterable[Cell], images: Dataset, absent: Callable[[Cell], bool], note: Callable[[str], None]
) -> dict[Cell, str]:
    """Why methods cannot serve their pairs, of those cells whose teacher is ``absent``.

    Anything else that goes wrong is left to the training, which says more of it.

    >>> from kdbench.data import load
    >>> from kdbench.run.session import Request, resolve
    >>> cells = resolve(Request("kd,fitnet[tap=9]", "resnet20:resnet8", "digits", seeds="1")).cells
    >>> list(refusals(cells, load("digits"), lambda cell: True, print).values())
    ['fitnet: tap=9 is not there; this pair shares taps 0 to 3']
    """
    alike: dict[str, list[Cell]] = {}  # those that differ by the seed alone
    for cell in cells:
        if cell.teacher and absent(cell):
            alike.setdefault(repr(cell.settings.facts() | {"seed": None}), []).append(cell)
    if len(alike) > MANY:
        note(f"first a look at whether {len(alike):,} methods on pairs go together, before teachers are trained")
    said = [(some, _refusal(some[0], images)) for some in alike.values()]
    return {cell: why for some, why in said if why for cell in some}


def _refusal(cell: Cell, images: Dataset) -> str:
    """The method's sentence, or nothing."""
    with torch.random.fork_rng(devices=[]):
        try:
            teacher = _untrained(cell, images)
        except Exception:  # a network of the user's may raise anything
            return ""
        made = partial(served, cell, teacher, images, pretrained=False)
        try:
            built(str(cell), made, shared=[reach(images, teacher)], passing=(models.WeightsMissing,))
        except (models.WeightsMissing, NotBuilt, OutOfMemory):
            return ""
        except ValueError as error:
            return str(error)
    return ""


def _untrained(cell: Cell, images: Dataset) -> Tapped:
    """A network of the shapes of who will teach; from fixed numbers, so that what is said is always the same."""
    name = cell.assistant.student if cell.assistant else cell.teacher
    torch.manual_seed(stable_seed(0, "teacher", name))
    net = models.create(name, images.num_classes, image_size=images.image_shape[-1], pretrained=False)
    return net.eval().requires_grad_(False)
