"""What a unit reads and makes, as bytes: for nodes that do not see the output folder.

Such a node works in a folder of its own, laid out as every output folder, which it finds again after a lost process
and in the next run. The driver keeps the cells' locks meanwhile, and writes what comes back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench import record
from kdbench.models import teachers as stored
from kdbench.models.teacher_files import named_weights
from kdbench.run import assistants, grid, teachers, tuned
from kdbench.run.grid import Cell
from kdbench.run.group import Work
from kdbench.utils.files import atomic_write, content

Files = dict[str, bytes]  # by names that mean the same on every machine, see ``Roots``


@dataclass(frozen=True)
class Roots:
    """The folders of a run on one machine. Files of it are named without them.

    >>> here = Roots(Path("results/tuned"), Path("results"))
    >>> here.name(Path("results/tuned/runs/a.json")), here.name(Path("results/teachers/b.json"))
    ('out/runs/a.json', 'home/teachers/b.json')
    >>> here.path("home/teachers/b.json").as_posix()
    'results/teachers/b.json'
    """

    out: Path
    home: Path

    @classmethod
    def of(cls, work: Work) -> Roots:
        """Those of a piece of work."""
        return cls(work.out, work.home)

    def name(self, path: Path) -> str:
        """Of a file below one of them."""
        which = "out" if path.is_relative_to(self.out) else "home"
        return f"{which}/{path.relative_to(getattr(self, which)).as_posix()}"

    def path(self, name: str) -> Path:
        """Where the file of that name lies on this machine.

        Raises:
            ValueError: it would lie elsewhere.
        """
        which, _, below = name.partition("/")
        if which not in ("out", "home") or not below or ".." in below.split("/") or below.startswith("/"):
            raise ValueError(f"{name!r} is no file of a run")
        return Path(getattr(self, which)) / below

    def moved(self, text: str, to: Roots) -> str:
        """A path, as text, as it is called on another machine; what lies elsewhere stays."""
        path = Path(text)
        if path.is_relative_to(self.out) or path.is_relative_to(self.home):
            return str(to.path(self.name(path)))
        return text


@dataclass(frozen=True)
class Parcel:
    """What a unit needs on a node that does not see the output folder."""

    name: str  # of the output folder, see ``token.name_of``
    files: Files


def node_roots(parcel: Parcel, work: Work) -> Roots:
    """The folders of a run on this node. Nobody else can read them.

    Raises:
        ValueError: somebody else has made the folder.
    """
    base = Path(tempfile.gettempdir()) / f"kdbench-ray-{os.getuid() if hasattr(os, 'getuid') else 0}"
    base.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (base.is_symlink() or base.stat().st_uid != os.getuid()):
        raise ValueError(f"{base} is another user's; set TMPDIR on this node to a folder of your own")
    home = base / parcel.name
    return Roots(home if work.out == work.home else home / "out", home)


def moved(work: Work, here: Roots, there: Roots) -> Work:
    """A piece of work with the folders of another machine."""
    replaced = frozenset(Path(here.moved(str(path), there)) for path in work.replaced)
    lent = None if there.home == there.out else there.home
    return replace(work, out=there.out, lent=lent, replaced=replaced)


def needed(work: Work) -> Files:
    """What the unit reads of the output folder: teacher, assistants, tuned weights."""
    roots, found = Roots.of(work), list[Path]()
    found += teacher_files(work)
    for cell in assistants.of(work.cells):
        where = grid.files(assistants.folder(work.out), cell)
        found += [where.student, where.record, where.failed]
    for cell in work.cells:
        if cell.settings.weights == "tuned":
            of = tuned.path(work.out, cell.suite, cell.teacher, cell.student, cell.method)
            found += [of, *sorted(of.parent.glob(f"{of.stem}_*.json"))]
    return read(found, roots)


def teacher_files(work: Work) -> list[Path]:
    """Weights and card of the unit's teacher, in the order in which they are written; nothing where there is none."""
    name = work.cells[0].teacher
    if not name:
        return []
    wanted = teachers.recipe(work.suite, name, work.epochs, work.limit_train)
    suffix = teachers.there(work.home / "teachers", work.suite, name, wanted)
    if suffix is None:
        return []
    card = stored.path(work.home / "teachers", work.suite.dataset, name, suffix)
    weights = named_weights(card)
    return [card] if weights is None else [weights, card]


def made(work: Work, cells: Iterable[Cell], *, teacher: bool) -> Files:
    """What came of cells, and the teacher where this unit has trained it; on the machine that did it."""
    found = teacher_files(work) if teacher else []
    for cell in cells:
        where = grid.files(work.records, cell)
        found += [where.student, where.record] if where.record.exists() else [where.failed]
    return read(found, Roots.of(work))


def read(paths: Iterable[Path], roots: Roots) -> Files:
    """Files that are there, in their order."""
    found = {}
    for path in dict.fromkeys(paths):
        with suppress(FileNotFoundError):
            found[roots.name(path)] = content(path)
    return found


def write(files: Mapping[str, bytes], roots: Roots, *, over: bool) -> Iterator[Path]:
    """Write what came, in its order: weights before what names them. ``over``: also what is there.

    Raises:
        OSError: it cannot be written.
        ValueError: a name that no file of a run has.
    """
    for name, data in files.items():
        path = roots.path(name)
        if path.exists() and not over:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(data)
        yield path


def returned(files: Mapping[str, bytes], roots: Roots) -> None:
    """Write what a node has made. A record takes the place of a failure's, and its checkpoint goes.

    Raises:
        OSError: it cannot be written.
    """
    for path in write(files, roots, over=True):
        if "runs" in path.parts and path.suffix == ".json" and not path.name.endswith(record.FAILED_SUFFIX):
            path.with_name(path.stem + record.FAILED_SUFFIX).unlink(missing_ok=True)
            path.with_suffix(".ckpt").unlink(missing_ok=True)


def forget(work: Work, names: Iterable[str]) -> None:
    """Take away on a node what the driver has written by now; teachers stay, for the units to come."""
    roots = Roots.of(work)
    for name in names:
        with suppress(OSError, ValueError):
            path = roots.path(name)
            if {"runs", "students"} & set(path.relative_to(roots.home).parts):
                path.unlink(missing_ok=True)
