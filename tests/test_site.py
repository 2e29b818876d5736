"""Pages of the leaderboards: every number leads to a record that lies beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
import synthetic
from commands import fine, refused

from kdbench import record
from kdbench.library.boards import pages
from kdbench.report import style
from kdbench.report.linked import anchor
from kdbench.report.page import number
from kdbench.report.site import MANIFEST, site
from kdbench.utils.files import apart


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight methods, four pairs, three seeds, one refused cell, one failed run, one damaged file; do not change it."""
    out = tmp_path_factory.mktemp("results")
    synthetic.grid(out)
    (out / "runs" / "semckd" / "cut.json").write_text('{"format": 1, ')
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on a pair, for what does not depend on their number; do not change it."""
    out = tmp_path_factory.mktemp("few")
    synthetic.grid(out, pairs=1, seeds=2, methods=("student", "kd"))
    return out


@pytest.fixture(scope="module")
def made(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of these; tests must not change them."""
    folder = tmp_path_factory.mktemp("pages") / "site"
    before = sorted(results.rglob("*"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(style, "render", lambda figure, kind: b"<svg></svg>")  # drawn is what the report's tests draw
        text = fine("site", "--results", results, "--out", folder)
    assert f"{folder}/index.html: semckd, with " in "".join(text.splitlines())
    assert "left out" in text
    assert sorted(results.rglob("*")) == before
    return folder


def page(folder: Path) -> str:
    return (folder / "semckd" / "leaderboard.html").read_text()


def table(text: str, name: str) -> str:
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_records_lie_beside_the_pages_byte_for_byte(results: Path, made: Path) -> None:
    found, _ = record.files(results / "runs")
    sound = [path for path in found if path.name != "cut.json"]
    copies, problems = record.read_all(made / "runs")
    assert problems == []
    assert len(copies) == len(sound)
    assert all((made / path.relative_to(results)).read_bytes() == path.read_bytes() for path in sound)


def test_every_link_leads_somewhere(made: Path) -> None:
    text = page(made)
    targets = re.findall(r'<a href="([^"]+)"', text)
    assert len(targets) > 500
    anchors = set(re.findall(r'\bid="([^"]+)"', text))
    for target in targets:
        path, _, name = target.partition("#")
        assert (name in anchors) if not path else (made / "semckd" / unquote(path)).is_file(), target
    first = re.findall(r'href="([^"]+)"', (made / "index.html").read_text())
    assert first
    assert all((made / unquote(target)).is_file() for target in first)


def test_a_mean_is_followed_by_the_records_of_its_seeds(made: Path) -> None:
    rows = table(page(made), "leaderboard").split("<tr")
    (kd,) = (row for row in rows if 'data-value="kd"' in row)
    for cell in re.findall(r"<td.*?</td>", kd)[3:]:
        mean = float(re.search(r'data-value="([^"]+)"', cell)[1])  # type: ignore[index]
        behind = [made / "semckd" / unquote(target) for target in re.findall(r'href="(\.\.[^"]+)"', cell)]
        values = [record.read(path).top1_last or 0.0 for path in behind]
        assert len(values) == 3
        assert sum(values) / 3 == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("name", ["leaderboard", "oracle", "quality", "parameters", "runs"])
def test_every_number_of_a_method_has_a_link(made: Path, name: str) -> None:
    body = table(page(made), name).partition("</thead>")[2]
    cells = re.findall(r"<t[dh][^>]*>.*?</t[dh]>", body)
    numbers = [cell for cell in cells if re.search(r'data-value="[+-]?[\d.]+"', cell)]
    assert numbers
    assert [cell for cell in numbers if "<a href=" not in cell] == []


def test_the_runs_hold_the_failed_and_the_refused_too(results: Path, made: Path) -> None:
    found, _ = record.read_all(results / "runs")
    body = table(page(made), "runs")
    assert body.count('scope="row"') == len(found)
    assert body.count(">unsupported</a>") == sum(one.status == "unsupported" for one in found) > 0
    assert body.count(f'id="{anchor("kd")}"') == 1


@pytest.mark.usefixtures("undrawn")
def test_a_report_has_no_links_to_records(few: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "copy")
    fine("report", "--out", tmp_path / "copy", "--formats", "html")
    assert "runs/" not in table(page(tmp_path / "copy"), "leaderboard")
    assert 'id="runs"' not in page(tmp_path / "copy")


@pytest.mark.slow
def test_a_later_site_takes_the_place_of_an_earlier_one(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    folder = tmp_path / "site"
    site(tmp_path / "copy", folder)
    (folder / "CNAME").write_text("mine")
    gone = next((tmp_path / "copy" / "runs").rglob("kd-s0-*.json"))
    gone.unlink()
    assert (folder / gone.relative_to(tmp_path / "copy")).is_file()
    site(tmp_path / "copy", folder)
    assert not (folder / gone.relative_to(tmp_path / "copy")).exists()
    assert (folder / "CNAME").read_text() == "mine"
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert {*listed, MANIFEST, "CNAME"} == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.slow
def test_what_no_site_wrote_is_left_alone(results: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    said = refused("site", "--results", results, "--out", tmp_path)
    assert "index.html is there already, and no earlier" in said
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    (tmp_path / MANIFEST).write_text('{"files": ["../../x", 3')
    assert f"{MANIFEST} is not as" in refused("site", "--results", results, "--out", tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_no_copy_is_put_among_the_runs_of_another_folder(few: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "digits" / "resnet8" / "student-s7-0123abcd.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    assert "holds runs of its own, such as" in refused("site", "--results", few, "--out", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


@pytest.mark.slow
def test_an_edited_list_takes_nothing_away_outside_of_the_folder(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / MANIFEST).write_text(json.dumps({"files": ["../mine.txt", str(tmp_path / "mine.txt")]}))
    site(results, tmp_path / "site")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_is_not_there_is_a_sentence(results: Path, tmp_path: Path) -> None:
    assert "no run records under" in refused("site", "--results", tmp_path, "--out", tmp_path / "site")
    assert "no run records of suite 'crd'" in refused(
        "site", "-s", "crd", "--results", results, "--out", tmp_path / "s"
    )
    assert list(tmp_path.iterdir()) == []


def test_names_that_would_be_html_are_text() -> None:
    evil = synthetic.make("kd", synthetic.PAIRS[0], 0)
    from kdbench.report.items import Item

    assert "<script" not in str(number(Item("<script>", records=(evil,)), None, lambda one: '"><script>', set()))
    assert re.fullmatch(r"[a-z0-9-]+", anchor('<a href="x">'))


@pytest.mark.usefixtures("undrawn")
def test_names_of_files_that_an_address_must_spell(few: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "copy")
    odd = next((tmp_path / "copy" / "runs").rglob("kd-s0-*.json"))
    odd.rename(odd.with_name('a b#c%20?"<.json'))
    site(tmp_path / "copy", tmp_path / "site")
    assert "a%20b%23c%2520%3F%22%3C.json" in page(tmp_path / "site")


@pytest.mark.slow
def test_the_output_folder_of_runs_is_no_place_for_a_site(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    said = refused("site", "--results", tmp_path / "copy", "--out", tmp_path / "copy")
    assert "holds runs of its own" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("")
    assert "file" in refused("site", "--results", results, "--out", tmp_path / "file")


@pytest.mark.parametrize("place", ["runs", "runs/site", "students/a/b", "tuned", ".locks/x", "teachers"])
def test_nothing_for_others_is_written_among_what_is_read_again(place: str, few: Path, tmp_path: Path) -> None:
    """A copy of a record there is a second record, and any other JSON file a damaged one, for every later command."""
    other = tmp_path / "other"
    (other / ".locks").mkdir(parents=True)
    before = sorted(few.rglob("*"))
    for folder in (few, other):
        with pytest.raises(ValueError, match=r"lies among the files of the output folder .*; write to a place outside"):
            pages(few, folder / place, print)
        with pytest.raises(ValueError, match="lies among the files of the output folder"):
            apart(folder / place / "kd.safetensors", few)
    assert sorted(few.rglob("*")) == before
    for other in (few / "site", tmp_path / "runs" / "site", few.parent / "runs.html"):
        apart(other, few)
