"""Records of an output folder that a report can rest on, and a sentence for each that is left out.

A record is sealed with a checksum, which tells that nobody cut it, not that its values make sense. One that holds
a seed of thirty digits, a list where hyper-parameters belong or a name of a megabyte is named and left out here,
so that it ends nothing further down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.record import Record
from kdbench.report.escape import plain
from kdbench.utils.collecting import no_collecting

LONGEST_NAME = 300
DEEPEST = 12
MOST_VALUES = 20_000
MOST_POINTS = 100_000
LARGEST = 2**63 - 1
_NAMES = ("suite", "dataset", "convention", "teacher", "student", "method", "provenance", "settings_hash", "finished")
_COUNTS = ("seed", "epochs", "group_lanes", "extra_train_params", "extra_infer_params")
_PERCENTAGES = ("top1_last", "top1_best_test", "top1_at_best_val", "top5_last", "ece", "agreement", "teacher_top1")


def gather(folder: Path) -> tuple[list[Record], list[str]]:
    """All records under a folder that can be reported, and sentences about files, folders and records that cannot.

    A cell that failed once and was finished later counts as finished.

    >>> Path("runs").mkdir()
    >>> _ = Path("runs/kd.json").write_text("{}")
    >>> gather(Path("runs"))
    ([], ['runs/kd.json is not a record of kdbench: it has no format or no checksum'])
    """
    located, problems = locate(folder)
    return [one for _, one in located], problems


def locate(folder: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """As ``gather``, each record with the file that it stands in.

    >>> locate(Path("nowhere"))
    ([], [])
    """
    paths, problems = record.files(folder)
    kept = []
    with no_collecting():
        for path in paths:
            try:
                one = record.read(path)
            except FileNotFoundError:
                continue  # taken away by a run that goes on beside us
            except record.RecordDamaged as error:
                problems.append(str(error))
            else:
                why = odd(one)
                if why:
                    problems.append(f"{path} is sealed, but {why}")
                else:
                    kept.append((path, one))
    return kept, [plain(problem, 600) for problem in problems]


def odd(one: Record) -> str:
    """Why a record makes no sense; empty where it does."""
    return next(_oddities(one), "")


def _oddities(one: Record) -> Iterator[str]:
    for name in _NAMES:
        if len(getattr(one, name)) > LONGEST_NAME:
            yield f"its {name} has more than {LONGEST_NAME} signs"
    for name in _COUNTS:
        value = getattr(one, name)
        if value is not None and not -LARGEST <= value <= LARGEST:
            yield f"its {name} is no number that a run could have"
    for name in _PERCENTAGES:
        value = getattr(one, name)
        if value is not None and (value < 0 or value > 100):  # NaN is neither; it counts as not measured
            yield f"its {name} is {value:.6g}, which is no percentage"
    values = {name: getattr(one, name) for name in ("code", "environment", "data")}
    for name, value in ({"settings": {**one.settings.recipe, **one.settings.hyper}} | values).items():
        if _depth_and_size(value) is None:
            yield f"its {name} holds more values, or values deeper nested, than a run writes"
    if len(one.curve) > MOST_POINTS or any(not 0 <= point.epoch <= LARGEST for point in one.curve):
        yield "its curve has epochs that no run could have"


def _depth_and_size(value: Any) -> int | None:
    """Number of values inside, or None beyond the limits; a loop, because the depth is what is asked."""
    level: list[Any] = [value]
    size = 0
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        size += len(level)
        if not level:
            return size
        if size > MOST_VALUES:
            return None
    return None


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
