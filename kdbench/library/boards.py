"""A report with all that kdbench knows besides the records: published numbers, records to beat, costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import suites

if TYPE_CHECKING:
    from kdbench.report.make import SuiteReport
    from kdbench.report.site import Site


def boards(out: Path, note: Callable[[str], object], **words: Any) -> list[SuiteReport]:
    """``kdbench.report.report`` of an output folder, with what stands in kdbench's own tables.

    Among ``suites`` may be TOML files: of the suite of that name, with the published numbers that the file names.

    Raises:
        ValueError, OSError: see there.

    >>> boards(Path("nowhere"), print)
    Traceback (most recent call last):
    ValueError: no run records under nowhere/runs; `kdbench run` makes some; is it the right folder?
    """
    from kdbench.library.costs import rows
    from kdbench.report import report

    costs, unread = rows()
    if unread:
        note(f"no costs are shown: {unread}")
    known = {name: suites.load(name) for name in suites.names()}
    asked = words.pop("suites", None)
    if asked is not None:  # a file's own tables stand beside its runs
        files = {one: suites.load(one) for one in asked if one.strip().endswith(".toml")}
        known |= {suite.name: suite for suite in files.values()}
        asked = [files[one].name if one in files else one for one in asked]
    return report(
        out,
        suites=asked,
        published={name: suites.alike(suite) for name, suite in known.items()},
        standing={name: suites.records_to_beat(suite) for name, suite in known.items()},
        own=known,
        papers=suites.published_on,
        costs=costs,
        **words,
    )


def pages(results: Path, into: Path, note: Callable[[str], object], *, suites: list[str] | None = None) -> Site:
    """``kdbench.report.site.site`` of an output folder, with what stands in kdbench's own tables.

    Raises:
        ValueError, OSError: see there.

    >>> pages(Path("nowhere"), Path("site"), print)
    Traceback (most recent call last):
    ValueError: no run records under nowhere/runs; `kdbench run` makes some; is it the right folder?
    """
    from kdbench.report.site import site

    return site(results, into, suites=suites, write=partial(boards, note=note))
