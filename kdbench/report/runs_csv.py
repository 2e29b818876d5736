"""The long tables: one row for every run, and one for every epoch of every run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench import record
from kdbench.record import Record, settings_hash
from kdbench.report import escape
from kdbench.report.select import protocol, side, version

COLUMNS = (
    "run",  # the record's place below runs/SUITE, without .json
    "suite",
    "dataset",
    "convention",
    "protocol",  # the same in all runs that may be compared on one pair; last epochs may where eval_every alone differs
    "teacher",
    "student",
    "method",
    "hyper",  # JSON
    "recipe",  # JSON: what the student was trained with, the protocol of its data included
    "seed",
    "epochs",
    "quick",
    "settings_hash",
    "status",
    "top1_last",
    "top1_at_best_val",
    "top1_best_test",
    "ema_top1_last",  # of the averaged weights
    "epoch_best_val",
    "epoch_best_test",
    "top5_last",
    "nll",
    "ece",
    "agreement",
    "teacher_top1",
    "teacher_sha256",
    "weights_sha256",
    "extra_train_params",
    "extra_infer_params",
    "group_seconds",  # of all lanes that trained together, not this run's cost
    "group_lanes",
    "provenance",
    "code",
    "torch",
    "device",
    "finished",
    "reason",
)
CURVE_COLUMNS = ("run", "epoch", "lr", "terms", "top1", "val_top1", "ema_top1")

_INTEGERS = ("seed", "epochs", "epoch_best_val", "epoch_best_test", "extra_train_params", "extra_infer_params")


def long_form(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run, sorted; empty where nothing was measured.

    >>> long_form([]).columns[0]
    'run'
    """
    rows = [{name: escape.csv(value) for name, value in _row(one).items()} for one in _ordered(records)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys((*_INTEGERS, "group_lanes"), "Int64"))


def curves(records: Sequence[Record]) -> str:
    """CSV of all curves: learning rate, mean training terms (JSON) and, where it was tested, accuracy in percent."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(CURVE_COLUMNS)
    names: dict[str, str] = {}  # of a term -> as JSON
    for one in _ordered(records):
        run = escape.csv(_run(one))
        for point in one.curve:
            terms = ", ".join(
                f"{names.get(name) or names.setdefault(name, json.dumps(name))}: {_json_number(value)}"
                for name, value in point.terms.items()
            )
            numbers = map(_number, (point.top1, point.val_top1, point.ema_top1))
            rows.writerow((run, point.epoch, _number(point.lr), f"{{{terms}}}", *numbers))
    return file.getvalue()


def _row(one: Record) -> dict[str, Any]:
    row = {name: getattr(one, name, None) for name in COLUMNS}
    return row | {
        "run": _run(one),
        "protocol": settings_hash(protocol(one) | side(one)),
        "hyper": _json(one.settings.hyper),
        "recipe": _json(one.settings.recipe),
        "quick": "yes" if one.quick else "no",
        "epoch_best_val": _best_epoch(one, "val_top1"),
        "epoch_best_test": _best_epoch(one, "top1"),
        "code": version(one),
        "torch": escape.plain(one.environment.get("torch") or "", 80),
        "device": escape.plain(one.environment.get("gpu") or one.environment.get("cpu") or "", 80),
        "reason": escape.plain(one.reason, 400),
    }


def _run(one: Record) -> str:
    folder = record.runs_folder(Path(), one.suite, one.teacher, one.student).name
    return f"{folder}/{record.cell_stem(one.method, one.seed, one.settings_hash)}"


def _ordered(records: Sequence[Record]) -> list[Record]:
    return sorted(
        records,
        key=lambda one: (
            one.teacher,
            one.student,
            one.method != "student",
            one.method,
            one.seed,
            -one.epochs,
            one.settings_hash,
            one.finished,
        ),
    )


def _best_epoch(one: Record, name: str) -> int | None:
    """The first epoch with the highest accuracy."""
    found = [(value, -point.epoch) for point in one.curve if (value := getattr(point, name)) is not None]
    found = [pair for pair in found if math.isfinite(pair[0])]
    return -max(found)[1] if found else None


def _json(value: Any) -> str:
    """Standard JSON: what is not finite is a string."""
    return json.dumps(_finite(value), sort_keys=True, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _json_number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "null"
