"""Every method against every other; what so few pairs can tell apart; which marks a table bears."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from narrow import there
from scipy.stats import ttest_rel
from synthetic import PAIRS, make, save

from kdbench.report import board, compare, report, select, stats, style, tables
from kdbench.report.board import Board
from kdbench.report.figures import figures
from kdbench.report.items import Table
from kdbench.report.teacherless import Pair


def built(values: Mapping[str, Sequence[float]], pairs: Sequence[Pair] = PAIRS[:1], **options: Any) -> Board:
    """``values``: method -> accuracies by seed, the same on every pair, moved by the pair's number."""
    records = [
        make(method, pair, seed, top1_last=value + number, epochs=2)
        for number, pair in enumerate(pairs)
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]
    return board.build(select.select(records), **options)


def table(found: Board, name: str) -> Table:
    return next(one for one in tables.all_tables(found, {}, {}) if one.name == name)


THREE = {"student": [70.0, 70.5, 71.5], "kd": [72.0, 72.4, 73.6], "crd": [72.1, 73.4, 73.0]}


def test_every_two_methods_are_compared_as_scipy_does() -> None:
    frame = compare.every_two(built(THREE))
    assert len(frame) == 3
    rows: Any = frame.itertuples()  # of the frame's own columns
    for row in rows:
        theirs = ttest_rel(THREE[row.method], THREE[row.other])
        low, high = theirs.confidence_interval(0.95)
        assert (row.p, row.low, row.high) == pytest.approx((theirs.pvalue, low, high))
        assert (row.pair, row.paired_runs, row.blocks) == ("resnet32x4:vgg8", 3, 3)
    assert list(frame.p_holm) == pytest.approx(stats.holm(list(frame.p)))


def test_over_all_pairs_a_student_is_one_block_a_seed() -> None:
    pairs = (("resnet32x4", "vgg8"), ("vgg13", "vgg8"), ("wrn_40_2", "MobileNetV2"))
    frame = compare.every_two(built(THREE, pairs))
    assert set(frame.pair) == {"all", *map(":".join, pairs)}
    whole = frame[frame.pair == "all"]
    assert set(whole.paired_runs) == {9}
    assert set(whole.blocks) == {6}
    assert list(whole.p_holm) == pytest.approx(stats.holm(list(whole.p)))


def test_seeds_that_one_of_two_lacks_are_left_out_of_their_comparison() -> None:
    frame = compare.every_two(built({"student": [70.0, 71.0], "kd": [71.0, 71.5, 80.0], "crd": [75.0]}))
    found = {(row.method, row.other): row for row in frame.itertuples()}
    assert found["student", "kd"].paired_runs == 2
    assert found["student", "kd"].difference == pytest.approx(-0.75)
    assert found["crd", "kd"].paired_runs == 1
    assert str(found["crd", "kd"].p) in ("nan", "None")  # one pair of runs: no test


def test_marks_are_corrected_for_their_number() -> None:
    """A gain that is sure alone (p = 0.02) is not sure as the best of twenty."""
    sure = {"student": [70.0, 70.5, 71.5], "kd": [72.0, 72.1, 73.8]}
    alone = built(sure)
    by_itself = there(alone.line("kd"))
    assert 0.01 < there(there(by_itself.gain).p) < 0.05
    assert by_itself.p == there(by_itself.gain).p
    names = [f"m{number}" for number in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(synthetic.METHODS, name, (1.0, 300, 0, 0, "formula"))
        crowd = built(sure | {name: [71.0, 70.0 + number / 7, 70.9] for number, name in enumerate(names)})
    of_many = there(crowd.line("kd"))
    assert of_many.gain == by_itself.gain
    assert there(of_many.p) > 0.05
    marks = []
    for one in (alone, crowd):
        row = next(row for row in table(one, "leaderboard").rows if row.items[0].text == "kd")
        own = next(row for row in table(one, "significance").rows if row.items[0].text == "kd")
        marks.append((row.items[2].text.endswith("*"), row.items[-1].sure, own.items[-1].best))
    assert marks == [(True, True, True), (False, False, False)]


def test_the_best_and_the_second_best_are_those_that_the_digits_show() -> None:
    found = built({"student": [90.0], "kd": [72.001], "crd": [72.004], "at": [71.0], "fitnet": [70.0], "simkd": [99.0]})
    places = {row.items[0].text: (row.items[-1].best, row.items[-1].second) for row in table(found, "leaderboard").rows}
    assert places == {
        "teacher": (False, False),
        "student": (False, False),
        "kd": (True, False),
        "crd": (True, False),
        "at": (False, True),
        "fitnet": (False, False),
        "simkd": (False, False),
    }


def many(count: int, pairs: Sequence[Pair], spread: float = 1.0) -> Board:
    names = [f"m{number}" for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(synthetic.METHODS, name, (1.0, 300, 0, 0, "formula"))
        values = {name: [60 + spread * number + seed / 7 for seed in range(3)] for number, name in enumerate(names)}
        return built(values, pairs)


def test_few_pairs_cannot_separate_many_methods() -> None:
    """The critical difference of 36 methods on 3 pairs is 33 of 35 ranks; mixed ranks never reach that."""
    found = many(36, PAIRS[:3])
    assert there(compare.separation(found)).distance is not None  # the same order on every pair spreads over all ranks
    for number, (key, scores) in enumerate(sorted(found.blocks.items())):  # now each pair has its own order
        found.blocks[key] = dict(
            zip(scores, list(scores.values())[number:] + list(scores.values())[:number], strict=True)
        )
    for line in found.ranked:
        line.rank = there(line.rank)._replace(mean=18.5)
    told = there(compare.separation(found))
    assert told.distance is None
    assert told.sentence.startswith("3 pairs cannot separate 36 methods")
    words = " ".join(table(found, "leaderboard").notes)
    assert "3 pairs cannot separate 36 methods" in words
    assert "ritical difference" not in words


def test_pairs_of_one_student_are_one_data_set() -> None:
    pairs = (("resnet32x4", "vgg8"), ("vgg13", "vgg8"), ("wrn_40_2", "MobileNetV2"))
    told = there(compare.separation(many(4, pairs)))
    assert told.distance is None
    assert told.sentence.startswith("3 pairs of 2 students cannot separate 4 methods")
    one = there(compare.separation(many(4, pairs[:2])))
    assert "not told apart by 3 seeds of one student" in one.sentence
    assert compare.separation(many(2, pairs)) is None


def test_the_figure_of_ranks_is_not_drawn_where_it_says_nothing() -> None:
    """Neither an interval nor a difference: one seed of each."""
    names = ("kd", "crd", "at", "fitnet")
    found = built({name: [70.0 + number] for number, name in enumerate(names)}, PAIRS[:2])
    assert "ranks" not in figures(found)


def test_curves_have_bands_where_seeds_are_repeated() -> None:
    records = [make(method, PAIRS[0], seed) for method in ("student", "kd") for seed in range(3)]
    (axis,) = figures(board.build(select.select(records)))["curves"].axes
    bands = [one for one in axis.collections if isinstance(one, PolyCollection)]
    assert len(bands) == 2
    last = [there(point.top1) for one in records[3:] for point in one.curve if point.epoch == 240]
    corners = np.asarray(bands[1].get_paths()[0].vertices)
    at_the_end = corners[corners[:, 0] == 240][:, 1]
    assert at_the_end.min() == pytest.approx(min(last))
    assert at_the_end.max() == pytest.approx(max(last))
    (single,) = figures(board.build(select.select(records[::3])))["curves"].axes
    assert not [one for one in single.collections if isinstance(one, PolyCollection)]


def test_the_comparisons_are_a_file(tmp_path: Path) -> None:
    save(
        tmp_path, *(make(method, PAIRS[0], seed, epochs=3) for method in ("student", "kd", "crd") for seed in range(2))
    )
    report(tmp_path, formats=("csv",))
    with (tmp_path / "semckd" / "comparisons.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["student", "student", "crd"]
    assert all(row["paired_runs"] == "2" and 0 <= float(row["p"]) <= float(row["p_holm"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("values", "heads"),
    [
        (THREE, []),
        (THREE | {"kd": [70.0, 73.5, 75.5]}, ["<", ">"]),
        (THREE | {"kd": [70.0, 73.0]}, ["<", ">"]),
        (THREE | {"student": [70.0, 75.0, 75.0], "crd": [80.0, 79.9, 79.8]}, ["<"]),
        ({"student": [70.0], "kd": [72.0], "crd": [73.0]}, []),
    ],
    ids=["all within", "both ends", "two seeds", "one end", "one seed"],
)
def test_an_interval_that_leaves_its_panel_ends_in_an_arrowhead(
    values: dict[str, list[float]], heads: list[str]
) -> None:
    figure = figures(built(values))["leaderboard"]
    (axis,) = figure.axes
    arrows = [line for line in axis.lines if line.get_marker() in ("<", ">")]
    assert sorted({str(line.get_marker()) for line in arrows}) == heads
    borders = dict(zip("<>", axis.get_xlim(), strict=True))
    assert all(float(np.ravel(line.get_xdata())[0]) == borders[str(line.get_marker())] for line in arrows)
    words = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert ("(an arrowhead: it goes on)" in words) is bool(heads)


def test_a_name_is_as_wide_in_the_picture_as_in_the_layout() -> None:
    """Letters are not as wide in every resolution: names placed at 100 dpi left their panels at 160."""
    with style.drawing():
        figure = style.canvas(6, 4, "title", "subtitle", "footer")
        name = figure.text(0.5, 0.5, "sp@tuned", fontsize=7.5)
        planned = name.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width
        figure.set_dpi(style.DPI)
        assert name.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width == planned
    picture = style.render(figure, "png")
    assert int.from_bytes(picture[16:20]) == 6 * style.DPI


def test_a_large_map_has_a_scale_and_a_dot_in_each_cell_that_is_sure() -> None:
    levels = {
        f"kd[tau={number + 1}]": [60.0 + number, 60.4 + number, 60.1 + number + 0.01 * number] for number in range(24)
    }
    found = built({"student": [60.0, 60.5, 60.2]} | levels)
    figure = figures(found)["duels"]
    axis, scale = figure.axes
    dots = [one for one in axis.collections if len(np.asarray(one.get_offsets()))]
    frame = compare.every_two(found)
    sure = frame[frame.p_holm < 0.05]
    assert 0 < len(sure) < len(frame)
    assert sum(len(np.asarray(one.get_offsets())) for one in dots) == 2 * len(sure)
    assert "Dot: differs from zero" in " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert scale.get_ylim()[0] == -scale.get_ylim()[1]


def test_a_figure_without_the_plain_student_does_not_speak_of_its_line() -> None:
    def said(rows: dict[str, list[float]]) -> str:
        return " ".join(" ".join(text.get_text() for text in figures(built(rows))["leaderboard"].texts).split())

    rows = {"kd": [70.0, 71.0], "crd": [71.0, 72.0]}
    assert "Dashed" not in said(rows)
    assert "Dashed: plain student." in said(rows | {"student": [68.0, 69.0]})
