"""`kdbench export` on a terminal: what was written, and how near it is to the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console


def export(screen: Console, cell: tuple[str, ...], **words: Any) -> int:
    """Run the verb; returns the exit status.

    Raises:
        ValueError: what was asked for cannot be done.
    """
    from kdbench.export.make import export as make

    made = make(cell, **words)
    for sentence in made.notes:
        screen.print(sentence, markup=False)
    folders: dict[Path, list[str]] = {}
    for path in made.files:
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        screen.print(
            f"wrote {folder / ''}: {', '.join(names)}" if str(folder) != "." else f"wrote {', '.join(names)}",
            markup=False,
        )
    return 0
