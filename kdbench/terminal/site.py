"""`kdbench site`: its words; what was written."""

from __future__ import annotations

from pathlib import Path

import click

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import CHOSEN, FOLDER, RESULTS, option


@click.command()
@CHOSEN
@option("--out", type=FOLDER, default=Path("site"), show_default=True, metavar="DIR", help="Folder of the pages.")
@RESULTS
@sentences
def site(*, chosen: tuple[str, ...], out: Path, results: Path) -> int:
    """Static pages of the leaderboards, with every record.

    The pages can be sorted and filtered, and every number is one click from the record that it rests on, a copy of
    which lies beside them. They need no network: open DIR/index.html, or put DIR on any web server. A later site
    in the same folder replaces an earlier one.
    """
    from kdbench.library.boards import pages
    from kdbench.terminal import console

    screen = console.out()
    made = pages(results, out, lambda sentence: screen.print(sentence, markup=False), suites=list(chosen) or None)
    for one in made.suites:
        for sentence in (*one.notes, *(f"left out: {problem}" for problem in one.problems)):
            screen.print(sentence, markup=False)
    names = ", ".join(one.suite for one in made.suites)
    screen.print(f"wrote {made.index}: {names}, with {made.records:,} records beside the pages", markup=False)
    return 0
