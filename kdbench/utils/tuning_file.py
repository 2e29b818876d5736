"""What `kdbench tune` writes of a choice: the model of the file, sealed like a record; written and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdbench.utils import sealed
from kdbench.utils.wording import count

Value = bool | int | float | str
FORMAT = 1
#: Facts of a recipe that move with the length of a run.
_OF_LENGTH = {"milestones", "warmup_epochs"}


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
        seeds = ", ".join(map(str, self.seeds))
        return f"{count(self.trials, 'trial')} of {count(self.epochs, 'epoch')}, seeds {seeds}"


class Unlike(NamedTuple):
    """One thing in which a search and something else differ.

    >>> print(Unlike("lr 0.5", "lr 0.02"))
    lr 0.5, not lr 0.02
    """

    there: str  # the search
    here: str

    def __str__(self) -> str:
        return f"{self.there}, not {self.here}"


def under(found: Iterable[tuple[Unlike, str]]) -> str:
    """A sentence of methods whose weights were found otherwise than they are used; empty where there is none.

    >>> under([(Unlike("lr 0.5", "lr 0.02"), "kd"), (Unlike("lr 0.5", "lr 0.02"), "crd")])
    'Weights were tuned under other conditions, and what is best there need not be best here: lr 0.5, not ...'
    """
    by_word: dict[str, dict[str, None]] = {}
    for word, method in found:
        by_word.setdefault(str(word), {})[method] = None
    if not by_word:
        return ""
    listed = "; ".join(f"{what} ({', '.join(methods)})" for what, methods in by_word.items())
    return f"Weights were tuned under other conditions, and what is best there need not be best here: {listed}"


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

    def unlike(
        self, recipe: Mapping[str, Any], precision: str, limit_train: int | None, epochs: int | None
    ) -> list[Unlike]:
        """In what else but the held-out images students are trained otherwise than those that the choice rests on.

        What moves with the length counts only where that is the same; the length itself is told apart.
        """
        apart = {"validation", "eval_every"} | (_OF_LENGTH if epochs != self.budget.epochs else set())
        names = [name for name in (*self.recipe, *(recipe.keys() - self.recipe.keys())) if name not in apart]
        differing = [name for name in names if _plain(self.recipe.get(name)) != _plain(recipe.get(name))]
        found = [Unlike(*(f"{name} {_plain(of.get(name))}" for of in (self.recipe, recipe))) for name in differing]
        if self.precision != precision:
            found.append(Unlike(self.precision, precision))
        if self.limit_train != limit_train:
            amounts = ("all images" if n is None else count(n, "image") for n in (self.limit_train, limit_train))
            found.append(Unlike(*amounts))
        return found


def _plain(value: Any) -> Any:
    """Lists as the file has them, so that what was read is what was written."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else "none" if value is None else value


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
    return Tuned.model_validate(sealed.write(one, file))


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
    values = sealed.fields(file)
    if "checksum" not in values:
        raise ValueError(f"{file} has no tuned weights: it has no checksum")
    sealed.check(file, values)
    if (written := values.get("format")) != FORMAT:
        raise ValueError(
            f"{file} has weights of format {written!r}, and this kdbench reads {FORMAT}: a later one wrote it"
        )
    try:
        return Tuned.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{file} has no tuned weights of this kdbench: {error.errors()[0]['msg']}") from error
    except RecursionError:
        raise ValueError(f"{file} has no tuned weights: it is nested too deeply") from None
