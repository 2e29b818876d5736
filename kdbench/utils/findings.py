"""What a probe found out about one student or teacher <-> one sealed JSON file below ``<out>/probes/``.

``kdbench.probes`` writes them, ``kdbench.report`` reads them: both know this file and not each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench.utils import sealed

FORMAT = 1
#: ``method`` of what was measured on a teacher itself.
TEACHER = "teacher"
Value = bool | int | float | str
Number = Annotated[float, Field(allow_inf_nan=False)]


class Matrix(BaseModel):
    """Numbers with names at their rows and columns; None: there is no such number.

    >>> Matrix(rows=("s1", "s2"), columns=("t1",), values=((0.9,), (None,))).values[0]
    (0.9,)
    >>> Matrix(rows=("s1", "s2"), columns=("t1",), values=((0.9,),))
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: ...a matrix of 2 x 1 names has other numbers of values...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Number | None, ...], ...]

    @model_validator(mode="after")
    def _is_one(self) -> Matrix:
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(f"a matrix of {len(self.rows)} x {len(self.columns)} names has other numbers of values")
        return self


class Finding(BaseModel):
    """One probe of one network: ``summary`` for a table, ``rows`` for a long CSV file, ``matrices`` for figures.

    >>> from kdbench.testing.examples import finding
    >>> one = Finding(**finding(summary={"ECE (%)": 3.1}))
    >>> one.probe, one.method, one.summary
    ('calibration', 'kd', {'ECE (%)': 3.1})
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    probe: str
    suite: str
    dataset: str
    teacher: str  # "" where the network has none beside it
    student: str
    method: str  # as tables show it, or TEACHER
    seed: int | None = None  # None: a teacher
    quick: bool
    variant: str = ""  # what tells measurements of one probe apart: "stl10, logistic"
    settings: dict[str, Any]
    identity: dict[str, str]  # of all that the numbers rest on: hashes, the version of the probe
    summary: dict[str, Number | None]
    rows: tuple[dict[str, Value | None], ...] = ()
    matrices: dict[str, Matrix] = {}
    notes: tuple[str, ...] = ()
    code: dict[str, Any]
    environment: dict[str, Any]
    finished: str  # ISO 8601
    checksum: str = ""  # set by ``write``


def write(one: Finding, path: Path) -> Finding:
    """Put a finding on disk, whole or not at all; returns it as it will be read.

    Raises:
        OSError: it cannot be written; what lay there before is untouched.

    >>> from kdbench.testing.examples import finding
    >>> path = Path("probes/digits/pair/kd.json")
    >>> write(Finding(**finding()), path) == read(path)
    True
    """
    return Finding.model_validate(sealed.write(one, path))


def read(path: Path) -> Finding:
    """The finding in a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was cut or edited, is of another format, or cannot be read; one sentence.

    >>> _ = Path("cut.json").write_text('{"format": 1')
    >>> read(Path("cut.json"))
    Traceback (most recent call last):
    ValueError: cut.json is truncated or not JSON: ...
    """
    values = sealed.fields(path)
    if "checksum" not in values:
        raise ValueError(f"{path} is not what a probe writes: it has no checksum")
    sealed.check(path, values)
    if values.get("format") != FORMAT:
        raise ValueError(f"{path} has format {values.get('format')!r}, this kdbench reads format {FORMAT}")
    try:
        return Finding.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not what a probe writes: {at + ': ' if at else ''}{first['msg']}") from error
    except (RecursionError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is not what a probe writes: {type(error).__name__}: {error}") from error


def read_all(folder: Path) -> tuple[list[Finding], list[str]]:
    """Every finding below a folder in the order of the paths, and a sentence for each file that is none.

    >>> from kdbench.testing.examples import finding
    >>> for seed in (0, 1):
    ...     _ = write(Finding(**finding(seed=seed)), Path(f"all/digits/pair/kd-{seed}.json"))
    >>> found, problems = read_all(Path("all"))
    >>> [one.seed for one in found], problems
    ([0, 1], [])
    """
    found: list[Finding] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*/*/*.json")):
        try:
            found.append(read(path))
        except FileNotFoundError:
            continue  # taken away by a command beside this one
        except ValueError as error:
            problems.append(str(error))
    return found, problems
