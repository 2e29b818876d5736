"""Published orders: like methods with like weights, against tables of the same data set, and nothing from too few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import PAIRS, make, save, table

from kdbench import suites
from kdbench.cli import main
from kdbench.report import SuiteReport, report
from kdbench.suites import Published, PublishedOf

ORDER = ("kd", "at", "fitnet", "crd", "semckd", "dskd")  # the worst first
pytestmark = pytest.mark.usefixtures("undrawn")


def paper(*pairs: Sequence[str], name: str = "theirs") -> PublishedOf:
    """A table whose pairs have these methods in these orders, the worst first."""
    numbers = {
        ("T", f"S{place}", method): Published(70 + rank / 10, None, None, "they, 2025", "last")
        for place, order in enumerate(pairs)
        for rank, method in enumerate(("student", *order, "teacher"))
    }
    return PublishedOf(name, "crd", numbers)


def board(out: Path, *, mark: str = "", order: Sequence[str] = ORDER, **words: Any) -> None:
    """Records of these methods, the worst first, far apart."""
    for rank, method in enumerate(order):
        for seed in range(2):
            save(out, make(method + mark, PAIRS[0], seed, top1_last=60.0 + rank + seed / 10, **words))


def made(out: Path, *papers: PublishedOf) -> SuiteReport:
    (one,) = report(out, papers=lambda dataset: list(papers) if dataset == "cifar100" else [], formats=("csv", "md"))
    return one


def has_it(one: SuiteReport) -> bool:
    return any(found.name == "published_order" for found in one.tables)


def test_the_same_order_is_1_and_the_reverse_is_minus_1(tmp_path: Path) -> None:
    board(tmp_path)
    found = table(made(tmp_path, paper(ORDER), paper(ORDER[::-1], name="reversed")), "published_order")
    assert found.header[-2:] == ["published weights: its means", "published weights: its pairs"]
    assert [[item.text for item in row.items[1:]] for row in found.rows] == [
        ["crd", "-", "+1.00 (6), p .003", "+1.00"],
        ["crd", "-", "-1.00 (6), p .003", "-1.00"],
    ]


def test_pairs_of_a_table_are_compared_one_by_one_and_with_each_other(tmp_path: Path) -> None:
    board(tmp_path)
    swapped = ("at", "kd", *ORDER[2:])  # one of fifteen couples of methods is turned round
    one = made(tmp_path, paper(ORDER, swapped, ORDER[::-1]))
    (row,) = table(one, "published_order").rows
    assert row.items[2].text == "-0.87 [-1.00, +0.87]"
    assert row.items[4].text == "+0.87 [-1.00, +1.00]"
    numbers = pd.read_csv(tmp_path / "semckd" / "published_order.csv").set_index("pair")
    assert list(numbers.index) == ["all", "T:S0", "T:S1", "T:S2"]
    assert numbers.kendall_tau["T:S1"] == pytest.approx(13 / 15, abs=1e-6)
    assert set(numbers.n_methods) == {6}
    assert set(numbers.methods) == {"at crd dskd fitnet kd semckd"}
    save(tmp_path, *(make("student", PAIRS[0], seed) for seed in range(2)))
    assert table(made(tmp_path, paper(ORDER, swapped, ORDER[::-1])), "published_order").rows == [
        row
    ]  # not of the methods


def test_a_method_that_one_of_its_pairs_lacks_is_in_no_mean(tmp_path: Path) -> None:
    """Its mean would be over other pairs than those of the rest, whose level is another."""
    board(tmp_path)
    made(tmp_path, paper(ORDER, ORDER[1:], (*ORDER[1:], "kd")))
    found = pd.read_csv(tmp_path / "semckd" / "published_order.csv").set_index("pair")
    assert dict(found.n_methods) == {"all": 5, "T:S0": 6, "T:S1": 5, "T:S2": 6}
    assert found.methods["all"] == "at crd dskd fitnet semckd"
    assert found.kendall_tau["all"] == 1


def test_published_and_tuned_weights_are_two_columns_and_other_values_none(tmp_path: Path) -> None:
    board(tmp_path, mark="@tuned", order=ORDER[::-1])
    board(tmp_path, mark="[beta=4.0]")
    one = table(made(tmp_path, paper(ORDER)), "published_order")
    assert one.header[3:] == ["tuned weights: its means", "tuned weights: its pairs"]
    assert one.rows[0].items[3].text.startswith("-1.00 (6)")
    board(tmp_path)
    both = table(made(tmp_path, paper(ORDER)), "published_order")
    assert [item.text[:5] for item in both.rows[0].items[3:]] == ["+1.00", "+1.00", "-1.00", "-1.00"]


@pytest.mark.parametrize("kept", [0, 4])
def test_of_fewer_than_five_methods_nothing_is_said(tmp_path: Path, kept: int) -> None:
    board(tmp_path)
    assert not has_it(made(tmp_path, paper(ORDER[:kept])))
    assert not (tmp_path / "semckd" / "published_order.csv").exists()


def test_a_table_of_an_older_report_does_not_stay(tmp_path: Path) -> None:
    board(tmp_path)
    assert has_it(made(tmp_path, paper(ORDER)))
    assert (tmp_path / "semckd" / "published_order.csv").exists()
    assert not has_it(made(tmp_path))
    assert not (tmp_path / "semckd" / "published_order.csv").exists()


def test_quick_runs_and_levels_have_no_order(tmp_path: Path) -> None:
    board(tmp_path / "quick", epochs=3, quick=True, setting={"limit_train": 500})
    assert not has_it(made(tmp_path / "quick", paper(ORDER)))
    for method in ORDER:
        save(tmp_path / "level", make(method, PAIRS[0], 0, top1_last=60.0))
    assert not has_it(made(tmp_path / "level", paper(ORDER)))


def test_a_table_that_cannot_be_read_costs_the_comparison_alone(tmp_path: Path) -> None:
    board(tmp_path)

    def unreadable(dataset: str) -> list[PublishedOf]:
        raise ValueError(f"the table of {dataset} is torn")

    (one,) = report(tmp_path, papers=unreadable, formats=("md",))
    assert not has_it(one)
    assert any("published tables: the table of cifar100 is torn" in note for note in one.notes)


def test_the_command_compares_with_the_tables_of_the_data_set(tmp_path: Path) -> None:
    board(tmp_path)
    main(["report", "--out", str(tmp_path), "--formats", "md,csv"], standalone_mode=False)
    text = (tmp_path / "semckd" / "leaderboard.md").read_text()
    assert "## Order of the methods, here and in published tables" in text
    assert "| suite semckd | semckd | " in text
    found = pd.read_csv(tmp_path / "semckd" / "published_order.csv")
    # five of six methods stand in the suite's own table and in SimKD's, three in suite crd's
    assert set(found.published) == {"suite semckd", "SimKD README, CVPR 2022"}
    assert set(found.methods) == {"at crd fitnet kd semckd"}
    assert "suite semckd" in {one.title for one in suites.published_on("cifar100")}
