"""One finished, failed or refused run <-> one JSON file; its existence means that the run is over.

A record carries all that a table needs and all that the run was made with. It is written once, whole or
not at all, and sealed with a checksum: a file that was cut or edited is never taken for a measurement.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench.utils.files import atomic_write

FORMAT = 1
FAILED_SUFFIX = ".failed.json"

CSV_COLUMNS = (
    "suite",
    "dataset",
    "teacher",
    "student",
    "method",
    "seed",
    "epochs",
    "top1_last",
    "top1_best_test",
    "top5_last",
    "nll",
    "ece",
    "agreement",
    "train_seconds",
    "images_per_second",
    "peak_mem_mb",
    "extra_train_params",
    "extra_infer_params",
    "status",
)

# What may differ between an uninterrupted run and the same run killed and resumed.
_CIRCUMSTANCES = {
    "train_seconds",
    "images_per_second",
    "peak_mem_mb",
    "environment",
    "code",
    "finished",
    "checksum",
}


class RecordDamaged(ValueError):
    """A file that is not a record as kdbench wrote it; the text is one sentence that names the file."""


class Point(BaseModel):
    """One epoch of a curve: learning rate, mean training terms and, where it was tested, accuracy in percent."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    epoch: int
    lr: float
    seconds: float  # since the start of the run
    terms: dict[str, float] = {}
    top1: float | None = None
    val_top1: float | None = None


class Record(BaseModel):
    """One run. Accuracies, ECE and agreement in percent; parameters counted beside the plain student's."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    format: int = FORMAT
    status: Literal["done", "failed", "unsupported"]
    suite: str
    dataset: str
    convention: str
    teacher: str
    student: str
    method: str  # as tables show it: semckd, semckd[beta=200], crd+kd
    seed: int
    epochs: int
    quick: bool  # shorter than the suite's recipe or on a part of the training set
    settings: dict[str, Any]  # everything that sets the numbers
    settings_hash: str
    reason: str = ""  # why a cell failed or was refused

    top1_last: float | None = None
    top1_best_test: float | None = None  # chosen on the test set: an oracle
    top1_at_best_val: float | None = None
    top5_last: float | None = None
    nll: float | None = None
    ece: float | None = None
    agreement: float | None = None  # share of test images where student and teacher say the same
    curve: list[Point] = Field(default_factory=list)

    weights_sha256: str = ""
    teacher_sha256: str = ""
    assistant_sha256: str = ""  # of the network that taught in the teacher's place, where one did
    teacher_top1: float | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    peak_mem_mb: float | None = None
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
    def pair(self) -> str:
        """``teacher:student``."""
        return f"{self.teacher}:{self.student}"

    def measured(self) -> dict[str, Any]:
        """What an interrupted and resumed run must reproduce exactly."""
        values = json.loads(self.model_dump_json(exclude=_CIRCUMSTANCES))
        for point in values["curve"]:
            del point["seconds"]
        return values


def write(record: Record, path: Path) -> Record:
    """Put a record on disk, whole or not at all; returns it as it will be read, checksum and all.

    Raises:
        OSError: the file cannot be written; what lay there before is untouched.
    """
    values = json.loads(record.model_dump_json(exclude={"checksum"}))
    values["checksum"] = _checksum(values)
    with atomic_write(path, "w") as file:
        json.dump(values, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    return Record.model_validate(values)


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordDamaged: truncated, not JSON, edited, or of another format.
        FileNotFoundError: no such file.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordDamaged(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordDamaged(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(values, dict) or "format" not in values or "checksum" not in values:
        raise RecordDamaged(f"{path} is not a record of kdbench: it has no format or no checksum")
    if values["format"] != FORMAT:
        raise RecordDamaged(f"{path} has record format {values['format']}, this kdbench reads format {FORMAT}")
    if values["checksum"] != _checksum({name: value for name, value in values.items() if name != "checksum"}):
        raise RecordDamaged(f"{path} was changed after it was written: its checksum differs")
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise RecordDamaged(f"{path} is not a record of kdbench: {where}: {first['msg']}") from error


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record under a folder in the order of the paths, and a sentence for each file that is none.

    A cell that failed once and was finished later counts as finished.
    """
    records, problems = [], []
    for path in sorted(folder.rglob("*.json")):
        finished = path.with_name(path.name.removesuffix(FAILED_SUFFIX) + ".json")
        if path.name.startswith(".") or (path.name.endswith(FAILED_SUFFIX) and finished.exists()):
            continue
        try:
            records.append(read(path))
        except FileNotFoundError:
            continue  # taken away by a run that goes on beside us
        except RecordDamaged as error:
            problems.append(str(error))
    return records, problems


def csv_row(record: Record) -> dict[str, str | int | float | None]:
    """The record's row of the long table, keys in the order of `CSV_COLUMNS`; None where nothing was measured."""
    return {name: getattr(record, name) for name in CSV_COLUMNS}


def settings_hash(settings: Mapping[str, Any]) -> str:
    """8 hex digits; the same for 400 and 400.0, for lists and tuples, and for any order of the keys."""
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()[:8]


def cell_stem(method: str, seed: int, settings_hash: str) -> str:
    """``<method>-s<seed>-<hash>``; ``semckd[beta=200,tau=2]`` becomes ``semckd_beta-200_tau-2``."""
    readable = method.replace("]", "").replace("[", "_").replace(",", "_").replace("=", "-")
    return f"{safe_name(readable)[:100]}-s{seed}-{settings_hash}"


def runs_folder(out: Path, suite: str, teacher: str, student: str) -> Path:
    """Where the records of a pair lie."""
    return out / "runs" / safe_name(suite) / f"{safe_name(teacher)}-{safe_name(student)}"


def safe_name(name: str) -> str:
    """A name as one part of a path: other signs than letters, digits and ``._+-`` become ``_``."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".") or "_"


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers that are equal become the same text."""
    kind = type(value)
    if kind is float:  # the plain kinds first: a report reads millions of them
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if kind is str or kind is int or value is None:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(float(value)) if isinstance(value, float) else value
