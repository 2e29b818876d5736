"""From synthetic records to every file of a report."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import synthetic
from narrow import there
from rich.console import Console
from synthetic import PAIRS, make, refused, save, table

from kdbench.report import Cost, SuiteReport, report
from kdbench.report.items import Table
from kdbench.report.runs_csv import COLUMNS
from kdbench.terminal.report import print_report

Full = tuple[Path, SuiteReport]
TEXT = ("csv", "md", "tex")
COSTS = [
    Cost(method, "resnet32x4:vgg8", "some CPU, batch 64", 1.5 + number, 10.0 * number, 1000 * number, None)
    for number, method in enumerate(synthetic.METHODS)
]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Full:
    """Eight methods, four pairs, three seeds, one refused cell, one failed run, one damaged file; all formats."""
    out = tmp_path_factory.mktemp("full")
    synthetic.grid(out)
    (out / "runs" / "semckd" / "cut.json").write_text('{"format": 1, ')
    published = {
        "semckd": {
            (*PAIRS[0], "kd"): paper(72.0, "best_test"),
            (*PAIRS[1], "kd"): paper(73.0, "last"),
            (*PAIRS[0], "unheard"): paper(1.0, "last"),
        }
    }
    (made,) = report(out, published=published, costs=COSTS)
    return out, made


def paper(mean: float, rule: str) -> SimpleNamespace:
    return SimpleNamespace(mean=mean, std=0.1, n=None, source="A paper, 2021", rule=rule)


def rows(table: Table) -> dict[str, list[str]]:
    return {row.items[0].text: [item.text for item in row.items] for row in table.rows}


def test_every_file_is_there_and_named(full: Full) -> None:
    out, made = full
    names = {path.relative_to(out).as_posix() for path in made.files}
    figures = {
        f"semckd/{stem}.{kind}"
        for stem in ("leaderboard", "heatmap", "ranks", "duels", "cost", "curves")
        for kind in ("png", "svg")
    }
    tables = {f"semckd/{name}.csv" for name in ("comparisons", "curves", "leaderboard")}
    assert names == {"semckd.csv", *tables, *(f"semckd/leaderboard.{kind}" for kind in ("md", "tex", "html")), *figures}
    for path in made.files:
        assert path.stat().st_size > (20_000 if path.suffix in (".png", ".svg") else 1000), path
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    for path in out.glob("semckd/*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(full: Full, tmp_path: Path) -> None:
    """In another process, whose sets have another order."""
    out, _ = full
    for name in "ab":
        shutil.copytree(out / "runs", tmp_path / name / "runs")
    program = "import sys, pathlib; from kdbench.report import report; report(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7", "MPLBACKEND": "nope"})
    (made,) = report(tmp_path / "b")
    for one in made.files:
        assert one.read_bytes() == (tmp_path / "a" / one.relative_to(tmp_path / "b")).read_bytes(), one.name


def test_the_long_table_holds_one_row_per_run_in_order(full: Full) -> None:
    out, _ = full
    with (out / "semckd.csv").open() as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS
    assert len(found) == 8 * 4 * 3
    assert [one["status"] for one in found].count("unsupported") == 3
    keys = [(one["teacher"], one["student"], one["method"] != "student", one["method"], one["seed"]) for one in found]
    assert keys == sorted(keys)
    numbers = {"seed", "epochs", "nll", "ece", "agreement", "teacher_top1", "epoch_best_test", "extra_train_params"}
    numbers |= {name for name in COLUMNS if name.startswith("top")}
    for one in found:
        for name in numbers:
            assert one[name] == "" or float(one[name]) == float(one[name]), (name, one[name])
    first = found[0]
    assert json.loads(first["hyper"]) == {"beta": 400.0, "ce_weight": 1.0}
    assert (first["convention"], first["code"], first["torch"]) == ("semckd", "0.1.0 0123456789ab", "2.11.0")
    assert (first["teacher_top1"], first["settings_hash"]) == ("79.500000", make("student", PAIRS[1], 0).settings_hash)
    assert len({one["protocol"] for one in found if one["teacher"] == "vgg13"}) == 1
    assert not {"train_seconds", "peak_mem_mb", "images_per_second"} & set(first)


def test_the_curves_are_a_table_of_all_epochs(full: Full) -> None:
    out, _ = full
    with (out / "semckd" / "curves.csv").open() as file:
        found = list(csv.DictReader(file))
    with (out / "semckd.csv").open() as file:
        runs = {row["run"]: row for row in csv.DictReader(file)}
    assert len(found) == 240 * sum(row["status"] == "done" for row in runs.values())
    last = found[239]
    assert last["epoch"] == "240"
    assert float(last["lr"]) == pytest.approx(0.05 * 0.001)
    assert json.loads(last["terms"]) == {"ce": pytest.approx(4.6 * 2.718281828**-3, rel=1e-4)}
    assert float(last["top1"]) == pytest.approx(float(runs[last["run"]]["top1_last"]))
    assert last["val_top1"] == found[0]["top1"] == ""


def test_cells_say_mean_spread_and_n(tmp_path: Path) -> None:
    for seed, (plain, kd) in enumerate([(70.0, 72.0), (71.0, 72.5), (72.0, 74.0)]):
        save(
            tmp_path,
            make("student", PAIRS[0], seed, top1_last=plain, top1_best_test=plain + 0.5),
            make("kd", PAIRS[0], seed, top1_last=kd, top1_best_test=kd + 0.25),
        )
    save(tmp_path, make("student", PAIRS[1], 0, top1_last=73.0), make("kd", PAIRS[1], 0, top1_last=75.0))
    (made,) = report(tmp_path, formats=("csv",))
    found = rows(table(made, "leaderboard"))
    # Pairs in the order of their names: resnet8x4, then vgg8.
    assert found["student"] == ["student", "-", "baseline", "4/4", "73.00 (1)", "71.00 ± 1.00 (3)"]
    assert found["kd"][3:] == ["4/4", "75.00 (1)", "72.83 ± 1.04 (3)"]
    # Differences 2, 1.5, 2 and 2: means 1.8333 and 2; pooled variance 1/12 on 2 degrees, t = 4.302653:
    # half width 4.302653 sqrt(1/12 (1/3 + 1)) / 2 = 0.7171.
    assert found["kd"][2] == "+1.92 [+1.20, +2.63]*"
    assert found["teacher"][4:] == ["79.50", "79.50"]
    oracle = rows(table(made, "oracle"))
    assert oracle["kd"][3] == "73.08 ± 1.04 (3)"
    with (tmp_path / "semckd" / "leaderboard.csv").open() as file:
        row_of_kd = next(row for row in csv.DictReader(file) if row["method"] == "kd")
    assert float(row_of_kd["resnet32x4:vgg8 mean"]) == pytest.approx(72.8333, abs=1e-4)
    assert float(row_of_kd["resnet32x4:vgg8 std"]) == pytest.approx(1.0408, abs=1e-4)
    assert float(row_of_kd["gain"]) == pytest.approx(1.91667, abs=1e-4)
    assert row_of_kd["resnet32x4:resnet8x4 std"] == ""


def test_the_oracle_is_measured_as_oracle(tmp_path: Path) -> None:
    for seed, extra in enumerate((0.1, 0.5)):
        save(tmp_path, make("kd", PAIRS[0], seed, top1_last=70.0, top1_best_test=70.0 + extra))
    (made,) = report(tmp_path, formats=("csv",))
    assert rows(table(made, "oracle"))["kd"][1] == "+0.30"


def test_refused_and_failed_cells_keep_their_sentences(full: Full) -> None:
    _, made = full
    leaderboard = table(made, "leaderboard")
    found = rows(leaderboard)
    assert found["at"][3] == "9/12"
    assert found["at"][6].startswith("n/a [")
    assert re.match(r"\d\d\.\d\d ± \d\.\d\d \(2\) \[\d\]", found["fitnet"][4])
    assert any("the loss was not finite in epoch 17" in note for note in leaderboard.notes)
    failures = [[item.text for item in row.items] for row in table(made, "failures").rows]
    assert ["fitnet", "resnet32x4 → resnet8x4", "1", "failed", "the loss was not finite in epoch 17"] in failures
    assert [row[2] for row in failures if row[0] == "at"] == ["0, 1, 2"]


@pytest.mark.usefixtures("undrawn")
def test_a_method_that_failed_everywhere_is_still_a_row(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0), refused("crd", PAIRS[0], 0, "killed", "failed"))
    (made,) = report(tmp_path)
    found = rows(table(made, "leaderboard"))
    assert found["crd"][-1] == "failed [1]"
    assert found["crd"][3] == "0/1"


def test_only_failures_make_a_report_without_pictures(tmp_path: Path) -> None:
    save(tmp_path, refused("crd", PAIRS[0], 0, "killed", "failed"))
    (made,) = report(tmp_path)
    assert not [path for path in made.files if path.suffix == ".png"]
    assert "killed" in (tmp_path / "semckd" / "leaderboard.html").read_text()


def test_ranks_rest_on_the_methods_that_have_every_pair(full: Full) -> None:
    _, made = full
    order = [row.items[0].text for row in table(made, "leaderboard").rows]
    assert order[:2] == ["teacher", "student"]
    assert order[-1] == "simkd"  # best of all, and in a class of its own
    found = rows(table(made, "leaderboard"))
    assert found["student"][1] == found["simkd"][1] == "-"
    assert order[2] == min(found, key=lambda name: float(there(re.match(r"[\d.]+|", found[name][1])).group() or 99))
    assert found["at"][1] == "-"  # it lacks a pair, and takes it from nobody else's rank
    assert sum(row[1] != "-" for row in found.values()) == 5  # eight, without student, simkd and at
    assert "not ranked, because they lack a result on some pair: at" in " ".join(made.notes)


@pytest.mark.usefixtures("undrawn")
def test_ranks_rest_on_common_pairs_where_no_two_methods_have_all(tmp_path: Path) -> None:
    for method, pairs in (("kd", PAIRS[:2]), ("fitnet", PAIRS[1:3])):
        for pair in pairs:
            save(tmp_path, make(method, pair, 0, top1_last=70.0))
    made = report(tmp_path)[0]
    assert "average rank of the methods over 1 of 3 pairs" in " ".join(made.notes)


@pytest.mark.usefixtures("undrawn")
def test_seeds_that_some_methods_lack_are_named_where_ranks_leave_them_out(tmp_path: Path) -> None:
    """Else the best mean stands below another, and nothing says why."""
    for method, seed, top1 in (("kd", 0, 71.0), ("kd", 1, 80.0), ("fitnet", 0, 72.0)):
        save(tmp_path, make(method, PAIRS[0], seed, top1_last=top1))
    made = report(tmp_path)[0]
    assert [row.items[0].text for row in table(made, "leaderboard").rows if row.items[0].text != "teacher"] == [
        "fitnet",
        "kd",
    ]
    pair = ":".join(PAIRS[0])
    assert f"over the seeds that all of them have, unlike the means: on {pair} 0, without 1" in " ".join(made.notes)
    save(tmp_path, make("fitnet", PAIRS[0], 1, top1_last=72.0))
    made = report(tmp_path)[0]
    assert "unlike the means" not in " ".join(made.notes)


def test_a_reading_is_marked_wherever_it_is_named(full: Full) -> None:
    out, made = full
    for one in made.tables:
        for row in one.rows:
            assert row.items[0].text != "dskd"
    markdown = (out / "semckd" / "leaderboard.md").read_text()
    assert len(re.findall(r"dskd(?! \(reading\))", markdown)) == 0


def test_published_numbers_follow_their_own_rule(tmp_path: Path) -> None:
    save(
        tmp_path,
        make("kd", PAIRS[0], 0, top1_last=72.0, top1_best_test=72.5),
        make("kd", PAIRS[1], 0, top1_last=74.0, top1_best_test=75.0),
    )
    papers = {(*PAIRS[0], "kd"): paper(72.0, "best_test"), (*PAIRS[1], "kd"): paper(73.0, "last")}
    (made,) = report(tmp_path, published=lambda suite: papers if suite == "semckd" else {}, formats=("md",))
    found = [[item.text for item in row.items[2:7]] for row in table(made, "reproduction").rows]
    assert found == [
        ["73.00 ± 0.10", "74.00 (1)", "+1.00", "last", "74.00 (1)"],
        ["72.00 ± 0.10", "72.50 (1)", "+0.50", "best test", "72.00 (1)"],
    ]


def test_quick_runs_say_so_and_meet_no_published_number(tmp_path: Path) -> None:
    save(tmp_path, *(make("kd", PAIRS[0], seed, epochs=3, quick=True, setting={"limit_train": 500}) for seed in (0, 1)))
    (made,) = report(tmp_path, published={"semckd": {(*PAIRS[0], "kd"): paper(72.0, "last")}})
    assert made.banner.startswith("quick run: 3 epochs on 500 training images")
    assert not any(one.name == "reproduction" for one in made.tables)
    for kind in ("md", "html", "tex"):
        assert "not comparable" in (tmp_path / "semckd" / f"leaderboard.{kind}").read_text()


def test_damaged_and_edited_records_are_left_out_and_named(tmp_path: Path) -> None:
    good, edited = save(tmp_path, make("kd", PAIRS[0], 0, top1_last=70.0), make("kd", PAIRS[0], 1, top1_last=70.0))
    edited.write_text(edited.read_text().replace('"top1_last": 70.0', '"top1_last": 99.0'))
    (made,) = report(tmp_path, formats=("md",))
    assert rows(table(made, "leaderboard"))["kd"][-1] == "70.00 (1)"
    assert len(made.problems) == 1
    assert edited.name in made.problems[0]
    edited.unlink()
    good.unlink()
    with pytest.raises(ValueError, match="kdbench run"):
        report(tmp_path)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run records under .*; `kdbench run` makes some"):
        report(tmp_path)
    save(tmp_path, make("kd", PAIRS[0], 0))
    with pytest.raises(ValueError, match=r"no run records of suite 'crd'.*semckd"):
        report(tmp_path, suites=["crd"])
    with pytest.raises(ValueError, match="no runs of baseline 'kdd'; there are kd"):
        report(tmp_path, baseline="kdd")
    with pytest.raises(ValueError, match="no runs of method 'sp'; there are kd"):
        report(tmp_path, methods=["sp"])
    with pytest.raises(ValueError, match="no report format 'pdf'; there are csv"):
        report(tmp_path, formats=("pdf",))


def test_rows_can_be_chosen_and_the_baseline_stays(full: Full, tmp_path: Path) -> None:
    synthetic.grid(tmp_path, pairs=1, methods=("student", "kd", "fitnet", "crd"))
    label = "semckd[beta=200,tau=2]"
    save(tmp_path, *(make(label, PAIRS[0], seed) for seed in range(3)))
    (made,) = report(tmp_path, methods=["crd", *label.split(",")], baseline="kd", formats=("md",))
    assert set(rows(table(made, "leaderboard"))) == {"teacher", "student", "kd", "crd", label}
    assert table(made, "leaderboard").header[2] == "gain over kd"


@pytest.mark.usefixtures("undrawn")
def test_a_figure_of_older_records_does_not_stay(tmp_path: Path) -> None:
    synthetic.grid(tmp_path, pairs=2, methods=("student", "kd", "crd", "at"))
    report(tmp_path, formats=("png",))
    assert (tmp_path / "semckd" / "ranks.png").exists()
    for path in (tmp_path / "runs").rglob("crd-*.json"):
        path.unlink()
    (made,) = report(tmp_path, formats=("png",))
    assert not (tmp_path / "semckd" / "ranks.png").exists()
    assert "ranks.png" not in [path.name for path in made.files]


class Page(HTMLParser):
    """Collects what a browser would fetch, ids, and tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.fetched += [
            values[name]
            for name in ("src", "href", "xlink:href")
            if name in values and not values[name].startswith("#")
        ]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)


def test_the_page_needs_nothing_but_itself(full: Full) -> None:
    out, _ = full
    html = (out / "semckd" / "leaderboard.html").read_text()
    html = re.sub(r'"data:image/png;base64,[^"]+"', '"#"', html)  # a heat map's colours
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert page.bad == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "http:" not in html
    assert "https:" not in html
    assert html.count("<svg") == 6
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets <= set(page.ids)


def test_the_page_escapes_what_others_wrote(tmp_path: Path) -> None:
    reason = "<script>alert(1)</script> a|b & 50%"
    save(tmp_path, make("kd", PAIRS[0], 0), refused("crd", PAIRS[0], 0, reason, "failed"))
    report(tmp_path)
    assert "<script>alert(1)" not in (tmp_path / "semckd" / "leaderboard.html").read_text()
    assert "a\\|b" in (tmp_path / "semckd" / "leaderboard.md").read_text()


def test_latex_is_escaped_and_balanced(full: Full) -> None:
    out, _ = full
    source = (out / "semckd" / "leaderboard.tex").read_text()
    body = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    assert "wrn\\_40\\_2" in body
    body = re.sub(r"\$_\{\\pm [\d.]+\}(\^\{[*()\d]+\})?\$", "", body)
    assert not re.search(r"(?<!\\)[_#^~]", body)
    assert body.count("{") - body.count("\\{") == body.count("}") - body.count("\\}")
    assert body.isascii()
    for name in ("table*", "tabular"):
        assert body.count(f"\\begin{{{name}}}") == body.count(f"\\end{{{name}}}") > 0


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_holds_every_number(full: Full, width: int) -> None:
    _, made = full
    console = Console(width=width, record=True, highlight=False, file=io.StringIO())
    print_report(made, console)
    shown = console.export_text()
    tables = shown[: shown.index("note:")]
    assert max(map(len, tables.splitlines())) <= width
    assert "…" not in tables
    for row in table(made, "leaderboard").rows:
        for item in row.items:
            assert item.text in shown
    assert "left out:" in shown
    assert "leaderboard.html" in shown


def test_reports_of_two_suites(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0), make("kd", PAIRS[0], 0, suite="crd", convention="crd"))
    made = report(tmp_path, formats=TEXT)
    assert [one.suite for one in made] == ["crd", "semckd"]
    assert [one.suite for one in report(tmp_path, suites=["semckd"], formats=TEXT)] == ["semckd"]
