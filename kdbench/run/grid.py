"""methods x pairs x seeds -> cells, and what is known of each from the files on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench import record, registry
from kdbench.record import OfSettings, Record, Settings


@dataclass(frozen=True, eq=False)
class Cell(OfSettings):
    """One run that was asked for: the settings that set its numbers, and what it is called.

    Two cells are equal when their settings are: ``kd`` and ``kd[tau=4]`` are one.

    >>> from kdbench.run.session import Request, resolve
    >>> one, other = resolve(Request("kd,semckd[beta=200]", "resnet20:resnet8", "digits", seeds="1")).cells
    >>> one.pair, one.label, other.label
    ('resnet20:resnet8', 'kd', 'semckd[beta=200]')
    """

    settings: Settings
    label: str  # the method as tables show it
    quick: bool  # shorter than the suite's recipe, or on a part of the training set
    #: The cell of the network that teaches in the teacher's place, see ``kdbench.run.assistants``.
    assistant: Cell | None = field(default=None, repr=False)
    #: The method whose tuned weights it has, with [...] behind it where values were set beside; "": none were.
    choice: str = field(default="", repr=False)

    @classmethod
    def of(cls, one: Record) -> Cell:
        """The cell whose record this is."""
        return cls(one.settings, one.method, one.quick)

    @property
    def method(self) -> str:
        """Registered name."""
        return self.settings.method

    @property
    def recipe(self) -> dict[str, Any]:
        """How the student is trained."""
        return self.settings.recipe

    @cached_property
    def hash(self) -> str:
        """8 hex digits over the settings."""
        return self.settings.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.hash)

    def __str__(self) -> str:
        return f"{self.label} on {self.pair}, seed {self.seed}"


@dataclass(frozen=True)
class Files:
    """Where one cell's files lie under the output folder.

    >>> from kdbench.run.session import Request, resolve
    >>> (cell,) = resolve(Request("kd", "resnet20:resnet8", "digits", seeds="1")).cells
    >>> files(Path("results"), cell).student.parent.as_posix()
    'results/students/digits/resnet20-resnet8'
    """

    record: Path
    failed: Path
    checkpoint: Path
    lock: Path
    student: Path


def files(out: Path, cell: Cell) -> Files:
    """The paths of a cell.

    >>> from kdbench.run.session import Request, resolve
    >>> (cell,) = resolve(Request("kd", "resnet20:resnet8", "digits", seeds="1")).cells
    >>> files(Path("results"), cell).record.parent.as_posix()
    'results/runs/digits/resnet20-resnet8'
    """
    folder = record.runs_folder(out, cell.suite, cell.teacher, cell.student)
    stem = record.cell_stem(cell.label, cell.seed, cell.hash)
    within = folder.relative_to(out / "runs")
    return Files(
        folder / f"{stem}.json",
        folder / f"{stem}{record.FAILED_SUFFIX}",
        folder / f"{stem}.ckpt",
        out / ".locks" / within / f"{stem}.lock",
        out / "students" / within / f"{stem}.safetensors",
    )


def state(out: Path, cell: Cell) -> str:
    """``done``, ``failed``, ``unsupported``, ``running`` (a checkpoint lies there) or ``missing``."""
    where = files(out, cell)
    if where.record.exists():
        return "done"
    if where.checkpoint.exists():
        return "running"
    try:
        return record.read(where.failed).status
    except FileNotFoundError:
        return "missing"
    except record.RecordDamaged:
        return "failed"


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that can share a teacher pass: same teacher, or assistant, seed and views of the images.

    >>> from kdbench.run.session import Request, resolve
    >>> cells = resolve(Request("kd,crd", "resnet20:resnet8", "digits", seeds="3")).cells
    >>> [len(group) for group in groups(cells)]
    [2, 2, 2]
    """
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        method, own = registry.get(cell.method), cell.settings
        helped = (method.assistant, cell.student) if method.assistant else ()
        # Students of one teacher may differ in learning rate and still share its batches.
        recipe = sorted((name, str(value)) for name, value in own.recipe.items() if name != "lr")
        key = (own.suite, own.dataset, own.teacher, own.seed, own.epochs, method.views, helped, tuple(recipe))
        found.setdefault(key, []).append(cell)
    return list(found.values())
