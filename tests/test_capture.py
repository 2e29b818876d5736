"""The captured step: called instead of captured, it gives the bits of the ordinary loop; no method asks the host.

No CUDA device is needed here. ``tests/test_gpu.py`` has what only a device can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_engine import (
    BATCH,
    COMBINATIONS,
    CPU,
    IMAGES,
    Silent,
    assert_same,
    lane,
    loader,
    result,
    scored,
    supported,
    teacher,
    train,
)
from torch import Tensor

from kdbench import models, registry
from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.fit import Setting, fit, look
from kdbench.engine.graph.backend import Eager, Graphs, machine_for
from kdbench.engine.graph.train_step import Captures
from kdbench.engine.lane import Lane
from kdbench.engine.memory import pack, standing
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan, fill_momentum, set_rate
from kdbench.engine.torch_private import TorchDispatchMode
from kdbench.run import session

pytestmark = pytest.mark.core

METHODS = [
    "dkd",
    "ofa",
    "mgd",
    "crd",
    "semckd",
    "fitnet",
    "mag",
    "student",
    "vid",
    "sskd",
    "ofd",
    "ctkd",
    "nd",
    "crd+mag",
]


def captured(lanes: list[Lane], notes: list[str] | None = None, *, stop_after: int | None = None) -> None:
    """As ``test_engine.train``, through the captured step."""
    told: Callable[[str], None] = (lambda sentence: None) if notes is None else notes.append
    setting = Setting(
        models.fold(teacher()), loader(lanes[0].method.views), scored, CPU, Precision(), machine=Eager(), note=told
    )
    fit(setting, lanes, Silent(stop_after), lambda lane: None)


@pytest.mark.parametrize("name", METHODS)
def test_the_captured_step_gives_the_bits_of_the_loop(name: str, tmp_path: Path) -> None:
    plain, ours = supported(name, tmp_path / "plain"), supported(name, tmp_path / "ours")
    train([plain])
    notes: list[str] = []
    captured([ours], notes)
    assert notes == []
    assert_same(result(ours), result(plain))
    assert torch.equal(ours.rng["cpu"], plain.rng["cpu"])


def test_in_company_and_resumed_into_the_other_loop(tmp_path: Path) -> None:
    plain = lane("crd", tmp_path / "plain")
    train([plain])
    company = [lane("mag", tmp_path), lane("crd", tmp_path), lane("semckd", tmp_path, student="resnet14")]
    captured(company)
    assert_same(result(company[1]), result(plain))
    for first, second in ((train, captured), (captured, train)):
        folder = tmp_path / first.__name__
        with pytest.raises(KeyboardInterrupt):
            first([lane("crd", folder)], stop_after=1)
        resumed = lane("crd", folder)
        assert resumed.resume()
        second([resumed])
        assert_same(result(resumed), result(plain))


def test_a_diverging_term_is_named_as_in_the_loop_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good, plain = (lane(name, tmp_path / name) for name in ("fitnet", "kd", "student"))
    bad.method.beta = float("inf")  # type: ignore[assignment]
    captured([bad, good, plain])
    assert bad.failure is not None
    assert bad.failure.startswith("term 'hint' was inf in epoch 1; try a smaller beta, ")
    alone = lane("kd", tmp_path / "alone")
    train([alone])
    assert_same(result(good), result(alone))
    assert plain.done


class _Odd(Distiller):
    """What a captured step cannot hold."""

    memory: Tensor

    def __init__(self, pair: Pair, *, kind: str = "") -> None:
        super().__init__(pair)
        self.kind, self.count = kind, 0
        self.register_buffer("memory", torch.ones(()))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.kind == "counter":
            self.count += 1
        if self.kind == "buffer":
            self.memory = self.memory * 0.5
        if self.kind == "raises":
            raise TypeError("no such thing")
        if self.kind == "item":
            return {"odd": student.pooled.mean() * student.pooled.max().item()}
        if self.kind == "mask":
            return {"odd": student.pooled[student.pooled > 0].mean()}
        if self.kind == "constant":
            return {"odd": student.pooled.mean() * torch.tensor(2.0, device=student.pooled.device)}
        if self.kind == "device":
            return {"odd": (student.logits * torch.arange(10)).mean()}
        return {"odd": self.memory * student.pooled.mean() * (1 + self.count)}


def odd(kind: str, folder: Path) -> Lane:
    """A lane of ``_Odd``."""
    one = lane("kd", folder)
    assert isinstance(one.student, models.Tapped)
    pair = models.make_pair(
        one.student,
        teacher(),
        image_shape=(3, 8, 8),
        num_classes=10,
        train_labels=torch.zeros(IMAGES, dtype=torch.int64),
        batch_size=BATCH,
    )
    one.method = _Odd(pair, kind=kind)
    one.enter("train")
    return one


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("counter", "every step puts something new into the method's count"),
        ("buffer", "every step puts something new into the method's memory"),
    ],
)
def test_a_lane_that_cannot_be_captured_runs_beside(kind: str, why: str, tmp_path: Path) -> None:
    plain, plain_good = odd(kind, tmp_path / "plain"), lane("crd", tmp_path / "plain")
    train([plain, plain_good])
    ours, good, notes = odd(kind, tmp_path / "ours"), lane("crd", tmp_path / "ours"), list[str]()
    captured([ours, good], notes)
    assert len(notes) == 1
    assert why in notes[0]
    assert_same(result(good), result(plain_good))
    assert_same(result(ours), result(plain))  # rehearsed, found out, undone


def test_a_method_that_raises_fails_in_the_usual_words(tmp_path: Path) -> None:
    bad, good = odd("raises", tmp_path / "bad"), lane("kd", tmp_path / "good")
    captured([bad, good])
    assert bad.failure == "TypeError in epoch 1: no such thing"
    assert good.done


# -- nothing asks the host: what CUDA would refuse in a capture, found without CUDA -----------------

#: Operators that wait for the device, or that only the host can do.
ASKING = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_svd",
    "_linalg_eigh",
    "_linalg_solve_ex",
    "linalg_inv_ex",
    "linalg_cholesky_ex",
    "linalg_qr",
    "linalg_lu_factor_ex",
    "lift_fresh",  # torch.tensor(...): a copy from the host
}


class Asking(TorchDispatchMode):
    """Names of the operators in ``ASKING`` and of indexing by masks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ASKING:
            self.found.add(name)
        if (
            name.startswith("index")
            and isinstance(args[1], list | tuple)
            and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        ):
            self.found.add(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


class Listening(Eager):
    """Its strict steps make tensors without a named device on another one, and name what asks the host."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    @contextmanager
    def strict(self) -> Iterator[None]:
        asking = Asking()
        with asking, torch.device("meta"):
            yield
        self.found |= asking.found


def asked(one: Lane) -> tuple[set[str], list[str]]:
    """What a lane's steps of both sizes ask the host in every stage, and the notes of their capture."""
    machine, notes = Listening(), list[str]()
    setting = Setting(models.fold(teacher()), loader(one.method.views), scored, CPU, Precision())
    while True:
        one.start_epoch()
        captures = Captures(machine, notes.append)
        captures.of(setting.train, [one], one.stage, partial(look, setting))
        if one.stage == "train":
            return machine.found, notes
        one.enter("train")


@pytest.mark.parametrize("name", [*registry.names(), *COMBINATIONS])
def test_no_step_asks_the_host(name: str, tmp_path: Path) -> None:
    found, notes = asked(supported(name, tmp_path))
    if name == "kdsvd":  # torch looks whether its singular values converged
        assert "_linalg_svd" in found
    elif name == "mlkd":
        assert notes == [
            "this group runs without a CUDA graph: ValueError: views that draw, such as randaugment,"
            " need the key of the epoch"
        ]
    else:
        assert found == set()
        assert notes == []


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("item", "_local_scalar_dense"),
        ("mask", "index by a mask"),
        ("constant", "lift_fresh"),
        ("device", "meta"),
    ],
)
def test_what_asks_the_host_is_found(kind: str, what: str, tmp_path: Path) -> None:
    found, notes = asked(odd(kind, tmp_path))
    assert any(what in said for said in (*found, *notes))


# -- what is asked of torch.cuda, in its order ------------------------------------------------------


class _Log:
    """Stands for torch.cuda: streams, generators and graphs that write down what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.now = [self.stream("trunk")]
        self.default = self.generator("default")
        self.default.state = "process"
        self.made = 0
        for name, stand_in in {
            "Stream": lambda device: self.stream(f"stream{self.count()}"),
            "stream": self.on,
            "CUDAGraph": self.graph,
            "current_stream": lambda device: self.now[-1],
            "default_generators": [self.default],
            "current_device": lambda: 0,
            "graph": self.capture,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: self.said.append(f"sync {mode}"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch, "Generator", lambda device: self.generator(f"generator{self.count()}"))

    def count(self) -> int:
        self.made += 1
        return self.made

    def stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.said.append(f"{name} waits for {other.name}"))

    def generator(self, name: str) -> Any:
        made = SimpleNamespace(name=name, state=name, bits=None)
        made.set_state = lambda bits: setattr(made, "bits", bits)
        made.get_state = lambda: made.bits
        made.graphsafe_get_state = lambda: SimpleNamespace(state=made.state)
        made.graphsafe_set_state = lambda other: setattr(made, "state", other.state)
        return made

    def graph(self) -> Any:
        return SimpleNamespace(
            register_generator_state=lambda state: self.said.append(f"register {state.name}"),
            replay=lambda: self.said.append("replay"),
        )

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        self.now.append(stream)
        try:
            yield
        finally:
            self.now.pop()

    @contextmanager
    def capture(self, graph: Any, stream: Any) -> Iterator[None]:
        self.said.append(f"capture on {stream.name} with {self.default.state}")
        with self.on(stream):
            yield


class _Lane:
    def __init__(self, key: str) -> None:
        self.key, self.rng = key, {"cuda": key}


def lanes_of(*keys: str) -> list[Any]:
    return [_Lane(key) for key in keys]


def test_lanes_fork_after_the_trunk_and_join_before_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    log = _Log(monkeypatch)
    machine, lanes = Graphs(torch.device("cuda"), streams=2), lanes_of("a", "b", "c")
    machine.dice(lanes)
    machine.branches(lanes, lambda lane: log.said.append(f"{lane.key} on {log.now[-1].name} with {log.default.state}"))
    assert log.said == [
        "stream2 waits for trunk",
        "stream3 waits for trunk",
        "a on stream2 with generator4",
        "b on stream3 with generator5",
        "c on stream2 with generator6",
        "trunk waits for stream2",
        "trunk waits for stream3",
    ]
    assert log.default.state == "process"
    one = Graphs(torch.device("cuda"), streams=1)
    one.dice(lanes)
    log.said.clear()
    one.branches(lanes, lambda lane: log.said.append(log.now[-1].name))
    assert [said for said in log.said if "waits" not in said] == ["trunk"] * 3


def test_a_capture_leaves_the_default_generator_alone_even_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    log = _Log(monkeypatch)
    machine, lanes = Graphs(torch.device("cuda")), lanes_of("a", "b")
    machine.dice(lanes)
    replay, shown = machine.record(lambda: "shown")
    assert shown == "shown"
    replay()
    assert log.said[-1] == "replay"
    assert log.said[-2].startswith("capture on stream1 with generator")
    assert sum(said.startswith("register") for said in log.said) == 3
    assert log.default.state == "process"

    def breaks() -> None:
        raise RuntimeError("no")

    old = dict(machine._dice)
    with pytest.raises(RuntimeError, match="no"):
        machine.record(breaks)
    assert log.default.state == "process"
    assert all(machine._dice[lane] is not old[lane] for lane in lanes)  # theirs may still be marked as capturing
    machine.put_dice(lanes)
    assert [lane.rng["cuda"] for lane in lanes] == ["a", "b"]


def test_a_lane_whose_capture_fails_is_found_and_left_out(tmp_path: Path) -> None:
    class Breaking(Eager):
        captures = True

        def record(self, step: Any) -> tuple[Callable[[], object], Any]:
            if any(one.key == "fitnet-resnet8" for one in step.func.__self__.lanes):
                raise RuntimeError("operation not permitted")
            return (lambda: None), None

    everyone, notes = [lane(name, tmp_path) for name in ("kd", "fitnet", "crd")], list[str]()
    for one in everyone:
        one.start_epoch()
    setting = Setting(models.fold(teacher()), loader(), scored, CPU, Precision())
    made = Captures(Breaking(), notes.append).of(setting.train, everyone, "train", partial(look, setting))
    assert made is not None
    assert made.lanes == [everyone[0], everyone[2]]
    assert notes == ["fitnet-resnet8 runs beside the graph, step by step: RuntimeError: operation not permitted"]


# -- memory and optimizer ---------------------------------------------------------------------------


def test_lanes_are_packed_into_the_free_memory() -> None:
    assert pack([], 100, 1) == []
    assert pack([10] * 5, 1000, 1) == [5]
    assert pack([10] * 5, 40, 0.5) == [2, 2, 1]
    assert pack([30, 10, 10, 50], 100, 0.5) == [3, 1]
    assert pack([500, 1, 1], 100, 1) == [1, 2]  # too large alone: tried alone


def test_what_a_lane_keeps_is_counted(tmp_path: Path) -> None:
    one = lane("kd", tmp_path)
    weights = sum(p.numel() for p in one.student.parameters())
    buffers = sum(b.nbytes for b in one.student.buffers())
    assert standing(one) == 3 * 4 * weights + buffers


def test_a_rate_on_the_device_and_the_fused_step_give_the_same_weights() -> None:
    def trained(optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> Tensor:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(8, 4))
        made = optimizer([weight])
        for rate in (0.1, 0.1, 0.01):
            set_rate(made, rate)
            made.zero_grad()
            (weight.square().sum() + weight.sin().sum()).backward()
            made.step()
        return weight.detach()

    plan = Plan(3, 0.1, nesterov=True)
    plain = trained(lambda parameters: plan.optimizer(parameters, CPU))

    def on_device(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(
            parameters, lr=torch.tensor(0.1), momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        rate = made.param_groups[0]["lr"]
        fill_momentum(made)
        set_rate(made, 0.1)
        assert made.param_groups[0]["lr"] is rate
        return made

    torch.testing.assert_close(trained(on_device), plain, rtol=1e-6, atol=1e-6)


def test_the_machine_follows_device_and_option(monkeypatch: pytest.MonkeyPatch) -> None:
    _Log(monkeypatch)
    assert machine_for(CPU) is None
    assert machine_for(torch.device("cuda"), "off") is None
    assert isinstance(machine_for(torch.device("cuda"), "auto"), Graphs)


def test_graphs_are_auto_or_off() -> None:
    with pytest.raises(ValueError, match="--graphs takes auto or off, not 'on'"):
        session.resolve(session.Request(graphs="on", device="cpu"))
