"""How speed grows with workers and with lanes: the same cells, trained anew in each setting, in turn.

Speed is that of training: student images from the first step to the last, whoever takes them. What starts before
(libraries, processes, the first students) and ends after (the last evaluation, records) is in the seconds of the whole.
The teacher has random weights, so that nothing is trained beforehand; it changes no time. Only a machine without other
work tells anything.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict

from kdbench.bench import random_data
from kdbench.bench.measure import Request, check
from kdbench.bench.work import Work
from kdbench.data import Dataset
from kdbench.run import runner, session
from kdbench.run.outcome import Watcher
from kdbench.utils import environment
from kdbench.utils.files import atomic_write
from kdbench.utils.wording import count

FORMAT = 1
#: Seconds that the training of all settings may take where --steps does not say, and steps of a cell.
BUDGET, LEAST, MOST = 120.0, 8, 200
#: Alternations at most: there are many settings.
TURNS = 3
Say = Callable[[str], None]


class Row(BaseModel):
    """One setting; lists hold an entry per alternation.

    >>> Row(workers=2, lanes=6, images_per_second=[90.0, 110.0], seconds=[9.0, 8.0]).speed
    100.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int
    lanes: int  # at most side by side in one process
    images_per_second: list[float]  # of all students together, while they trained
    seconds: list[float]  # of the whole run, on the wall

    @property
    def speed(self) -> float:
        """The median."""
        return median(self.images_per_second)


class Scaling(BaseModel):
    """What was found of one pair.

    >>> rows = [Row(workers=1, lanes=n, images_per_second=[float(v)], seconds=[1.0]) for n, v in ((1, 50), (2, 75))]
    >>> facts = dict(precision="fp32", device="cpu", repeat=1, code={}, environment={}, finished="")
    >>> made = Scaling(pair="resnet20:resnet8", methods=["kd", "at"], steps=8, batch_size=64, rows=rows, **facts)
    >>> [made.gain(row) for row in made.by_lanes]
    [1.0, 1.5]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    pair: str
    methods: list[str]
    steps: int  # of every cell
    batch_size: int
    rows: list[Row]
    precision: str
    device: str
    repeat: int
    code: dict[str, Any]
    environment: dict[str, Any]
    finished: str

    @property
    def by_workers(self) -> list[Row]:
        """All lanes at once, from one worker up."""
        return [row for row in self.rows if row.lanes == len(self.methods)]

    @property
    def by_lanes(self) -> list[Row]:
        """One worker, from one lane up."""
        return [row for row in self.rows if row.workers == 1]

    def gain(self, row: Row, over: str = "lanes") -> float:
        """How many times as fast as one lane, or (``over="workers"``) as one worker."""
        return row.speed / (self.by_workers if over == "workers" else self.by_lanes)[0].speed


@dataclass
class _Counting:
    """Hears of a run and keeps when batches went through lanes."""

    heard: list[tuple[float, int]] = field(default_factory=list)

    def step(self, lanes: int) -> None:
        """See ``outcome.Watcher``."""
        self.heard.append((time.perf_counter(), lanes))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told, **more: None

    def speed(self) -> float:
        """Lane-steps per second from the first that was heard to the last; 0 where only one was."""
        (first, _), (last, _) = self.heard[0], self.heard[-1]
        return sum(lanes for _, lanes in self.heard[1:]) / (last - first) if last > first else 0.0


def powers(most: int) -> list[int]:
    """1, 2, 4 ... and the number itself.

    >>> powers(6), powers(1)
    ([1, 2, 4, 6], [1])
    """
    return sorted({*(2**power for power in range(most.bit_length())), most})


def scaling(request: Request, say: Say = lambda sentence: None, workers: Sequence[int] | None = None) -> list[Scaling]:
    """Measure each pair.

    Args:
        request: as for ``measure.bench``; ``steps`` are of every cell, and at most ``TURNS`` alternations are made.
        say: told what is measured.
        workers: how many at once; None: 1, 2, 4 ... up to those of ``--workers auto``.

    Raises:
        ValueError: a word is wrong, a method cannot serve a pair, or a cell failed.

    >>> scaling(Request(pairs=("resnet56:resnet20",), repeat=0))
    Traceback (most recent call last):
    ValueError: --repeat takes a number of alternations of 1 or more, not 0
    """
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    try:
        works = check(request)
        for work in works:
            work.check()
        found = [_pair(work, request, say, workers) for work in works]
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)
    if request.file is not None:
        with atomic_write(request.file, "w") as file:
            file.write("[" + ",\n".join(one.model_dump_json(indent=1) for one in found) + "]\n")
        say(f"saved {request.file}")
    return found


def _pair(work: Work, request: Request, say: Say, workers: Sequence[int] | None) -> Scaling:
    pair, cells = f"{work.teacher_name}:{work.student_name}", len(work.specs)
    repeat = min(request.repeat, TURNS)
    with tempfile.TemporaryDirectory(prefix="kdbench-scaling-") as folder:
        grid = _Grid(work, request, Path(folder))
        most = workers or powers(min(cells, grid.job(Path(folder), "auto").hands.workers))
        settings = list(dict.fromkeys([*((1, lanes) for lanes in powers(cells)), *((one, cells) for one in most)]))
        say(f"{pair}: warming up")
        steps = request.steps
        if steps is None:
            speed, _ = grid.run(1, cells, LEAST)
            fitting = BUDGET * speed / work.batch_size / cells / len(settings) / repeat
            steps = int(min(MOST, max(LEAST, fitting), request.images // work.batch_size))
        speeds: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
        seconds: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
        for turn in range(repeat):
            for setting in settings:
                many = f"{count(setting[0], 'worker')}, {count(setting[1], 'lane')}"
                say(f"{pair}: {many}, {turn + 1} of {repeat}")
                speed, whole = grid.run(*setting, steps)
                speeds[setting].append(speed)
                seconds[setting].append(whole)
    return Scaling(
        pair=pair,
        methods=[str(spec) for spec in work.specs],
        steps=steps,
        batch_size=work.batch_size,
        rows=[Row(workers=w, lanes=n, images_per_second=speeds[w, n], seconds=seconds[w, n]) for w, n in settings],
        precision=work.precision.name,
        device=str(work.device),
        repeat=repeat,
        code=environment.code(),
        environment=environment.describe(str(work.device)),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _Grid:
    """The cells of one piece of work, to be trained again and again."""

    def __init__(self, work: Work, request: Request, home: Path) -> None:
        self.work, self.request, self.home = work, request, home
        self.suite = self.job(home, "1").suite
        self.taught = 0  # steps whose images the stored teacher knows

    def job(self, out: Path, workers: str, lanes: int | None = None) -> session.Job:
        """One epoch of them."""
        work = self.work
        asked = session.Request(
            ",".join(map(str, work.specs)),
            f"{work.teacher_name}:{work.student_name}",
            "semckd",
            seeds="1",
            epochs=1,
            # A random teacher has maps of any size, which none could follow at the usual lr; the time is the same.
            overrides=(f"recipe.batch_size={work.batch_size}", "recipe.lr=1e-6"),
            out=out,
            home=self.home,
            device=self.request.device,
            precision=self.request.precision,
            graphs=self.request.graphs,
            table="off",
            checkpoint_minutes=1440.0,
            workers=workers,
            lanes=lanes,
        )
        return session.resolve(asked)

    def images(self, steps: int) -> Dataset:
        """As many as are trained on; few to be tested."""
        shown, many = self.work.pixels, steps * self.work.batch_size
        test = slice(0, self.work.batch_size)
        classes = tuple(map(str, range(shown.num_classes)))
        parts = shown.images[:many], shown.labels[:many], shown.images[test], shown.labels[test]
        return Dataset(self.suite.dataset, *parts, classes)

    def run(self, workers: int, lanes: int, steps: int) -> tuple[float, float]:
        """Student images per second, and seconds of the whole."""
        heard = _Counting()
        images = self.images(steps)
        if self.taught != steps:
            random_data.keep_teacher(self.home, self.suite, self.work.teacher_name, images)
            self.taught = steps
        with tempfile.TemporaryDirectory(prefix="out-", dir=self.home) as out:
            job = self.job(Path(out), str(workers), lanes)
            started = time.perf_counter()
            outcome = runner.run(job, cast(Watcher, heard), images)
            whole = time.perf_counter() - started
        if outcome.exit_code or len(outcome.done) < len(job.cells):
            why = [*outcome.failed.values()] or ["a method refuses the pair"]
            raise ValueError(f"the grid did not end: {'; '.join(why)}")
        return heard.speed() * self.work.batch_size, whole
