"""Tuned weights on disk: ``<out>/tuned/<suite>/<teacher>-<student>/<method>.json``, one file for each choice.

A file has every trial with its accuracies, the budget, and what they were measured on. It is sealed like a record.
``kdbench tune`` writes them, ``kdbench run --weights tuned`` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdbench import registry
from kdbench.record import Value, runs_folder, safe_name
from kdbench.utils.files import atomic_write
from kdbench.utils.sealing import checksum

if TYPE_CHECKING:
    from kdbench.run.grid import Cell

FORMAT = 1


class Score(BaseModel):
    """One trial with one seed: validation accuracy in percent after the last epoch, or why there is none.

    >>> Score(seed=1000, settings="0123abcd", val_top1=97.5).reason
    ''
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    settings: str  # hash of the trial's settings, which names its record
    val_top1: float | None = None
    reason: str = ""


class Trial(BaseModel):
    """One candidate of the search space.

    >>> one = Score(seed=1000, settings="0123abcd", val_top1=97.0)
    >>> other = Score(seed=1001, settings="4567abcd", val_top1=98.0)
    >>> Trial(values={"beta": 400.0}, published=True, scores=(one, other)).mean
    97.5
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    values: dict[str, Value]
    published: bool  # the values in force without tuning
    scores: tuple[Score, ...]

    @property
    def mean(self) -> float | None:
        """Over the seeds; None where one of them failed: such a candidate is not chosen."""
        found = [score.val_top1 for score in self.scores if score.val_top1 is not None]
        return sum(found) / len(found) if found and len(found) == len(self.scores) else None


class Budget(BaseModel):
    """What was spent on a method: the same for every one.

    >>> print(Budget(trials=6, epochs=30, seeds=(1000,), validation=0.1))
    6 trials of 30 epochs, seeds 1000
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int
    epochs: int
    seeds: tuple[int, ...]
    validation: float  # share of the training images

    def __str__(self) -> str:
        return f"{self.trials} trials of {self.epochs} epochs, seeds {', '.join(map(str, self.seeds))}"


class Tuned(BaseModel):
    """The choice of one method on one pair, and all that it rests on.

    >>> words = {"suite": "digits", "dataset": "digits", "convention": "crd"}
    >>> words |= {"teacher": "resnet20", "student": "resnet8"}
    >>> facts = {"recipe": {}, "precision": "fp32", "data": {}, "code": {}, "finished": "2026-01-01"}
    >>> budget = Budget(trials=6, epochs=30, seeds=(1000,), validation=0.1)
    >>> score = Score(seed=1000, settings="0123abcd", val_top1=97.0)
    >>> facts["trials"] = (Trial(values={"beta": 10.0}, published=False, scores=(score,)),)
    >>> one = Tuned(**words, **facts, method="fitnet", published={"beta": 100.0}, choice={"beta": 10.0}, budget=budget)
    >>> one.choice
    {'beta': 10.0}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    format: int = FORMAT
    suite: str
    dataset: str
    convention: str
    teacher: str  # "" where the method needs none
    student: str
    method: str
    published: dict[str, Value]  # every hyper-parameter that is in force without tuning
    trials: tuple[Trial, ...]
    choice: dict[str, Value]  # values that replace the published ones; {}: these stay
    reason: str = ""  # why there was nothing to choose
    over_published: float | None = None  # margin of the choice in points of validation accuracy; None: it failed
    over_second: float | None = None  # over the best other candidate
    budget: Budget
    recipe: dict[str, Any]
    limit_train: int | None = None
    precision: str
    data: dict[str, Any]
    teacher_sha256: str = ""
    plugin_sha256: str = ""
    code: dict[str, Any]
    finished: str  # ISO 8601
    checksum: str = ""  # set by ``write``

    @model_validator(mode="after")
    def _chosen_from_the_trials(self) -> Tuned:
        if self.choice and self.choice not in [trial.values for trial in self.trials]:
            raise ValueError("the choice is none of the trials")
        return self

    @property
    def pair(self) -> str:
        """``teacher:student``, or the student alone."""
        return f"{self.teacher}:{self.student}" if self.teacher else self.student


def home(out: Path) -> Path:
    """Where tuned weights, and the records of their trials, lie.

    >>> home(Path("results")).as_posix()
    'results/tuned'
    """
    return out / "tuned"


def path(out: Path, suite: str, teacher: str, student: str, method: str) -> Path:
    """The file of a choice; ``teacher`` is empty where the method needs none.

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
    return home(out) / folder.relative_to(home(out) / "runs") / f"{safe_name(method)[:100]}.json"


def write(one: Tuned, file: Path) -> Tuned:
    """Put a choice on disk, whole or not at all; returns it as it will be read.

    Raises:
        OSError: it cannot be written.

    >>> words = {"suite": "digits", "dataset": "digits", "convention": "crd"}
    >>> words |= {"teacher": "resnet20", "student": "resnet8"}
    >>> facts = {"recipe": {}, "precision": "fp32", "data": {}, "code": {}, "finished": "2026-01-01"}
    >>> budget = Budget(trials=6, epochs=30, seeds=(1000,), validation=0.1)
    >>> score = Score(seed=1000, settings="0123abcd", val_top1=97.0)
    >>> facts["trials"] = (Trial(values={"beta": 10.0}, published=False, scores=(score,)),)
    >>> one = Tuned(**words, **facts, method="fitnet", published={"beta": 100.0}, choice={"beta": 10.0}, budget=budget)
    >>> write(one, Path("fitnet.json")) == read(Path("fitnet.json"))
    True
    """
    values = json.loads(one.model_dump_json(exclude={"checksum"}))
    values["checksum"] = checksum(values)
    with atomic_write(file, "w") as opened:
        json.dump(values, opened, indent=1, allow_nan=False)
        opened.write("\n")
    return Tuned.model_validate(values)


def read(file: Path) -> Tuned:
    """The choice in a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was cut or edited, or cannot be read.

    >>> _ = Path("fitnet.json").write_text('{"beta": 10, "checksum": "0123"}')
    >>> read(Path("fitnet.json"))
    Traceback (most recent call last):
    ValueError: fitnet.json was changed after it was written: its checksum differs
    """
    try:
        values = json.loads(file.read_bytes())
        sealed = values["checksum"] == checksum({name: value for name, value in values.items() if name != "checksum"})
        if not sealed:
            raise ValueError(f"{file} was changed after it was written: its checksum differs")
        return Tuned.model_validate(values)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        raise ValueError(f"{file} has no tuned weights of this kdbench: {error.errors()[0]['msg']}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error
    except (OSError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} has no tuned weights: {type(error).__name__}: {error}") from error


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
    published: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The tuned values of a method on a pair.

    Raises:
        ValueError: there are none, or they were tuned for something else, or on this very seed.
    """
    pair = f"{teacher}:{student}" if teacher else student
    asked = f"--methods {method} --pairs {pair if teacher else f'TEACHER:{student}'} --suite {suite} --out {out}"
    again = f"kdbench tune {asked}"
    file = path(out, suite, teacher, student, method)
    try:
        found = read(file)
    except FileNotFoundError:
        raise ValueError(f"no tuned weights of {method} on {pair}; find them first: {again}") from None
    except ValueError as error:
        raise ValueError(f"{error}; tune again: {again}") from error
    if (found.dataset, found.convention, found.published) != (dataset, convention, dict(published)):
        raise ValueError(f"{file} was tuned with another data set, convention or published weight; tune again: {again}")
    if found.plugin_sha256 != registry.source_sha256(method):
        raise ValueError(f"{file} was tuned with another file of {method}; tune again: {again}")
    if seed in found.budget.seeds:
        raise ValueError(f"seed {seed} chose the weights of {method} on {pair}, so it cannot measure them; see --seeds")
    return dict(found.choice)


def same_budget(out: Path, cells: Sequence[Cell]) -> None:
    """Rows of one table were tuned alike.

    Raises:
        ValueError: naming two that were not.
    """
    first: dict[str, tuple[str, Budget]] = {}
    for cell in cells:
        if cell.settings.weights == "tuned":
            spent = read(path(out, cell.suite, cell.teacher, cell.student, cell.method)).budget
            method, other = first.setdefault(cell.suite, (str(cell), spent))
            if spent != other:
                raise ValueError(
                    f"{cell} was tuned with {spent}, but {method} with {other}; rows of one table have the same budget:"
                    " tune them in one command"
                )


def strange(out: Path, cell: Cell, data: Mapping[str, Any], teacher_sha256: str) -> str:
    """A sentence where a cell's weights were tuned on other data or under another teacher; empty: they were not."""
    if cell.settings.weights != "tuned":
        return ""
    try:
        found = read(path(out, cell.suite, cell.teacher, cell.student, cell.method))
    except (OSError, ValueError) as error:  # taken away or edited since the run began
        return f"the weights of {cell} are gone: {error}"
    if cell.settings.limit_train == found.limit_train and found.data.get("fingerprint") != data.get("fingerprint"):
        return f"the weights of {cell} were tuned on other data; tune again, or choose another --out"
    if found.teacher_sha256 != teacher_sha256:
        return (
            f"the weights of {cell} were tuned under another teacher ({found.teacher_sha256[:8] or 'none'}, here"
            f" {teacher_sha256[:8] or 'none'}); restore it, or tune again"
        )
    return ""
