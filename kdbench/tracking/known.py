"""The trackers that there are, by the names that ``--track`` takes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kdbench.tracking.tracker import Tracker
from kdbench.utils.wording import quoted

#: name -> module, class, and the package that it needs (also the name of the extra that brings it; "": none).
KNOWN = {
    "csv": ("kdbench.tracking.csv_files", "CsvFiles", ""),
    "tensorboard": ("kdbench.tracking.tensorboard_files", "TensorBoardFiles", "tensorboard"),
    "wandb": ("kdbench.tracking.wandb_runs", "WandbRuns", "wandb"),
}


def chosen(text: str | None) -> list[str]:
    """The trackers of a comma separated list, each once.

    Raises:
        ValueError: there is no such tracker.

    >>> chosen("csv, tensorboard"), chosen(None)
    (['csv', 'tensorboard'], [])
    >>> chosen("tensorbord")
    Traceback (most recent call last):
    ValueError: --track takes csv, tensorboard or wandb, or several with commas between, not 'tensorbord'
    """
    if text is None:
        return []
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if strange := [name for name in names if name not in KNOWN]:
        *most, last = KNOWN
        words = f"{', '.join(most)} or {last}"
        raise ValueError(f"--track takes {words}, or several with commas between, not {quoted(strange[0])}")
    return names


def make(name: str, folder: Path) -> Tracker:
    """A tracker that writes into a folder, which need not be there.

    Raises:
        ImportError: its package is missing; one sentence.

    >>> type(make("csv", Path("results/track/csv"))).__name__
    'CsvFiles'
    """
    module, kind, package = KNOWN[name]
    try:
        made: Tracker = getattr(import_module(module), kind)(folder)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(f"the package {package} is not installed (pip install 'kdbench[{package}]')") from error
    return made
