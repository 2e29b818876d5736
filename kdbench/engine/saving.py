"""When checkpoints are written, and by whom: every few minutes and at the end of a stage, by a thread.

To write and hash what a dozen lanes hold takes seconds. So a lane's state is copied to the host between two steps, and
a thread that never touches the device writes the copy while the training goes on: in mid-epoch one lane after the
other, each once the one before is on disk; at the end of an epoch those that the round has not come to. What the lanes
held at the end of the last epoch is kept in memory, too, and written where the training is interrupted. What is on the
disk at any moment is a whole checkpoint; after a kill, a resumed lane repeats what came after it.
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
from kdbench.engine.errors import Failed, said
from kdbench.engine.lane import Lane

#: Seconds of training between two rounds of checkpoints, of lanes on CUDA, whose epochs take seconds, and on the CPU.
EVERY, EVERY_ON_CPU = 30.0, 180.0
#: A round takes at most this share of the time, however much there is to write, but the time between two rounds grows
#: no further than so many seconds for it.
SHARE, RAREST = 0.01, 600.0


class Saver:
    """Writes the checkpoints of a group's lanes.

    Args:
        every: seconds between two rounds; 0: after every epoch, before anything else goes on.
        clock: tells the time in seconds.
        note: told of a checkpoint that could not be written for another reason than the disk's.
    """

    def __init__(
        self,
        every: float,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._every, self._clock, self._last, self._note = every, clock, clock(), note
        self._stages: dict[Lane, str] = {}
        self._round: list[Lane] = []  # of the round that goes on, those that have not had their turn
        self._held: dict[Lane, dict[str, Any]] = {}  # copies of the last epoch that are not handed over
        self._todo: queue.Queue[tuple[Lane, dict[str, Any]] | None] = queue.Queue()
        self._errors: list[BaseException] = []
        self._odd: list[str] = []
        self._spent = 0.0  # seconds of work, of copies and writing, since the last round began
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
        self._say()

    def turn(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Of lanes that stand between two steps in mid-epoch, the one whose turn it is to be saved; or none."""
        if self._thread is None or not lanes or self._todo.unfinished_tasks:
            return []
        if not self._round and self._is_time():
            self._round = list(lanes)
        self._round = [lane for lane in self._round if lane in lanes]
        return [self._round.pop(0)] if self._round else []

    def due(self, lanes: Sequence[Lane]) -> set[Lane]:
        """Of lanes that have finished an epoch, those to be saved; asked once after each epoch."""
        self._say()
        found = {lane for lane in lanes if self._stages.get(lane, lane.stage) != lane.stage}
        self._stages |= {lane: lane.stage for lane in lanes}
        found |= {lane for lane in lanes if lane in self._round}
        self._round = []
        return set(lanes) if self._is_time() else found

    def _is_time(self) -> bool:
        """Whether a round begins; asked, it has begun."""
        if self._clock() - self._last < max(self._every, min(self._spent / SHARE, RAREST)):
            return False
        self._last, self._spent = self._clock(), 0.0
        return True

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
        began = time.perf_counter()
        state = lane.state()
        if strange := checkpoint.stranger(state):
            raise Failed(f"its state holds {strange}, which no checkpoint can keep")
        copied = on_the_host(state)
        if lane.device.type == "cuda":
            torch.cuda.current_stream(lane.device).synchronize()
        self._spent += time.perf_counter() - began
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

    def _say(self) -> None:
        while self._odd:
            self._note(self._odd.pop(0))

    def _write(self) -> None:
        while (work := self._todo.get()) is not None:
            lane, state = work
            began = time.thread_time()
            try:
                if not self._errors:  # the disk is full: nothing else is tried
                    checkpoint.save(lane.path, state)
            except OSError as error:  # told to the training, which ends with it
                self._errors.append(error)
            except BaseException as error:  # memory, say: what lies there stays, and the training goes on
                self._odd.append(f"a checkpoint of {lane.key} could not be written, an older one stays: {said(error)}")
            finally:
                self._spent += time.thread_time() - began
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
