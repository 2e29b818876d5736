"""What a log says of a run that goes on: what is trained, how fast, and how long it may still take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kdbench.utils.wording import count, duration

#: Seconds to the first line of a run, and between two lines from then on.
FIRST, EVERY = 10.0, 60.0


class Pace:
    """Counts what has been trained. A lane-step is one batch through one lane."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.total, self.behind, self.resumed = 0, 0, 0  # lane-steps of the whole run
        self.title, self.at, self.lanes, self.batch = "", "", 0, 0
        self.started = clock()
        self._last = self.started - EVERY + FIRST
        self._images, self._since, self._epochs = 0, self.started, True
        self._moving = self._under_way = False  # whether a batch of the run, of the group, went through
        self._over: float | None = None  # when the group's last epoch ended
        self._lock = threading.Lock()

    def begin(self, lane_steps: int) -> None:
        """The whole run: so many lane-steps."""
        self.total, self.started = lane_steps, self.clock()

    def group(self, title: str, lane_steps: int, batch: int, *, epochs: bool = True) -> None:
        """Lanes begin; ``batch`` images are in a batch, 0 where nobody says. Not all work has lanes and ``epochs``."""
        self.title, self.batch, self.at, self.lanes = title, batch, "in epoch 1" if epochs else "", 0
        self._epochs, self._under_way, self._images, self._over = epochs, False, 0, None
        if not self.total:  # a teacher alone: the group is the whole run
            self.total, self.started = lane_steps, self.clock()

    def skip(self, lane_steps: int) -> None:
        """So many were trained in an earlier run or will not be trained."""
        self.resumed += lane_steps
        self.behind += lane_steps
        if self.at and not self._under_way and lane_steps > 0:  # the group is not in its first epoch
            self.at = "going on"

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes.

        The first ones tell nothing of the speed: data, networks and memory were made before them.
        """
        self.behind += lanes
        self.lanes = lanes if self._epochs else 0
        if not self._moving:
            self.started, self.resumed = self.clock(), self.resumed + lanes
        if self._under_way:
            self._images += lanes * self.batch
        else:
            self._images, self._since = 0, self.clock()
        self._moving = self._under_way = True

    def over(self) -> None:
        """The group's last epoch has ended. What comes now, building the next one's networks, tells of no speed."""
        self.at, self.lanes, self._over = "done; what follows is being made ready", 0, self.clock()

    def due(self) -> bool:
        """Whether it is time for a line; once it says so, the line is counted as said."""
        with self._lock:
            if self.clock() - self._last < EVERY:
                return False
            self._last = self.clock()
            return True

    def said(self) -> None:
        """A line was said anyway."""
        with self._lock:
            self._last = self.clock()

    def line(self) -> str:
        """``[12%, about 3 min left] resnet20, seed 0: in epoch 3, 10 lanes, 1,234 images/s``."""
        parts = [self.at, count(self.lanes, "lane") if self.lanes else "", self._speed()]
        return f"{self.share()}{self.title}: {', '.join(part for part in parts if part)}"

    def share(self) -> str:
        """``[12%, about 3 min left] ``; empty where nobody said how much there is."""
        if not self.total:
            return ""
        now, left = self.behind - self.resumed, self.total - self.behind
        ahead = ""
        if now > 0 and left > 0:
            until = self.clock() if self._over is None else self._over
            ahead = f", about {duration(max(1, (until - self.started) / now * left))} left"
        return f"[{min(100, 100 * self.behind // self.total)}%{ahead}] "

    def _speed(self) -> str:
        """Images per second through all lanes since the last line; empty where none passed, in an evaluation."""
        images, seconds = self._images, self.clock() - self._since
        self._images, self._since = 0, self.clock()
        return f"{images / seconds:,.0f} images/s" if images and seconds > 0 else ""


class Ticker:
    """Calls ``tick`` once a second from a thread of its own, so that a long evaluation is not silent."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick, self._end = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, name="kdbench log", daemon=True)

    def start(self) -> None:
        """Begin; ``stop`` ends it."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait until no line is being written."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._end.wait(1.0):
            self._tick()
