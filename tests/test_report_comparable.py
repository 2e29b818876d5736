"""Published numbers stand beside runs of their suite's data, length, recipe and convention, and beside no others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import kdbench
from synthetic import PAIRS, make, save

import kdbench as api
from kdbench import suites
from kdbench.library.boards import boards
from kdbench.report.comparable import departures, otherwise
from kdbench.report.compare import behind_the_leader
from kdbench.run.session import Request, resolve

pytestmark = pytest.mark.usefixtures("undrawn")
FORMATS = ("md",)


def tables(out: Path, **words: Any) -> tuple[set[str], str]:
    (made,) = boards(out, print, formats=FORMATS, **words)
    return {one.name for one in made.tables}, " ".join(made.notes)


def runs(out: Path, **changes: Any) -> Path:
    save(out, *(make(name, PAIRS[1], 0, **changes) for name in ("student", "kd", "crd")))
    return out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": "digits"}, "data digits, not cifar100"),
        ({"epochs": 480}, "epochs 480, not 240"),
        ({"setting": {"recipe": {"lr": 0.1, "batch_size": 64}}}, "lr 0.1, not 0.05"),
        ({"setting": {"recipe": {"lr": 0.05, "batch_size": 64, "mixup": 0.2}}}, "mixup 0.2, not 0"),
        ({"setting": {"recipe": {"lr": 0.05, "batch_size": 64, "validation": 0.1}}}, "validation 0.1, not 0"),
    ],
)
def test_runs_that_depart_from_the_suite_have_no_published_number_beside_them(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    found, notes = tables(runs(tmp_path, **changes))
    assert not found & {"records", "reproduction"}
    assert "No published number of suite semckd stands beside" in notes
    assert why in notes


def test_runs_of_the_suite_have_them(tmp_path: Path) -> None:
    found, notes = tables(runs(tmp_path))
    assert {"records", "reproduction"} <= found
    assert "No published number" not in notes


def test_another_convention_has_no_table_of_the_suite(tmp_path: Path) -> None:
    save(tmp_path, *(make(name, PAIRS[1], 0, convention="crd") for name in ("student", "semckd", "crd")))
    (made,) = boards(tmp_path, print, formats=FORMATS)
    shown = [row.items for one in made.tables if one.name == "reproduction" for row in one.rows]
    assert {items[0].text for items in shown} <= {"student", "crd"}  # a number of convention crd may stand there
    assert not any(items[0].text == "semckd" for items in shown)
    assert "is of loss convention semckd" in " ".join(made.notes)


def test_a_larger_student_beats_no_record(tmp_path: Path) -> None:
    save(tmp_path, make("simkd", PAIRS[1], 0, top1_last=99.0), make("kd", PAIRS[1], 0, top1_last=72.0))
    (made,) = boards(tmp_path, print, formats=FORMATS)
    (row,) = (row for one in made.tables if one.name == "records" for row in one.rows)
    assert row.items[4].text == "kd"


OWN = """
name = "mine"
title = "Mine"
dataset = "cifar100"
image_size = 32
num_classes = 100
convention = "semckd"
pairs = [["resnet32x4", "resnet8x4"]]
default_methods = ["kd"]
default_seeds = [0]
published = "mine.csv"
published_rule = "last"

[recipe]
epochs = 240
batch_size = 64
lr = 0.05
light_lr = 0.01
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def test_a_users_suite_brings_its_own_published_numbers(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    pair = ":".join(PAIRS[1])
    file.write_text(OWN.replace('pairs = [["resnet32x4", "resnet8x4"]]', f'pairs = ["{pair}"]'))
    head = (Path(suites.__file__).parent / "published_semckd.csv").read_text().splitlines()[0].split(",")
    row = dict.fromkeys(head, "") | {"teacher": PAIRS[1][0], "student": PAIRS[1][1], "method": "kd"}
    row |= {"convention": "semckd", "mean": "71.5", "source": "mine 2026", "rule": "last"}
    (tmp_path / "mine.csv").write_text(",".join(head) + "\n" + ",".join(row[name] for name in head) + "\n")
    rows = api.published(str(file))
    assert len(rows[rows["source"] == "mine 2026"]) == 1
    listed = kdbench("list", "published", "--suite", file)
    assert "mine 2026" in listed.output
    out = runs(tmp_path / "out", suite="mine")
    assert "reproduction" not in tables(out)[0]
    found, notes = tables(out, suites=[str(file)])
    assert "reproduction" in found, notes
    shown = kdbench("report", "--suite", file, "--out", out, "--formats", "csv")
    assert shown.exit_code == 0, shown.output


def test_methods_that_share_no_run_are_a_report(tmp_path: Path) -> None:
    save(tmp_path, *(make(name, pair, 0) for name, pair in zip(("kd", "crd", "at"), PAIRS, strict=False)))
    assert kdbench("report", "--out", tmp_path, "--formats", "csv,html").exit_code == 0


def test_a_combination_is_found_in_any_order(tmp_path: Path) -> None:
    save(tmp_path, *(make(name, PAIRS[0], 0) for name in ("student", "kd")))
    both = make("kd", PAIRS[0], 0, setting={"method": "kd+mag"}).model_copy(update={"method": "kd+mag"})
    save(tmp_path, both)
    (made,) = boards(tmp_path, print, formats=FORMATS, methods=["mag+kd"])
    assert "kd+mag" in {line.label for line in made.board.everything}


def sentence(out: Path) -> str:
    (made,) = boards(out, print, formats=FORMATS)
    return behind_the_leader(made.board)


def test_equal_differences_are_not_taken_for_missing_seeds(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        save(tmp_path, *(make(name, PAIRS[0], seed, top1_last=70.0) for name in ("at", "kd", "crd")))
    found = sentence(tmp_path)
    assert "without seeds" not in found
    assert "the same in every seed" in found
    assert "at, which has the best average rank with crd, kd" in found


def test_who_is_above_the_leader_in_the_mean_is_said_to_be(tmp_path: Path) -> None:
    """kd is first on three of four pairs, and far behind on the fourth."""
    for place, pair in enumerate(PAIRS):
        for seed in range(5):
            for name, gain in (("kd", 3.0 if place else -20.0), ("crd", 2.0), ("student", 0.0)):
                save(tmp_path, make(name, pair, seed, top1_last=60.0 + gain + 0.01 * ((seed * 7 + len(name)) % 5)))
    found = sentence(tmp_path)
    assert found.startswith("Not told apart from kd, which has the best average rank")
    assert "in the mean above it, told apart: crd" in found


def test_how_often_students_are_evaluated_parts_no_table_of_last_epochs(tmp_path: Path) -> None:
    for name, every in (("student", 1), ("kd", 1), ("crd", 3)):
        recipe = {"lr": 0.05, "batch_size": 64, "eval_every": every}
        save(tmp_path, make(name, PAIRS[1], 0, setting={"recipe": recipe}))
    (made,) = boards(tmp_path, print, formats=FORMATS)
    assert {line.label for line in made.board.everything} == {"student", "kd", "crd"}
    assert "oracle" not in {one.name for one in made.tables}
    assert "runs were evaluated every 1 and every 3 epochs, which changes no student" in " ".join(made.notes)
    (made,) = boards(tmp_path, print, formats=FORMATS, select="oracle")
    assert {line.label for line in made.board.everything} == {"student", "kd"}
    assert "eval_every 3, not 1" in " ".join(made.notes)


def test_how_often_students_are_evaluated_changes_none(tmp_path: Path) -> None:
    words: dict[str, Any] = {"suite": "digits", "pairs": "resnet14:resnet8", "seeds": 1, "limit_train": 96, "epochs": 3}
    often, seldom = (
        api.run("kd,crd", out=tmp_path / str(every), set={"teacher.epochs": 1, "recipe.eval_every": every}, **words)
        for every in (1, 3)
    )
    assert [one.weights_sha256 for one in often] == [one.weights_sha256 for one in seldom]
    assert [one.top1_last for one in often] == [one.top1_last for one in seldom]


@pytest.mark.parametrize("name", suites.names())
def test_cells_of_a_suite_depart_from_it_in_nothing(name: str) -> None:
    suite = suites.load(name)
    cells = resolve(Request("student,kd", suite=name, device="cpu", seeds="1")).cells
    runs_ = {("kd", (cell.teacher, cell.student)): [cell] for cell in cells}
    selection: Any = SimpleNamespace(dataset=suite.dataset, epochs=suite.recipe.epochs, runs=runs_)
    assert departures(selection, suite) == []
    assert otherwise(selection, suite) == {}


def test_a_pair_that_departs_takes_no_other_with_it(tmp_path: Path) -> None:
    save(tmp_path, *(make(name, PAIRS[1], 0) for name in ("student", "kd", "crd")))
    save(tmp_path, make("kd", PAIRS[0], 0, setting={"recipe": {"lr": 0.1, "batch_size": 64}}))
    (made,) = boards(tmp_path, print, formats=FORMATS)
    (row,) = (row for one in made.tables if one.name == "records" for row in one.rows)
    assert row.items[0].text.split()[-1] == PAIRS[1][1]
    assert f"the runs on {':'.join(PAIRS[0])}" in " ".join(made.notes)
