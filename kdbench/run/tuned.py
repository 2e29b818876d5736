"""Tuned weights on disk: ``<out>/tuned/<suite>/<teacher>-<student>/<method>.json``, one file for each choice.

A file has every trial with its accuracies, the budget, and what they were measured on. It is sealed like a record.
``kdbench tune`` writes them, ``kdbench run --weights tuned`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kdbench import registry
from kdbench.record import runs_folder, safe_name
from kdbench.utils.tuning_file import Budget, Score, Trial, Tuned, read, under, write

if TYPE_CHECKING:
    from kdbench.run.grid import Cell

__all__ = [
    "Budget",
    "Score",
    "Trial",
    "Tuned",
    "bare",
    "home",
    "path",
    "read",
    "tunable",
    "under_others",
    "write",
]


#: Letters of a method in the name of a file.
_LETTERS = 100


def home(out: Path) -> Path:
    """Where tuned weights, and the records of their trials, lie.

    >>> home(Path("results")).as_posix()
    'results/tuned'
    """
    return out / "tuned"


def path(out: Path, suite: str, teacher: str, student: str, method: str) -> Path:
    """The file of a choice; ``teacher`` is empty where the method needs none, ``method`` may have [...] behind it.

    Raises:
        ValueError: the suite's name is one of the folders beside it.

    >>> path(Path("results"), "digits", "resnet20", "resnet8", "semckd").as_posix()
    'results/tuned/digits/resnet20-resnet8/semckd.json'
    """
    if safe_name(suite) in ("runs", "students", "assistants"):
        raise ValueError(
            f"weights of a suite named {suite!r} cannot be kept in {home(out)}; give the suite another name"
        )
    folder = runs_folder(home(out), suite, teacher, student)
    name = safe_name(method)
    if len(name) > _LETTERS:  # two long ones may begin alike
        name = f"{name[:_LETTERS]}-{sha256(method.encode()).hexdigest()[:8]}"
    return home(out) / folder.relative_to(home(out) / "runs") / f"{name}.json"


def tunable(method: str, published: Mapping[str, Any]) -> bool:
    """Whether a method has anything to tune: where not, its tuned row is its published one.

    Raises:
        ValueError: its search space is not well stated.

    >>> tunable("semckd", {"beta": 400.0}), tunable("student", {})
    (True, False)
    """
    return registry.get(method).search_space(published) != [{}]


def choice(
    out: Path, suite: str, dataset: str, convention: str, teacher: str, student: str, method: str, seed: int,
    published: Mapping[str, Any], words: Sequence[str] = (), taught_by: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The tuned values of a method on a pair; ``words`` and ``taught_by``, a teacher, are for the command proposed.

    Raises:
        ValueError: there are none, or they were tuned for something else, or on this very seed.
    """
    pair = f"{teacher}:{student}" if teacher else student
    pairs = f"{teacher or taught_by or 'TEACHER'}:{student}"
    named = " ".join(map(quote, words or ("--suite", suite)))
    asked = f"--methods {quote(method)} --pairs {pairs} {named} --out {quote(str(out))}"
    again = f"kdbench tune {asked}" + "".join(f" --plugin {quote(one)}" for one in registry.plugin_files())
    file = path(out, suite, teacher, student, method)
    try:
        found = read(file)
    except FileNotFoundError:
        raise ValueError(f"no tuned weights of {method} on {pair}; find them first: {again}") from None
    except ValueError as error:
        raise ValueError(f"{error}; tune again: {again}") from error
    if (found.suite, found.teacher, found.student, found.method) != (suite, teacher, student, method):
        raise ValueError(
            f"{file} is the choice of {found.method} on {found.pair} of suite {found.suite}, put in the place of"
            f" another; tune again: {again}"
        )
    if (found.dataset, found.convention, found.published) != (dataset, convention, dict(published)):
        raise ValueError(f"{file} was tuned with another data set, convention or published weight; tune again: {again}")
    if found.plugin_sha256 != registry.source_sha256(bare(method)):
        raise ValueError(f"{file} was tuned with another file of {method}; tune again: {again}")
    if seed in found.budget.seeds:
        raise ValueError(f"seed {seed} chose the weights of {method} on {pair}, so it cannot measure them; see --seeds")
    return dict(found.choice)


def bare(method: str) -> str:
    """The name before the brackets of a variant.

    >>> bare("itrd+sdd[standardise=True]")
    'itrd+sdd'
    """
    return method.partition("[")[0]


def _of(out: Path, cell: Cell) -> Tuned:
    """The choice from which a cell has its weights.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read.
    """
    return read(path(out, cell.suite, cell.teacher, cell.student, cell.choice or cell.method))


def same_budget(out: Path, cells: Sequence[Cell]) -> None:
    """Rows of one table were tuned alike.

    Raises:
        ValueError: naming two that were not.
    """
    first: dict[str, tuple[str, Budget]] = {}
    alike: dict[tuple[str, str], tuple[str, Tuned]] = {}
    for cell in cells:
        if cell.settings.weights == "tuned":
            found = _of(out, cell)
            spent = found.budget
            method, other = first.setdefault(cell.suite, (str(cell), spent))
            if spent != other:
                raise ValueError(
                    f"{cell} was tuned with {spent}, but {method} with {other}; rows of one table have the same budget:"
                    " tune them in one command"
                )
            method, before = alike.setdefault((cell.suite, cell.student), (str(cell), found))
            if unlike := before.unlike(found.recipe, found.precision, found.limit_train, found.budget.epochs):
                raise ValueError(
                    f"{cell} was tuned with {' and '.join(one.here for one in unlike)}, but {method} with"
                    f" {' and '.join(one.there for one in unlike)}; rows of one table have the same search: tune them"
                    " in one command"
                )


def under_others(out: Path, cells: Sequence[Cell]) -> list[str]:
    """That weights were tuned otherwise than they are used here, save for the length: at most one sentence.

    >>> under_others(Path("results"), [])
    []
    """
    found = []
    for cell in cells:
        if cell.settings.weights == "tuned":
            its = cell.settings
            with suppress(OSError, ValueError):  # whoever needs it says so
                unlike = _of(out, cell).unlike(its.recipe, its.precision, its.limit_train, its.epochs)
                found += [(word, cell.method) for word in unlike]
    return [said] if (said := under(found)) else []


def strange(out: Path, cell: Cell, data: Mapping[str, Any], teacher_sha256: str) -> str:
    """A sentence where a cell's weights were tuned on other data or under another teacher; empty: they were not."""
    if cell.settings.weights != "tuned":
        return ""
    try:
        found = _of(out, cell)
    except (OSError, ValueError) as error:  # taken away or edited since the run began
        return f"the weights of {cell} are gone: {error}"
    if cell.settings.limit_train == found.limit_train and found.data.get("fingerprint") != data.get("fingerprint"):
        return f"the weights of {cell} were tuned on other data; tune again, or choose another --out"
    untaught = not (found.teacher_sha256 or found.choice)  # refused before there was a teacher: nothing was chosen
    if found.teacher_sha256 != teacher_sha256 and not untaught:
        whole = "leave out --epochs, which shortens the teacher as no trial does" if cell.quick else "tune again"
        return (
            f"the weights of {cell} were tuned under another teacher ({found.teacher_sha256[:8] or 'none'}, here"
            f" {teacher_sha256[:8] or 'none'}); restore it, or {whole}"
        )
    return ""
