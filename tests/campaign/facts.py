"""What lies in an output folder, without what may differ between two runs that did the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from campaign.area import Fault
from kdbench import record
from kdbench.models.teacher_files import named_weights

Facts = dict[str, Any]
#: Of teachers' cards and tuned weights.
_CIRCUMSTANCES = {"created", "finished", "checksum", "code"}


def of(out: Path) -> Facts:
    """Every finished record, student, teacher, table and choice below an output folder.

    Raises:
        Fault: a record is damaged.
    """
    found: Facts = {}
    for folder in (out, out / "tuned", out / "assistants"):
        found |= records(folder, out)
    for path in out.rglob("students/**/*.safetensors"):
        found[_name(path, out)] = hashlib.sha256(path.read_bytes()).hexdigest()
    for card in out.glob("teachers/*/*.json"):  # weights that no card names are nobody's, and go after an hour
        if (weights := named_weights(card)) is not None:
            found[_name(weights, out)] = hashlib.sha256(weights.read_bytes()).hexdigest()
    for path in [*out.glob("teachers/*/*.json"), *out.glob("tuned/*/*/*.json")]:
        if "/tuned/runs/" not in path.as_posix():
            values = json.loads(path.read_bytes())
            found[_name(path, out)] = {name: value for name, value in values.items() if name not in _CIRCUMSTANCES}
    for path in out.glob("tables/*/*.sums"):
        found[_name(path, out)] = table(path)
    return found


def records(folder: Path, out: Path | None = None) -> Facts:
    """Every record of a folder of results by its path, as far as it is measured."""
    read, problems = record.read_all(folder / "runs")
    if problems:
        raise Fault(f"a record is damaged: {problems[0]}")
    where = "" if out in (None, folder) else f"{folder.name}/"
    return {
        f"{where}{one.suite} {one.pair} {one.method} {one.seed} {one.settings_hash} {one.status}": one.measured()
        for one in read
    }


def table(sums: Path) -> str:
    """A hash of all rows of a table of a teacher's outputs and of their checksums."""
    return hashlib.sha256(sums.read_bytes() + sums.with_suffix(".rows").read_bytes()).hexdigest()


def filled(sums: Path) -> int:
    """Entries that a table has."""
    return int(np.count_nonzero(np.fromfile(sums, np.uint32)))


def same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises: Fault: two sets of facts are not the same."""
    if missing := sorted(wanted.keys() - found.keys()):
        raise Fault(f"not there: {', '.join(missing[:3])}")
    if more := sorted(found.keys() - wanted.keys()):
        raise Fault(f"there, but not in a run without a fault: {', '.join(more[:3])}")
    for name, value in wanted.items():
        if found[name] != value:
            raise Fault(f"{name} is not what a run without a fault leaves{_where(found[name], value)}")


def _where(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return f": {keys[0]} is {str(one.get(keys[0]))[:80]}, not {str(other.get(keys[0]))[:80]}"


def _name(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()
