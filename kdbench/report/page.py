"""One HTML page that needs nothing but itself: tables to sort and filter, figures inline, no network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from markupsafe import Markup

from kdbench.record import Record
from kdbench.report import facts, linked
from kdbench.report.board import Board
from kdbench.report.escape import by_line, plain
from kdbench.report.items import CLASS_TITLES, Item, Row, Table
from kdbench.report.probes import TITLES
from kdbench.report.stats import colour_limit
from kdbench.report.templates import template

CAPTIONS = {
    "leaderboard": "Accuracy per method and pair",
    "heatmap": "Gain per method and pair",
    "ranks": "Average ranks",
    "duels": "Every two methods",
    "mismatch": "Which stage guides which",
    "cost": "Accuracy against cost",
    "sensitivity": "Accuracy against the weight",
    "curves": "Curves",
    **{f"probe-{name}": f"Probe: {name}" for name in TITLES},
}


def render(
    board: Board,
    tables: Sequence[Table],
    drawings: Mapping[str, str],
    notes: Sequence[str],
    addresses: linked.Addresses | None = None,
) -> str:
    """The page of one suite.

    Args:
        board: its numbers.
        tables: as `kdbench.report.tables` makes them.
        drawings: SVG source of each figure by its name.
        notes: sentences for the reader.
        addresses: of records, to which numbers lead; None: they lead nowhere.

    """
    limit = colour_limit(
        [item.shade for table in tables for row in table.rows for item in row.items if item.shade is not None]
    )
    known = linked.methods(board) if addresses is not None else set()
    return template("page.html.j2", finalize=_visible).render(
        title=facts.title(board.selection),
        banner=facts.banner(board.selection),
        footer=facts.footer(board),
        tables=tables,
        drawings={name: inline(name, drawings[name]) for name in CAPTIONS if name in drawings},
        captions=CAPTIONS,
        notes=notes,
        environment=facts.environment(board),
        head_lines=lambda head: by_line(head, plain),
        classes=CLASS_TITLES,
        number=lambda item, row=None: number(item, row, addresses, known),
        site=addresses is not None,
        tint=lambda shade: tint(shade, limit),
    )


def _visible(value: object) -> object:
    """What a template puts into the page: visible text on one line, which the autoescape makes harmless."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(
    item: Item, row: Row | None = None, addresses: linked.Addresses | None = None, known: Collection[str] = ()
) -> Markup | str:
    """A cell's text; what follows a mean is set small, so that more pairs stand side by side.

    Args:
        item: the cell.
        row: where it stands.
        addresses: of records. A mean is followed by its seeds, each a link to the record; what rests on one record
            links to it, what rests on many to the method's first row in the table of runs.
        known: anchors that are there.
    """
    text: Markup | str = item.text
    if item.spread is not None:
        mean = f"{item.spread.mean:.2f}"
        text = Markup("{}<small>{}</small>").format(mean, plain(item.text.removeprefix(mean)))
    if addresses is None:
        return text
    links = [(one, addresses(one)) for one in item.records]
    links = [(one, address) for one, address in links if address]
    if len(links) == 1 and item.spread is None:
        return Markup('<a href="{}">{}</a>').format(links[0][1], text)
    if links:
        seeds = Markup(" ").join(map(_seed, links))
        return Markup('{} <span class="seeds">{}</span>').format(text, seeds)
    name = linked.anchor(str(row.items[0].value)) if row is not None and row.items[0].value else ""
    if name in known and (isinstance(item.value, float | int) or (row is not None and item is row.items[0])):
        return Markup('<a href="#{}">{}</a>').format(name, text)
    return text


def _seed(link: tuple[Record, str]) -> Markup:
    one, address = link
    return Markup('<a href="{}" title="record of seed {}">{}</a>').format(address, one.seed, one.seed)


def tint(shade: float | None, limit: float) -> str:
    """A pale background for a gain, blue above zero and red below; ``limit`` is the strongest."""
    if shade is None:
        return ""
    strength = min(abs(shade) / limit, 1.0) * 0.34
    colour = "0,114,178" if shade >= 0 else "213,94,0"
    return f"background:rgba({colour},{strength:.2f})"


def inline(name: str, source: str) -> str:
    """An SVG document as part of a page: no prologue, no metadata, names of its own, hundredths of a point."""
    svg = source[source.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(?<=\sid=")', f"{name}-", svg)
    svg = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    svg = re.sub(r'\s(?:d|x|y)="[^"]*"|translate\([^)]*\)', _rounded, svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    head = f'<svg role="img" aria-label="{CAPTIONS[name]}"'
    return re.sub(
        r'<svg(?P<rest>[^>]*?)\swidth="[^"]*"(?P<more>[^>]*)>',
        lambda found: re.sub(r'\sheight="[^"]*"', "", f"{head}{found['rest']}{found['more']}>"),
        svg,
        count=1,
    )


def _rounded(found: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", found[0])
