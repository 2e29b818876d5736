"""One capture, and what it leaves behind: stream, switches, memory pool and allocator as they were, whatever happens.

torch before 2.13 leaves the allocator believing that a failed capture goes on: it then refuses to give memory back and
every further capture (torch's pull request 180395). So after any failure a tiny capture is tried; where that does not
work any more, no graph is captured again in this process, and a sentence says so.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from kdbench.engine import torch_private
from kdbench.engine.errors import text

T = TypeVar("T")
Pool = Any  # torch's token for the memory of graphs

_over: dict[int, str] = {}  # by device: why no graph is captured any more
_streams: dict[tuple[int, int], tuple[torch.cuda.Stream, list[torch.cuda.Stream]]] = {}


def over(device: torch.device) -> str:
    """Why no graph can be captured on a device any more in this process; "" where it can."""
    return _over.get(index_of(device), "")


def index_of(device: torch.device) -> int:
    """The number of a CUDA device; that in use, where it has none.

    >>> index_of(torch.device("cuda:1"))
    1
    """
    return torch.cuda.current_device() if device.index is None else device.index


def streams(device: torch.device, count: int) -> tuple[torch.cuda.Stream, list[torch.cuda.Stream]]:
    """The stream that captures are made on, and ``count`` for branches: the same ones as long as the process lives.

    Each stream that multiplies matrices gets workspaces of its own from cuBLAS, 32 MiB each on Hopper, which are
    never given back.
    """
    key = index_of(device), count
    if key not in _streams:
        known = next((main for (index, _), (main, _) in _streams.items() if index == key[0]), None)
        main = torch.cuda.Stream(device) if known is None else known
        _streams[key] = main, [torch.cuda.Stream(device) for _ in range(count)]
    return _streams[key]


@contextmanager
def strict() -> Iterator[None]:
    """Whatever waits for the device raises RuntimeError inside; after it the mode is what it was.

    torch says once in a process that this is a prototype; as an error that would leave the mode switched on.
    """
    before = torch.cuda.get_sync_debug_mode()
    try:
        sync_mode("error")
        yield
    finally:
        sync_mode(before)


def sync_mode(mode: int | str) -> None:
    """Set what torch does where the host waits for the device, without its word on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def capture(
    graph: torch.cuda.CUDAGraph, step: Callable[[], T], *, device: torch.device, stream: torch.cuda.Stream, pool: Pool
) -> T:
    """Capture ``step`` on ``stream`` with memory from ``pool``; what it returns.

    Raises:
        Exception: what the step raised, not what the capture made of it; else why torch refuses the capture.
    """
    if why := over(device):
        raise RuntimeError(why)
    before, mode, collecting = torch.cuda.current_stream(device), torch.cuda.get_sync_debug_mode(), gc.isenabled()
    own: list[BaseException] = []
    failed = True
    gc.collect()  # no gradient node of an earlier step may outlive it: it would belong to another stream
    gc.disable()  # nor may an old graph or event be freed while a new one is made
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            try:
                result = step()
            except BaseException as error:
                own.append(error)
                raise
        failed = False
        return result
    except BaseException as error:
        if not own or error is own[0]:
            raise
    finally:
        if collecting:
            gc.enable()
        torch.cuda.set_stream(before)  # torch leaves that of a capture that failed
        if torch.cuda.get_sync_debug_mode() != mode:
            sync_mode(mode)
        if failed:
            _clear_up(device, pool)
    try:
        raise own[0]
    finally:
        own.clear()  # a circle of frame and error would keep the step's tensors


def give_back(device: torch.device) -> None:
    """Cached memory back to the device, where the allocator is able to; where not, captures are over.

    >>> give_back(torch.device("cuda:0"))  # does nothing where nothing was ever taken
    """
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        _over.setdefault(index_of(device), _sentence(error))


def _clear_up(device: torch.device, pool: Pool) -> None:
    """After a capture that failed: end what torch has left open, and try whether captures work."""
    _streams.clear()  # those of the capture may still be in it
    if torch_private.failed_captures_stay_open():
        with suppress(RuntimeError):
            torch_private.end_capture_of_pool(index_of(device), pool)
    if why := trouble(device):
        _over[index_of(device)] = why


def trouble(device: torch.device) -> str:
    """Why a capture of one addition does not work here; "" where it does, and counts right."""
    try:
        torch.cuda.empty_cache()
        x = torch.zeros(1, device=device)
        graph, stream, before = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), torch.cuda.current_stream(device)
        try:
            with torch.cuda.graph(graph, stream=stream):
                x += 1
        finally:
            torch.cuda.set_stream(before)
        for _ in range(3):
            graph.replay()
        found = x.item()
    except (RuntimeError, AssertionError) as error:  # torch's own assertions are RuntimeErrors
        return _sentence(error)
    return "" if found == 3 else _sentence(RuntimeError(f"three replays of 0 + 1 gave {found}"))


def _sentence(error: BaseException) -> str:
    return (
        f"no CUDA graph is captured any more in this process, since torch {torch.__version__} did not recover from a"
        f" capture that failed ({text(error, 200)}); a new process captures again"
    )
