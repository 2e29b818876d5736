"""`kdbench status --watch`: who works on an output folder, how far, how fast and how long still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdbench.run import hearts
from kdbench.run.hearts import Heart, Training
from kdbench.terminal.console import escape, head, seen
from kdbench.terminal.streams import plain
from kdbench.utils.naming import key_of
from kdbench.utils.wording import count, duration, printable

#: Seconds between two rounds of lines, where there is no terminal.
LINES = 60
#: Where checkpoints of cells and teachers lie in an output folder.
_PLACES = ("runs/*/*", "teachers/*", "assistants/runs/*/*", "tuned/runs/*/*", "tuned/assistants/runs/*/*")


class Looks:
    """Looks at a folder again and again; knows by the writers' own signs whether they go on."""

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.out, self._clock = out, clock
        self._seen: dict[tuple[str, int, float, str], tuple[float, float]] = {}  # last beat, and when it was seen
        self.alive: list[Heart] = []
        self.dead: list[Heart] = []
        self.stopped: list[str] = []  # names of checkpoints

    def look(self) -> None:
        """Read what is there now."""
        self.alive, self.dead = [], []
        for one in hearts.read(self.out):
            (self.dead if self._is_dead(one) else self.alive).append(one)
        self.dead = [one for one in self.dead if not self._made_up_for(one)]
        found = [path for place in _PLACES for path in self.out.glob(f"{place}/*.ckpt")]
        self.stopped = sorted(path.stem for path in found)

    def _made_up_for(self, one: Heart) -> bool:
        """Whether all that a dead run left has ended since, whoever did it."""
        if not one.waiting or one.work != "run":
            return False
        found = (path for place in _PLACES for path in self.out.glob(f"{place}/*.json"))
        return set(one.waiting) <= {key_of(path.name) for path in found}

    def _is_dead(self, one: Heart) -> bool:
        """A clock that differs from this one's is no death: a sign that has changed since the last look is life."""
        key = (one.host, one.pid, one.since, one.work)
        beat, when = self._seen.get(key, (one.beat, float("-inf")))
        if beat != one.beat:
            when = self._clock()
        self._seen[key] = one.beat, when
        return hearts.is_dead(one) and self._clock() - when > hearts.DEAD

    @property
    def over(self) -> bool:
        """Nobody works, and nothing waits for somebody."""
        return not self.alive and not self.stopped and not any(one.left for one in self.dead)


def watch(out: Path, seconds: int, screen: Console, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show it until nothing is missing and nobody works; Ctrl-C ends it before.

    Raises:
        ValueError: ``seconds`` is no time.
    """
    if not 1 <= seconds <= 86400:
        raise ValueError(f"--watch takes seconds between two looks, from 1 to 86400, not {seconds}")
    looks = Looks(out)
    looks.look()
    if not looks.over and seen(screen) and not screen.is_dumb_terminal:
        with Live(shown(looks, screen), console=screen, auto_refresh=False, transient=True) as live:
            while not looks.over:
                sleep(seconds)
                looks.look()
                live.update(shown(looks, screen), refresh=True)
    else:
        while not looks.over:
            for line in lines(looks):
                screen.print(line, markup=False, soft_wrap=True)
            until = max(LINES, seconds)
            while until > 0 and not looks.over:  # the end is not waited for
                sleep(min(until, seconds))
                until -= seconds
                looks.look()
    screen.print(f"nobody works on {out}, and nothing there is on its way", markup=False)
    return 0


def shown(looks: Looks, screen: Console) -> RenderableType:
    """A table of what is trained, and a line for each run and for what is dead or stopped."""
    table = Table(box=head(screen), pad_edge=False)
    for name in ("cell", "epoch", "images/s", "left", "where", "since"):
        table.add_column(name, overflow="fold")
    for one in looks.alive:
        if one.work == "run":
            continue
        who = (_speed(one), _left(one), f"{printable(one.host, 60)} {one.pid}", _when(one.since))
        rows: list[Training | None] = [*one.lanes] or [None]
        for number, lane in enumerate(rows):
            first = (printable(one.title, 100) or "begins", "") if lane is None else (_name(lane), _at(lane))
            table.add_row(*map(escape, (*first, *(who if number == 0 else ("",) * 4))))
    said = [Text(plain(line, screen.encoding)) for line in _sentences(looks)]
    return Group(*([table] if table.row_count else []), *said)


def lines(looks: Looks) -> list[str]:
    """The same for a log: a line for each process."""
    now = datetime.now().strftime("%H:%M:%S")
    groups = [f"[{now}] {_line(one)}" for one in looks.alive if one.work == "group"]
    return groups + [f"[{now}] {line}" for line in _sentences(looks)]


def _line(one: Heart) -> str:
    cells = "; ".join(f"{_name(lane)} {_at(lane)}" for lane in one.lanes[:12])
    more = f"; and {len(one.lanes) - 12} more" if len(one.lanes) > 12 else ""
    speed = f"{_speed(one)} images/s" if one.speed else ""
    parts = [cells + more or printable(one.title, 100) or "begins", speed, f"{_left(one)} left" if _left(one) else ""]
    return f"{', '.join(part for part in parts if part)} ({_who(one)})"


def _sentences(looks: Looks) -> Iterable[str]:
    for one in looks.alive:
        if one.work == "run":
            left = f", about {_left(one)} left" if _left(one) else ""
            yield f"{printable(one.title, 100)}: {one.ended} of {count(one.cells, 'cell')} ended{left} ({_who(one)})"
    for one in looks.dead:
        what = f"{count(one.left, 'cell')} not ended" if one.work == "run" else printable(one.title, 100)
        ago = duration(max(0.0, time.time() - one.beat))
        yield f"dead: {what} ({_who(one)}; its last sign of life is {ago} old)"
    if not looks.alive:
        what = f"; {count(len(looks.stopped), 'cell')} stopped on the way" if looks.stopped else ""
        yield f"nobody works on {looks.out}{what}; repeat the command that began it to go on"


def _who(one: Heart) -> str:
    return f"{printable(one.host, 60)}, pid {one.pid}, since {_when(one.since)}"


def _name(lane: Training) -> str:
    return printable(lane.name, 200)


def _at(lane: Training) -> str:
    return f"{lane.epoch}/{lane.total}" + (" of the pre-training stage" if lane.stage == "pretrain" else "")


def _speed(one: Heart) -> str:
    return f"{one.speed:,.0f}" if one.speed else ""


def _left(one: Heart) -> str:
    return "" if one.seconds_left is None else duration(max(1.0, one.seconds_left))


def _when(seconds: float) -> str:
    try:
        then = datetime.fromtimestamp(seconds)
    except (OverflowError, OSError, ValueError):
        return "?"
    return then.strftime("%H:%M" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M")
