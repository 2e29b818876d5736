"""A teacher under training, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console

from kdbench.data import Dataset
from kdbench.run.outcome import Teller, tell
from kdbench.run.teachers import TeacherFailed
from kdbench.terminal import console
from kdbench.terminal.guard import Ended


@contextmanager
def taught(screen: Console, name: str, images: Dataset, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A bar as long as the training; gives whom the training tells of itself, ``watch`` and ``note``.

    Raises:
        Ended: the training failed; nobody's words were wrong.
    """
    with console.Progress(screen) as watch:
        steps = wanted["epochs"] * -(-len(images.train_labels) // wanted["batch_size"])
        watch.group(f"teacher {name}", steps, wanted["batch_size"])
        try:
            yield {"watch": Teller(partial(tell, watch)), "note": watch.note}
        except TeacherFailed as error:
            raise Ended(str(error)) from error
