"""What the guard around the methods costs: looks at the process and at what all lanes are shown."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdbench.bench.engine_side import Engine
from kdbench.bench.result import Guarding
from kdbench.engine.guard import Guard
from kdbench.engine.shared import Shown

#: Looks of each kind that are timed.
STEPS, EPOCHS = 200, 5


def measure(engine: Engine, step: float) -> Guarding:
    """The guard as the loop uses it, on a batch of the engine's.

    ``step``: seconds of a step of all lanes, guard included. Where steps are captured there is no guard in a
    step, only in its rehearsals.
    """
    batch = engine.batch()
    shown = Shown(batch.image, batch.label, batch.idx, engine.look(batch))
    lanes = len(engine.lanes)
    with engine.setting.guard() as guard:
        per_step = _seconds(lambda: _look(guard, shown, lanes, thorough=False), STEPS)
        per_epoch = _seconds(lambda: _look(guard, shown, lanes, thorough=True), EPOCHS)
    epoch_steps = max(1, len(engine.work.pixels.labels) // engine.work.batch_size)
    return Guarding(
        lane_step=per_step / lanes,
        lane_epoch=per_epoch / lanes,
        share=(per_step + per_epoch / epoch_steps) / step,
        epoch_steps=epoch_steps,
    )


def _look(guard: Guard, shown: Shown, lanes: int, *, thorough: bool) -> None:
    """As in ``engine.fit.train_epoch``."""
    guard.note(shown, thorough=thorough)
    for _ in range(lanes):
        shown.lent()
        guard.put_back()


def _seconds(work: Callable[[], object], times: int) -> float:
    """Of one call, on the CPU."""
    work()
    before = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - before) / times
