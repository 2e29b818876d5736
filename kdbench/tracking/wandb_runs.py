"""Weights & Biases: a run per cell, online or (WANDB_MODE=offline) in files.

A run there is append-only. So what was sent of a cell is kept in a note beside it: a run that goes on takes up the same
id after the last epoch that was sent - what it repeats before that has the same bits - and a cell that is trained anew
gets another id.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from kdbench.tracking.tracker import Point
from kdbench.utils.files import atomic_write

PROJECT = "kdbench"


class WandbRuns:
    """Sends points; WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and the like are Weights & Biases' own matter."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_CONSOLE", "off")
        import wandb  # an extra

        self._wandb, self.folder = wandb, folder
        self._runs: dict[str, tuple[Any, dict[str, Any]]] = {}

    def point(self, point: Point) -> None:
        """See ``Tracker``."""
        if point.series not in self._runs:
            self._runs[point.series] = self._begin(point)
        run, sent = self._runs[point.series]
        if point.epoch > sent["epoch"]:
            run.log({"epoch": point.epoch, **point.values}, step=point.epoch)
            sent["epoch"] = point.epoch
            self._note(point.series, sent)
        if point.last:
            run.finish()
            del self._runs[point.series]

    def close(self) -> None:
        """See ``Tracker``."""
        for run, _ in self._runs.values():
            run.finish()

    def _begin(self, point: Point) -> tuple[Any, dict[str, Any]]:
        sent = self._sent(point.series)
        if point.epoch == 1 and sent["epoch"] > 0:
            sent = {"epoch": 0, "times": sent["times"] + 1}
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of the place, too: two output folders of one project are not one series.
        name = f"{self.folder.resolve()}\n{point.series}\n{sent['times']}"
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16],
            name=point.title,
            group=point.series.rpartition("/")[0],
            config=point.facts,
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",
        )
        return run, sent

    def _path(self, series: str) -> Path:
        return self.folder / "sent" / f"{series}.json"

    def _sent(self, series: str) -> dict[str, Any]:
        """The last epoch that was sent, and how often the cell has been trained anew."""
        try:
            found = json.loads(self._path(series).read_text(encoding="utf-8"))
            return {"epoch": int(found["epoch"]), "times": int(found["times"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"epoch": 0, "times": 0}

    def _note(self, series: str, sent: dict[str, Any]) -> None:
        with atomic_write(self._path(series), "w") as file:
            json.dump(sent, file)
