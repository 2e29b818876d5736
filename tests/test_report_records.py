"""Records to beat: only numbers of the same recipe are a bar, under the epoch that their paper chose."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import PAIRS, make, save, table

from kdbench import suites
from kdbench.cli import main
from kdbench.report import report
from kdbench.suites import Published, Standing, best_comparable, records_to_beat


def standing(mean: float, departs: str = "", rule: str = "best_test") -> Standing:
    return Standing("DKD+LS", Published(mean, None, None, "somebody, 2025", rule), departs)  # type: ignore[arg-type]


@pytest.mark.usefixtures("undrawn")
def test_the_bar_is_of_the_same_recipe_and_the_same_epoch(tmp_path: Path) -> None:
    save(
        tmp_path,
        make("kd", PAIRS[0], 0, top1_last=72.0, top1_best_test=72.5),
        make("crd", PAIRS[0], 0, top1_last=72.2, top1_best_test=72.3),
    )
    bars = {PAIRS[0]: [standing(75.0, "augmentation"), standing(73.0), standing(72.0)]}
    (made,) = report(tmp_path, standing={"semckd": bars}, top=1, formats=("md", "html", "tex"))
    (row,) = table(made, "records").rows
    assert [item.text for item in row.items[1:]] == [
        "73.00", "DKD+LS", "72.50 (1)", "kd", "-0.50", "75.00 DKD+LS (augmentation)",
    ]  # fmt: skip
    for kind in ("md", "html", "tex"):
        assert "DKD+LS" in (tmp_path / "semckd" / f"leaderboard.{kind}").read_text()
    (made,) = report(tmp_path, standing={"semckd": {PAIRS[0]: [standing(73.0, rule="last")]}}, formats=("md",))
    assert [item.text for item in table(made, "records").rows[0].items[3:6]] == ["72.20 (1)", "crd", "-0.80"]


@pytest.mark.usefixtures("undrawn")
def test_a_record_of_another_recipe_is_no_bar(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0, top1_last=72.0))
    (made,) = report(tmp_path, standing={"semckd": {PAIRS[0]: [standing(75.0, "lr .1")]}}, formats=("md",))
    assert not [one for one in made.tables if one.name == "records"]


@pytest.mark.usefixtures("undrawn")
def test_quick_runs_meet_no_record(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0, epochs=3, quick=True, setting={"limit_train": 500}))
    (made,) = report(tmp_path, standing={"semckd": {PAIRS[0]: [standing(75.0)]}}, formats=("md",))
    assert not [one for one in made.tables if one.name == "records"]


@pytest.mark.parametrize("name", ["crd", "semckd"])
def test_every_pair_of_a_published_suite_has_one(name: str) -> None:
    suite = suites.load(name)
    found = records_to_beat(suite)
    papers = suites.published(suite)
    apart = ("teacher", "simkd")  # SimKD's student keeps the teacher's head
    for pair in suite.pairs:
        bar = best_comparable(found[pair])
        assert bar is not None, pair
        own = max(number.mean for (*of, method), number in papers.items() if tuple(of) == pair and method not in apart)
        assert bar.number.mean >= own, f"{pair}: the suite's own table has {own}"


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    suite = suites.load("crd")
    for content in (
        "teacher,student\na,b\n",
        "teacher,student,method,mean,std,n,source,rule,departs\na,b,c,x,,,s,last,\n",
    ):
        (tmp_path / "records.csv").write_text(content)
        other = suite.model_copy(update={"records": "records.csv"})
        other._home = tmp_path
        with pytest.raises(ValueError, match=r"^the records records\.csv of suite crd: "):
            records_to_beat(other)


def test_the_card_of_a_method_names_the_bar() -> None:
    from click.testing import CliRunner

    said = CliRunner().invoke(main, ["info", "crd"]).output
    assert "to beat: 72.32 DKD+LS, LSKD, CVPR 2024" in said
