"""One finished, failed or refused run <-> one JSON file; its existence means that the run is over.

A record carries all that a table needs and all that the run was made with. It is written once, whole or
not at all, and sealed with a checksum: a file that was cut or edited is never taken for a measurement.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench.utils import sealed
from kdbench.utils.naming import cell_stem, runs_folder, safe_name
from kdbench.utils.precisions import canonical
from kdbench.utils.sealing import checksum

FORMAT = 2
FAILED_SUFFIX = ".failed.json"

# What may differ between an uninterrupted run and the same run killed and resumed.
_CIRCUMSTANCES = {"group_seconds", "group_lanes", "images_per_second", "environment", "code", "finished", "checksum"}

Value = bool | int | float | str
Status = Literal["done", "failed", "unsupported"]


class RecordDamaged(ValueError):
    """A file that is not a record as kdbench wrote it; the text is one sentence that names the file.

    >>> _ = Path("run.json").write_text('{"top1": 75.3}')
    >>> read(Path("run.json"))
    Traceback (most recent call last):
    kdbench.record.RecordDamaged: run.json is not a record of kdbench: it has no format or no checksum
    """


class Assistant(BaseModel):
    """Who taught in the teacher's place: a network distilled from the teacher by a method.

    >>> Assistant(student="resnet8x4_double", method="pkt", hyper={"beta": 30000.0}).student
    'resnet8x4_double'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    student: str
    method: str
    hyper: dict[str, Value]


class Settings(BaseModel):
    """Everything that sets a run's numbers. Its hash names the cell's files.

    A setting that came later has a default under which older runs were made, and is part of the hash only
    where it is set otherwise: new settings leave the names of old records as they are.

    >>> words = {"suite": "digits", "dataset": "digits", "convention": "semckd", "teacher": "resnet20", "method": "kd"}
    >>> one = Settings(**words, student="resnet8", hyper={"tau": 4.0}, seed=0, epochs=30, recipe={"lr": 0.05})
    >>> one.pair, one.hash
    ('resnet20:resnet8', 'c39a57e2')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    suite: str
    dataset: str
    convention: str
    teacher: str  # "" where the method needs none: one cell for all pairs of a student
    student: str
    method: str  # registered name, or a combination a+b
    hyper: dict[str, Value]  # every one, defaults and convention resolved
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    epochs: Annotated[int, Field(ge=1, lt=2**31)]
    recipe: dict[str, Any]
    limit_train: int | None = None
    precision: str = "fp32"
    compile: bool = False
    assistant: Assistant | None = None
    pretrained: str = ""  # sha256 of what the student starts from, see ``Tapped.pretrained``
    weights: Literal["published", "tuned"] = "published"  # where values come from that were not set by hand

    @property
    def pair(self) -> str:
        """``teacher:student``, or the student alone where the method needs no teacher."""
        return f"{self.teacher}:{self.student}" if self.teacher else self.student

    @property
    def hash(self) -> str:
        """8 hex digits; the same for 400 and 400.0, for lists and tuples, and for any order of the keys."""
        return settings_hash(self.model_dump(exclude_defaults=True))

    def facts(self) -> dict[str, Any]:
        """The settings as plain values."""
        return self.model_dump(mode="json")


class Point(BaseModel):
    """One epoch of a curve: learning rate, mean training terms and, where it was tested, accuracy in percent.

    >>> Point(epoch=0, lr=0.05, seconds=1.5, terms={"ce": 2.3}).model_dump_json(exclude_none=True)
    '{"epoch":0,"lr":0.05,"seconds":1.5,"terms":{"ce":2.3}}'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    epoch: int
    lr: float
    seconds: float  # since the start of the run
    terms: dict[str, float] = {}
    top1: float | None = None
    val_top1: float | None = None
    ema_top1: float | None = None  # of the averaged weights, where the recipe keeps them


class OfSettings:
    """What a cell and its record are by their settings.

    >>> class Asked(OfSettings):
    ...     "A cell that somebody asked for."
    >>> asked = Asked()
    >>> words = {"suite": "digits", "dataset": "digits", "convention": "semckd", "teacher": "resnet20", "method": "kd"}
    >>> asked.settings = Settings(**words, student="resnet8", hyper={}, seed=0, epochs=30, recipe={})
    >>> asked.suite, asked.pair, asked.epochs
    ('digits', 'resnet20:resnet8', 30)
    """

    settings: Settings

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return self.settings.suite

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.settings.dataset

    @property
    def convention(self) -> str:
        """Of the loss weights."""
        return self.settings.convention

    @property
    def teacher(self) -> str:
        """The teacher's network; empty where the method needs none."""
        return self.settings.teacher

    @property
    def student(self) -> str:
        """The student's network."""
        return self.settings.student

    @property
    def pair(self) -> str:
        """``teacher:student``, or the student alone where the method needs no teacher."""
        return self.settings.pair

    @property
    def seed(self) -> int:
        """Of all random numbers."""
        return self.settings.seed

    @property
    def epochs(self) -> int:
        """Length of the main stage."""
        return self.settings.epochs


class Record(OfSettings, BaseModel):
    """One run. Accuracies, ECE and agreement in percent; parameters counted beside the plain student's.

    >>> words = {"suite": "digits", "dataset": "digits", "convention": "semckd", "teacher": "resnet20", "method": "kd"}
    >>> settings = Settings(**words, student="resnet8", hyper={}, seed=0, epochs=30, recipe={})
    >>> facts = {"provenance": "formula", "modified_student": False, "quick": False, "finished": "2026-01-01"}
    >>> one = Record(status="failed", method="kd", settings=settings, reason="nan", code={}, environment={}, **facts)
    >>> one.pair, one.seed, one.reason
    ('resnet20:resnet8', 0, 'nan')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    format: int = FORMAT
    status: Status
    method: str  # as tables show it: semckd, semckd[beta=200], crd+kd
    quick: bool  # shorter than the suite's recipe or on a part of the training set
    settings: Settings
    reason: str = ""  # why a cell failed or was refused

    top1_last: float | None = None
    top1_best_test: float | None = None  # chosen on the test set: an oracle
    top1_at_best_val: float | None = None
    ema_top1_last: float | None = None  # of the averaged weights, where the recipe keeps them
    top5_last: float | None = None
    nll: float | None = None
    ece: float | None = None
    agreement: float | None = None  # share of test images where student and teacher say the same
    curve: list[Point] = Field(default_factory=list)

    weights_sha256: str = ""
    kept_sha256: str = ""  # of what is kept beside the student, see ``beside_sha256``; "": nothing, or an older record
    data: dict[str, Any] = Field(default_factory=dict)  # identity of the data set, see kdbench.data
    teacher_sha256: str = ""
    teacher_top1: float | None = None
    teacher_normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean, std; None: the recipe's
    assistant_sha256: str = ""  # of the network that taught in the teacher's place, where one did
    plugin_sha256: str = ""  # of the method's file, where it is not kdbench's own
    group_seconds: float | None = None  # of all lanes that were trained together
    group_lanes: int | None = None
    images_per_second: float | None = None  # of all of them
    extra_train_params: int | None = None
    extra_infer_params: int | None = None
    provenance: str
    modified_student: bool
    code: dict[str, Any]
    environment: dict[str, Any]
    finished: str  # ISO 8601
    checksum: str = ""  # set by `write`

    @model_validator(mode="after")
    def _says_what_it_must(self) -> Record:
        if self.status == "done":
            for name in ("top1_last", "top1_best_test"):
                value = getattr(self, name)
                if value is None or not 0 <= value <= 100:
                    raise ValueError(f"a finished run needs {name} in percent, not {value}")
        elif not self.reason:
            raise ValueError(f"a {self.status} run needs a reason")
        return self

    @property
    def settings_hash(self) -> str:
        """8 hex digits over the settings."""
        return self.settings.hash

    def measured(self) -> dict[str, Any]:
        """What an interrupted and resumed run must reproduce exactly."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude=_CIRCUMSTANCES))
        for point in values["curve"]:
            del point["seconds"]
        return values


def write(record: Record, path: Path) -> Record:
    """Put a record on disk, whole or not at all; returns it as it will be read, checksum and all.

    Raises:
        OSError: the file cannot be written; what lay there before is untouched.

    >>> words = {"suite": "digits", "dataset": "digits", "convention": "semckd", "teacher": "resnet20", "method": "kd"}
    >>> settings = Settings(**words, student="resnet8", hyper={}, seed=0, epochs=30, recipe={})
    >>> facts = {"provenance": "formula", "modified_student": False, "quick": False, "finished": "2026-01-01"}
    >>> one = Record(status="failed", method="kd", settings=settings, reason="nan", code={}, environment={}, **facts)
    >>> write(one, Path("kd.json")) == read(Path("kd.json"))
    True
    """
    return Record.model_validate(sealed.write(record, path))


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordDamaged: truncated, not JSON, edited, or of a newer format.
        FileNotFoundError: no such file.

    >>> _ = Path("cut.json").write_text('{"format": 2, "sta')
    >>> read(Path("cut.json"))
    Traceback (most recent call last):
    kdbench.record.RecordDamaged: cut.json is truncated or not JSON: Unterminated string starting at: line ...
    """
    try:
        values = sealed.fields(path)
    except ValueError as error:
        raise RecordDamaged(str(error)) from error
    if "format" not in values or "checksum" not in values:
        raise RecordDamaged(f"{path} is not a record of kdbench: it has no format or no checksum")
    if values["format"] not in (*_UPGRADES, FORMAT):
        raise RecordDamaged(f"{path} has record format {values['format']}, this kdbench reads formats 1 to {FORMAT}")
    try:
        sealed.check(path, values)
    except ValueError as error:
        raise RecordDamaged(str(error)) from error
    try:
        while values["format"] != FORMAT:
            values = _UPGRADES[values["format"]](values)
        return Record.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise RecordDamaged(f"{path} is not a record of kdbench: {where}: {first['msg']}") from error
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RecordDamaged(f"{path} is not a record of kdbench: {type(error).__name__}: {error}") from error


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record under a folder in the order of the paths, and a sentence for each file that is none.

    A cell that failed once and was finished later counts as finished. A folder that cannot be read is a sentence.

    >>> Path("runs").mkdir()
    >>> _ = Path("runs/kd.json").write_text("{}")
    >>> read_all(Path("runs"))
    ([], ['runs/kd.json is not a record of kdbench: it has no format or no checksum'])
    """
    paths, problems = files(folder)
    records: list[Record] = []
    for path in paths:
        try:
            records.append(read(path))
        except FileNotFoundError:
            continue  # taken away by a run that goes on beside us
        except RecordDamaged as error:
            problems.append(str(error))
    return records, problems


def files(folder: Path) -> tuple[list[Path], list[str]]:
    """Files under a folder that may be records, sorted; and a sentence for each place that cannot be looked into.

    The failure of a cell that was finished later is left out.

    >>> Path("pair").mkdir()
    >>> for name in ("kd-s0.json", "kd-s0.failed.json", "kd-s0.ckpt"):
    ...     Path("pair", name).touch()
    >>> files(Path("pair"))
    ([PosixPath('pair/kd-s0.json')], [])
    """
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            problems.append(f"{error.filename} cannot be read: {error.strerror}; what lies in it is left out")

    found: set[Path] = set()
    for here, inner, names in os.walk(folder, onerror=unreadable):
        problems += [f"{Path(here, name)} is a folder, no record" for name in inner if name.endswith(".json")]
        for path in (Path(here, name) for name in names if name.endswith(".json") and not name.startswith(".")):
            try:
                usual = stat.S_ISREG(path.stat().st_mode)
            except FileNotFoundError:
                if path.is_symlink():
                    problems.append(f"{path} is a link to what is not there")
                continue  # else taken away by a run that goes on beside us
            except OSError:
                usual = True  # reading it says what is wrong
            if usual:
                found.add(path)
            else:  # a pipe would never end
                problems.append(f"{path} is not a file that could hold a record")
    mended = {path.with_name(path.name.removesuffix(".json") + FAILED_SUFFIX) for path in found}
    return sorted(found - mended), problems


def settings_hash(settings: Mapping[str, Any]) -> str:
    """8 hex digits over plain values; the same for 400 and 400.0, for lists and tuples, and for any order.

    >>> settings_hash({"beta": 400, "milestones": [150]}) == settings_hash({"milestones": (150,), "beta": 400.0})
    True
    """
    return checksum(settings)[:8]


def _from_1(values: dict[str, Any]) -> dict[str, Any]:
    """Format 1 said the facts of the settings twice, and seconds and memory that were not the method's own."""
    old = dict(values["settings"])
    precision = old.pop("precision", "exact")
    settings = {
        **{name: values[name] for name in ("suite", "dataset", "convention", "teacher", "student", "seed", "epochs")},
        **old,
        "precision": canonical(precision),
    }
    told = {"suite", "dataset", "convention", "teacher", "student", "seed", "epochs", "settings_hash"}
    told |= {"train_seconds", "images_per_second", "peak_mem_mb", "checksum"}
    new = {name: value for name, value in values.items() if name not in told}
    environment = dict(values["environment"])
    data = {"fingerprint": environment.pop("data")} if "data" in environment else {}
    return new | {"format": 2, "settings": settings, "environment": environment, "data": data}


_UPGRADES = {1: _from_1}

__all__ = [
    "FAILED_SUFFIX",
    "FORMAT",
    "Assistant",
    "Point",
    "Record",
    "RecordDamaged",
    "Settings",
    "cell_stem",
    "files",
    "read",
    "read_all",
    "runs_folder",
    "safe_name",
    "settings_hash",
    "write",
]
