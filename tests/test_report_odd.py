"""One odd record, file or folder is left out with a sentence and ends nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import PAIRS, make, save, seal

from kdbench.report import SuiteReport, report
from kdbench.report.gather import gather

DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]
BROAD = {f"k{number}": number for number in range(30_000)}
POINT = {"epoch": 1, "lr": 0.1, "seconds": 1.0, "terms": {}, "top1": 50.0}

# Where in the file -> what stands there. Those of the first list are left out, those of the second are shown.
LEFT_OUT = [
    ("settings.seed", 10**30),
    ("settings.seed", -1),
    ("settings.seed", 0.5),
    ("settings.epochs", 10**30),
    ("settings.hyper", [1, 2]),
    ("settings.hyper", {"beta": [1]}),
    ("settings.hyper", BROAD),
    ("settings", {}),
    ("settings", []),
    ("settings", None),
    ("settings.recipe", 5),
    ("settings.recipe", {"lr": DEEP}),
    ("settings.recipe", BROAD),
    ("settings.limit_train", "many"),
    ("settings.teacher", "t" * 100_000),
    ("method", "m" * 100_000),
    ("method", None),
    ("provenance", "p" * 100_000),
    ("finished", 5),
    ("top1_last", float("nan")),
    ("top1_last", 1e308),
    ("top1_last", 10**400),
    ("top1_best_test", None),
    ("teacher_top1", 1e308),
    ("teacher_top1", -3.0),
    ("top1_at_best_val", 101.0),
    ("extra_train_params", 10**30),
    ("extra_infer_params", "none"),
    ("group_lanes", 10**40),
    ("code", DEEP),
    ("code", {"git": DEEP}),
    ("environment", {"cpu": DEEP}),
    ("environment", BROAD),
    ("data", {"fingerprint": DEEP}),
    ("curve", [{**POINT, "epoch": 10**30}]),
    ("curve", [{**POINT, "epoch": -1}]),
    ("curve", {"epoch": 1}),
    ("format", 99),
    ("format", [1]),
    ("status", "finished"),
    ("surprise", 1),
]
SHOWN = [
    ("reason", "r" * 1_000_000),
    ("nll", float("nan")),
    ("ece", float("nan")),
    ("agreement", float("nan")),
    ("teacher_top1", float("nan")),
    ("nll", float("inf")),
    ("nll", 1e308),
    ("group_seconds", float("nan")),
    ("group_seconds", 1e308),
    ("curve", []),
    ("curve", [POINT]),
    ("curve", [POINT, POINT]),
    ("curve", [{**POINT, "top1": 1e308}, {**POINT, "top1": float("nan")}]),
    ("curve", [{**POINT, "epoch": 10**17, "lr": float("nan"), "terms": {"ce": float("inf")}}]),
    ("code", {}),
    ("code", {"kdbench": None, "git": [1, {"a": 2}]}),
    ("environment", {}),
    ("environment", {"cpu": ["a", {"b": None}], "torch": {}, "": ""}),
    ("finished", ""),
    ("weights_sha256", ""),
    ("teacher_sha256", "s" * 100_000),
    ("settings.recipe", {}),
    ("settings.recipe", {"lr": [1, 2]}),
    ("settings.hyper", {}),
    ("settings.hyper", {"a": 10**300, "b": "x" * 10_000, "c": True}),
    ("settings.limit_train", 10**30),
    ("data", {"anything": [1, 2]}),
    ("method", ""),
]


def planted(out: Path, number: int, place: str, value: object) -> None:
    """A record like the good ones but for one place."""
    values = json.loads(make("crd", PAIRS[0], 7, epochs=3).model_dump_json())
    where: Any = values
    *path, last = place.split(".")
    for name in path:
        where = where[name]
    where[last] = value
    seal(out / "runs" / "odd" / f"{number}.json", values)


def good(out: Path) -> None:
    save(out, *(make(method, PAIRS[0], seed, epochs=3) for method in ("student", "kd") for seed in range(2)))


def kd(made: SuiteReport) -> str:
    return next(row for row in made.tables[0].rows if row.items[0].text == "kd").items[-1].text


@pytest.mark.parametrize(("place", "value"), LEFT_OUT, ids=lambda value: str(value)[:24])
def test_an_odd_record_is_left_out_with_a_sentence(tmp_path: Path, place: str, value: object) -> None:
    planted(tmp_path, 0, place, value)
    records, problems = gather(tmp_path / "runs")
    assert records == []
    assert len(problems) == 1
    assert "0.json" in problems[0]
    assert len(problems[0]) <= 600
    assert "\n" not in problems[0]


def test_a_curve_without_end_is_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.report.gather.MOST_POINTS", 2)
    planted(tmp_path, 0, "curve", [POINT] * 3)
    assert "its curve has epochs that no run could have" in gather(tmp_path / "runs")[1][0]


@pytest.mark.parametrize(("place", "value"), SHOWN, ids=lambda value: str(value)[:24])
def test_a_record_with_gaps_is_shown(tmp_path: Path, place: str, value: object) -> None:
    good(tmp_path)
    planted(tmp_path, 0, place, value)
    assert gather(tmp_path / "runs")[1] == []
    (made,) = report(tmp_path, formats=("csv", "md", "tex"))
    assert kd(made).endswith("(2)")
    written = (tmp_path / "semckd" / "leaderboard.md").read_text()
    assert len(written) < 60_000
    assert "nan" not in written.lower().replace("finance", "")


def test_all_of_them_at_once_in_every_format(tmp_path: Path) -> None:
    good(tmp_path)
    for number, (place, value) in enumerate(LEFT_OUT + SHOWN):
        planted(tmp_path, number, place, value)
    (made,) = report(tmp_path)
    assert len(made.problems) == len(LEFT_OUT)
    assert kd(made).endswith("(2)")


def test_damaged_files_and_odd_ones_are_named(tmp_path: Path) -> None:
    good(tmp_path)
    odd = tmp_path / "runs" / "semckd"
    for number, text in enumerate(["", "{", "[]", "null", "[" * 100_000, '{"format": 2, "checksum": 1}', "\x00\xff"]):
        (odd / f"cut{number}.json").write_text(text)
    os.mkfifo(odd / "pipe.json")
    (odd / "away.json").symlink_to(odd / "nowhere")
    (odd / "round.json").symlink_to(odd / "round.json")
    (odd / "folder.json").mkdir()
    (made,) = report(tmp_path, formats=("csv",))
    assert kd(made).endswith("(2)")
    assert len(made.problems) == 7 + 4  # the pipe, the folder, and the links to nothing and to itself


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(tmp_path)
    save(tmp_path, make("kd", PAIRS[1], 0, epochs=3))
    closed = tmp_path / "runs" / "semckd" / ":".join(PAIRS[1]).replace(":", "-")
    assert closed.is_dir()
    scandir = os.scandir

    def guarded(folder: Path) -> Iterator[os.DirEntry[str]]:
        if str(folder) == str(closed):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    (made,) = report(tmp_path, formats=("csv",))
    assert made.problems == [f"{closed} cannot be read: Permission denied; what lies in it is left out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_of_mode_0_is_named(tmp_path: Path) -> None:
    good(tmp_path)
    (closed,) = (tmp_path / "runs" / "semckd").iterdir()
    closed.chmod(0)
    try:
        with pytest.raises(ValueError, match=r"no run records.*left out.*Permission denied"):
            report(tmp_path)
        closed.chmod(0o400)  # names can be read, files cannot
        assert len(gather(tmp_path / "runs")[1]) == 4
    finally:
        closed.chmod(0o700)
