"""What a command has trained, written down as it happens, so that it shows what was trained twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from campaign.area import Fault
from kdbench.engine import saving
from kdbench.engine.lane import Lane
from kdbench.engine.teacher_cache.rows import Rows

_STAGES = ("pretrain", "train")


@dataclass(frozen=True)
class Ledger:
    """Of all commands on one output folder: epochs that began, epochs that were saved, entries of tables."""

    out: Path
    file: Path

    def writing(self, then: Callable[[], None] | None) -> Callable[[], None]:
        """To be called in a command's process, before it begins; ``then`` is called after."""

        def before() -> None:
            log = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

            def note(*words: object) -> None:
                with suppress(OSError):  # where the system lets no file grow
                    os.write(log, (" ".join(map(str, words)) + "\n").encode())

            start, save, write = Lane.start_epoch, Lane.save, Rows.write

            def started(lane: Lane) -> None:
                note("epoch", _STAGES.index(lane.stage), lane.epoch, lane.path.name)
                start(lane)

            def saved(lane: Lane) -> None:
                save(lane)
                note("saved", _STAGES.index(lane.stage), lane.epoch, lane.path.name)

            def written(rows: Rows, which: object, values: object) -> None:
                write(rows, which, values)  # type: ignore[arg-type]
                note("rows", *which, rows._paths[0].name)  # type: ignore[misc]

            saving.RAREST = 0.0  # however long a checkpoint takes, the next may come
            Lane.start_epoch, Lane.save, Rows.write = started, saved, written  # type: ignore[assignment, method-assign]
            if then is not None:
                then()

        return before

    def check(self) -> None:
        """Raises: Fault: an epoch was trained again after it had been saved, or an answer asked for that was kept."""
        done: dict[str, tuple[int, int]] = {}
        kept: set[tuple[str, str]] = set()
        for line in self.file.read_text().splitlines() if self.file.exists() else []:
            word, *numbers, name = line.split()
            if word == "rows":
                if again := kept & {(row, name) for row in numbers}:
                    raise Fault(f"entry {min(again)[0]} of {name} was kept, and was asked for again")
                kept |= {(row, name) for row in numbers}
                continue
            place = int(numbers[0]), int(numbers[1])
            if word == "saved":
                done[name] = place
            elif place < done.get(name, (0, 0)):
                raise Fault(f"epoch {place[1] + 1} of {name} had been saved, and was trained again")
