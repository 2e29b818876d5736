"""`kdbench data pack`: makes the pack, and shows how far it is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kdbench import data as sets
from kdbench.data import names
from kdbench.data.pack import pack as make
from kdbench.data.selection import listed, pack_folder
from kdbench.terminal import console


def pack(screen: Console, *, name: str, folder: Path | None, data_dir: Path | None) -> int:
    """Make the pack of a data set, finish it, or look at it again."""
    word = names.canonical(name)
    where = folder or pack_folder(word, data_dir)
    found = listed(word, data_dir)
    if found is None:
        whole = sets.load(word, data_dir)
        source, size = whole, whole.image_shape[-1]
    else:
        source, size = found  # type: ignore[assignment]
    with console.Progress(screen) as watch:
        before = 0

        def tell(done: int, of: int) -> None:
            nonlocal before
            if not before:
                watch.group(f"packing {word}", of, 1, epochs=False)
            watch.step(done - before)
            before = done

        made = make(source, word, size, where, tell)
    for sentence in made.notes:
        screen.print(sentence, markup=False)
    screen.print(f"{word}: {made.identity.describe()}, in {where}", markup=False)
    screen.print(f"fingerprint {made.fingerprint[:12]}, the same as of the pictures themselves", markup=False)
    return 0
