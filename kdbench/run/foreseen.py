"""Refusals that networks' shapes give away, found before anybody trains a teacher for them.

A pair may refuse what no method alone can: a ninth tap of a network that has four. Where the teacher is still to be
trained, for hours, it is not waited for. Only what kdbench brings is looked at so early: its methods refuse by shapes
and counts alone, while a plug-in may ask for the teacher's weights, and is built once, when these are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from kdbench import models, registry
from kdbench.data import Dataset, trained_on
from kdbench.distiller import Pair
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.guard import NotBuilt, built
from kdbench.models import Tapped, entered
from kdbench.run import assistants
from kdbench.run.grid import Cell
from kdbench.run.lanes import method_of, paired, refuse_recipe
from kdbench.utils.seeding import stable_seed

#: Looks at a method and a pair that are taken without a word, and pairs; most images of which banks are made to look.
MANY, PAIRS, BANKED = 100, 4, 200_000


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
    pairs: dict[str, dict[str, list[Cell]]] = {}  # networks and recipe -> method and values -> cells of all seeds
    for cell in cells:
        if cell.teacher and absent(cell) and _is_ours(cell):
            networks = repr((cell.teacher, cell.assistant and cell.assistant.student, cell.student, cell.recipe))
            method = repr((cell.method, cell.settings.hyper))
            pairs.setdefault(networks, {}).setdefault(method, []).append(cell)
    looks = sum(map(len, pairs.values()))
    if looks > MANY or len(pairs) > PAIRS:
        note(f"first a look at whether {looks:,} methods on pairs go together, before teachers are trained")
    found: dict[Cell, str] = {}
    for methods in pairs.values():
        for some, why in zip(methods.values(), _refused([one for one, *_ in methods.values()], images), strict=True):
            found |= dict.fromkeys(some, why) if why else {}
    return found


def _is_ours(cell: Cell) -> bool:
    """Whether no code of others would be run: neither a method nor a network of the user's."""
    return not registry.source_sha256(cell.method) and not any(map(entered.find, (cell.teacher, cell.student)))


def _refused(cells: list[Cell], images: Dataset) -> list[str]:
    """The methods' sentences on one pair, whose networks are made once; empty where a method does not refuse."""
    with torch.random.fork_rng(devices=[]):
        part, _ = trained_on(images, cells[0].recipe)
        if len(part.train_labels) > BANKED:
            return [_without_assistant(cell) for cell in cells]
        try:
            pair = paired(cells[0], _untrained(cells[0], images), part, pretrained=False)[1]
        except Exception:  # the training says what is wrong with it
            return [_without_assistant(cell) for cell in cells]
        return [_without_assistant(cell) or _sentence(cell, pair) for cell in cells]


def _without_assistant(cell: Cell) -> str:
    try:
        assistants.network(cell.method, cell.student)
    except assistants.Refused as error:
        return str(error)
    return ""


def _sentence(cell: Cell, pair: Pair) -> str:
    try:
        refuse_recipe(cell.method, cell.recipe)
        built(str(cell), partial(method_of, cell, pair))
    except (NotBuilt, OutOfMemory):
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
