"""What a capture leaves behind, on stand-ins that do what torch was read to do on CUDA: errors, forks, streams, modes."""

from __future__ import annotations

import gc
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import run
from training import lane, loader, setting, train

from kdbench.engine import fit as engine
from kdbench.engine import torch_private
from kdbench.engine.errors import OutOfMemory, holds
from kdbench.engine.evaluate import predictions
from kdbench.engine.graph import capture
from kdbench.engine.graph.backend import Eager, Graphs
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision, put_switches, switches
from kdbench.engine.rng import offset
from kdbench.run import teachers

pytestmark = pytest.mark.core

CUDA = torch.device("cuda", 0)


class Stream:
    """Knows which streams wait for it."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def wait_stream(self, other: Stream) -> None:
        if self.cuda.main is not None:  # a capture goes on
            if other is self.cuda.main:
                self.cuda.loose.add(self)
            elif other in self.cuda.loose:
                self.cuda.loose.remove(other)
            else:
                raise RuntimeError("dependency created on uncaptured work in another stream")


class Generator:
    def __init__(self, device: object = None) -> None:
        self.bits = torch.zeros(16, dtype=torch.uint8)

    def set_state(self, bits: torch.Tensor) -> None:
        self.bits = bits

    def get_state(self) -> torch.Tensor:
        return self.bits


class Graph:
    def __init__(self) -> None:
        self.registered: list[object] = []

    def register_generator_state(self, state: object) -> None:
        self.registered.append(state)

    def replay(self) -> None:
        pass


class Cuda:
    """torch.cuda as its source was read: a capture that fails keeps its stream; loose branches end it in another error."""

    def __init__(self) -> None:
        self.mode, self.warned = 0, False
        self.current = self.usual = Stream(self)
        self.main: Stream | None = None
        self.loose: set[Stream] = set()
        self.pools: list[object] = []
        self.broken = ""  # what an allocator says that a capture has broken
        self.breaks = False  # whether a failed capture breaks it, as before 2.13
        self.ended: list[tuple[int, object]] = []

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = 2 if mode == "error" else int(mode)  # first set, then said
        if not self.warned:
            self.warned = True
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)

    def empty_cache(self) -> None:
        if self.broken:
            raise RuntimeError(self.broken)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def graph(self, graph: Graph, *, pool: object, stream: Stream) -> Iterator[None]:
        self.empty_cache()
        self.pools.append(pool)
        before, self.current, self.main = self.current, stream, stream
        try:
            yield
        except BaseException:
            loose, self.loose, self.main = self.loose, set(), None
            if self.breaks:
                self.broken = "captures_underway.empty() INTERNAL ASSERT FAILED"
            if loose or self.breaks:
                raise torch.AcceleratorError("CUDA error: capturing stream has unjoined work") from None
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            ) from None
        if self.loose:
            raise torch.AcceleratorError("CUDA error: capturing stream has unjoined work")
        self.current, self.main = before, None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    made, pools = Cuda(), itertools.count(1)
    default = SimpleNamespace(graphsafe_get_state=lambda: None, graphsafe_set_state=lambda state: None)
    for name in ("get_sync_debug_mode", "set_sync_debug_mode", "empty_cache", "stream", "set_stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    stand_ins: dict[str, Any] = {
        "current_stream": lambda device=None: made.current,
        "Stream": lambda device=None: Stream(made),
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, next(pools)),  # a pair of numbers, as torch's
        "default_generators": (),  # as torch has it until CUDA was used
        "init": lambda: monkeypatch.setattr(torch.cuda, "default_generators", (default,)),
        "current_device": lambda: 0,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(capture, "_streams", {})
    monkeypatch.setattr(capture, "_over", {})
    monkeypatch.setattr(
        capture, "trouble", lambda device: capture._sentence(RuntimeError(made.broken)) * bool(made.broken)
    )
    yield made
    assert gc.isenabled()


class Rolling:
    """What ``Graphs`` looks at in a lane."""

    def __init__(self, key: str) -> None:
        self.key, self.rng = key, {"cuda": torch.zeros(16, dtype=torch.uint8)}


def rolling(*names: str) -> list[Any]:
    return [Rolling(name) for name in names]


def failing(error: BaseException, at: str = "b") -> Callable[[Any], None]:
    def work(lane: Any) -> None:
        if lane.key == at:
            raise error

    return work


# -- A 1: torch's word on a prototype ---------------------------------------------------------------


def test_a_warning_as_an_error_does_not_leave_every_copy_an_error(cuda: Cuda) -> None:
    """Warnings are errors in these tests, as with -W error."""
    with capture.strict():
        assert cuda.mode == 2
    assert cuda.mode == 0
    with pytest.raises(ValueError, match="inside"), capture.strict():
        raise ValueError("inside")
    assert cuda.mode == 0


# -- A 3 and 4: errors in a capture -----------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), TypeError("no such thing"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_the_error_of_a_branch_is_the_error_of_its_capture(error: BaseException, cuda: Cuda) -> None:
    machine, lanes = Graphs(CUDA), rolling("a", "b", "c")
    machine.dice(lanes)
    with pytest.raises(type(error)) as caught:
        machine.record(lambda: machine.branches(lanes, failing(error)))
    assert caught.value is error
    assert cuda.current is cuda.usual  # torch leaves that of the capture
    machine.record(lambda: machine.branches(lanes, lambda lane: None))  # and the next one works


def test_memory_that_runs_out_in_a_capture_is_told_as_such(cuda: Cuda) -> None:
    machine, lanes = Graphs(CUDA), rolling("a", "b")
    machine.dice(lanes)
    step = lambda: machine.branches(lanes, failing(torch.OutOfMemoryError("CUDA out of memory")))  # noqa: E731
    with pytest.raises(OutOfMemory, match="the graph of 2 lanes does not fit"), holds("the graph of 2 lanes", CUDA):
        machine.record(step)


def test_branches_are_joined_whatever_they_raise(cuda: Cuda) -> None:
    machine, lanes = Graphs(CUDA), rolling("a", "b", "c")
    machine.dice(lanes)
    cuda.main = cuda.current
    with pytest.raises(TypeError):
        machine.branches(lanes, failing(TypeError("no")))
    assert cuda.loose == set()


def test_the_switch_of_a_failed_capture_is_put_back(cuda: Cuda) -> None:
    machine = Graphs(CUDA, streams=1)

    def step() -> None:
        capture.sync_mode("error")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        machine.record(step)
    assert cuda.mode == 0


# -- A 2: a torch that does not recover -------------------------------------------------------------


def old(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, *, heals: bool) -> None:
    """torch before 2.13."""
    cuda.breaks = True
    monkeypatch.setattr(torch_private, "failed_captures_stay_open", lambda: True)

    def end(index: int, pool: object) -> None:
        cuda.ended.append((index, pool))
        if heals:
            cuda.broken = ""

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda index, pool: None, raising=False)


@pytest.mark.parametrize("heals", [True, False])
def test_after_a_failed_capture_an_old_torch_captures_or_says_why_not(
    heals: bool, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    old(cuda, monkeypatch, heals=heals)
    machine, lanes = Graphs(CUDA), rolling("a", "b")
    machine.dice(lanes)
    with pytest.raises(TypeError):
        machine.record(lambda: machine.branches(lanes, failing(TypeError("no"))))
    assert cuda.ended == [(0, cuda.pools[0])]
    if heals:
        machine.record(lambda: None)
        return
    assert "no CUDA graph is captured any more in this process" in machine.over
    assert machine.apart().over == machine.over
    with pytest.raises(RuntimeError, match="did not recover from a capture that failed"):
        machine.record(lambda: None)
    capture.give_back(CUDA)  # the allocator refuses, and that is no error


def test_a_group_goes_on_without_graphs_and_says_so_once(tmp_path: Path) -> None:
    class Spoilt(Eager):
        captures = True

        def record(self, step: Any) -> Any:
            self.over = "no CUDA graph is captured any more"
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    notes: list[str] = []
    lanes = [lane(name, tmp_path) for name in ("kd", "crd")]
    train(lanes, setting(loader(), machine=Spoilt(), note=notes.append))
    assert [one.failure for one in lanes] == [None, None]
    told = [note for note in notes if "evaluated" not in note]
    assert told == ["this group runs without a CUDA graph: no CUDA graph is captured any more"]


def test_the_allocator_of_this_torch_was_asked() -> None:
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    assert torch_private.failed_captures_stay_open() is (version < (2, 13))


# -- A 10 and 12: memory and random numbers -----------------------------------------------------------


def test_graphs_recorded_together_share_memory_and_all_share_streams(cuda: Cuda) -> None:
    machine = Graphs(CUDA)
    with machine.together():
        machine.record(lambda: None)
        machine.record(lambda: None)
    machine.record(lambda: None)
    assert cuda.pools[0] is cuda.pools[1]
    assert cuda.pools[2] is not cuda.pools[0]
    main, side = capture.streams(CUDA, 6)
    assert capture.streams(CUDA, 6) == (main, side)
    assert capture.streams(CUDA, 0) == (main, [])


def test_only_lanes_that_draw_are_registered_and_others_are_let_go(cuda: Cuda) -> None:
    machine, lanes = Graphs(CUDA), rolling("a", "b", "c")
    made: list[Graph] = []

    def graph() -> Graph:
        made.append(Graph())
        return made[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "CUDAGraph", graph)
        machine.dice(lanes)
        machine.drawing(lanes[:1])
        machine.record(lambda: None)
        machine.dice(lanes[1:])
        machine.drawing(lanes)
        machine.record(lambda: None)
    assert [len(one.registered) for one in made] == [2, 3]  # beside the spare one


def test_how_far_a_generator_has_gone_is_read_from_its_state() -> None:
    state = torch.zeros(16, dtype=torch.uint8)
    state[8], state[9] = 4, 1
    assert offset(state) == 260
    assert offset(torch.get_rng_state()) is None


# -- A 6: fp32 is fp32 --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "reduced"), [("fp32", False), ("tf32", True), ("amp", False), ("bf16", False)])
def test_only_tf32_rounds_products_of_fp32(name: str, reduced: bool) -> None:
    before = switches()
    try:
        for other in ("tf32", "fp32"):
            Precision(other).prepare(CUDA)
            Precision(name).prepare(CUDA)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (reduced, reduced)
        Precision("tf32").prepare(CUDA)
        with Precision(name).switched(CUDA):
            assert torch.backends.cuda.matmul.allow_tf32 is reduced
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        put_switches(before)


class Switched(Precision):
    """Knows whether it is in force."""

    inside = 0

    @contextmanager
    def switched(self, device: torch.device) -> Iterator[None]:
        Switched.inside += 1
        yield
        Switched.inside -= 1


def test_teachers_are_trained_and_measured_in_the_precision_of_their_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "Precision", Switched)
    usual, trained = engine.fit, list[int]()

    def fit(*given: Any, **words: Any) -> None:
        trained.append(Switched.inside)
        usual(*given, **words)

    monkeypatch.setattr(teachers, "fit", fit)
    assert run(tmp_path).exit_code == 0
    assert trained == [1]


def test_a_measurement_is_in_its_precision_whatever_the_process_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def net(image: torch.Tensor) -> Any:
        seen.append(Switched.inside)
        return SimpleNamespace(logits=image)

    predictions(net, [(torch.zeros(2, 3), torch.zeros(2))], Switched())  # type: ignore[arg-type]
    assert seen == [1]


# -- A 7: the failed attempt is gone before the next -----------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "as the context of another error"])
def test_lanes_of_a_failed_attempt_are_gone_before_the_next(
    wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, alive = engine.fit, list[tuple[int, int]]()
    kept: list[weakref.ref[Lane]] = []

    def fit(shared: Any, lanes: Sequence[Lane], *rest: Any, **words: Any) -> None:
        alive.append((len(lanes), sum(one() is not None for one in kept)))
        if len(lanes) > 1:
            kept.extend(weakref.ref(one) for one in lanes)
            circle: list[Any] = [lanes]
            circle.append(circle)
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except RuntimeError:
                if wrapped:
                    raise torch.AcceleratorError("capturing stream has unjoined work")  # noqa: B904
                raise
        usual(shared, lanes, *rest, **words)

    monkeypatch.setattr(engine, "fit", fit)
    gc.disable()  # by itself it might come in time
    try:
        result = run(tmp_path)
    finally:
        gc.enable()
    assert result.exit_code == 0, result.output
    assert [count for count, _ in alive] == [2, 1, 1]
    assert len(kept) == 2
    assert alive[1][1] == 0
