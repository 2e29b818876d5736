"""The pages of docs: commands are commands, code runs, links lead somewhere, generated pages are those of the registry."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import written
from commands import fine, small
from test_layers import ARROWS

from kdbench import registry
from kdbench.cli import main

BUILDING = written.ROOT / "docs" / "building"
GENERATED = {"index"} | set(registry.names())


def building(name: str) -> Any:
    """A module of docs/building, which finds its neighbours as mkdocs lets it."""
    spec = importlib.util.spec_from_file_location(name, BUILDING / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BUILDING))
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path.remove(str(BUILDING))
        sys.modules.pop("formulas", None)
    return found


def of_page(path: Path) -> str:
    return str(path.relative_to(written.ROOT))


COMMANDS = [(of_page(page), line) for page in written.PAGES for line in written.shown(page.read_text())]
BLOCKS = [
    pytest.param(block, id=f"{of_page(page)}-{number}")
    for page in written.DOCS
    for number, block in enumerate(written.blocks(page.read_text()))
    if block.kind in ("python", "py")
]
METHOD = "@register\nclass "


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: str(value)[:80])
def test_a_command_of_a_page_is_one(page: str, line: str) -> None:
    with contextlib.suppress(click.MissingParameter):  # `kdbench teacher train` names the verb alone
        written.resolve(written.parsed(written.words(line)))


def test_pages_name_every_verb_and_no_option_that_is_not_there() -> None:
    text = "\n".join(page.read_text() for page in written.DOCS)
    assert {name for name in main.commands if f"`kdbench {name}" not in text} == set()
    assert set(re.findall(r"`(--[a-z][a-z-]*)", text)) - written.options() == set()


@pytest.mark.parametrize("page", written.PAGES, ids=of_page)
def test_tuned_weights_that_a_page_runs_were_tuned_on_it(page: Path) -> None:
    """`run --weights tuned` refuses a method that was not tuned; the plain student has nothing to tune."""
    tuned: set[tuple[str, str]] = set()
    for line in written.shown(page.read_text()):
        context = written.parsed(written.words(line)) if re.match(r"kdbench (tune|run) .*--methods", line) else None
        if context is None:
            continue
        found = {(context.params["suite"], name) for name in context.params["methods"].split(",")}
        if context.info_name == "tune":
            tuned |= found
        elif context.params["weights"] == "tuned":
            assert {pair for pair in found if pair[1] != "student"} - tuned == set(), line


def test_every_target_of_make_that_a_page_names_is_one() -> None:
    text = "\n".join(page.read_text() for page in written.PAGES)
    there = set(re.findall(r"^([a-z-]+):", (written.ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) - there == set()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.usefixtures("own_registry")
def test_python_of_a_page_runs(block: written.Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block.code, "page", "exec")
    named = [
        (written.ROOT / "docs" / "examples" / name).read_text() for name in os.listdir(written.ROOT / "docs/examples")
    ]
    if not block.alone or block.code.strip() in map(str.strip, named) or METHOD in block.code:
        return  # examples and methods have tests of their own
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        exec(code, {"__name__": "__main__"})
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("own_registry")
def test_methods_of_pages_keep_the_contract_and_train(tmp_path: Path) -> None:
    found = {block.code for page in written.PAGES for block in written.blocks(page.read_text()) if METHOD in block.code}
    assert found
    file = tmp_path / "mine.py"
    for code in found:
        assert len(code.split('"""')[2].strip().splitlines()) <= 20
        file.write_text(code)
        assert "mine: keeps the contract" in fine("check", file)
    words = [*small(1), "--plugin", file, "--out", tmp_path / "o"]
    assert "mine on resnet14:resnet8" in fine("run", *words, "-m", "mine")


def test_the_navigation_has_every_page() -> None:
    named = set(re.findall(r"^ +- ([\w/]+\.md)$", (written.ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {str(page.relative_to(written.ROOT / "docs")) for page in written.DOCS}
    assert there - named == set()
    assert named - there - {"methods/index.md"} <= {"own.md", "scale.md", "report.md", "probes.md"}, "not written yet"


@pytest.mark.parametrize("page", written.PAGES, ids=of_page)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in written.links(page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if other.parent == written.ROOT / "docs" / "methods" and other.suffix == ".md":
            wrong += [] if other.stem in GENERATED else [target]
        elif not other.exists() or (anchor and anchor not in written.anchors(other.read_text())):
            wrong.append(target)
    assert wrong == []


def test_the_house_is_drawn_as_it_stands() -> None:
    page = (written.ROOT / "docs" / "contract.md").read_text()
    (drawing,) = (block.code for block in written.blocks(page) if block.kind == "mermaid")
    edges = set(re.findall(r"(\w+) --> (\w+)", drawing))
    reached = {name: {name} for name in ARROWS}
    for _ in ARROWS:
        for above, below in edges:
            reached[above] |= reached[below]
    assert {(above, below) for above, below in edges if below not in ARROWS[above]} == set()
    there = {name for edge in edges for name in edge}
    assert there == {name for name in ARROWS if not name.startswith("__")}
    apart = {name: ARROWS[name] - reached[name] for name in there if name != "terminal"}
    assert {name: missing for name, missing in apart.items() if missing - {"__init__"}} == {}


def test_every_method_has_a_page_with_its_formula_citation_and_evidence() -> None:
    pages = building("methods").pages("https://example.org")
    assert set(pages) == {f"methods/{name}.md" for name in GENERATED}
    for name in registry.names():
        page, cls = pages[f"methods/{name}.md"], registry.get(name)
        assert page.startswith(f"# {name}\n")
        assert r"\[ " in page, name
        assert "## Citation" in page
        assert cls.provenance in page
        for address in re.findall(r"https?://[^\s]+[^\s.,;)]", cls.reference):
            assert f"<{address}>" in page
        assert f"methods/{name}.py" in page
        assert (f"tests/test_{name}.py" in page) == (written.ROOT / "tests" / f"test_{name}.py").is_file()
    assert "suite `digits`" in pages["methods/semckd.md"]
    assert all(f"]({name}.md)" in pages["methods/index.md"] for name in registry.names())


@pytest.mark.parametrize("name", registry.names())
def test_a_formula_is_whole_in_tex(name: str) -> None:
    formulas = building("formulas")
    said = " ".join((inspect.getdoc(registry.get(name)) or "").split("\n\n")[0].split())
    parts = formulas.lines(said)
    assert any(is_formula for _, is_formula in parts)
    for part, is_formula in parts:
        made = formulas.display(part) if is_formula else ""
        bare = re.sub(r"\\[{}]", "", made)
        assert bare.count("{") == bare.count("}")
        assert "_ " not in made
        assert "``" not in made
        kept = re.sub(r"\\(?:text|mathrm|operatorname)|[^A-Za-z]", "", made)
        letters = [sign for sign in re.sub(r"_\w+|[^A-Za-z]", "", part) if is_formula]
        assert all(sign in kept for sign in letters), name


@pytest.mark.parametrize(
    ("said", "tex"),
    [
        ("a_i * b", r"a_{i} \, b"),
        ("KL(p || q)", r"\mathrm{KL}(p \,\Vert\, q)"),
        ("sum over l < L of w_l", r"\sum \text{ over } l < L \text{ of } w_{l}"),
        ("2^(l-L) <x, y>^2", r"2^{l - L} \langle  x, y \rangle ^{2}"),
        ("sum_{c != y} q(c)", r"\sum_{c \neq y} q(c)"),
        ("ce_weight * CE", r"\mathrm{ce\_weight} \, \mathrm{CE}"),
    ],
)
def test_signs_of_a_formula(said: str, tex: str) -> None:
    assert building("formulas").tex(said) == tex


def test_words_of_a_card_are_shown_as_they_are() -> None:
    text = building("methods").text
    assert text("a_b *c* <d> [e]") == r"a\_b \*c\* \<d\> \[e\]"
    assert text("see ``x_y`` at https://a.org/b_c.") == "see `x_y` at <https://a.org/b_c>."


def test_examples_of_docstrings_are_code() -> None:
    pytest.importorskip("griffe", reason="the site's tools are not installed: pip install kdbench[docs]")
    assert (
        building("examples").fenced("Adds.\n\n>>> 1 + 1\n2\n\nMore.") == "Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."
    )


@pytest.mark.slow
def test_the_site_builds_without_a_network(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="the site's tools are not installed: pip install kdbench[docs]")
    code = (
        "import socket\n"
        "def refuse(*_): raise OSError('no network while the site is built')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from mkdocs.__main__ import cli\n"
        f"cli(['build', '--strict', '--site-dir', {str(tmp_path / 'site')!r}])\n"
    )
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=written.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {f"methods/{name}.html" for name in GENERATED} <= made
    assert {str(page.relative_to(written.ROOT / "docs").with_suffix(".html")) for page in written.DOCS} <= made
    for page in sorted(made):
        text = (tmp_path / "site" / page).read_text()
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert {one for one in fetched if "mathjax" not in one and 'rel="canonical"' not in text} == set(), page
        assert "fonts.googleapis.com" not in text
