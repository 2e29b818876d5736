"""What every probe is: a name, settings, and a function from a loaded network to numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdbench.utils.findings import Matrix, Value
from kdbench.utils.wording import quoted

if TYPE_CHECKING:
    from kdbench.probes.subject import Subject


class NotApplicable(ValueError):
    """There is nothing to measure on this network, which is nobody's fault; the text says why."""


class Settings(BaseModel):
    """Settings of a probe: lists are written with commas in ``--set probe.key=a,b``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _none_is_empty(self) -> Self:
        for name, known in type(self).model_fields.items():
            if known.default and getattr(self, name) == ():
                raise ValueError(f"{name} is empty, so nothing would be measured")
        return self


@dataclass(frozen=True)
class Found:
    """What a measurement gives, see ``kdbench.utils.findings.Finding``."""

    summary: dict[str, float | None]
    rows: Sequence[dict[str, Value | None]] = ()
    matrices: dict[str, Matrix] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Context:
    """What a command gives to its probes beside their settings.

    >>> Context(data_dir=Path("data"), asked=frozenset({"transfer.data"})).cifar_c is None
    True
    """

    data_dir: Path | None = None
    cifar_c: Path | None = None
    asked: frozenset[str] = frozenset()  # settings said by the user, as ``probe.key``


S = TypeVar("S", bound=Settings)


def _alone(settings: S, context: Context) -> list[S]:
    return [settings]


def _nothing(settings: Settings, subject: Subject, context: Context) -> dict[str, str]:
    return {}


def _unnamed(settings: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Probe(Generic[S]):
    """One probe.

    Attributes:
        name: as on the command line.
        settings: what ``--set NAME.key=value`` may change.
        measure: the numbers of one network.
        needs_teacher: whether it compares with the teacher; such a probe has no row of the teacher itself.
        version: raised with every change that moves numbers: older files are measured anew.
        spread: settings taken apart into those of single measurements, each with a file of its own.
        rests_on: hashes of further data that the numbers rest on.
        variant: what tells these measurements apart in a table.
        applies: raises NotApplicable where a method has nothing to measure.
    """

    name: str
    settings: type[S]
    measure: Callable[[Subject, S, Context], Found]
    needs_teacher: bool = False
    version: int = 1
    spread: Callable[[S, Context], list[S]] = _alone
    rests_on: Callable[[S, Subject, Context], dict[str, str]] = _nothing
    variant: Callable[[S], str] = _unnamed

    def set(self, words: dict[str, str]) -> S:
        """The settings with these changed.

        Raises:
            ValueError: no such setting, or a value that will not do.
        """
        raw: dict[str, Any] = {}
        for key, value in words.items():
            if key not in self.settings.model_fields:
                known = ", ".join(f"{self.name}.{name}" for name in self.settings.model_fields)
                raise ValueError(f"no setting {quoted(f'{self.name}.{key}')}; there are {known or 'none'}")
            listed = str(self.settings.model_fields[key].annotation).startswith("tuple")
            raw[key] = [part.strip() for part in value.split(",") if part.strip()] if listed else value.strip()
        try:
            return self.settings.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else next(iter(words))
            said = words.get(key, "")
            why = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{self.name}.{key}={quoted(said)} will not do: {why}") from error
