"""`kdbench teacher fetch`: a published teacher brought, verified, taken over and measured."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from kdbench import models
from kdbench.models import teachers
from kdbench.run import choices, speeds
from kdbench.suites import PublishedTeacher, load_published
from kdbench.suites.published_teachers import choose
from kdbench.terminal import verbs
from kdbench.terminal.console import seen
from kdbench.terminal.guard import Ended
from kdbench.utils.download import NotFetched, fetch, file_sha256
from kdbench.utils.files import is_file
from kdbench.utils.wording import printable

#: Points by which an accuracy may differ from the stated one, which has two digits and another library behind it.
TOLERANCE = 0.1


def fetch_teacher(
    screen: Console,
    *,
    name: str,
    suite: str,
    given: Path | None,
    table: str | None,
    no_verify: bool,
    replace: bool,
    data_dir: Path | None,
    out: Path,
    device: str,
) -> int:
    """Run the verb; returns the exit status.

    Raises:
        ValueError: there is no such teacher, or what was given is not its file.
        Ended: it cannot be downloaded.
    """
    chosen = choices.choose_suite(suite, choices.choose_device(device))[0]
    try:
        network = models.resolve(name)
    except ValueError:  # the name of an entry, or nothing that there is
        network = None
    one = choose(load_published(table), name, network, chosen.dataset)
    network = models.resolve(one.network)
    stored = teachers.path(out / "teachers", chosen.dataset, network)
    if stored.exists() and not replace:
        raise ValueError(f"{stored} is there already, and records may rest on it; --replace puts this one in its place")
    file = _given(given, one) if given is not None else _cached(one, screen)
    card = verbs.take_over(
        screen,
        file=file,
        name=network,
        suite=suite,
        part="auto",
        no_verify=no_verify,
        replace=replace,
        data_dir=data_dir,
        out=out,
        device=device,
        trained_with=one.normalisation,
        origin=one.address,
    )
    if card.top1 is None:
        return 0
    if abs(card.top1 - one.top1) > TOLERANCE:
        said = f"but its publisher states {one.top1:.2f}%: other data, or another preprocessing"
        screen.print(said, style="red", markup=False)
        return 1
    screen.print(f"as its publisher states ({one.top1:.2f}%, licence {printable(one.licence, 60)})", markup=False)
    return 0


def _given(file: Path, one: PublishedTeacher) -> Path:
    """Raises: ValueError: it is not the published file."""
    if not is_file(file):
        raise ValueError(f"there is no file {file}; --from takes {one.file}, which is at {one.address}")
    if (size := file.stat().st_size) != one.bytes:
        raise ValueError(
            f"{file} is not the published {one.name}: it has {size:,} bytes, the table has {one.bytes:,};"
            f" get it from {one.address}"
        )
    if (found := file_sha256(file)) != one.sha256:
        raise ValueError(
            f"{file} is not the published {one.name}: its sha256 is {found[:12]}, the table has {one.sha256[:12]};"
            f" get it from {one.address}"
        )
    return file


def _cached(one: PublishedTeacher, screen: Console) -> Path:
    """The file in kdbench's cache folder, downloaded where it is not there.

    Raises:
        Ended: it cannot be downloaded; the sentence says where to get it and where to put it.
    """
    target = speeds.folder() / "teachers" / one.file
    if is_file(target):
        if target.stat().st_size == one.bytes and file_sha256(target) == one.sha256:
            return target
        screen.print(f"{target} is not the published {one.name}; it is fetched anew", markup=False)
    live = seen(screen) and not screen.is_dumb_terminal
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), DownloadColumn())
    with Progress(*columns, console=screen, transient=True, disable=not live) as bar:
        task = bar.add_task(one.file, total=one.bytes)
        if not live:
            screen.print(f"fetching {one.file} ({one.bytes:,} bytes) from {one.address}", markup=False)
        try:
            fetch(
                one.address,
                target,
                sha256=one.sha256,
                size=one.bytes,
                told=lambda there: bar.update(task, completed=there),
            )
        except NotFetched as error:
            raise Ended(
                f"{one.name} cannot be downloaded: {error}; get it from {one.address} and put it at {target}, or name"
                " it with --from FILE"
            ) from error
    return target


def rows() -> tuple[list[str], list[list[str]]]:
    """The published teachers as `kdbench list teachers` shows them."""
    heads = ["teacher", "network", "data", "top-1", "licence", "address"]
    found = load_published()
    return heads, [[one.name, one.network, one.dataset, f"{one.top1:.2f}", one.licence, one.address] for one in found]
