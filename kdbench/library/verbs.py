"""``kdbench run``, ``tune`` and ``report`` as functions: the same words, records and frames instead of a screen."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kdbench import record
from kdbench.library.words import Place, Several, heard, joined, needed, out_folder, request, switches, texts, whole
from kdbench.library.words import seeds as written_seeds
from kdbench.record import Record
from kdbench.run import grid, session

if TYPE_CHECKING:
    from kdbench.report.frames import DataFrame
    from kdbench.run.grid import Cell
    from kdbench.run.outcome import Standing
    from kdbench.run.tuned import Tuned

Say = Callable[[str], object]
#: Held while this process trains.
_AT_WORK = threading.Lock()


def _nothing_at_work() -> None:
    """In a child that was forked meanwhile the lock is held for ever: the thread that trains stayed in the parent."""
    global _AT_WORK
    _AT_WORK = threading.Lock()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to mend
    os.register_at_fork(after_in_child=_nothing_at_work)


def run(
    methods: Several = None,
    pairs: Several = "all",
    *,
    suite: str = "auto",
    seeds: int | str | Iterable[int] | None = None,
    epochs: int | None = None,
    limit_train: int | None = None,
    set: Several | Mapping[str, Any] = (),
    precision: str = "fp32",
    lanes: int | None = None,
    graphs: str = "auto",
    verify: bool = False,
    table: str = "auto",
    compile: bool | None = None,
    weights: str = "published",
    workers: int | str = 1,
    executor: str = "auto",
    ray_address: str | None = None,
    shard: str | None = None,
    force: bool = False,
    retry_failed: bool = False,
    fail_fast: bool = False,
    dry_run: bool = False,
    checkpoint_minutes: float | None = None,
    track: Several = None,
    notify: str | None = None,
    plugin: Place | Iterable[str] = (),
    data_dir: Place = None,
    data_source: str = "auto",
    data_workers: int | None = None,
    out: Place = None,
    device: str = "auto",
    say: Say | None = None,
) -> list[Record]:
    """Train methods x pairs x seeds, as ``kdbench run`` does; what is there is kept, what was stopped goes on.

    Every word is the command line's, without its dashes: ``--limit-train 96`` is ``limit_train=96``. Lists may be
    lists, and ``set`` a mapping. A function asks nobody, so there is neither ``--budget`` nor ``--yes``.

    Args:
        methods: "a,b" or ["a", "b"]; see ``kdbench run --help`` for this and all others.
        workers: processes that train side by side; "auto": one for each core or named device.
        executor: "here", "processes" or "ray"; ``ray_address`` is the cluster's, see docs/scale.md.
        say: told every sentence that the command line would print, such as ``print``.

    Returns:
        the records of the asked cells, in their order; ``status`` tells which failed or were refused. Of a
        ``dry_run`` those that are there. A cell that failed without a record is warned of.

    Raises:
        ValueError: the command line's sentence where a word is wrong or the data are not there; another run is at
            work in this process.
        RuntimeError: the run ended early: the disk is full, or a cell failed and ``fail_fast`` is set.

    >>> import kdbench, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     small = dict(pairs="resnet14:resnet8", epochs=1, limit_train=64, seeds=1, suite="digits", out=folder)
    ...     found = kdbench.run("student", **small)
    ...     frame = kdbench.load_records(folder)
    >>> [(one.method, one.status) for one in found], list(frame["student"])
    ([('student', 'done')], ['resnet8'])
    >>> kdbench.run("studnet")
    Traceback (most recent call last):
    ValueError: no method 'studnet'; did you mean student...?
    """
    words: dict[str, Any] = {"suite": suite, "epochs": epochs, "limit_train": limit_train, "lanes": lanes}
    words |= {"precision": precision, "verify": verify}
    words |= {"graphs": graphs, "table": table, "compile": compile, "weights": weights, "shard": shard}
    words |= {"workers": str(workers), "executor": executor, "ray_address": ray_address}
    words |= {"data_source": data_source, "data_workers": data_workers, "track": joined(track)}
    words |= {"notify": notify, "checkpoint_minutes": checkpoint_minutes}
    words |= {"force": force, "retry_failed": retry_failed, "fail_fast": fail_fast, "device": device}
    dry_run = switches(dry_run=dry_run)["dry_run"]
    heard(say)
    asked = request(
        methods=methods,
        pairs=pairs,
        set=set,
        plugin=plugin,
        data_dir=data_dir,
        out=out,
        seeds=written_seeds(seeds),
        **words,
    )
    job = session.resolve(asked)
    job = replace(job, hands=job.hands.decided)
    told = _Told(say)
    for sentence in job.notes:
        told.note(sentence)
    if dry_run:
        return [one for cell in job.cells if (one := _record(job, cell)) is not None]
    from kdbench.run import runner
    from kdbench.run.notify import notifying
    from kdbench.run.outcome import Stop

    with _as_before(), notifying("run", notify, asked.out, told.note) as ending:
        ending.states = job.states
        try:
            outcome = runner.run(job, told)
        except Stop as stop:
            raise RuntimeError(str(stop)) from stop
        ending.of(outcome, len(job.cells))
    found = {cell: _record(job, cell) for cell in job.cells}
    for cell, why in outcome.failed.items():
        before = found.get(cell)
        if before is None or before.status == "done":  # what is there is of another code, say, and was refused
            warnings.warn(f"{cell} failed and has no record: {why}", stacklevel=2)
            found[cell] = None
    return [one for one in found.values() if one is not None]


def tune(
    methods: Several = None,
    pairs: Several = "all",
    *,
    suite: str = "auto",
    trials: int = 6,
    epochs: int | None = None,
    seeds: int = 1,
    limit_train: int | None = None,
    set: Several | Mapping[str, Any] = (),
    lanes: int | None = None,
    graphs: str = "auto",
    table: str = "auto",
    workers: int | str = 1,
    executor: str = "auto",
    ray_address: str | None = None,
    compile: bool | None = None,
    shard: str | None = None,
    force: bool = False,
    retry_failed: bool = False,
    dry_run: bool = False,
    precision: str = "fp32",
    checkpoint_minutes: float | None = None,
    track: Several = None,
    notify: str | None = None,
    plugin: Place | Iterable[str] = (),
    data_dir: Place = None,
    data_source: str = "auto",
    data_workers: int | None = None,
    out: Place = None,
    device: str = "auto",
    say: Say | None = None,
) -> list[Tuned]:
    """Find each method's weights on held-out images, as ``kdbench tune`` does; ``run(weights="tuned")`` uses them.

    Args:
        methods: see ``run``, without values.
        trials: candidates of every method, 2 to 6.
        seeds: so many of every candidate.
        workers: as for ``run``.
        say: told every sentence that the command line would print.

    Returns:
        the choices, one for each method and pair, with all their trials; of a ``dry_run`` those that are there. Of a
        ``shard`` those whose trials are all there, whoever trained them.

    Raises:
        ValueError: the command line's sentence where a word is wrong.
        RuntimeError: it ended early: the disk is full.

    >>> import kdbench
    >>> kdbench.tune("kd", trials=9)
    Traceback (most recent call last):
    ValueError: --trials takes 2 to 6 candidates of every method, not 9
    """
    from kdbench.run.notify import notifying
    from kdbench.run.outcome import Stop
    from kdbench.tuning import plan as planning
    from kdbench.tuning.tune import kept, standing
    from kdbench.tuning.tune import tune as answer

    asked = request(
        methods=methods,
        pairs=pairs,
        set=set,
        plugin=plugin,
        data_dir=data_dir,
        data_source=data_source,
        data_workers=data_workers,
        out=out,
        suite=suite,
        epochs=epochs,
        limit_train=limit_train,
        lanes=lanes,
        graphs=graphs,
        table=table,
        workers=str(workers),
        executor=executor,
        ray_address=ray_address,
        compile=compile,
        shard=shard,
        force=force,
        retry_failed=retry_failed,
        precision=precision,
        track=joined(track),
        notify=notify,
        checkpoint_minutes=checkpoint_minutes,
        device=device,
    )
    needed(trials=trials, seeds=seeds)
    dry_run = switches(dry_run=dry_run)["dry_run"]
    heard(say)
    plan, told = planning.resolve(asked, trials=int(trials), seeds=int(seeds)), _Told(say)
    plan = replace(plan, job=replace(plan.job, hands=plan.job.hands.decided))
    for sentence in plan.notes:
        told.note(sentence)
    if dry_run:
        return list(kept(plan, told).values())
    if not plan.questions:
        return []
    with _as_before(), notifying("tune", notify, asked.out, told.note) as ending:
        ending.states = partial(standing, plan)
        try:
            answers = answer(plan, told)
        except Stop as stop:
            raise RuntimeError(str(stop)) from stop
        ending.chosen(len(plan.questions), len(answers.found), len(answers.missing))
    for sentence in answers.missing:
        warnings.warn(sentence, stacklevel=2)
    return answers.found


def report(
    suite: Several = None,
    *,
    methods: Several = None,
    pairs: Several = None,
    top: int | None = None,
    select: str = "last",
    baseline: str = "student",
    formats: Several = "csv,md,tex,html,png,svg",
    out: Place = None,
    say: Say | None = None,
) -> dict[str, DataFrame]:
    """Write the leaderboards of an output folder, as ``kdbench report`` does.

    Args:
        suite: only these; None: all that have records.
        methods: only these rows.
        pairs: only these columns.
        top: only so many of the best rows.
        select: the epoch that ranks: "last", "val" or "oracle".
        baseline: row that gains are measured against.
        formats: files to write.
        out: folder that ``run`` wrote to.
        say: told what was left out, and where the files are.

    Returns:
        the leaderboard of each suite, numbers only, one row per method, as in its leaderboard.csv.

    Raises:
        ValueError: the command line's sentence: no records, or no such suite, method, pair, rule or format.
        OSError: a file cannot be written.

    >>> import kdbench
    >>> kdbench.report(out="nowhere")
    Traceback (most recent call last):
    ValueError: no run records under nowhere/runs; `kdbench run` makes some; is it the right folder?
    """
    from kdbench.library.boards import boards

    whole(top=top)
    texts(select=select, baseline=baseline)
    heard(say)
    told = _Told(say)
    made = boards(
        out_folder(out),
        told.note,
        suites=_parts(suite),
        baseline=baseline,
        methods=_parts(methods),
        pairs=_parts(pairs),
        top=top,
        select=select,
        formats=_parts(formats) or (),
    )
    for one in made:
        for sentence in (*one.notes, *(f"left out: {problem}" for problem in one.problems)):
            told.note(sentence)
        told.note(f"wrote {len(one.files)} files of suite {one.suite} to {out_folder(out)}")
    return {one.suite: one.frame() for one in made}


def _parts(words: Several) -> list[str] | None:
    said = joined(words)
    return None if said is None else [part.strip() for part in said.split(",") if part.strip()]


def _record(job: session.Job, cell: Cell) -> Record | None:
    where = grid.files(job.request.out, cell)
    for path in (where.record, where.failed):
        with suppress(FileNotFoundError, record.RecordDamaged):
            return record.read(path)
    return None


class _Told:
    """Hears of a run, and says what is worth a line to who wants it."""

    def __init__(self, say: Say | None) -> None:
        self.say = say

    def begin(self, lane_steps: int) -> None:
        """Nothing to say."""

    def note(self, sentence: str) -> None:
        """Say it."""
        if self.say is not None:
            self.say(sentence)

    def group(self, title: str, lane_steps: int, batch: int = 0) -> None:
        """Say it."""
        self.note(f"training {title}")

    def skip(self, lane_steps: int) -> None:
        """Nothing to say."""

    def step(self, lanes: int) -> None:
        """Nothing to say."""

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        """Nothing to say."""

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """Say it."""
        self.note(f"{status} {cell}: {sentence}")


@contextmanager
def _as_before() -> Iterator[None]:
    """A run sets switches of the whole process, which are put back after, and sees none that the caller has set.

    Raises:
        ValueError: another thread is inside.
    """
    import torch

    from kdbench.engine.precision import put_switches, switches
    from kdbench.library.untouched import plain_torch

    held = _AT_WORK
    if not held.acquire(blocking=False):
        raise ValueError(
            "another kdbench.run or kdbench.tune is at work in this process, and both would draw from the same random"
            " numbers; wait for it, or take a process for each"
        )
    try:
        threads, before = torch.get_num_threads(), switches()
        try:
            with plain_torch():
                yield
        finally:
            torch.set_num_threads(threads)
            put_switches(before)
    finally:
        held.release()
