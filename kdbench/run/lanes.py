"""From a cell to a lane: student, method and recipe, resumed where a checkpoint lies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdbench import models, registry
from kdbench.data import Dataset, Loader
from kdbench.distiller import Distiller, Pair
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign
from kdbench.engine.compiled import CannotCompile, Compiler
from kdbench.engine.guard import NotBuilt, built
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan, later
from kdbench.engine.shared import Lasting, tensors_of
from kdbench.models import Tapped
from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.ledger import Ledger
from kdbench.run.outcome import Emit, Note
from kdbench.utils.seeding import stable_seed


@dataclass(frozen=True)
class Maker:
    """Makes lanes of cells that learn from one teacher. A cell that has none is in the ledger, with the reason."""

    out: Path
    images: Dataset
    device: torch.device
    precision: Precision
    compiler: Compiler | None
    ledger: Ledger
    emit: Emit

    def lanes(self, cells: Sequence[Cell], teacher: Tapped | None, taught_by: str) -> dict[Lane, Cell]:
        """Those that can be trained. ``teacher`` is None where no cell needs one; ``taught_by``: sha256 of it."""
        found = {}
        for cell in cells:
            lane = self._lane(cell, teacher, taught_by)
            if lane is not None:
                found[lane] = cell
        return found

    def _lane(self, cell: Cell, teacher: Tapped | None, taught_by: str) -> Lane | None:
        shared = [reach(self.images, teacher)]
        try:
            make = partial(self._built, cell, teacher, taught_by)
            lane = built(
                f"{cell.student} for {cell}", make, device=self.device, shared=shared, passing=(models.WeightsMissing,)
            )
        except models.WeightsMissing as error:
            # The pair can be served, only not on this machine today: the next run tries it again.
            self.ledger.fail(cell, error, keep=False)
            return None
        except ValueError as error:
            self.ledger.refuse(cell, error)
            return None
        except NotBuilt as error:
            self.ledger.fail(cell, f"the cell could not be built: {error}")
            return None
        return self._resumed(cell, lane, shared)

    def _built(self, cell: Cell, teacher: Tapped | None, taught_by: str) -> Lane:
        """Raises: ValueError: the method cannot serve the pair."""
        refuse_recipe(cell.method, cell.recipe)  # before a student's weights are fetched
        student, pair = paired(cell, teacher, self.images)
        method = method_of(cell, pair)
        return Lane(
            str(cell),
            student,
            method,
            plan(cell.epochs, cell.recipe),
            seed=stable_seed(cell.seed, "lane", cell.student),
            path=grid.files(self.out, cell).checkpoint,
            settings=cell.hash,
            teacher=taught_by,
            device=self.device,
            precision=self.precision,
            compiler=self.compiler,
            data=self.images.fingerprint,
            plugin=registry.source_sha256(cell.method),
        )

    def _resumed(self, cell: Cell, lane: Lane, shared: list[Lasting]) -> Lane | None:
        where = grid.files(self.out, cell)
        ours = CheckpointDamaged, CheckpointForeign, OSError
        try:
            if built(f"the checkpoint of {cell}", lane.resume, device=self.device, shared=shared, passing=ours):
                at = f", batch {lane.begun} of the next" if lane.begun else ""
                self.emit(Note(f"{cell}: going on after epoch {lane.epoch} of {lane.total}{at}"))
        except CheckpointDamaged as error:
            aside = where.checkpoint.with_suffix(".ckpt.damaged")
            os.replace(where.checkpoint, aside)
            self.emit(Note(f"{error}; put aside as {aside.name}, the cell starts anew"))
        except CheckpointForeign as error:
            if error.what != "data":
                self.ledger.fail(cell, error, keep=False)
                return None
            where.checkpoint.unlink(missing_ok=True)
            self.emit(Note(f"{cell}: what was trained of it saw other data; it starts anew"))
        except (ValueError, NotBuilt) as error:
            self.ledger.fail(cell, f"its training cannot go on: {error}", keep=False)
            return None
        return lane

    def _note(self, sentence: str) -> None:
        self.emit(Note(sentence))

    def compile(self, lanes: dict[Lane, Cell], loader: Loader) -> None:
        """With --compile, compile the lanes' students before any clock runs; takes out those that cannot be."""
        if self.compiler is None:
            return
        image, *_ = next(iter(loader.epoch(0)))
        last = len(loader.labels) - (len(loader) - 1) * loader.batch_size
        images = {len(some): some for some in (image, image[: last * loader.num_views])}
        for lane, cell in list(lanes.items()):
            try:
                if not lane.done:
                    self.compiler.prepare(lane.student, list(images.values()), self.precision, self._note)
            except CannotCompile as error:
                del lanes[lane]
                self.ledger.fail(cell, error, keep=False)


def paired(
    cell: Cell, teacher: Tapped | None, images: Dataset, *, pretrained: bool | None = None
) -> tuple[Tapped, Pair]:
    """A cell's student as it is before the first step, and the pair; ``pretrained`` as for ``models.create``.

    Raises:
        ValueError: the student cannot be built for these images.
    """
    size, recipe = images.image_shape[-1], cell.recipe
    # Common random numbers: methods of one seed start from the same student.
    torch.manual_seed(stable_seed(cell.seed, "student", cell.student))
    drop_path = recipe.get("drop_path", 0.0)
    student = models.create(
        cell.student, images.num_classes, image_size=size, pretrained=pretrained, drop_path=drop_path
    )
    pair = models.make_pair(
        student,
        student if teacher is None else teacher,
        image_shape=images.image_shape,
        num_classes=images.num_classes,
        train_labels=images.train_labels,
        batch_size=recipe["batch_size"],
    )
    return student, pair


def method_of(cell: Cell, pair: Pair) -> Distiller:
    """A cell's method as it is before the first step.

    Raises:
        ValueError: it cannot serve the pair.
    """
    torch.manual_seed(stable_seed(cell.seed, "method", cell.student))
    return registry.get(cell.method).build(pair, **cell.settings.hyper)


def refuse_recipe(name: str, recipe: Mapping[str, Any]) -> None:
    """Raises: ValueError: a method cannot be trained by a recipe: its labels would not tell what is in the pictures."""
    method = registry.get(name)
    mixes = [f"recipe.{word}" for word in ("mixup", "cutmix") if recipe.get(word)]
    if mixes and method.needs_hard_labels:
        raise ValueError(
            f"{name} needs one label for each image, and {' and '.join(mixes)} mix two images; set"
            f" {'it' if len(mixes) == 1 else 'both'} to 0 for it"
        )
    if mixes and str(recipe.get("gradients", "")).startswith("deepkd") and method.needs_teacher:
        raise ValueError(f"recipe.gradients={recipe['gradients']} divides KD at the label, and {mixes[0]} mixes labels")
    changed = [*mixes, *(["recipe.random_erasing"] if recipe.get("random_erasing") else [])]
    if changed and method.views:
        raise ValueError(f"{name} looks at further views of whole images, which {' and '.join(changed)} would change")
    if recipe.get("label_smoothing") and method.own_cross_entropy:
        raise ValueError(f"{name} has a cross-entropy of its own, which recipe.label_smoothing would not reach")


def reach(images: Dataset, teacher: Tapped | None) -> Lasting:
    """What the methods of a group can reach of what all share, with a copy of it."""
    weights = [] if teacher is None else tensors_of(teacher)
    return Lasting({"the teacher's weights": weights, "the training labels": [images.train_labels]})


def plan(epochs: int, recipe: Mapping[str, Any]) -> Plan:
    """The engine's plan of a recipe."""
    return Plan(
        epochs,
        recipe["lr"],
        recipe["momentum"],
        recipe["nesterov"],
        recipe["weight_decay"],
        tuple(recipe["milestones"]),
        recipe["gamma"],
        recipe["eval_every"],
        **later(recipe),
    )


def behind(lane: Lane) -> int:
    """Epochs that a resumed lane has behind it."""
    return lane.epoch + (lane.pretrain_total if lane.stage == "train" else 0)


def epochs(cell: Cell) -> int:
    """Epochs of all stages of one cell."""
    return cell.epochs + Plan(cell.epochs, cell.recipe["lr"]).pretrain_epochs(registry.get(cell.method))
