"""The terminal: standard output, progress bars, how numbers are said."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from kdbench.terminal.pace import Pace, Ticker
from kdbench.terminal.streams import ReaderGone, plain, standard
from kdbench.utils.wording import count, duration, without_orders

if TYPE_CHECKING:
    from kdbench.run.grid import Cell
    from kdbench.run.outcome import Standing

__all__ = ["COLOURS", "Progress", "Screen", "count", "duration", "escape", "head", "out", "seen"]

#: Columns of a table where neither a terminal nor COLUMNS says how many there are.
WIDTH = 100
#: Columns that a table is given at least, and lines of a screen that nobody knows.
LEAST, LINES = 20, 25
COLOURS = {
    "done": "green",
    "failed": "red",
    "unsupported": "yellow",
    "running": "cyan",
    "missing": "dim",
    "elsewhere": "yellow",
}
#: rich's SIMPLE_HEAD in signs that every encoding has.
PLAIN_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


class Screen(Console):
    """rich's console: text is written in signs that the encoding has, and nothing in it is an order to a terminal."""

    def render_str(self, text: str, **how: Any) -> Text:
        """As rich's; every string that is shown comes through here before its width is measured."""
        return super().render_str(plain(without_orders(text), self.encoding), **how)


def out(*, stderr: bool = False) -> Screen:
    """Standard output (or error), which never raises; NO_COLOR and COLUMNS are honoured, a pipe has no colours."""
    stream = standard(stderr=stderr)
    piped = not stream.isatty()
    lines = os.environ.get("LINES", "")
    return Screen(
        file=stream,  # type: ignore[arg-type]
        highlight=False,
        emoji=False,
        soft_wrap=piped,
        stderr=stderr,
        width=_width(piped),
        height=LINES if lines and not _number(lines) else None,
    )


def _width(piped: bool) -> int | None:
    """Columns; None: rich asks the terminal."""
    said = os.environ.get("COLUMNS", "")
    if found := _number(said):
        return max(LEAST, found)
    if piped:
        return WIDTH
    return max(LEAST, shutil.get_terminal_size((WIDTH, LINES)).columns) if said else None


def _number(text: str) -> int:
    """A whole number of a size that screens have; 0 where it is none."""
    return min(int(text), 10_000) if re.fullmatch("[0-9]{1,9}", text) else 0


def seen(screen: Console) -> bool:
    """Whether somebody looks at it: not where colours are asked for in a pipe (FORCE_COLOR)."""
    return screen.is_terminal and (not isinstance(screen, Screen) or screen.file.isatty())


def head(screen: Console) -> box.Box:
    """The lines of a table, in signs that the screen has."""
    return box.SIMPLE_HEAD if screen.encoding.startswith("utf") else PLAIN_HEAD


class _Left(TimeRemainingColumn):
    """0:42 left."""

    def render(self, task: Task) -> Text:
        return super().render(task).append(" left")


class Progress:
    """Bars with the time left on a terminal, a line a minute elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = seen(console) and not console.is_dumb_terminal
        self.pace = Pace()
        self.ticker = Ticker(self.tick)
        self.gone: ReaderGone | None = None
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            _Left(compact=True),
            TextColumn("{task.fields[more]}", markup=False),
            console=console,
            transient=True,
            expand=True,
        )
        self.whole: TaskID | None = None
        self.part: TaskID | None = None

    def __enter__(self) -> Progress:
        if self.live:
            self.bars.start()
        else:
            self.ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()
        else:
            self.ticker.stop()

    @property
    def total(self) -> int:
        """Of the whole run, in (lanes x batches)."""
        return self.pace.total

    @property
    def behind(self) -> int:
        """What of it is done."""
        return self.pace.behind

    def begin(self, lane_steps: int) -> None:
        """The whole run: so many (lanes x batches)."""
        self.pace.begin(lane_steps)
        self.whole = self.bars.add_task("whole run", total=lane_steps, more="")

    def group(self, title: str, lane_steps: int, batch: int = 0, *, epochs: bool = True) -> None:
        """A group of lanes begins; where nothing else has begun, it is the whole run."""
        self.pace.group(title, lane_steps, batch, epochs=epochs)
        if self.part is not None:
            self.bars.remove_task(self.part)
        self.part = self.bars.add_task(plain(title, self.console.encoding), total=lane_steps, more="")

    def skip(self, lane_steps: int) -> None:
        """So many were trained in an earlier run or will not be trained."""
        self.pace.skip(lane_steps)
        self._advance(lane_steps)

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""
        self.pace.step(lanes)
        if self.part is not None:
            self.bars.advance(self.part, lanes)
        self._advance(lanes)
        if self.gone is not None:  # the other thread was told
            raise self.gone

    def _advance(self, lane_steps: int) -> None:
        if self.whole is not None:
            self.bars.advance(self.whole, lane_steps)

    def tick(self) -> None:
        """Called once a second, from another thread, where there is no terminal; never raises."""
        if self.gone is None and self.pace.title and self.pace.due():
            try:
                self.console.print(self.pace.line(), markup=False)
            except ReaderGone as gone:
                self.gone = gone

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        """An epoch of these lanes is finished."""
        first = next((lane for lane in lanes if not lane.failure), lanes[0])
        at = f"epoch {first.epoch}/{first.total}" if first.epoch else "pre-training stage finished"
        if stage == "pretrain":
            at = f"pre-training stage, {at}"
        if self.live and self.part is not None:
            self.bars.update(self.part, more=f"{at}, {count(len(lanes), 'lane')}")
        self.pace.at, self.pace.lanes = at, len(lanes)
        if not self.live and (self.pace.due() or first.done):
            self.pace.said()
            self.console.print(self.pace.line(), markup=False)
        if first.done:
            self.pace.over()
        else:
            early = "pre-training stage, " if stage == "pretrain" and first.epoch else ""
            self.pace.at = f"{early}in epoch {first.epoch + 1}"

    def note(self, sentence: str) -> None:
        """Something worth a line."""
        self.console.print(sentence, markup=False)

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """A cell is done, failed or unsupported."""
        word = "n/a" if status == "unsupported" else status
        self.console.print(f"[{COLOURS[status]}]{word:>7}[/] {escape(str(cell))}: {escape(sentence)}")
