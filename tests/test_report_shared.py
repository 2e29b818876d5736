"""A method without a teacher is one run per student and seed: shown in every column, counted once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from narrow import there
from synthetic import make, refused, save

from kdbench.record import Record
from kdbench.report import report, stats
from kdbench.report.board import Board, build
from kdbench.report.select import select
from kdbench.report.teacherless import Pair, methods

A, B, OTHER = ("resnet32x4", "vgg8"), ("vgg13", "vgg8"), ("wrn_40_2", "MobileNetV2")


def twice(method: str, pair: tuple[str, str], seed: int, **changes: Any) -> Record:
    """As it was before records knew: trained beside each teacher, with the same weights."""
    return make(method, pair, seed, weights_sha256=f"{method}-{pair[1]}-{seed}", **changes)


def alone(method: str, student: str, seed: int, **changes: Any) -> Record:
    """As it is now: one cell of the student."""
    free: dict[str, Any] = {"teacher": "", "teacher_sha256": "", "teacher_top1": None, "agreement": None}
    return make(method, ("vgg13", student), seed, **free | changes)


def tops(board: Board, method: str) -> dict[Pair, dict[int, float]]:
    return {pair: cell.by_seed for pair, cell in there(board.line(method)).cells.items()}


def test_they_are_found_by_their_weights_or_by_what_records_say() -> None:
    seen = [twice("student", pair, 0) for pair in (A, B)]
    assert methods([*seen, make("kd", A, 0), make("kd", B, 0)]) == {"student"}
    assert methods([alone("student", "vgg8", 0), make("kd", A, 0)]) == {"student"}
    assert methods([make("student", A, 0, weights_sha256=""), make("student", B, 0, weights_sha256="")]) == set()
    # The same weights under one teacher are two records of one cell, and no sign of anything.
    assert methods([make("kd", A, 0), make("kd", A, 0)]) == set()


@pytest.mark.parametrize("old", [True, False])
def test_the_number_stands_in_every_column_and_counts_once(old: bool) -> None:
    records = [make("kd", pair, seed) for pair in (A, B, OTHER) for seed in range(3)]
    for seed in range(3):
        if old:
            records += [twice("student", pair, seed, top1_last=70.0 + seed) for pair in (A, B)]
            records += [twice("student", OTHER, seed, top1_last=60.0)]
        else:
            records += [alone("student", "vgg8", seed, top1_last=70.0 + seed)]
            records += [alone("student", "MobileNetV2", seed, top1_last=60.0)]
    board = build(select(records))
    assert board.pairs == [A, B, OTHER]
    assert tops(board, "student")[A] == tops(board, "student")[B] == {0: 70.0, 1: 71.0, 2: 72.0}
    student, kd = there(board.line("student")), there(board.line("kd"))
    assert (len(student.runs), student.independent, kd.independent) == (9, 6, 9)
    assert board.independent == 15
    assert (there(kd.gain).runs, there(kd.gain).blocks) == (9, 6)


def test_an_interval_is_not_shorter_for_a_second_teacher() -> None:
    """label_smoothing against student: the same three differences in both columns."""
    values = {"student": [70.0, 71.0, 72.0], "kd": [70.5, 72.0, 73.5]}
    one = [twice(method, A, seed, top1_last=found[seed]) for method, found in values.items() for seed in range(3)]
    two = [*one, *(twice(m, B, seed, top1_last=found[seed]) for m, found in values.items() for seed in range(3))]
    once, doubled = (there(there(build(select(records)).line("kd")).gain) for records in (one, two))
    assert doubled[:4] == pytest.approx(once[:4])
    assert once.blocks == doubled.blocks == 3
    plain = stats.gain([{0: 0.5, 1: 1.0, 2: 1.5}])
    assert there(once.high) - once.mean == pytest.approx(there(there(plain).high) - 1.0)


def test_a_run_fills_a_column_that_lacks_it() -> None:
    records = [make("kd", pair, seed) for pair in (A, B) for seed in range(2)]
    records += [alone("student", "vgg8", seed) for seed in range(2)]
    board = build(select(records))
    assert set(tops(board, "student")) == {A, B}
    assert there(board.line("student")).complete
    assert board.teacher_top1(A) == 79.5
    assert board.teacher_top1(B) == 74.8
    assert there(board.line("student")).cells[A].spread("agreement") is None


def test_another_teacher_of_the_pair_keeps_the_student() -> None:
    """kd was trained again under a new teacher; the plain student has nothing to do with that."""
    records = [make("kd", A, seed, teacher_sha256="ff" * 32) for seed in range(2)]
    records += [alone("student", "vgg8", seed) for seed in range(2)]
    selection = select(records)
    assert selection.notes == []
    assert len(selection.runs["student", A]) == 2


def test_a_failure_without_a_teacher_makes_no_column_of_its_own() -> None:
    failed = refused("student", A, 1, "killed", "failed")
    failed = failed.model_copy(update={"settings": failed.settings.model_copy(update={"teacher": ""})})
    selection = select([make("kd", A, 0), make("kd", B, 0), alone("student", "vgg8", 0), failed])
    assert selection.pairs == [A, B]
    assert [pair for pair, _ in selection.refused] == [A, B]
    board = build(selection)
    assert there(board.line("student")).cells[A].status == "done"


def test_students_alone_have_columns_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, *(alone("student", student, seed, epochs=3) for student in ("vgg8", "resnet8x4") for seed in (0, 1)))
    (made,) = report(tmp_path, formats=("csv", "md", "tex", "html"))
    assert made.tables[0].header[4:] == ["resnet8x4", "vgg8"]


def test_the_report_says_so(tmp_path: Path) -> None:
    save(tmp_path, *(make("kd", pair, seed, epochs=3) for pair in (A, B) for seed in range(2)))
    save(tmp_path, *(alone("student", "vgg8", seed, epochs=3) for seed in range(2)))
    (made,) = report(tmp_path, formats=("csv",))
    student = next(row for row in made.tables[0].rows if row.items[0].text == "student")
    assert student.items[3].text == "4/4 (2 runs)"
    assert any("Without a teacher: student" in note for note in made.tables[0].notes)
    with (tmp_path / "semckd" / "leaderboard.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert (rows["student"]["runs"], rows["student"]["independent_runs"]) == ("4", "2")
    assert (rows["kd"]["gain_paired_runs"], rows["kd"]["gain_blocks"]) == ("4", "2")
    with (tmp_path / "semckd.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6  # records, not cells
