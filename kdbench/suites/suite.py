"""A suite: data set, pairs, recipe, convention and published table of one comparison."""

from __future__ import annotations

import re
import tomllib
from functools import cache, reduce
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from kdbench.suites._files import HOME, anchored, find, nearest, read, sentence, shipped
from kdbench.suites.convention import convention_names
from kdbench.suites.kinds import (
    CLASSES,
    SEEDS,
    Name,
    Pixels,
    Said,
    Seed,
    two_names,
)
from kdbench.suites.recipe import SHARED, STUDENTS_OWN, Recipe, of_teacher
from kdbench.utils.wording import printable, quoted

Rule = Literal["last", "best_test"]


class Suite(BaseModel):
    """One comparison. ``teacher`` is its recipe for teachers: what its TOML table leaves out is as in ``recipe``.

    The path of ``dataset = "imagefolder:PATH@SIZE"`` starts from the folder of the TOML file.

    >>> digits = load("digits")
    >>> digits.dataset, digits.num_classes, digits.pairs[0]
    ('digits', 10, ('resnet20', 'resnet8'))
    >>> digits.set("recipe.lr", "0.1").recipe.lr
    0.1
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: str
    dataset: Said
    image_size: Pixels
    num_classes: Annotated[int, Field(strict=True, ge=2, le=CLASSES)]
    convention: Said
    pairs: tuple[tuple[Said, Said], ...]  # teacher, student
    recipe: Recipe
    teacher: Recipe
    default_methods: Annotated[tuple[Said, ...], Field(min_length=1)]
    default_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=SEEDS)] = (0, 1, 2)
    published: str | None = None  # CSV file beside the suite's
    published_rule: Rule | None = None  # of those of its numbers whose epoch nobody tells
    records: str | None = None  # CSV file beside the suite's: see kdbench.suites.records
    notes: str = ""

    _home: Traversable = PrivateAttr(default=HOME)

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, raw: Any) -> Any:
        """``teacher:student`` -> two names; the teacher's recipe starts from the student's."""
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        if isinstance(raw.get("pairs"), list | tuple):
            raw["pairs"] = [two_names(p) if isinstance(p, str) else p for p in raw["pairs"]]
        if isinstance(raw.get("recipe"), dict) and isinstance(raw.get("teacher", {}), dict):
            raw["teacher"] = of_teacher(raw["recipe"], raw.get("teacher", {}))
        return raw

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.pairs:
            raise ValueError("a suite has one pair at least")
        if (padding := max(self.recipe.crop_padding, self.teacher.crop_padding)) > self.image_size:
            raise ValueError(f"crop_padding is at most the image's size, {self.image_size}, not {padding}")
        if (self.teacher.mean, self.teacher.std) != (self.recipe.mean, self.recipe.std):
            raise ValueError("teacher and student see the same images, so mean and std are set in the recipe only")
        for name in SHARED:
            if getattr(self.teacher, name) != getattr(self.recipe, name):
                raise ValueError(f"teacher and student share {name}, so it is set in the recipe only")
        for name, why in STUDENTS_OWN.items():
            if getattr(self.teacher, name) != Recipe.model_fields[name].default:
                raise ValueError(f"{why}, so {name} is set in the recipe only")
        if not self.convention.endswith(".toml") and self.convention not in convention_names():
            raise ValueError(f"no convention {quoted(self.convention)}; {nearest(self.convention, convention_names())}")
        if (self.published is None) != (self.published_rule is None):
            raise ValueError("published and published_rule go together")
        return self

    def lr_for(self, model: str, *, role: Literal["student", "teacher"] = "student") -> float:
        """Starting learning rate that this suite trains a model with, in that role; for whoever shows it."""
        return (self.recipe if role == "student" else self.teacher).lr_for(model)

    def set(self, key: str, value: str) -> Suite:
        """A copy with one setting changed: ``set("recipe.lr", "0.1")``, for ``--set recipe.lr=0.1``.

        Lists are written with commas. The teacher's recipe does not follow the student's, save
        for mean, std and the draw and map of noisy labels, which they share; ``teacher.epochs`` moves its
        milestones in proportion.
        The path of an image folder starts from the current folder here.

        Raises:
            ValueError: no such setting, or a value that will not do.
        """
        if key == "recipe.epochs":
            raise ValueError("the length of the run is set with --epochs, which moves the milestones in proportion")
        settable = [
            "dataset",
            "image_size",
            "num_classes",
            "convention",
            *(f"recipe.{name}" for name in Recipe.model_fields if name != "epochs"),
            *(f"teacher.{name}" for name in Recipe.model_fields if name not in (*SHARED, *STUDENTS_OWN)),
        ]
        if key not in settable:
            near = f"did you mean recipe.{key}?" if f"recipe.{key}" in settable else nearest(key, settable)
            raise ValueError(f"no setting {quoted(key)}; {near}")
        table, _, field = key.rpartition(".")
        listed = str(Recipe.model_fields[field].annotation).startswith("tuple") if table else False
        new = [_value(part) for part in value.split(",") if part.strip()] if listed else _value(value)
        raw = self.model_dump()
        for home in ("recipe", "teacher") if field in SHARED else (table,):
            (raw[home] if home else raw)[field] = new
        if key == "dataset" and isinstance(new, str):
            raw["dataset"] = anchored(new)
        if key == "teacher.epochs" and isinstance(new, int):
            raw["teacher"]["milestones"] = self.teacher.milestones_for(max(1, new))
            raw["teacher"]["warmup_epochs"] = self.teacher.warmup_for(max(1, new))
        try:
            changed = Suite.model_validate(raw)
        except ValidationError as error:
            raise ValueError(f"{key}={printable(value, 60)} will not do: {sentence(error)}") from error
        changed._home = self._home
        return changed

    def override(self, **settings: str) -> Suite:
        """``set`` for several settings; a key has ``__`` where ``set`` has a dot."""
        return reduce(lambda suite, item: suite.set(item[0].replace("__", "."), item[1]), settings.items(), self)


def names() -> list[str]:
    """Every suite that kdbench brings, sorted.

    >>> {"crd", "digits", "semckd"} <= set(names())
    True
    """
    others = ("convention_", "teachers.")
    files = (file for file in shipped() if file.endswith(".toml") and not file.startswith(others))
    return sorted(file.removesuffix(".toml") for file in files)


def load(name: str) -> Suite:
    """The suite of a name, or of the path of a TOML file.

    Raises:
        ValueError: there is none, or the file does not say what a suite must.

    >>> load("digits").num_classes
    10
    >>> load("digit")
    Traceback (most recent call last):
    ValueError: no suite 'digit' (a file of yours ends in .toml); did you mean digits?
    """
    file, home = find("suite", name, names())
    return _own(name) if home is HOME else _checked(file, home)


@cache
def _own(name: str) -> Suite:
    """One of kdbench's: read once."""
    return _checked(HOME / f"{name}.toml", HOME)


def _checked(file: Traversable, home: Traversable) -> Suite:
    raw = read(file)
    if isinstance(home, Path) and isinstance(raw.get("convention"), str) and raw["convention"].endswith(".toml"):
        raw["convention"] = str(home / raw["convention"])  # one that lies beside the user's suite
    if isinstance(home, Path) and isinstance(raw.get("dataset"), str):
        raw["dataset"] = anchored(raw["dataset"], home)
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"suite {file.name}: {sentence(error)}") from error
    suite._home = home
    return suite


def _value(text: str) -> Any:
    """A number or a truth value as TOML writes it, else the text itself."""
    text = text.strip()
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML; a number of thousands of digits; thousands of brackets
        # .5 and 5. are numbers to everybody but TOML.
        return float(text) if re.fullmatch(r"[+-]?(\.[0-9]{1,20}|[0-9]{1,20}\.)", text) else text
