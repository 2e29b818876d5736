"""From words to one finished run: a record, a path, or what its method, networks and seed are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.record import Record, RecordDamaged
from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.utils.files import expanded, is_file
from kdbench.utils.globs import in_order
from kdbench.utils.wording import quoted

_SHOWN = 5
_FILES = (".json", ".safetensors")  # of a record, and of a kept student


def find(cell: Any, out: Path) -> tuple[Record, Path]:
    """The record of one finished run, and the output folder that it lies in.

    Args:
        cell: a ``Record`` of ``out``; the path of a record, or of a kept student; or words, each of which names the
            method as tables show it, student, teacher, ``teacher:student``, suite, seed (``0`` or ``s0``) or the
            hash of the settings; together they leave one run.
        out: output folder.

    Raises:
        ValueError: there is none, several, or it is damaged or did not end well.

    >>> find("results/runs/digits/a-b/kd-s0-12345678.json", Path("results"))
    Traceback (most recent call last):
    ValueError: there is no record results/runs/digits/a-b/kd-s0-12345678.json
    """
    if isinstance(cell, Record):
        return _finished(cell, str(cell.method)), out
    if not isinstance(cell, str | Path | Iterable):
        raise ValueError(f"a cell is a record, a path, or words such as: semckd resnet20:resnet8 0; not {cell!r}")
    if isinstance(cell, str) and cell.strip().endswith(_FILES) and is_file(expanded(cell.strip())):
        cell = [cell.strip()]  # a path with a blank in it
    words = [str(cell)] if isinstance(cell, Path) else cell.split() if isinstance(cell, str) else [*map(str, cell)]
    if not words:
        raise ValueError("no cell was named; give the path of a record, or words such as: semckd resnet20:resnet8 0")
    if len(words) == 1 and words[0].endswith(_FILES):
        return _at(expanded(words[0]))
    words = [part for word in words for part in word.split()]  # "kd resnet8 0" quoted as one is three of them
    found, _ = record.read_all(out / "runs")
    done = [one for one in found if one.status == "done"]
    if not done:
        raise ValueError(f"no finished run under {out / 'runs'}; `kdbench run` trains some")
    return _only(done, words), out


def student_file(one: Record, out: Path) -> Path:
    """Where its kept student lies.

    Raises:
        ValueError: it is not there.
    """
    path = grid.files(out, Cell.of(one)).student
    if not path.is_file():
        raise ValueError(
            f"the student of {title(one)} was not kept in {path.parent}; `kdbench run --force` trains it again"
        )
    return path


def title(one: Record) -> str:
    """``semckd on resnet20:resnet8, seed 0``."""
    return f"{one.method} on {one.pair}, seed {one.seed}"


def _at(path: Path) -> tuple[Record, Path]:
    """The record at a path, or that of the kept student there."""
    if path.suffix == ".safetensors":
        out = _home(path, "students")
        path = out / "runs" / path.absolute().relative_to(out / "students").with_suffix(".json")
    try:
        one = record.read(path)
    except FileNotFoundError:
        raise ValueError(f"there is no record {path}") from None
    except RecordDamaged as error:
        raise ValueError(str(error)) from None
    return _finished(one, str(path)), _home(path, "runs")


def _home(path: Path, kind: str) -> Path:
    """The output folder of OUT/kind/SUITE/PAIR/FILE, wherever that lies."""
    above = path.absolute().parents
    if len(above) < 4 or above[2].name != kind:
        raise ValueError(f"{path} does not lie in an output folder, as OUT/{kind}/SUITE/PAIR/{path.name}")
    return above[3]


def _finished(one: Record, name: str) -> Record:
    if one.status != "done":
        raise ValueError(f"{name} is a {one.status} run, and has no student: {one.reason}")
    return one


def _names(one: Record) -> set[str]:
    seed = str(one.seed)
    return {one.method, one.settings.method, one.student, one.teacher, one.pair, one.suite, seed, f"s{seed}"} | {
        one.settings_hash
    }


def _only(done: Sequence[Record], asked: Iterable[str]) -> Record:
    left = list(done)
    for place, said in enumerate(asked):
        word = said if any(said in _names(one) for one in left) else in_order(said)
        kept = [one for one in left if word.removeprefix("seed=") in _names(one)]
        # ``semckd`` alone is the row of that name, where there are others with other values.
        if any(one.method == word for one in kept):
            kept = [one for one in kept if one.method == word or word in _names(one) - {one.settings.method}]
        if not kept:
            words = {name for one in left for name in _names(one) - {one.settings_hash} if name}
            known = sorted(name for name in words if not re.fullmatch("s?[0-9]+", name))
            beside = " beside the words before it" if place else ""
            raise ValueError(f"no finished run has {quoted(word)}{beside}; there are {_some(known)}")
        left = kept
    if len(left) > 1:
        raise ValueError(
            f"{len(left)} runs are called so: {_some([f'{title(one)} ({one.settings_hash})' for one in left], '; ')};"
            " say more words of the one that is meant, such as its seed or the digits in brackets"
        )
    return left[0]


def _some(names: Sequence[str], between: str = ", ") -> str:
    return between.join(names[:_SHOWN]) + (f"{between}..." if len(names) > _SHOWN else "")
