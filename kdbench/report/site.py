"""Static pages of the leaderboards, with a copy of every record beside them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from kdbench.record import Record
from kdbench.report import facts
from kdbench.report.escape import plain
from kdbench.report.gather import locate
from kdbench.report.make import SuiteReport, report
from kdbench.report.templates import template
from kdbench.utils.files import apart, atomic_write

#: Which files of a folder are the site's: what a later site may replace or take away.
MANIFEST = "kdbench-site.json"
#: Folders of an output folder whose sealed files a report reads beside the records.
_BESIDE = ("tuned", "probes")

Write = Callable[..., list[SuiteReport]]
_Key = tuple[str, str, str, int, str, str, str]


@dataclass
class Site:
    """What was made.

    >>> Site(Path("site"), []).index.as_posix()
    'site/index.html'
    """

    folder: Path
    suites: list[SuiteReport]
    files: list[str] = field(default_factory=list)  # below the folder
    records: int = 0  # of these

    @property
    def index(self) -> Path:
        """The first page."""
        return self.folder / "index.html"


def site(results: Path, into: Path, *, suites: Sequence[str] | None = None, write: Write = report) -> Site:
    """Write the pages of an output folder's leaderboards and copy the records that they rest on.

    The pages need nothing but the folder: they can be opened as files or served from anywhere. An older site in the
    folder is replaced, other files there are left alone.

    Args:
        results: folder that ``kdbench run`` wrote to.
        into: folder of the pages.
        suites: only these; None: all that have records.
        write: what makes the report of a folder; takes the words of ``kdbench.report.make.report``.

    Raises:
        ValueError: no records, no such suite, or a page would take the place of a file that is no site's.
        OSError: a file cannot be written.

    >>> site(Path("nowhere"), Path("site"))
    Traceback (most recent call last):
    ValueError: no run records under nowhere/runs; `kdbench run` makes some; is it the right folder?
    """
    apart(into, results)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}-", suffix=".part") as scratch:
        aside = Path(scratch)
        kept, problems = _copied(results, aside, suites)
        if not kept:
            write(results, suites=suites, formats=("html",))  # says what is wrong, and writes nothing
        made = write(aside, suites=suites, formats=("csv", "html"), addresses=lambda one: kept.get(_key(one), ""))
        made[0].problems = problems + made[0].problems
        for folder in _BESIDE:
            shutil.rmtree(aside / folder, ignore_errors=True)
        (aside / "index.html").write_text(_index(made, aside), encoding="utf-8")
        files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
        _place(aside, into, files)
    return Site(into, made, files, len(set(kept.values())))


def _copied(results: Path, aside: Path, suites: Sequence[str] | None) -> tuple[dict[_Key, str], list[str]]:
    """Addresses of the records that were copied, from a suite's page; and sentences for what was left out."""
    located, problems = locate(results / "runs")
    kept: dict[_Key, str] = {}
    for path, one in located:
        if suites is None or one.suite in suites:
            below = path.relative_to(results)
            _copy(path, aside / below)
            kept[_key(one)] = quote(f"../{PurePosixPath(below)}")
    for folder in _BESIDE if kept else ():
        for path in (results / folder).rglob("*.json"):
            if path.is_file():
                _copy(path, aside / path.relative_to(results))
    return kept, problems


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _key(one: Record) -> _Key:
    """What tells a record from every other one, also where a report shows it in another column."""
    return one.suite, one.method, one.student, one.seed, one.settings_hash, one.status, one.checksum or one.finished


def _index(made: Sequence[SuiteReport], aside: Path) -> str:
    suites = []
    for one in made:
        (page,) = (path for path in one.files if path.name == "leaderboard.html")
        ranked = [line for line in one.board.ranked if line.rank is not None]
        suites.append(
            {
                "title": one.title,
                "banner": one.banner,
                "footer": facts.footer(one.board),
                "page": quote(page.relative_to(aside).as_posix()),
                "methods": len(one.board.everything),
                "pairs": len(one.board.pairs),
                "tables": [quote(path.relative_to(aside).as_posix()) for path in one.files if path.suffix == ".csv"],
                "first": [plain(line.shown, 60) for line in ranked[:5]],
            }
        )
    return template("site.html.j2").render(suites=suites)


def _place(aside: Path, into: Path, files: Sequence[str]) -> None:
    """Move the files into their folder and take away those of an older site that there are no more.

    Raises:
        ValueError: a file lies there that no site has written.
    """
    older = _files_of(into)
    runs = [path for path in (into / "runs").rglob("*.json") if path.relative_to(into).as_posix() not in older]
    if runs:  # copies among them would be taken for what was trained there
        raise ValueError(f"{into} holds runs of its own, such as {runs[0]}; give a folder of its own")
    strange = [name for name in files if name not in older and (into / name).exists()]
    if strange:
        raise ValueError(
            f"{into / strange[0]} is there already, and no earlier `kdbench site` wrote it; give a folder of its own"
        )
    _say(into, sorted({*older, *files}))  # before the first is moved: whatever stops this, the next one knows
    for name in files:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, into / name)
    for name in older.difference(files):
        (into / name).unlink(missing_ok=True)
        with suppress(OSError):
            (into / name).parent.rmdir()  # if it is empty
    _say(into, list(files))


def _files_of(into: Path) -> set[str]:
    """Files that an older site wrote to a folder, none outside of it."""
    try:
        said = json.loads((into / MANIFEST).read_text(encoding="utf-8"))
        names = [str(name) for name in said["files"]]
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{into / MANIFEST} is not as `kdbench site` writes it; give a folder of its own") from error
    return {name for name in names if not {"", ".."} & set(name.split("/"))}


def _say(into: Path, files: Sequence[str]) -> None:
    with atomic_write(into / MANIFEST, "w") as file:
        json.dump({"made_by": "kdbench site", "files": list(files)}, file, indent=1)
