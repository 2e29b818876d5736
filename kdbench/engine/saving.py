"""When checkpoints are written, and by whom: on the CPU after every epoch, at once; on CUDA now and then, by a thread.

An epoch of a GPU takes seconds, and to write, hash and read back what a dozen lanes hold takes a good part of one
while the device idles. So what lanes on CUDA hold is copied to the host after every epoch, and a thread that never
touches the device writes the copies once ``EVERY`` seconds have passed, where a lane enters another stage, and where
the training is interrupted. What is on the disk at any moment is a whole checkpoint of an earlier epoch; after a kill,
a resumed lane repeats what came after it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from kdbench.engine import checkpoint
from kdbench.engine.errors import Failed
from kdbench.engine.lane import Lane

#: Seconds of training between two checkpoints of lanes on CUDA.
EVERY = 30.0


class Saver:
    """Writes the checkpoints of a group's lanes.

    Args:
        every: seconds between two rounds; 0: after every epoch, before anything else goes on.
        clock: tells the time in seconds.
    """

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock, self._last = every, clock, clock()
        self._stages: dict[Lane, str] = {}
        self._held: dict[Lane, dict[str, Any]] = {}  # copies of the last epoch that are not handed over
        self._todo: queue.Queue[tuple[Lane, dict[str, Any]] | None] = queue.Queue()
        self._errors: list[BaseException] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._every:  # before any method is watched: a thread that begins later would be taken for a method's
            self._thread = threading.Thread(target=self._write, name="kdbench checkpoints", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever ends the training, its last full epoch is written."""
        if self._thread is not None:
            for work in self._held.items():
                self._todo.put(work)
            self._held = {}
            self._todo.put(None)
            self._thread.join()

    def due(self, lanes: Sequence[Lane]) -> set[Lane]:
        """Of lanes that have finished an epoch, those to be saved; asked once after each epoch."""
        entered = {lane for lane in lanes if self._stages.get(lane, lane.stage) != lane.stage}
        self._stages |= {lane: lane.stage for lane in lanes}
        if self._clock() - self._last < self._every:
            return entered
        self._last = self._clock()
        return set(lanes)

    def save(self, lane: Lane, *, due: bool = True) -> None:
        """Write a lane's checkpoint; or copy what it holds, and hand it over where it is ``due``.

        Raises:
            Failed: its state holds what no checkpoint can keep.
            OSError: the disk is full, perhaps since an earlier one.
        """
        if self._thread is None:
            lane.save()
            return
        self._tell()
        state = lane.state()
        if strange := checkpoint.stranger(state):
            raise Failed(f"its state holds {strange}, which no checkpoint can keep")
        copied = on_the_host(state)
        if lane.device.type == "cuda":
            torch.cuda.current_stream(lane.device).synchronize()
        self._held[lane] = copied
        if due:
            self._todo.put((lane, self._held.pop(lane)))

    def settle(self, lane: Lane) -> None:
        """Nothing is written any more of a lane whose record takes the checkpoint's place.

        Raises:
            OSError: what was handed over could not be written.
        """
        self._held.pop(lane, None)
        self._todo.join()
        self._tell()

    def _tell(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _write(self) -> None:
        while (work := self._todo.get()) is not None:
            lane, state = work
            try:
                if not self._errors:  # the disk is full: nothing else is tried
                    checkpoint.save(lane.path, state)
            except BaseException as error:  # told to the training, which ends with it
                self._errors.append(error)
            finally:
                self._todo.task_done()
            del work, lane, state


def on_the_host(state: Any) -> Any:
    """A state with copies of its tensors on the CPU, of the same strides; those from CUDA are on their way."""
    if isinstance(state, Tensor):
        made = torch.empty_like(state, device="cpu", pin_memory=state.device.type == "cuda", requires_grad=False)
        return made.copy_(state.detach(), non_blocking=True)
    if isinstance(state, dict):
        return type(state)((key, on_the_host(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(on_the_host(value) for value in state) if type(state) in (list, tuple) else state
    return state
