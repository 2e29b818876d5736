"""`kdbench data bench`: pictures per second and memory of data sources, as a table."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from kdbench.bench.data_sources import Asked, Found, measure
from kdbench.terminal.console import escape
from kdbench.utils.wording import quoted


def bench(screen: Console, *, sources: str, workers: str, **words: Any) -> int:
    """Measure and show."""
    try:
        counts = tuple(int(count) for count in workers.split(","))
    except ValueError:
        raise ValueError(f"--data-workers takes numbers, as 0,2, not {quoted(workers)}") from None
    asked = Asked(sources=tuple(part.strip() for part in sources.split(",")), workers=counts, **words)
    show(measure(asked, lambda sentence: screen.print(f"... {sentence}", markup=False)), screen)
    return 0


def show(found: Found, screen: Console) -> None:
    """Print the table; fits 100 columns."""
    here = found.environment
    machine = ", ".join(filter(None, (here["cpu"], here.get("instructions"))))
    screen.print(f"{escape(machine)}, torch {here['torch']}, kdbench {found.code['kdbench']}")
    screen.print(
        f"{escape(found.dataset)}: {found.train:,} of train and {found.test:,} of test, stored at"
        f" {found.stored[-1]} px ({found.whole_mb:,.0f} MiB), random resized crops of {found.side} px, batches of"
        f" {found.batch_size}, {len(found.rows[0].per_second)} x {found.steps} of them"
    )
    if found.packed_s is not None:
        screen.print(f"packing took {found.packed_s:.0f} s")
    if found.load is not None:
        screen.print(f"load of the machine at the end: {found.load:.1f}")
    table = Table(title=r"median \[least, most]", title_justify="left")
    table.add_column("source", no_wrap=True)
    for column in ("workers", "opened, s", "pictures/s", "CPU ms/picture", "memory, MiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.rows:
        held = [one for one in row.memory_mb if one is not None]
        cells = (_spread(row.opened_s, 1), _spread(row.per_second, 0), _spread(row.cpu_ms, 2))
        table.add_row(row.source, str(row.workers), *cells, _spread(held, 0) if held else "not told")
    screen.print(table)
    screen.print(
        "memory: of the process and its workers beyond what it had before, without the system's cache of files"
    )


def _spread(values: list[float], digits: int) -> str:
    middle, least, most = (f"{one:,.{digits}f}" for one in (median(values), min(values), max(values)))
    return middle if least == most else rf"{middle} \[{least}, {most}]"
