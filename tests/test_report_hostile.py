"""Whole reports of records whose every string was chosen to do harm."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hostile import CONTROL, HOSTILE
from markdown_it import MarkdownIt
from printing import compiled
from rich.console import Console
from synthetic import PAIRS, make, refused, seal

from kdbench import record
from kdbench.record import Record
from kdbench.report import Cost, SuiteReport, report
from kdbench.report.gather import LONGEST_NAME
from kdbench.terminal.report import print_report

Reported = tuple[Path, list[SuiteReport]]
NAMES = [text for text in HOSTILE if len(text) <= LONGEST_NAME and not re.search("[\ud800-\udfff]", text)]


def values_of(one: Record, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(one.model_dump_json())
    values["settings"] |= {name: changes[name] for name in changes if name in values["settings"]}
    return values | {name: changes[name] for name in changes if name in values}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Methods, reasons, settings, versions and dates; then teachers and students; one suite each."""
    out = tmp_path_factory.mktemp("hostile")
    plain = make("student", PAIRS[0], 0, epochs=3)
    for number, text in enumerate(HOSTILE):
        folder = out / "runs" / "a"
        evil: dict[str, Any] = {"code": {"kdbench": text, "git": text}, "environment": {text or "x": text, "cpu": text}}
        if text in NAMES:
            evil |= {"provenance": text, "finished": text, "weights_sha256": text}
            point = {"epoch": 1, "lr": 0.1, "seconds": 1.0, "terms": {text: 1.0}, "top1": 50.0}
            hyper = {"hyper": {text: text}, "method": text}
            curve = {"curve": [point, point | {"epoch": 2}]}
            seal(folder / f"m{number}.json", values_of(plain, **{**evil, **hyper, **curve}))
            broken = refused("kd", PAIRS[0], number, "x", "failed")
            seal(folder / f"r{number}.failed.json", values_of(broken, reason=text or "x", method=f"r{text}", epochs=3))
        else:
            seal(folder / f"m{number}.json", values_of(plain, **evil, seed=number + 1))
    for number, text in enumerate(NAMES[::3]):
        teacher, student = (text, "vgg8") if number % 2 else ("vgg13", text)
        for method in ("student", "kd"):
            changed = values_of(make(method, PAIRS[0], 0, epochs=3), suite="pairs", teacher=teacher, student=student)
            seal(out / "runs" / "b" / f"{method}{number}.json", changed | {"teacher_sha256": text})
    costs = [Cost(text, text, text, 1.0, 2.0, 3, 4) for text in NAMES]
    papers = {"semckd": {(*PAIRS[0], text): Paper(text) for text in NAMES}}
    return out, report(out, costs=costs, published=papers, formats=("csv", "md", "tex", "html", "svg"))


class Paper:
    def __init__(self, text: str) -> None:
        self.mean, self.std, self.n, self.source, self.rule = 70.0, None, None, text, text


def files(reported: Reported, suffix: str) -> list[tuple[Path, str]]:
    found = [path for made in reported[1] for path in made.files if path.suffix == suffix]
    assert found
    return [(path, path.read_text(encoding="utf-8")) for path in found]


def test_every_file_is_text_without_orders(reported: Reported) -> None:
    out, made = reported
    assert sorted(path.name for path in out.iterdir()) == ["pairs", "pairs.csv", "runs", "semckd", "semckd.csv"]
    for suffix in (".csv", ".md", ".tex", ".html", ".svg"):
        for path, text in files(reported, suffix):
            assert not set(text) & CONTROL, path
            assert "\ud800" not in text
    rows = {row.items[0].text for row in made[1].tables[0].rows}
    assert len(rows) > 50  # they are all there


def test_latex_obeys_nobody_else(reported: Reported) -> None:
    ours = r"""begin end centering caption label par vspace footnotesize setlength tabcolsep toprule midrule bottomrule
    textbf underline emph multicolumn clearpage pm to textbackslash textasciitilde textasciicircum cdot ldots tau v"""
    for _, source in files(reported, ".tex"):
        body = "\n".join(line for line in source.split("\n") if not line.startswith("%"))
        assert set(re.findall(r"\\([A-Za-z]+)", body)) <= set(ours.split())
        assert body.count("{") - body.count("\\{") == body.count("}") - body.count("\\}")
        assert body.isascii()
        assert set(re.findall(r"\\begin\{(.*?)\}", body)) <= {"table", "table*", "tabular"}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles_whatever_the_names(reported: Reported, tmp_path: Path) -> None:
    for number, (path, _) in enumerate(files(reported, ".tex")):
        compiled(tmp_path, path, f"hostile{number}")


def test_markdown_shows_names_and_nothing_else(reported: Reported) -> None:
    allowed = {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "blockquote"}
    for _, source in files(reported, ".md"):
        shown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
        assert set(re.findall(r"<\s*/?\s*([A-Za-z!?]\w*)", shown)) <= allowed
        assert "<a" not in shown
        assert not re.search(r"https?://", source)


def test_no_cell_of_a_table_is_a_formula(reported: Reported) -> None:
    for path, source in files(reported, ".csv"):
        for row in csv.reader(io.StringIO(source)):
            for cell in row:
                if cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d")):
                    float(cell)
        assert len(source.splitlines()) > 0, path


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action", "formaction")
        ]


def test_the_page_runs_our_script_alone(reported: Reported) -> None:
    for _, source in files(reported, ".html"):
        tags = Tags()
        tags.feed(source)
        assert (tags.tags["script"], tags.tags["style"]) == (1, 1 + tags.tags["svg"])
        assert not {"img", "iframe", "object", "embed", "base", "link"} & set(tags.tags)
        assert not {name for name in tags.attributes if name.startswith("on")}
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in tags.links)


def test_drawings_are_drawings(reported: Reported) -> None:
    for _, source in files(reported, ".svg"):
        for element in ElementTree.fromstring(source).iter():
            assert not element.tag.endswith("}script")
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                if name.endswith("href"):
                    assert value.startswith(("#", "data:image/png;base64,"))


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_the_terminal_is_told_nothing(reported: Reported, encoding: str) -> None:
    shown = io.BytesIO()
    console = Console(file=io.TextIOWrapper(shown, encoding=encoding), width=120, color_system=None)
    for made in reported[1]:
        print_report(made, console)
    console.file.flush()
    text = shown.getvalue().decode(encoding)
    assert not set(text) & CONTROL
    assert "[/a]" in text  # and not taken for a style


def test_names_of_suites_never_leave_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    suites = [*NAMES, "a b", "a_b", "A_B", "runs", "teachers", "x" * LONGEST_NAME, "..\\..\\x", "a/b", "~", "-rf"]
    for number, suite in enumerate(suites):
        seal(out / "runs" / "any" / f"{number}.json", values_of(make("kd", PAIRS[0], 0, epochs=3), suite=suite))
    made = report(out, formats=("csv",))
    assert len(made) == len(set(suites))
    assert os.listdir(tmp_path) == ["deep"]
    assert os.listdir(tmp_path / "deep") == ["out"]
    places = [str(path).lower() for one in made for path in one.files]
    assert len(places) == len(set(places))
    for one in made:
        for path in one.files:
            assert path.resolve().is_relative_to(out.resolve())
            assert not path.is_relative_to(out / "runs")
            assert path.name == record.safe_name(path.name)
