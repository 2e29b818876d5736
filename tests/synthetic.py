"""Records that nobody measured, for tests of the report: plausible curves, accuracies and costs."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.record import Record, Settings
from kdbench.report import SuiteReport
from kdbench.report.items import Table
from kdbench.utils.sealing import checksum

PAIRS = (("resnet32x4", "vgg8"), ("resnet32x4", "resnet8x4"), ("vgg13", "ShuffleV2"), ("wrn_40_2", "MobileNetV2"))
PLAIN = {"vgg8": 70.4, "resnet8x4": 73.0, "ShuffleV2": 72.6, "MobileNetV2": 65.4}
TEACHERS = {"resnet32x4": 79.5, "vgg13": 74.8, "wrn_40_2": 76.4}
# method: gain over the plain student, seconds, extra parameters in training, at inference, provenance
METHODS = {
    "student": (0.0, 300, 0, 0, "formula"),
    "kd": (2.5, 320, 0, 0, "authors' code"),
    "fitnet": (2.6, 350, 40_000, 0, "authors' code"),
    "at": (1.7, 330, 0, 0, "authors' code"),
    "crd": (3.6, 480, 250_000, 0, "port"),
    "semckd": (4.2, 520, 900_000, 0, "port"),
    "dskd": (3.9, 430, 120_000, 0, "reading"),
    "simkd": (5.0, 410, 500_000, 500_000, "authors' code"),
}


def make(method: str, pair: tuple[str, str], seed: int, **changes: Any) -> Record:
    """One finished run; ``changes`` to any field, and ``setting`` for changes to the settings."""
    name = re.split(r"[\[@]", method)[0]
    gain, seconds, train_params, infer_params, provenance = METHODS[name]
    teacher, student = pair
    luck = random.Random(f"{student}-{seed}").gauss(0, 0.25)  # shared by all methods of a seed
    which = student if method == "student" else f"{pair}"  # the plain student has no teacher
    own = random.Random(f"{method}-{which}-{seed}")
    last = changes.pop("top1_last", None)
    if last is None:
        hurts = -1.2 if method == "fitnet" and student == "MobileNetV2" else 1.0
        last = round(PLAIN[student] + hurts * gain * own.uniform(0.8, 1.2) + luck + own.gauss(0, 0.12), 2)
    best = changes.pop("top1_best_test", None)
    epochs = changes.get("epochs", 240)
    settings = {
        "suite": "semckd",
        "dataset": "cifar100",
        "convention": "semckd",
        "teacher": teacher,
        "student": student,
        "method": name,
        "hyper": {"ce_weight": 1.0, "beta": 400.0},
        "seed": seed,
        "epochs": epochs,
        "recipe": {"lr": 0.01 if student in ("ShuffleV2", "MobileNetV2") else 0.05, "batch_size": 64},
    }
    settings |= {name: changes.pop(name) for name in list(changes) if name in Settings.model_fields}
    settings |= changes.pop("setting", {})
    values = {
        "status": "done",
        "method": method,
        "quick": False,
        "settings": settings,
        "top1_last": last,
        "top1_best_test": best if best is not None else round(last + abs(own.gauss(0.2, 0.15)), 2),
        "top5_last": min(99.0, last + 20),
        "nll": 1.1,
        "ece": 4.0,
        "agreement": last + 2,
        "weights_sha256": hashlib.sha256(f"{method}-{which}-{seed}".encode()).hexdigest(),
        "curve": curve(last, epochs, own),
        "teacher_sha256": (teacher[0] * 64)[:64],
        "teacher_top1": TEACHERS[teacher],
        "group_seconds": seconds * own.uniform(0.95, 1.05),
        "group_lanes": 1,
        "images_per_second": 50_000 * 240 / seconds,
        "extra_train_params": train_params,
        "extra_infer_params": infer_params,
        "provenance": provenance,
        "modified_student": method == "simkd",
        "code": {"kdbench": "0.1.0", "git": "0123456789ab"},
        "environment": {"python": "3.12.3", "torch": "2.11.0", "gpu": "NVIDIA H200", "device": "cuda:0"},
        "finished": f"2026-01-0{1 + seed % 9}T10:00:00+00:00",
    }
    return Record(**values | changes)


def refused(method: str, pair: tuple[str, str], seed: int, reason: str, status: str = "unsupported") -> Record:
    """A cell without a result."""
    nothing = {"top1_last": 0.0, "top1_best_test": 0.0}
    made = make(method, pair, seed, **nothing)
    return made.model_copy(
        update={
            "status": status,
            "reason": reason,
            "curve": [],
            "weights_sha256": "",
            **dict.fromkeys(
                (
                    "top1_last",
                    "top1_best_test",
                    "top5_last",
                    "nll",
                    "ece",
                    "agreement",
                    "group_seconds",
                    "group_lanes",
                    "images_per_second",
                    "extra_train_params",
                    "extra_infer_params",
                )
            ),
        }
    )


def curve(last: float, epochs: int, own: random.Random) -> list[dict[str, Any]]:
    """Accuracy in three steps, as the learning rate drops."""
    points = []
    every = max(1, epochs // 60)
    for epoch in range(1, epochs + 1):
        drops = sum(epoch / epochs > share for share in (150 / 240, 180 / 240, 210 / 240))
        level = last * (0.8, 0.965, 0.99, 1.0)[drops]
        noise = own.gauss(0, (1.5, 0.3, 0.15, 0.08)[drops])
        top1 = level * (1 - math.exp(-8 * epoch / epochs)) + noise if epoch % every == 0 else None
        points.append(
            {
                "epoch": epoch,
                "lr": 0.05 * 0.1**drops,
                "seconds": 1.3 * epoch,
                "terms": {"ce": 4.6 * math.exp(-3 * epoch / epochs)},
                "top1": top1,
            }
        )
    points[-1]["top1"] = last
    return points


def save(out: Path, *records: Record) -> list[Path]:
    """Write records where a run would put them."""
    paths = []
    for one in records:
        stem = record.cell_stem(one.method, one.seed, one.settings_hash)
        suffix = ".json" if one.status == "done" else record.FAILED_SUFFIX
        paths.append(record.runs_folder(out, one.suite, one.teacher, one.student) / (stem + suffix))
        record.write(one, paths[-1])
    return paths


def seal(path: Path, values: dict[str, Any]) -> None:
    """A record as somebody may write it: anything at all, under a checksum that fits."""
    values["checksum"] = checksum({name: value for name, value in values.items() if name != "checksum"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def grid(out: Path, *, pairs: int = 4, seeds: int = 3, methods: tuple[str, ...] = tuple(METHODS)) -> None:
    """Eight methods on four pairs with three seeds; one cell unsupported, one run failed."""
    for pair in PAIRS[:pairs]:
        for seed in range(seeds):
            for method in methods:
                if method == "fitnet" and pair[1] == "resnet8x4" and seed == 1:
                    save(out, refused(method, pair, seed, "the loss was not finite in epoch 17", "failed"))
                elif method == "at" and pair[1] == "ShuffleV2":
                    save(out, refused(method, pair, seed, "at needs maps of one size; vgg13 shows 4x4, ShuffleV2 8x8"))
                else:
                    save(out, make(method, pair, seed))


def table(made: SuiteReport, name: str) -> Table:
    """The table of a report that has this name."""
    return next(one for one in made.tables if one.name == name)
