"""``--track``: what a run tells of its epochs, handed to trackers as points (``kdbench.tracking``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from kdbench.run import assistants, grid
from kdbench.run.grid import Cell
from kdbench.run.outcome import Standing, Watcher
from kdbench.run.session import Job
from kdbench.tracking.channel import Channel
from kdbench.tracking.known import chosen
from kdbench.tracking.tracker import Point

MIB = 2**20


Function = TypeVar("Function", bound=Callable[..., Any])


def attended(run: Function) -> Function:
    """A function of a job and its watcher that the job's trackers hear, too.

    >>> attended(lambda job, watch: watch)(None, "a watcher")
    'a watcher'
    """

    @wraps(run)
    def told(job: Job, watch: Watcher, *more: Any, **named: Any) -> Any:
        names = [] if job is None else chosen(job.request.track)
        if not names:
            return run(job, watch, *more, **named)
        with tracked(job, watch, names) as both:
            return run(job, both, *more, **named)

    return cast(Function, told)


@contextmanager
def tracked(job: Job, watch: Watcher, names: Sequence[str]) -> Iterator[Watcher]:
    """Who watches, and hands epochs to these trackers as well."""
    root = home(job) / "track"
    channels = [Channel(name, root / name, watch.note) for name in names]
    hurry = True
    try:
        yield _Both(watch, channels, home(job), _facts(job))
        hurry = False
    finally:
        for channel in channels:
            channel.close(hurry=hurry)


def home(job: Job) -> Path:
    """The output folder as the user named it; trials and teachers lie in it, too."""
    return job.request.home or job.request.out


def series(out: Path, file: str) -> str:
    """The name of the series of a cell or teacher, from the path of its checkpoint.

    >>> series(Path("results"), "results/runs/digits/resnet20-resnet8/kd-s0-1a2b3c4d.ckpt")
    'digits/resnet20-resnet8/kd-s0-1a2b3c4d'
    >>> series(Path("results"), "results/teachers/digits/resnet20.ckpt")
    'teachers/digits/resnet20'
    """
    path = Path(file).with_suffix("")
    parts = path.relative_to(out).parts if path.is_relative_to(out) else path.parts[-4:]
    return "/".join(part for part in parts if part != "runs")


def values(lane: Standing) -> dict[str, float]:
    """What is tracked of a lane at the end of an epoch.

    >>> lane = Standing("kd", 3, 30, False, None, rate=0.05, terms={"ce": 1.5}, top1=40.0, speed=250.0)
    >>> values(lane)
    {'loss/ce': 1.5, 'loss/total': 1.5, 'lr': 0.05, 'accuracy/test': 40.0, 'images_per_second': 250.0}
    """
    found = {f"loss/{name}": value for name, value in lane.terms.items()}
    found |= {"loss/total": sum(lane.terms.values()), "lr": lane.rate}
    maybe = {
        "accuracy/test": lane.top1,
        "accuracy/validation": lane.val_top1,
        "accuracy/ema": lane.ema_top1,
        "images_per_second": lane.speed,
        "memory_mib": None if lane.memory is None else lane.memory / MIB,
    }
    return found | {name: value for name, value in maybe.items() if value is not None}


def _facts(job: Job) -> dict[str, tuple[str, dict[str, Any]]]:
    """Title and settings of every cell that the job may train, by the path of its checkpoint."""
    out = job.request.out
    helpers = assistants.of(job.cells)
    where = [(out, cell) for cell in job.cells] + [(assistants.folder(out), cell) for cell in helpers]
    return {str(grid.files(folder, cell).checkpoint): (str(cell), _settings(cell)) for folder, cell in where}


def _settings(cell: Cell) -> dict[str, Any]:
    own = cell.settings.model_dump(mode="json")
    return own | {"label": cell.label, "hash": cell.hash, "quick": cell.quick}


class _Both:
    """Hands everything to who watches, and the points of epochs to the trackers."""

    def __init__(
        self,
        watch: Watcher,
        channels: Sequence[Channel],
        out: Path,
        facts: dict[str, tuple[str, dict[str, Any]]],
    ) -> None:
        self._watch, self._channels, self._out, self._facts = watch, channels, out, facts
        self._told: set[str] = set()  # series whose facts have been sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        """See ``Watcher``."""
        for lane in lanes:
            if lane.failure or not lane.terms or not lane.file:  # a pre-training stage has no curve
                continue
            name = series(self._out, lane.file)
            title, facts = self._facts.get(lane.file, (lane.key, {}))
            new = {} if name in self._told else facts
            point = Point(name, title, lane.epoch, values(lane), new, last=lane.done)
            self._told.add(name)
            for channel in self._channels:
                channel.send(point)
        self._watch.epoch(stage, lanes)
