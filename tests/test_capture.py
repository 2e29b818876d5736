"""The captured step: called instead of captured, it gives the bits of the ordinary loop; no method asks the host.

No CUDA device is needed here. ``tests/test_gpu.py`` has what only a device can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pretended
import pytest
import torch
from asking import asked
from telling import fast
from torch import Tensor
from training import COMBINATIONS, CPU, assert_same, lane, loader, pair_of, result, setting, supported, train

from kdbench import registry
from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.fit import look
from kdbench.engine.graph import backend
from kdbench.engine.graph.backend import Eager, Graphs, machine_for
from kdbench.engine.graph.train_step import Captured, Captures
from kdbench.engine.lane import Lane
from kdbench.engine.memory import pack, standing
from kdbench.engine.schedule import Plan, fill_momentum, set_rate
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
    """As ``train``, through the captured step."""
    told = list[str]() if notes is None else notes
    shared = setting(loader(views=lanes[0].method.views), machine=Eager(), note=told.append)
    train(lanes, shared, stop_after=stop_after)


@pytest.mark.parametrize("name", fast(METHODS))
def test_the_captured_step_gives_the_bits_of_the_loop(name: str, tmp_path: Path) -> None:
    plain, ours = supported(name, tmp_path / "plain"), supported(name, tmp_path / "ours")
    few = loader(24, views=plain.method.views)  # a whole batch and a short one
    train([plain], setting(few))
    notes: list[str] = []
    train([ours], setting(few, machine=Eager(), note=notes.append))
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


def test_a_diverging_term_is_named_as_in_the_loop_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good, plain = (lane(name, tmp_path / name) for name in ("fitnet", "kd", "student"))
    monkeypatch.setattr(bad.method, "beta", float("inf"))
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
    one.method = _Odd(pair_of(one.student), kind=kind)
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


@pytest.mark.parametrize("name", fast([*registry.names(), *COMBINATIONS]))
def test_no_step_asks_the_host(name: str, tmp_path: Path) -> None:
    """As the captures of lanes are made; by themselves the steps of all methods are watched in tests/test_device.py."""
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


# -- random numbers on a device ---------------------------------------------------------------------


class Dicing:
    """What ``Graphs`` looks at in a lane: its random numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = {"cuda": torch.Generator().manual_seed(seed).get_state()}


def dicing(*seeds: int) -> list[Any]:
    return [Dicing(seed) for seed in seeds]


def numbers(seed: int, rows: int) -> list[float]:
    """What a generator with this seed gives in rows of three."""
    draw = torch.Generator().manual_seed(seed)
    return [number for _ in range(rows) for number in torch.rand(3, generator=draw).tolist()]


def breaks(*_: object) -> None:
    raise RuntimeError("no")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[pretended.Device]:
    """Whatever a test does, the process goes on with its own random numbers."""
    made = pretended.pretend(monkeypatch, seed=99)
    yield made
    assert made.draw() == numbers(99, 1)


@pytest.mark.parametrize("streams", [1, 2, 6])
def test_every_lane_draws_its_own_numbers_and_goes_on_with_them(streams: int, device: pretended.Device) -> None:
    machine, lanes = Graphs(torch.device("cuda"), streams), dicing(1, 2, 3)
    drawn: dict[int, list[float]] = {at: [] for at in range(3)}
    for _ in range(2):  # two epochs
        machine.dice(lanes)
        for _ in range(2):
            machine.branches(lanes, lambda lane: drawn[lanes.index(lane)].extend(device.draw()))
        machine.put_dice(lanes)
    assert drawn == {at: numbers(at + 1, 4) for at in range(3)}


def test_a_lane_that_raises_in_its_branch_leaves_the_numbers_of_the_process_alone(device: pretended.Device) -> None:
    machine, lanes = Graphs(torch.device("cuda")), dicing(1, 2)
    machine.dice(lanes)
    with pytest.raises(RuntimeError, match="no"):
        machine.branches(lanes, breaks)


def test_a_graph_draws_the_numbers_of_its_lanes(device: pretended.Device) -> None:
    machine, lanes = Graphs(torch.device("cuda")), dicing(1, 2)
    machine.dice(lanes)

    def draw(lane: Lane) -> None:
        device.draw()

    def step() -> None:
        device.draw()  # the trunk's own, of which nobody knows
        machine.branches(lanes, draw)

    replay: Callable[[], Any] = machine.record(step)[0]
    assert replay()[3:] == numbers(1, 1) + numbers(2, 1)
    with pytest.raises(RuntimeError, match="no"):
        machine.apart().record(breaks)  # an evaluation, whose failed capture is its own affair
    machine.put_dice(lanes)
    machine.dice(lanes)
    assert replay()[3:] == numbers(1, 2)[3:] + numbers(2, 2)[3:]


def test_after_a_capture_that_failed_the_lanes_go_on_with_their_numbers(device: pretended.Device) -> None:
    machine, lanes = Graphs(torch.device("cuda")), dicing(1, 2)
    machine.dice(lanes)

    def draw(lane: Lane) -> None:
        device.draw()

    def step() -> None:
        device.draw()
        machine.branches(lanes, draw)
        breaks()

    with pytest.raises(RuntimeError, match="no"):
        machine.record(step)
    drawn: list[float] = []
    machine.branches(lanes, lambda lane: drawn.extend(device.draw()))
    assert drawn == numbers(1, 1) + numbers(2, 1)


def test_a_lane_whose_capture_fails_is_found_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Captured, "prove", lambda *_: None)  # the graphs of this test do nothing

    class Breaking(Eager):
        captures = True

        def record(self, step: Any) -> tuple[Callable[[], object], Any]:
            if any(one.key == "fitnet-resnet8" for one in step.func.__self__.lanes):
                raise RuntimeError("operation not permitted")
            return (lambda: None), None

    everyone, notes = [lane(name, tmp_path) for name in ("kd", "fitnet", "crd")], list[str]()
    for one in everyone:
        one.start_epoch()
    shared = setting()
    made = Captures(Breaking(), notes.append).of(shared.train, everyone, "train", partial(look, shared))
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
    graphs = object()
    monkeypatch.setattr(backend, "Graphs", lambda device: graphs)
    assert machine_for(CPU) is None
    assert machine_for(torch.device("cuda"), "off") is None
    assert machine_for(torch.device("cuda"), "auto") is graphs


def test_graphs_are_auto_or_off() -> None:
    with pytest.raises(ValueError, match="--graphs takes auto or off, not 'on'"):
        session.resolve(session.Request(graphs="on", device="cpu"))
