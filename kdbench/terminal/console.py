"""The terminal: standard output, progress bars, how numbers are said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import markup
from rich.console import Console
from rich.progress import BarColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from kdbench.utils.wording import count, duration

if TYPE_CHECKING:
    from kdbench.run.grid import Cell
    from kdbench.run.outcome import Standing

#: Seconds between two lines where there is no terminal.
QUIET = 10.0
#: Columns of a table where neither a terminal nor COLUMNS says how many there are.
WIDTH = 100
COLOURS = {
    "done": "green",
    "failed": "red",
    "unsupported": "yellow",
    "running": "cyan",
    "missing": "dim",
    "elsewhere": "yellow",
}


def out(*, stderr: bool = False) -> Console:
    """Standard output (or error); rich honours NO_COLOR and COLUMNS and knows a terminal from a pipe."""
    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    width = WIDTH if piped and not os.environ.get("COLUMNS") else None
    return Console(highlight=False, soft_wrap=piped, stderr=stderr, width=width)


def escape(text: str) -> str:
    """Brackets of hyper-parameters, and whatever a method's error says, are not rich's markup."""
    return markup.escape(text)


class _Left(TimeRemainingColumn):
    """0:42 left."""

    def render(self, task: Task) -> Text:
        return super().render(task).append(" left")


class Progress:
    """Bars with the time left on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.total, self.behind, self.resumed = 0, 0, 0
        self.title, self.started, self.last_line = "", time.monotonic(), 0.0
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            _Left(compact=True),
            TextColumn("{task.fields[more]}"),
            console=console,
            transient=True,
            expand=True,
        )
        self.whole: TaskID | None = None
        self.part: TaskID | None = None

    def __enter__(self) -> Progress:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def begin(self, lane_steps: int) -> None:
        """The whole run: so many (lanes x batches)."""
        self.total, self.started = lane_steps, time.monotonic()
        self.whole = self.bars.add_task("whole run", total=lane_steps, more="")

    def group(self, title: str, lane_steps: int) -> None:
        """A group of lanes begins."""
        self.title = title
        if self.part is not None:
            self.bars.remove_task(self.part)
        self.part = self.bars.add_task(title, total=lane_steps, more="")

    def skip(self, lane_steps: int) -> None:
        """So many were trained in an earlier run or will not be trained."""
        self.resumed += lane_steps
        self._advance(lane_steps)

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""
        if self.part is not None:
            self.bars.advance(self.part, lanes)
        self._advance(lanes)

    def _advance(self, lane_steps: int) -> None:
        self.behind += lane_steps
        if self.whole is not None:
            self.bars.advance(self.whole, lane_steps)

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        """An epoch of these lanes is finished."""
        first = next((lane for lane in lanes if not lane.failure), lanes[0])
        at = f"epoch {first.epoch}/{first.total}" if first.epoch else "pre-training stage finished"
        if stage == "pretrain":
            at = f"pre-training stage, {at}"
        more = f"{at}, {count(len(lanes), 'lane')}"
        if self.live and self.part is not None:
            self.bars.update(self.part, more=more)
        elif not self.live and (time.monotonic() - self.last_line > QUIET or first.done):
            self.last_line = time.monotonic()
            self.console.print(f"{self._share()}{self.title}: {more}")

    def _share(self) -> str:
        if not self.total:
            return ""
        now = self.behind - self.resumed
        left = (time.monotonic() - self.started) / now * (self.total - self.behind) if now else None
        ahead = "" if left is None or self.behind >= self.total else f", about {duration(max(1, left))} left"
        return f"\\[{min(100, 100 * self.behind // self.total)}%{ahead}] "

    def note(self, sentence: str) -> None:
        """Something worth a line."""
        self.console.print(sentence, markup=False)

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """A cell is done, failed or unsupported."""
        word = "n/a" if status == "unsupported" else status
        self.console.print(f"[{COLOURS[status]}]{word:>7}[/] {escape(str(cell))}: {escape(sentence)}")
