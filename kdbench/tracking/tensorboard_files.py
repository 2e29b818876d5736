"""TensorBoard's event files, a folder per cell; torch is not needed for them.

A run that goes on opens a file of its own with the mark by which TensorBoard drops what an earlier file has of the
same steps and later ones.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from kdbench.tracking.tracker import Point


class TensorBoardFiles:
    """Writes scalars; files are opened for every point, for a grid has more cells than a process may have files."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # an extra
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries, self._writer = event_pb2, summary_pb2, RecordWriter
        self.folder = folder
        self._files: dict[str, Path] = {}

    def point(self, point: Point) -> None:
        """See ``Tracker``."""
        events = []
        path = self._files.get(point.series)
        if path is None:
            path = self._begin(point.series)
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            events = [self._event(file_version="brain.Event:2"), self._event(step=point.epoch, session_log=start)]
        summary = self._summaries.Summary
        scalars = [summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        events.append(self._event(step=point.epoch, summary=summary(value=scalars)))
        with path.open("ab") as file:
            writer = self._writer(file)
            for event in events:
                writer.write(event.SerializeToString())
        self._files[point.series] = path

    def close(self) -> None:
        """See ``Tracker``."""

    def _begin(self, series: str) -> Path:
        folder = self.folder / series
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        return folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"

    def _event(self, **what: Any) -> Any:
        return self._events.Event(wall_time=time.time(), **what)
