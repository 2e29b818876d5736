"""Couples of stages as a matrix, averaged weights beside raw ones, every two methods, who is not told apart."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import PAIRS, make, save

from kdbench.record import Record
from kdbench.report import averaged, board, compare, duel_figure, mismatch, report, select
from kdbench.report.board import Board

PAIR = PAIRS[0]


def couple(student: int, teacher: int, seed: int, top1: float) -> Record:
    label = f"fitnet[tap={student},teacher_tap={teacher}]"
    hyper = {"beta": 100.0, "tap": student, "teacher_tap": teacher}
    return make(label, PAIR, seed, top1_last=top1, epochs=2, hyper=hyper)


def runs(seeds: int = 3) -> list[Record]:
    made = []
    for seed in range(seeds):
        luck = 0.1 * seed * seed
        made += [couple(s, t, seed, 70 + s + 0.5 * t + luck + 0.01 * s * seed) for s in (1, 2) for t in (1, 2, 3)]
        made.append(make("fitnet", PAIR, seed, top1_last=75.0 + luck, epochs=2, hyper={"beta": 100.0, "tap": 3}))
        made.append(make("semckd", PAIR, seed, top1_last=73.0 + luck, epochs=2))
        made.append(make("student", PAIR, seed, top1_last=70.0 + luck, epochs=2))
    return made


def built(records: list[Record], **options: Any) -> Board:
    return board.build(select.select(records), **options)


def test_couples_stand_at_their_taps_and_meet_semckd() -> None:
    (made,) = mismatch.couples(built(runs()))
    assert made.method == "fitnet"
    at = {(one.student_tap, one.teacher_tap): one for one in made.couples}
    assert set(at) == {(s, t) for s in (1, 2) for t in (1, 2, 3)} | {(3, 3)}  # plain fitnet says tap 3 for both
    assert (made.best.student_tap, made.best.teacher_tap) == (3, 3)
    assert (made.worst.student_tap, made.worst.teacher_tap) == (1, 1)
    gain = at[1, 1].gain
    assert gain is not None
    assert gain.mean == pytest.approx(71.5 - 73.0 + 0.01)
    assert made.reference is not None
    assert made.reference.label == "semckd"
    ps = [one.p for one in made.couples if one.p is not None and one.gain is not None and one.gain.p is not None]
    raw = [one.gain.p for one in made.couples if one.gain is not None and one.gain.p is not None]
    assert min(ps) == pytest.approx(min(raw) * len(raw))  # Holm over the couples


@pytest.mark.parametrize("label", ["semckd[beta=4.0]", "semckd@tuned", "semckd@tuned[tau=2.0]"])
def test_semckd_stands_beside_the_couples_whatever_its_weights(label: str) -> None:
    others = [one for one in runs() if one.method != "semckd"]
    learned = [make(label, PAIR, seed, top1_last=73.0, epochs=2) for seed in range(3)]
    beside = [make("crd", PAIR, seed, top1_last=80.0, epochs=2) for seed in range(3)]
    (made,) = mismatch.couples(built([*others, *beside, *learned]))
    assert made.reference is not None
    assert made.reference.label == label


def test_the_matrix_is_a_table_with_words_a_file_and_a_figure(tmp_path: Path) -> None:
    save(tmp_path, *runs())
    (made,) = report(tmp_path, formats=["csv", "md", "svg"])
    (table,) = [one for one in made.tables if one.name == "mismatch"]
    assert len(table.rows) == 7
    said = "the best of 7 couples is student 3 by teacher 3 (75.17), the worst 1 by 1 (71.68)"
    assert any(said in note and "costs up to 3.49 points" in note for note in table.notes), table.notes
    assert any("semckd reaches 73.17, above 4 of 7" in note for note in table.notes), table.notes
    with (tmp_path / "semckd" / "mismatch.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["student_tap"], row["teacher_tap"]) for row in rows} >= {("1", "3"), ("2", "1"), ("3", "3")}
    assert (tmp_path / "semckd" / "mismatch.svg").exists()
    for file_ in (tmp_path / "runs").rglob("fitnet_*.json"):
        file_.unlink()
    report(tmp_path, formats=["csv", "svg"])
    assert not list((tmp_path / "semckd").glob("mismatch.*"))


def test_without_couples_there_is_no_matrix_and_one_seed_is_no_test() -> None:
    plain = built([make(method, PAIR, seed, epochs=2) for method in ("student", "kd", "fitnet") for seed in range(2)])
    assert mismatch.couples(plain) == []
    assert mismatch.figure(plain) is None
    once = mismatch.table(built(runs(1)))
    assert any("without seeds to repeat it, that is no test" in note for note in once.notes)


def test_averaged_weights_stand_beside_the_raw_ones(tmp_path: Path) -> None:
    kept = [
        make(method, PAIR, seed, top1_last=top1, ema_top1_last=top1 + 1 + 0.1 * seed, epochs=2)
        for method, top1 in (("student", 70.0), ("kd", 72.0))
        for seed in range(3)
    ]
    table = averaged.table(built(kept))
    assert [[item.text for item in row.items][:3] for row in table.rows][1] == [
        "kd: resnet32x4 → vgg8", "72.00 ± 0.00 (3)", "73.10 ± 0.10 (3)",
    ]  # fmt: skip
    assert table.rows[0].items[3].text.startswith("+1.10 [")
    assert averaged.table(built(runs())).rows == []
    save(tmp_path, *kept)
    report(tmp_path, formats=["csv"])
    with (tmp_path / "semckd.csv").open() as file:
        assert {row["ema_top1_last"] for row in csv.DictReader(file)} >= {"73.000000", "71.200000"}


def test_every_two_methods_are_a_map() -> None:
    figure = duel_figure.duels(built(runs()))
    assert figure is not None
    (axis,) = figure.axes
    words = {text.get_text() for text in axis.texts}
    assert "+2.0" in words  # plain fitnet over semckd
    assert "-2.0" in words
    assert duel_figure.duels(built([make(method, PAIR, 0, epochs=2) for method in ("student", "kd")])) is None
    values = np.array([[float(text.get_text()) for text in axis.texts]])
    assert values.sum() == pytest.approx(0, abs=1e-6)


def test_who_is_not_told_apart_from_the_best_is_said() -> None:
    def said(values: dict[str, list[float]]) -> str:
        made = [
            make(name, PAIR, seed, top1_last=v, epochs=2) for name, own in values.items() for seed, v in enumerate(own)
        ]
        return compare.behind_the_leader(built(made))

    clear = [74.0, 75.1, 76.0, 77.05]
    words = said(
        {"crd": clear, "kd": [value - 0.01 * (-1) ** at for at, value in enumerate(clear)], "at": [70, 71, 72, 73]}
    )
    assert words.startswith("Not told apart from crd, which has the best average rank, on the pair: kd; told apart: at")
    apart = said({"crd": clear, "at": [70, 71, 72, 73]})
    assert apart.startswith("crd is told apart from every other method on the pair")
    assert "without seeds to repeat it" in said({"crd": [75.0], "kd": [74.0]})
