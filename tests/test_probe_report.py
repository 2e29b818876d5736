"""Tables, CSV files and figures of findings: what belongs together is averaged, nothing else is, and nothing raises."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from kdbench.report import probes, style
from kdbench.report.probe_groups import groups
from kdbench.utils import findings
from kdbench.utils.findings import Finding, Matrix


def finding(probe: str = "calibration", method: str = "kd", seed: int | None = 0, **more: object) -> Finding:
    facts: dict[str, object] = {
        "probe": probe,
        "suite": "digits",
        "dataset": "digits",
        "teacher": "T",
        "student": "S" if seed is not None else "",
        "method": method,
        "seed": seed,
        "quick": False,
        "settings": {"bins": 15},
        "identity": {"network": f"{method}{seed}", "data": "d" * 64},
        "summary": {"ECE (%)": 1.0 + (seed or 0), "NLL": 0.5},
        "code": {},
        "environment": {"cpu": "a CPU", "torch": "2"},
        "finished": "2026-01-01",
    }
    return Finding.model_validate(facts | more)


def texts(found: list[Finding]) -> list[list[str]]:
    (table,) = probes.tables(found)
    return [[item.text for item in row.items] for row in table.rows]


def test_a_row_is_the_mean_of_its_seeds_and_the_teacher_comes_first() -> None:
    made = [
        finding(method="crd", seed=0),
        *(finding(seed=seed) for seed in (2, 0)),
        finding(method="student", teacher=""),
    ]
    made.append(finding(method="teacher", seed=None))
    assert texts(made) == [
        ["teacher", "T", "-", "1.00", "0.500"],
        ["student", "S", "1", "1.00", "0.500"],
        ["crd", "T → S", "1", "1.00", "0.500"],
        ["kd", "T → S", "2", "2.00 ± 1.41", "0.500"],
    ]
    (table,) = probes.tables(made)
    assert table.header == ["method", "pair", "seeds", "ECE (%)", "NLL"]
    assert table.rows[0].kind == "teacher"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"bins": 10}}, "bins 10"),
        ({"identity": {"network": "n", "data": "e" * 64}}, "data eeeeeeee"),
        ({"identity": {"network": "n", "data": "d" * 64, "condition": "another CPU"}}, "condition another CPU"),
    ],
)
def test_what_was_measured_otherwise_is_never_averaged_and_says_so(more: dict[str, Any], said: str) -> None:
    rows = texts([finding(seed=0), finding(seed=1, **more)])
    assert len(rows) == 2
    assert said in [row[2] for row in rows]
    assert len(texts([finding(seed=0), finding(seed=1)])) == 1


def test_a_method_without_public_code_is_marked_in_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [synthetic.make(name, synthetic.PAIRS[0], 0) for name in ("kd", "dskd")]
    synthetic.save(tmp_path, *records)
    found = [finding(method=name, suite=records[0].suite) for name in ("kd", "dskd")]
    assert [one.method for one in probes.named(found, records)] == ["kd", "dskd (reading)"]
    for one in found:
        findings.write(one, tmp_path / "probes" / one.suite / "T-S" / f"{one.method}.json")
    drawn: list[str] = []

    def draw(some: list[Finding]) -> dict[str, object]:
        drawn.extend(one.method for one in some)
        return {}

    monkeypatch.setattr(probes, "drawings", draw)
    probes.write(tmp_path, [records[0].suite], ["calibration"])
    assert sorted(drawn) == ["dskd (reading)", "kd"]


def test_the_newest_of_one_seed_counts() -> None:
    old = finding(summary={"ECE (%)": 9.0}, finished="2025-01-01")
    assert texts([finding(summary={"ECE (%)": 3.0}), old])[0][-1] == "3.00"


def test_a_number_that_there_is_not_is_a_dash_and_its_column_stays_away_when_nobody_has_it() -> None:
    rows = texts([finding(summary={"KL": 1.0, "x": None}), finding(method="crd", summary={"KL": None, "x": None})])
    assert [row[3:] for row in rows] == [["-"], ["1.000"]]


def robust(method: str, seed: int | None, student: str = "S", variant: str = "", **more: object) -> Finding:
    rows = [{"corruption": kind, "level": level, "top1": 50.0 - level} for kind in "abcdefghi" for level in range(6)]
    return finding(
        "robustness", method, seed, rows=rows, student=student if seed is not None else "", variant=variant, **more
    )


def everything(pairs: int, methods: int) -> list[Finding]:
    made: list[Finding] = []
    names = [f"method_{at}" for at in range(methods)]
    maps = Matrix(rows=("a", "b"), columns=("c",), values=((0.5,), (None,)))
    bins = [
        {"part": part, "measure": "bin", "low": at / 5, "high": at / 5 + 0.2, "images": at, "confidence": at / 5 + 0.1,
         "accuracy": at / 5} for part in ("test", "half", "half, scaled") for at in range(5)
    ]  # fmt: skip
    for student in (f"S{at}" for at in range(pairs)):
        for name in names:
            for seed in (0, 1):
                made.append(robust(name, seed, student))
                made.append(finding("similarity", name, seed, student=student, matrices={"cka": maps}))
                made.append(finding("attention", name, seed, student=student, matrices={"alpha": maps}))
                made.append(finding("calibration", name, seed, student=student, rows=bins))
                made.append(
                    finding("agreement", name, seed, student=student, summary={"agreement (%)": 50.0, "KL": 1.0})
                )
                made.append(
                    finding("cost", name, seed, student=student, summary={"parameters": 1e6, "latency 1 (ms)": 2.0})
                )
                for variant in ("x, logistic", "x, sgd"):
                    made.append(
                        finding("transfer", name, seed, student=student, variant=variant, summary={"top-1 (%)": 9.0})
                    )
                made.append(finding("finetune", name, seed, student=student, summary={"top-1 (%)": 9.0}))
    made.append(robust("teacher", None))
    return made


@pytest.mark.parametrize(("pairs", "methods"), [(1, 1), (2, 14)])
def test_every_probe_is_drawn(pairs: int, methods: int) -> None:
    drawn = probes.drawings(everything(pairs, methods))
    assert set(drawn) == {f"probe-{name}" for name in probes.TITLES}
    for name in ("probe-robustness", "probe-transfer"):
        assert style.render(drawn[name], "svg") == style.render(drawn[name], "svg")
    axes = [axis for axis in drawn["probe-robustness"].axes if axis.get_visible()]
    assert len(axes) == (9 if pairs == 1 else 16)
    lines = axes[0].get_lines()
    assert len(lines) == min(methods, 12) + 1  # with the teacher
    assert np.asarray(lines[0].get_ydata()).tolist() == [50.0 - level for level in range(6)]


def test_of_many_rows_the_student_and_the_highest_are_drawn() -> None:
    made = [robust(name, 0) for name in ("student", *(f"m{at:02}" for at in range(14)))]
    for place, one in enumerate(made):  # the student lowest, then m00, m01, ...
        for row in one.rows:
            row["top1"] = float(place)
    figure = probes.drawings(made)["probe-robustness"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["student", *(f"m{at:02}" for at in range(3, 14))]
    assert any("student and the 11 methods" in " ".join(text.get_text().split()) for text in figure.texts)


def test_the_last_panel_of_every_column_has_its_scale() -> None:
    bins = [{"part": "test", "measure": "bin", "low": 0, "high": 1, "images": 9, "confidence": 0.5, "accuracy": 0.5}]
    made = [finding("calibration", f"m{at}", 0, rows=bins) for at in range(7)]  # four panels over three
    axes = probes.drawings(made)["probe-calibration"].axes
    shown = [axis for axis in axes if axis.get_visible()]
    assert len(shown) == 7
    assert [axis.get_xlabel() for axis in shown] == ["", "", "", *["confidence"] * 4]
    assert all(axis.xaxis.get_tick_params()["labelbottom"] for axis in shown[3:])


def test_odd_findings_raise_nothing() -> None:
    odd = "a\x1b[2J\n$" + "x" * 400
    made = [
        finding(name, odd, 0, student=odd, teacher=odd, variant=odd, summary={odd: 1e300, "top-1 (%)": -5.0})
        for name in [*probes.TITLES, "of tomorrow"]
    ]
    rows = [{"corruption": "a", "level": "x", "top1": None}, {"corruption": odd, "level": 1, "top1": 3.0}, {"odd": 1}]
    made.append(finding("robustness", odd, 0, rows=rows))
    made += [finding("similarity", matrices={"cka": Matrix(rows=(), columns=(), values=())})]
    assert len(probes.tables(made)) == 9
    for figure in probes.drawings(made).values():
        assert style.render(figure, "png")
    assert probes.tables([]) == []
    assert probes.drawings([]) == {}
    assert "\x1b" not in str([[item.text for row in table.rows for item in row.items] for table in probes.tables(made)])


def test_the_csv_is_long(tmp_path: Path) -> None:
    made = [robust("kd", 0), robust("teacher", None)]
    for number, one in enumerate(made):
        findings.write(one, tmp_path / "probes" / "digits" / "T-S" / f"{number}.json")
    (tmp_path / "probes" / "digits" / "T-S" / "z.json").write_text("[1")
    written, problems = probes.write(tmp_path, ["digits", "other"], ["robustness", "cost"])
    assert [path.name for path in written] == ["robustness.csv", "robustness.png", "robustness.svg"]
    assert "z.json is truncated or not JSON" in problems[0]
    rows = list(csv.DictReader(written[0].read_text().splitlines()))
    assert len(rows) == 2 * 9 * 6
    assert {row["seed"] for row in rows} == {"0", ""}
    assert rows[0]["corruption"] == "a"
    assert float(rows[1]["top1"]) == 49.0


def test_a_finding_is_read_as_it_was_written_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    one = findings.write(robust("kd", 0), path)
    assert findings.read(path) == one
    assert one.checksum
    with pytest.raises(FileNotFoundError):
        findings.read(tmp_path / "none.json")
    text = path.read_text()
    for wrong, said in (
        (text[:50], "truncated or not JSON"),
        ("{}", "no checksum"),
        (text.replace('"kd"', '"dk"'), "its checksum differs"),
        ("[" * 100_000, "is truncated or not JSON: it is nested too deeply"),
        ("\udcff", "cannot be read|not what a probe writes|truncated"),
    ):
        path.write_bytes(wrong.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=said):
            findings.read(path)
    with pytest.raises(ValueError, match="finite"):
        finding(summary={"x": math.inf})
    with pytest.raises(ValueError, match="other numbers of values"):
        Matrix(rows=("a",), columns=("b", "c"), values=((1.0,),))


def test_groups_mean_matrices_over_seeds_that_share_their_names() -> None:
    def one(value: float | None, name: str = "c") -> dict[str, Matrix]:
        return {"cka": Matrix(rows=("a",), columns=(name,), values=((value,),))}

    (group,) = groups([finding(seed=at, matrices=one(value)) for at, value in enumerate((0.2, 0.6, None))])
    assert group.matrix("cka") == Matrix(rows=("a",), columns=("c",), values=((0.4,),))
    assert group.matrix("alpha") is None
    (group,) = groups([finding(seed=0, matrices=one(0.2)), finding(seed=1, matrices=one(0.6, "d"))])
    assert group.matrix("cka") == one(0.2)["cka"]
