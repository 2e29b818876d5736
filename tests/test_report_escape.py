"""Whatever a string holds, it is visible text on one line in every kind of output."""

from __future__ import annotations

import csv
import io
import re

import pandas as pd
import pytest
from hostile import CONTROL, HOSTILE
from markdown_it import MarkdownIt

from kdbench.report import escape


def test_plain_text_is_one_line_without_orders() -> None:
    for text in HOSTILE:
        found = escape.plain(text)
        assert not set(found) & CONTROL
        assert "\n" not in found
        found.encode()
        assert len(escape.plain(text, 40)) <= 40 * 10  # of spelled signs
        assert escape.plain(found) == found


def test_plain_text_keeps_what_is_harmless() -> None:
    for text in (
        "semckd[beta=200,tau=2]",
        "resnet32x4 → resnet8x4",
        "73.50 ± 0.28 (5)",
        "Zoë 中文 τ",
        "50% of a_b & c",
    ):
        assert escape.plain(text) == text
    assert escape.plain("a\nb\tc") == "a b c"
    assert escape.plain("\x1b[31m\u202e\ud800") == "\\x1b[31m\\u202e\\ud800"
    assert escape.plain("x" * 50 + "y" * 50, 20) == "xxxxxxxx ... yyyyyyy"
    assert len(escape.plain("x" * 100, 20)) == 20


def test_latex_has_no_command_but_ours() -> None:
    for text in HOSTILE:
        found = escape.latex(text)
        assert found.isascii()
        assert "\n" not in found
        rest = re.sub(r"\\[`'^~=.\"rHvck]\{[A-Za-z]\}", "", found)
        for ours in sorted({*escape._LATEX.values(), r"$\tau$"}, key=len, reverse=True):
            rest = rest.replace(ours, "")
        rest = re.sub(r"^\{(.*)\}$", r"\1", rest)
        assert not set(rest) & set("\\{}$&#^_~%")
        assert not found.startswith(("[", "*", "("))
        assert escape.latex_comment(text).count("\n") == 0


def test_latex_writes_what_it_has_a_sign_for() -> None:
    assert escape.latex("72.5 ± 0.1 τ → Zoë_1 50%") == r"72.5 $\pm$ 0.1 $\tau$ $\to$ Zo\"{e}\_1 50\%"
    assert escape.latex("中") == "{[U+4E2D]}"


def rendered(source: str) -> str:
    """As GitHub would show it: tables, struck text, raw HTML let through, addresses as links."""
    shown: str = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    return shown


def test_markdown_shows_the_text_and_nothing_else() -> None:
    for text in HOSTILE:
        source = f"| a | b |\n|---|---|\n| {escape.markdown(text)} | z |\n"
        shown = re.sub(r"</?(table|thead|tbody|tr|th|td)>", "", rendered(source))
        assert "<" not in shown
        assert rendered(source).count("<td>") == 2
        listed = rendered(f"- {escape.markdown(text, block=True)}\n- z\n")
        assert re.sub(r"</?(ul|li)>", "", listed).count("<") == 0
        assert listed.count("<li>") == 2
        bare = escape.markdown(text)
        assert not re.search(r"https?://|(?i:www)\.", bare)
        assert not re.search(r"(?<!\\)\$", bare)  # GitHub's formulas


def test_markdown_leaves_names_readable() -> None:
    assert escape.markdown("wrn_40_2 72.5 ± 0.1 (3)") == "wrn_40_2 72.5 ± 0.1 (3)"
    assert escape.markdown("-") == "-"
    assert escape.markdown("- x", block=True) == "\\- x"


def test_no_cell_of_a_spreadsheet_is_a_formula() -> None:
    for text in HOSTILE:
        frame = pd.DataFrame([{"a": escape.csv(text), "b": 1.5, "c": -2}])
        source = frame.to_csv(index=False)
        (row,) = csv.DictReader(io.StringIO(source))
        assert (row["b"], row["c"]) == ("1.5", "-2")
        assert not row["a"].lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\t", "\r"))
        assert source.count("\n") == 2
        for part in source.split("\n")[1].split(";")[1:]:  # where semicolons part cells
            assert not part.lstrip().startswith(("=", "+", "-", "@"))


def test_numbers_stay_numbers_and_names_stay_names() -> None:
    assert escape.csv(-1.5) == -1.5
    assert escape.csv(None) is None
    assert escape.csv("semckd[beta=200]") == "semckd[beta=200]"
    assert escape.csv('{"beta": [1, -1]}') == '{"beta": [1, -1]}'
    assert escape.csv("=1+1") == "'=1+1"
    assert escape.csv("a;-1") == "a;'-1"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1", "cp437", "no-such"])
def test_a_screen_of_any_encoding_can_show_it(encoding: str) -> None:
    for text in HOSTILE:
        found = escape.terminal(text, encoding)
        assert not set(found) & CONTROL
        if encoding != "no-such":
            found.encode(encoding)
    assert escape.terminal("a → b ± 1", "ascii") == "a -> b +- 1"
    assert escape.terminal("a → b ± 1", "cp1252") == "a -> b +- 1"
    assert escape.terminal("a → b ± 1", "utf-8") == "a → b ± 1"
