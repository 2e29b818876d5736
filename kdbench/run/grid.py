"""methods x pairs x seeds -> cells, and what is known of each from the files on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.registry import Spec, get, hyperparameters


@dataclass(frozen=True)
class Cell:
    """One run that was asked for: a method on a pair with a seed, and all that sets its numbers."""

    suite: str
    dataset: str
    teacher: str
    student: str
    spec: Spec
    seed: int
    epochs: int
    quick: bool  # shorter than the suite's recipe, or on a part of the training set
    settings: Mapping[str, Any] = field(hash=False, compare=False)
    #: The cell of the network that teaches in the teacher's place, see ``kdbench.run.assistants``.
    assistant: Cell | None = field(default=None, hash=False, compare=False)

    @property
    def label(self) -> str:
        """The method as tables show it: its name and what was set beside it."""
        inside = ",".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.spec.hyper
        )
        return f"{self.spec.name}[{inside}]" if inside else self.spec.name

    @property
    def pair(self) -> str:
        """``teacher:student``."""
        return f"{self.teacher}:{self.student}"

    @property
    def hash(self) -> str:
        """8 hex digits over the settings."""
        return record.settings_hash(dict(self.settings))

    @property
    def hyper(self) -> dict[str, Any]:
        """Every hyper-parameter of the method, defaults included."""
        return dict(self.settings["hyper"])

    def __str__(self) -> str:
        return f"{self.label} on {self.pair}, seed {self.seed}"


@dataclass(frozen=True)
class Files:
    """Where one cell's files lie under the output folder."""

    record: Path
    failed: Path
    checkpoint: Path
    lock: Path
    student: Path


def files(out: Path, cell: Cell) -> Files:
    """The paths of a cell."""
    folder = record.runs_folder(out, cell.suite, cell.teacher, cell.student)
    stem = record.cell_stem(cell.label, cell.seed, cell.hash)
    student = out / "students" / cell.suite / folder.name / f"{stem}.safetensors"
    return Files(
        folder / f"{stem}.json",
        folder / f"{stem}.failed.json",
        folder / f"{stem}.ckpt",
        folder / f"{stem}.lock",
        student,
    )


def settings(
    *,
    suite: str,
    dataset: str,
    teacher: str,
    student: str,
    spec: Spec,
    seed: int,
    epochs: int,
    convention: Mapping[str, Any],
    recipe: Mapping[str, Any],
    limit_train: int | None,
    precision: str,
    compile: bool = False,
) -> dict[str, Any]:
    """Everything that sets a cell's numbers; its hash names the record.

    ``compile`` is named only where it is on, so that records from before it was there keep their hash.

    Hyper-parameters: the signature's defaults, over them the suite's convention, over that
    what the user wrote beside the name.
    """
    known = hyperparameters(get(spec.name))
    hyper = {name: found.default for name, found in known.items()} | dict(convention) | dict(spec.hyper)
    found = {
        "suite": suite,
        "dataset": dataset,
        "teacher": teacher,
        "student": student,
        "method": spec.name,
        "hyper": hyper,
        "seed": seed,
        "epochs": epochs,
        "recipe": dict(recipe),
        "limit_train": limit_train,
        "precision": precision,
    }
    return found | {"compile": True} if compile else found


def state(out: Path, cell: Cell) -> str:
    """``done``, ``failed``, ``unsupported``, ``running`` (a checkpoint lies there) or ``missing``."""
    where = files(out, cell)
    if where.record.exists():
        return "done"
    if where.checkpoint.exists():
        return "running"
    if where.failed.exists():
        try:
            return record.read(where.failed).status
        except record.RecordDamaged:
            return "failed"
    return "missing"


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that can share a teacher pass: same teacher, or assistant, seed and views of the images."""
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        method = get(cell.spec.name)
        helped = (method.assistant, cell.student) if method.assistant else ()
        # Students of one teacher may differ in learning rate and still share its batches.
        recipe = sorted((name, str(value)) for name, value in cell.settings["recipe"].items() if name != "lr")
        key = (cell.suite, cell.dataset, cell.teacher, cell.seed, cell.epochs, method.views, helped, tuple(recipe))
        found.setdefault(key, []).append(cell)
    return list(found.values())


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """The ``index``-th (from 1) of ``count`` parts; whole groups, so that no teacher pass is lost."""
    return [cell for number, group in enumerate(groups(cells)) if number % count == index - 1 for cell in group]
