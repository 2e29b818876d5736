"""What a run needs beside its steps: meters, checkpoints and the record of each lane."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdbench import record
from kdbench.bench.clock import Span, timed
from kdbench.bench.engine_side import Engine
from kdbench.bench.result import Overhead
from kdbench.engine.lane import Lane
from kdbench.record import Point, Record, Settings

#: Length of the run over which its one record is spread.
EPOCHS = 240


def overhead(engine: Engine, step: float) -> Overhead:
    """Seconds for meters, checkpoints and records; ``step`` is what a step of all lanes costs."""
    work, device = engine.work, engine.work.device
    epoch_steps = max(1, len(work.pixels.labels) // work.batch_size)
    few = 3
    for lane in engine.lanes:
        lane.start_epoch()
    for _ in range(few):
        batch = engine.batch()
        seen = engine.look(batch)
        for lane in engine.lanes:
            lane.step(seen, batch)
    # Closing an epoch reads every step's terms: it grows with the steps.

    def each(work: Callable[[Lane], object]) -> Span:
        return timed(lambda: [work(lane) for lane in engine.lanes], device)

    meters = each(lambda lane: Lane.end_epoch(lane, 0.0)).cost * epoch_steps / few
    checkpoints = each(Lane.save).wall  # waits for the disk, too
    made = _record()
    records = each(lambda lane: record.write(made, lane.path.with_suffix(".json"))).wall
    beside = EPOCHS * (meters + checkpoints) + records
    return Overhead(
        epoch_meters=meters,
        epoch_checkpoints=checkpoints,
        run_records=records,
        epochs=EPOCHS,
        epoch_steps=epoch_steps,
        share=beside / (beside + EPOCHS * epoch_steps * step),
    )


def _record() -> Record:
    """A record of the usual size."""
    curve = [
        Point(epoch=n + 1, lr=0.05, seconds=n * 10.0, terms={"ce": 1 / 3, "term": 1 / 7}, top1=100 / 3)
        for n in range(EPOCHS)
    ]
    return Record(
        status="done",
        method="m",
        quick=True,
        settings=Settings(
            suite="bench",
            dataset="bench",
            convention="bench",
            teacher="t",
            student="s",
            method="m",
            hyper={},
            seed=0,
            epochs=EPOCHS,
            recipe={},
        ),
        top1_last=50.0,
        top1_best_test=50.0,
        curve=curve,
        provenance="",
        modified_student=False,
        code={},
        environment={},
        finished=time.strftime("%Y-%m-%dT%H:%M:%S"),
    )
