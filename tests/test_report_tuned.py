"""Published and tuned weights side by side, sensitivity curves, and how often the published weight was the choice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import PAIRS, make, save

from kdbench.cli import main
from kdbench.record import Record
from kdbench.report import board as boards
from kdbench.report import report, select, sensitivity_figure, tuned
from kdbench.report.sensitivity_figure import sensitivity
from kdbench.run import tuned as files
from kdbench.utils.tuning_file import Budget, Score, Trial, Tuned

FACTORS = (1.0, 3.0, 1 / 3, 0.1, 10.0, 0.01)
FIRST, SECOND = PAIRS[:2]


def row(pair: tuple[str, str], seed: int, top1: float, method: str = "semckd", **words: Any) -> Record:
    label = method + ("@tuned" if words.get("weights") == "tuned" else "")
    return make(method, pair, seed, **words).model_copy(update={"method": label, "top1_last": top1})


def rows(pair: tuple[str, str], published: list[float], better: list[float], method: str = "semckd") -> list[Record]:
    usual = [row(pair, seed, value, method) for seed, value in enumerate(published)]
    return usual + [row(pair, seed, value, method, weights="tuned") for seed, value in enumerate(better)]


def choice(pair: tuple[str, str], accuracies: dict[float, list[float | None]], method: str = "semckd") -> Tuned:
    """What tuning wrote: beta = 400 times each factor, its accuracies by seed; the best is chosen."""
    trials = tuple(
        Trial(
            values={"beta": float(f"{400 * by:.3g}")},
            published=by == 1,
            scores=tuple(
                Score(seed=1000 + n, settings=f"{n}", val_top1=value, reason="" if value is not None else "diverged")
                for n, value in enumerate(found)
            ),
        )
        for by, found in accuracies.items()
    )
    best = max((one for one in trials if one.mean is not None), key=lambda one: one.mean or 0.0, default=None)
    return Tuned(
        suite="semckd",
        dataset="cifar100",
        convention="semckd",
        teacher=pair[0],
        student=pair[1],
        method=method,
        published={"beta": 400.0, "kd_weight": 1.0},
        trials=trials,
        choice={} if best is None else best.values,
        reason="" if best is not None else "no trial came to its end",
        budget=Budget(trials=len(trials), epochs=240, seeds=(1000, 1001), validation=0.1),
        recipe={},
        precision="fp32",
        data={},
        code={},
        finished="2026-01-01T00:00:00+00:00",
    )


def keep(out: Path, *chosen: Tuned) -> None:
    for one in chosen:
        files.write(one, files.path(out, one.suite, one.teacher, one.student, one.method))


RISING: dict[float, list[float | None]] = {
    by: [70 + place, 70.5 + place] for place, by in enumerate(sorted(FACTORS))
}  # the largest factor is best
STAYS: dict[float, list[float | None]] = {by: [70.0 + (by == 1), None if by == 10 else 71.0] for by in FACTORS}


def whole(out: Path) -> None:
    """Two pairs; on the first the weight changes and helps by a point, on the second the published one is chosen."""
    base = [row(pair, seed, 70.0, "student") for pair in (FIRST, SECOND) for seed in range(3)]
    save(
        out,
        *base,
        *rows(FIRST, [74.0, 74.2, 74.4], [75.0, 75.3, 75.3]),
        *rows(SECOND, [76.0, 76.2, 76.4], [76.0, 76.2, 76.4]),
    )
    keep(out, choice(FIRST, RISING), choice(SECOND, STAYS))


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_they_stand_side_by_side(tmp_path: Path) -> None:
    whole(tmp_path)
    (made,) = report(tmp_path, formats=("csv", "md", "html", "tex"))
    table = next(one for one in made.tables if one.name == "tuned")
    found = {one.items[0].text: [item.text for item in one.items[1:]] for one in table.rows}
    assert set(found) == {f"semckd: {pair}" for pair in ("resnet32x4 → vgg8", "resnet32x4 → resnet8x4", "all pairs")}
    published, better, difference, _, weights = found["semckd: resnet32x4 → vgg8"]
    assert published.startswith("74.20 ±")
    assert better.startswith("75.20 ±")
    assert difference.startswith("+1.00 [+")
    assert weights == "beta 400 → 4000"
    *_, difference, _, weights = found["semckd: resnet32x4 → resnet8x4"]
    assert (difference, weights) == ("+0.00", "beta 400 (kept)")
    assert found["semckd: all pairs"][:2] == ["75.20", "75.70"]
    assert found["semckd: all pairs"][2].startswith("+0.50")
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
        assert "Published and tuned weights" in (tmp_path / "semckd" / name).read_text()


def test_a_choice_that_kept_the_published_weight_needs_no_second_run(tmp_path: Path) -> None:
    tuned_alone = [row(pair, seed, 76.0 + seed, weights="tuned") for pair in (FIRST, SECOND) for seed in range(3)]
    save(tmp_path, *tuned_alone)
    keep(tmp_path, choice(FIRST, RISING), choice(SECOND, STAYS))
    (made,) = report(tmp_path, formats=("md",))
    (one,) = next(table for table in made.tables if table.name == "tuned").rows  # on FIRST another weight was chosen
    assert [item.text for item in one.items] == [
        "semckd: resnet32x4 → resnet8x4", "77.00 ± 1.00 (3)", "77.00 ± 1.00 (3)", "the same runs", "-", "beta 400 (kept)",
    ]  # fmt: skip
    save(tmp_path, *(row(FIRST, seed, 70.0 + seed) for seed in range(3)))  # published runs of another pair
    (made,) = report(tmp_path, formats=("md",))
    said = [one.items[3].text for one in next(table for table in made.tables if table.name == "tuned").rows]
    assert len(said) == 2
    assert said.count("the same runs") == 1
    for file in tmp_path.glob("runs/semckd/*/semckd-s*.json"):
        file.unlink()
    save(tmp_path, row(SECOND, 0, 76.5))
    (made,) = report(tmp_path, formats=("md",))
    (one,) = next(table for table in made.tables if table.name == "tuned").rows
    assert one.items[1].text == "76.50 (1)"


def test_the_csv_has_the_same_numbers(tmp_path: Path) -> None:
    whole(tmp_path)
    report(tmp_path, formats=("csv",))
    found = {one["pair"]: one for one in read(tmp_path / "semckd" / "tuned.csv")}
    assert set(found) == {":".join(FIRST), ":".join(SECOND), "all"}
    one = found[":".join(FIRST)]
    assert (one["published_values"], one["tuned_values"]) == ("beta=400", "beta=4000")
    assert float(one["difference"]) == pytest.approx(1.0)
    assert float(one["low"]) < 1.0 < float(one["high"])
    assert (one["published_n"], one["tuned_n"], one["paired_runs"]) == ("3", "3", "3")
    assert float(found["all"]["difference"]) == pytest.approx(0.5)
    assert found["all"]["paired_runs"] == "6"


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    """Seeds differ by points, the weights by a tenth in every one; a seed that one side lacks is not counted."""
    save(tmp_path, *rows(FIRST, [70.0, 73.0, 76.0], [70.1, 73.11, 76.09, 90.0]))
    (made,) = report(tmp_path, formats=("csv",))
    (one,) = tuned.couples(made.board)
    assert one.gain.mean == pytest.approx(0.1)
    assert one.gain.low is not None
    assert one.gain.low > 0.05
    assert one.gain.runs == 3


def test_values_of_ones_own_meet_their_own_counterpart(tmp_path: Path) -> None:
    own = [row(FIRST, 0, 71.0, "semckd[tau=2]"), row(FIRST, 0, 75.0, "semckd")]
    both = [one.model_copy(update={"method": "semckd@tuned[tau=2]"}) for one in [row(FIRST, 0, 72.0, weights="tuned")]]
    save(tmp_path, *own, *both)
    (made,) = report(tmp_path, formats=("csv",))
    (one,) = tuned.couples(made.board)
    assert one.published.label == "semckd[tau=2]"
    assert one.gain.mean == pytest.approx(1.0)


def test_how_often_the_published_weight_was_the_choice() -> None:
    nothing = choice(FIRST, {1.0: [None], 3.0: [None]})
    assert tuned.often([]) == ""
    assert tuned.often([nothing]) == ""
    said = tuned.often([choice(FIRST, RISING), choice(SECOND, STAYS), choice(FIRST, STAYS, "at"), nothing])
    assert said == (
        "The published weight was the choice of 2 of 3 tunings (67%), each among 6 candidates, by validation accuracy;"
        " in 1 more no trial came to its end."
    )


def test_a_choice_at_an_end_of_the_search_is_named() -> None:
    beyond = choice(FIRST, {1.0: [70.0], 3.0: [71.0], 10.0: [None]}, "at")  # nothing to look for beyond 10
    assert tuned.at_the_end([choice(SECOND, STAYS), beyond, choice(FIRST, {1.0: [70.0]})]) == ""
    said = tuned.at_the_end([choice(FIRST, RISING), beyond, choice(FIRST, {0.01: [9.0], 1.0: [None]}, "vid")])
    teacher, student = FIRST
    assert said == (
        "A wider search may find better where the choice lies at an end of it:"
        f" semckd (beta=4000) on {teacher}:{student}, vid (beta=4) on {teacher}:{student}."
    )
    many = tuned.at_the_end([choice(FIRST, RISING, f"m{place}") for place in range(9)])
    assert many.endswith(" and 3 more.")
    assert tuned.summary([choice(FIRST, RISING)], 240).startswith("The published weight was the choice of 0 of 1")


def test_trials_that_are_shorter_than_runs_are_named() -> None:
    one = choice(FIRST, RISING)
    length = one.budget.epochs
    assert tuned.shorter([one], length) == ""
    assert tuned.shorter([], 300) == ""
    said = "of the runs' 300 epochs: a weight that is best early need not be best late."
    assert tuned.shorter([one], 300) == f"Trials had {length} {said}"
    longer = one.model_copy(update={"budget": one.budget.model_copy(update={"epochs": length + 5})})
    assert tuned.shorter([one, longer], 300) == f"Trials had {length} to {length + 5} {said}"
    assert said in tuned.summary([one], 300)


def test_the_sentence_stands_in_the_report_and_on_the_terminal(tmp_path: Path) -> None:
    whole(tmp_path)
    done = CliRunner().invoke(main, ["report", "--out", str(tmp_path), "--formats", "md"])
    shown = " ".join(done.output.split())
    assert "The published weight was the choice of 1 of 2 tunings (50%)" in shown
    assert "Published and tuned weights" in shown
    assert "1 of 2 tunings" in (tmp_path / "semckd" / "leaderboard.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_without_tuned_rows_a_note_says_what_to_run(tmp_path: Path) -> None:
    save(tmp_path, row(FIRST, 0, 74.0), row(FIRST, 0, 70.0, "student"))
    keep(tmp_path, choice(FIRST, RISING))
    (made,) = report(tmp_path, formats=("csv", "png"))
    assert "tuned" not in {table.name for table in made.tables}
    assert any("0 of 1 tuning (0%)" in note and "--weights tuned" in note for note in made.notes)
    assert not (tmp_path / "semckd" / "tuned.csv").exists()
    assert (tmp_path / "semckd" / "sensitivity.png").exists()


def test_every_trial_is_in_the_csv(tmp_path: Path) -> None:
    whole(tmp_path)
    report(tmp_path, formats=("csv",))
    found = read(tmp_path / "semckd" / "sensitivity.csv")
    assert len(found) == 2 * len(FACTORS) * 2
    mine = [one for one in found if one["pair"] == ":".join(FIRST)]
    assert {float(one["factor"]) for one in mine} == {round(by, 6) for by in FACTORS}
    assert {one["values"] for one in mine if one["published"] == "True"} == {"beta=400"}
    assert {one["values"] for one in mine if one["chosen"] == "True"} == {"beta=4000"}
    (failed,) = [one for one in found if one["why_not"]]
    assert (failed["val_top1"], failed["why_not"], failed["seed"]) == ("", "diverged", "1001")


def test_the_figure_draws_what_was_measured(tmp_path: Path) -> None:
    whole(tmp_path)
    chosen, problems = tuned.choices(tmp_path, "semckd")
    assert not problems
    figure = sensitivity(board(tmp_path), chosen)
    assert figure is not None
    (axis,) = [axis for axis in figure.axes if axis.get_visible()]
    assert axis.get_title(loc="left") == "semckd"
    drawn = [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), line) for line in axis.lines
    ]
    lines = {tuple(xs): ys for xs, ys, _ in drawn if len(xs) > 3}
    assert lines[tuple(sorted(FACTORS))] == [70.25 + place for place in range(6)]
    assert 10.0 not in next(xs for xs in lines if len(xs) == 5)  # a seed of it failed
    assert [xs for xs, _, line in drawn if line.get_marker() == "x"] == [[10.0]]
    rings = [xs for xs, _, line in drawn if line.get_marker() == "o" and line.get_markersize() > 8]
    assert sorted(rings) == [[1.0], [10.0]]
    low, high = axis.get_ylim()
    assert low < 70 < 76 < high


def test_candidates_of_a_combination_whose_parts_move_apart_are_drawn_too(tmp_path: Path) -> None:
    """One of them may be the choice: a figure without it would show another candidate as the best."""
    whole(tmp_path)

    def trial(beta: float, kd_weight: float, found: float | None) -> Trial:
        scores = (Score(seed=1000, settings="0", val_top1=found, reason="" if found else "diverged"),)
        return Trial(
            values={"beta": beta, "kd_weight": kd_weight}, published=(beta, kd_weight) == (400, 1), scores=scores
        )

    rows = [(400, 1, 70.0), (400, 0.1, 73.0), (40, 1, None), (40, 0.1, 71.0), (1200, 3, 69.0)]
    one = choice(FIRST, {1.0: [70.0]}).model_copy(
        update={"trials": tuple(trial(*row) for row in rows), "choice": {"beta": 400.0, "kd_weight": 0.1}}
    )
    figure = sensitivity(board(tmp_path), [one])
    assert figure is not None
    (axis,) = [axis for axis in figure.axes if axis.get_visible()]
    drawn = [(np.asarray(line.get_xdata()).round(3).tolist(), line) for line in axis.lines]
    middle = round(0.1**0.5, 3)
    assert [xs for xs, line in drawn if len(xs) == 3] == [[0.1, 1.0, 3.0]]
    assert [xs for xs, line in drawn if line.get_fillstyle() == "none" and line.get_markersize() < 8] == [[middle]]
    assert [xs for xs, line in drawn if line.get_markersize() > 8] == [[middle]], "the ring of the choice"
    assert [xs for xs, line in drawn if line.get_marker() == "x"] == [[middle]]
    assert [text.get_text() for text in axis.texts] == ["1, 1/10"]
    assert axis.get_ylim()[1] > 73
    assert "Hollow" in "".join(text.get_text() for text in figure.texts)


def test_factors_are_written_as_what_they_are() -> None:
    words = {1 / 100: "1/100", 1 / 3: "1/3", 0.4: "0.4", 1.0: "1", 3.0: "3", 1e-310: "1e-310", 1e300: "1e+300"}
    assert {by: sensitivity_figure._fraction(by) for by in words} == words


def board(out: Path) -> boards.Board:
    from kdbench.report.gather import gather

    return boards.build(select.select(gather(out / "runs")[0]))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"beta": 40.0}, 0.1),
        ({"beta": 133.0}, 1 / 3),
        ({"beta": 40.0, "kd_weight": 0.1}, 0.1),
        ({"beta": 40.0, "kd_weight": 1.0}, None),
        ({"beta": -400.0}, None),
        ({"beta": 0.0}, None),
        ({"beta": "large"}, None),
        ({"beta": True}, None),
        ({"beta": float("inf")}, None),
        ({"other": 1.0}, None),
        ({"beta": 800.0}, 2.0),
    ],
)
def test_a_factor_is_one_number_or_none(values: dict[str, Any], wanted: float | None) -> None:
    one = choice(FIRST, RISING)
    found = tuned.factor(one, Trial(values=values, published=False, scores=()))
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_only_the_pairs_that_are_shown(tmp_path: Path) -> None:
    whole(tmp_path)
    (made,) = report(tmp_path, formats=("csv",), pairs=[":".join(FIRST)])
    assert {one.pair for one in made.choices} == {":".join(FIRST)}
    assert len(read(tmp_path / "semckd" / "tuned.csv")) == 1


def test_a_choice_without_a_teacher_is_of_its_student(tmp_path: Path) -> None:
    keep(tmp_path, choice(("", FIRST[1]), RISING, "label_smoothing"), choice(("", "elsewhere"), RISING, "tfkd"))
    chosen, _ = tuned.choices(tmp_path, "semckd", [FIRST])
    assert [one.method for one in chosen] == ["label_smoothing"]


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    whole(tmp_path)
    file = files.path(tmp_path, "semckd", *FIRST, "semckd")
    file.write_text(file.read_text().replace('"beta": 4000', '"beta": 4001'))
    file.with_name("at.json").write_text("{")
    file.with_name(".kdbench-1.json").write_text("{")
    (made,) = report(tmp_path, formats=("csv",))
    assert [one.pair for one in made.choices] == [":".join(SECOND)]
    assert sum("checksum differs" in note for note in made.notes) == 1
    assert sum("not JSON" in note for note in made.notes) == 1


@pytest.mark.usefixtures("undrawn")
def test_an_older_reports_files_go(tmp_path: Path) -> None:
    import shutil

    whole(tmp_path)
    report(tmp_path, formats=("csv", "png"))
    assert {"tuned.csv", "sensitivity.csv", "sensitivity.png"} <= {
        file.name for file in (tmp_path / "semckd").iterdir()
    }
    shutil.rmtree(tmp_path / "tuned")
    for file in (tmp_path / "runs").rglob("*tuned*.json"):
        file.unlink()
    report(tmp_path, formats=("csv", "png"))
    names = {file.name for file in (tmp_path / "semckd").iterdir()}
    assert not {name for name in names if name.startswith(("tuned", "sensitivity"))}


def test_strange_names_obey_nobody(tmp_path: Path) -> None:
    save(tmp_path, *rows(FIRST, [74.0], [75.0]))
    keep(tmp_path, choice(FIRST, RISING, "=cmd|'<script>$\x1b[2J"), choice(FIRST, RISING, "x" * 5000))
    (made,) = report(tmp_path)
    text = (tmp_path / "semckd" / "sensitivity.csv").read_text()
    assert "\x1b" not in text
    assert not any(one["method"].startswith("=") for one in read(tmp_path / "semckd" / "sensitivity.csv"))
    assert "<script>$" not in (tmp_path / "semckd" / "leaderboard.html").read_text()
    assert made.choices


@pytest.mark.parametrize("rule", ["last", "val", "oracle"])
def test_the_rule_for_the_epoch_holds_here_too(rule: str, tmp_path: Path) -> None:
    both = rows(FIRST, [70.0, 71.0], [71.0, 72.0])
    both = [one.model_copy(update={"top1_at_best_val": (one.top1_last or 0) * 0.9}) for one in both]
    both = [
        one.model_copy(update={"top1_best_test": (one.top1_last or 0) + 2 * (one.settings.weights == "tuned")})
        for one in both
    ]
    save(tmp_path, *both)
    (made,) = report(tmp_path, formats=("csv",), select=rule)
    (couple,) = tuned.couples(made.board)
    assert couple.gain.mean == pytest.approx({"last": 1.0, "val": 0.9, "oracle": 3.0}[rule])
