"""What a method costs: memory and arithmetic of known sizes, one condition for all rows, what is shown of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, models, registry, report
from kdbench.bench import costs, flops, held, prepared
from kdbench.bench.clock import Span
from kdbench.cli import main
from kdbench.engine.lane import Lane
from kdbench.suites import costs as kept
from kdbench.terminal import cards
from kdbench.terminal import costs as terminal

CPU = torch.device("cpu")


# -- memory ---------------------------------------------------------------------------------------


def kilo(n: int = 1) -> Tensor:
    """A tensor of n KB."""
    return torch.ones(n * 256)


def twice() -> None:
    kilo(8)
    kilo(4)


def both() -> None:
    first = kilo(8)
    second = kilo(4)
    del first, second


def views() -> None:
    whole = kilo(8)
    parts = [whole[:9], whole.view(2, -1).T, whole.detach()]
    whole.add_(1)
    del parts


def a_view_keeps_its_storage() -> None:
    part = kilo(8)[:1]
    kilo(4)
    del part


def a_graph_keeps_what_it_needs() -> None:
    start = torch.ones(256, requires_grad=True)  # 1 KB
    middle = start.exp()  # 1 KB, kept by the graph
    end = middle.exp()  # 1 KB, kept by the graph
    del middle
    kilo(2)
    del end


def a_list() -> None:
    torch.split(kilo(2), 256)
    torch._foreach_add([kilo(1), kilo(1)], 1.0)


@pytest.mark.parametrize(
    ("step", "kilobytes"),
    [
        (twice, 8),
        (both, 12),
        (views, 8),
        (a_view_keeps_its_storage, 12),
        (a_graph_keeps_what_it_needs, 5),
        (a_list, 4),
    ],
)
def test_bytes_are_counted_for_as_long_as_anything_keeps_them(step: object, kilobytes: int) -> None:
    assert callable(step)
    with held.Held() as count:
        step()
    assert (count.highest, count.now) == (kilobytes * 1024, 0)


def test_what_was_there_before_is_not_counted() -> None:
    weight, bias = kilo(64), kilo(1)

    def step() -> None:
        nonlocal weight
        weight.add_(1)
        weight[:256].mul_(bias)
        weight = weight.view(2, -1)

    assert held.highest(step, CPU) == 0


class Bank(Distiller):
    """A bank of N x 7 numbers, a layer of 5 x 11 weights, and an activation of B x 3 000 000 numbers."""

    def __init__(self, pair: Pair, **common: float) -> None:
        super().__init__(pair, **common)
        self.bank: Tensor
        self.register_buffer("bank", torch.zeros(pair.num_train, 7))
        self.layer = nn.Linear(5, 11, bias=False)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        wide = student.logits[:, :1].expand(-1, 3_000_000).exp()
        return {"wide": 1e-9 * wide.sum() + 0 * self.layer(student.logits[:, :5]).sum()}


B = 4


def test_a_bank_and_an_activation_of_known_size_are_the_extra_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation lives at the end of the forward pass, where the student alone is near its highest, too."""
    monkeypatch.setattr(registry, "get", lambda name: Bank)
    cost = costs.measure("bank", "resnet14:resnet8", n=1, batch=B)
    standing = 4 * (prepared.N_TRAIN * 7 + 2 * 55)  # the bank; weights and momenta
    assert cost.extra_standing_mb == pytest.approx(standing / 1e6, abs=6e-4)
    # exp keeps its result; going back, the product of that with its gradient (an expanded view) is there as well
    activation = 4 * B * 3_000_000
    step = 1e6 * (cost.extra_memory_mb - cost.extra_standing_mb)
    assert 1.97 * activation < step < 2.01 * activation
    assert cost.batch == B
    assert cost.extra_train_params == 55
    assert cost.extra_macs == 55


def test_a_plain_student_costs_no_more_than_itself_and_memory_is_the_same_each_time() -> None:
    one = costs.measure("student", "resnet14:resnet8", n=1, batch=B)
    assert (one.extra_memory_mb, one.extra_standing_mb, one.extra_macs, one.extra_train_params) == (0, 0, 0, 0)
    costs.of_student.cache_clear()
    again = costs.measure("student", "resnet14:resnet8", n=1, batch=B)
    assert (again.student_memory_mb, again.extra_memory_mb) == (one.student_memory_mb, 0)


def test_what_a_lane_keeps_is_counted_once() -> None:
    student = models.create("resnet8", 10)
    method = nn.Module()
    method.register_buffer("bank", bank := kilo(8))
    method.register_buffer("same", bank[:7])

    class Stub:
        def __init__(self) -> None:
            self.student, self.method = student, method
            self.optimizer = torch.optim.SGD(student.parameters(), momentum=0.9)

    stub = cast(Lane, Stub())
    before = held.standing(stub)
    own = sum(t.nbytes for t in (*student.parameters(), *student.buffers()))
    assert before == own + 8 * 1024
    student(torch.zeros(2, 3, 32, 32)).logits.sum().backward()
    stub.optimizer.step()
    assert held.standing(stub) == before + sum(p.nbytes for p in student.parameters())


# -- arithmetic -----------------------------------------------------------------------------------


class Convolution(Distiller):
    """One 3x3 convolution of the first map, 16 to 8 channels, and two further views."""

    def __init__(self, pair: Pair, **common: float) -> None:
        super().__init__(pair, **common)
        self.layer = nn.Conv2d(16, 8, 3, padding=1)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        alone = student.logits[: len(batch.label)]
        return {"x": F.cross_entropy(alone, batch.label) + self.layer(student.feats[0]).mean()}


class Views(Convolution):
    """Two further views: thrice the convolution, and two further passes of the student."""

    views = ("rot90", "rot180")


@pytest.mark.parametrize(("method", "shown"), [(Convolution, 1), (Views, 3)])
def test_macs_of_a_known_convolution(method: type[Distiller], shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "get", lambda name: method)
    cost = costs.measure("one", "resnet14:resnet8", n=1, batch=B)
    assert cost.extra_macs == shown * 32 * 32 * 16 * 8 * 9 + (shown - 1) * cost.student_macs
    with torch.no_grad():
        net = models.create("resnet8", prepared.CLASSES)
        assert cost.student_macs == flops.count(lambda: net(torch.zeros(1, 3, 32, 32))) / 2


# -- the table ------------------------------------------------------------------------------------

rows = cache(kept.load)


def test_all_are_measured() -> None:
    assert rows().keys() == set(registry.names())


@pytest.mark.parametrize("name", sorted(set(registry.names())))
def test_a_row_is_whole_and_of_the_same_condition_as_all(name: str) -> None:
    one, student = rows()[name], rows()["student"]
    assert (one.pair, one.condition) == (student.pair, student.condition), "measure all together: make costs"
    assert (one.student_memory_mb, one.student_macs) == (student.student_memory_mb, student.student_macs)
    assert min(one.student_step_ms, one.student_memory_mb, one.student_macs, one.latency_1_ms) > 0
    assert one.latency_batch_ms > one.latency_1_ms
    assert one.share == pytest.approx(one.extra_ms / one.student_step_ms, abs=0.002)
    assert one.extra_train_params >= one.extra_infer_params
    if not registry.get(name).modifies_student():
        assert one.extra_infer_params == 0
        assert one.latency_1_ms == student.latency_1_ms
    # weights, momenta: 8 bytes a parameter, 4 where it is not trained
    assert one.extra_standing_mb >= round(4e-6 * one.extra_train_params, 3)
    if name != "student":
        assert one.extra_memory_mb > -0.01 * one.student_memory_mb


def test_rows_measured_at_other_times_or_places_are_not_compared() -> None:
    one = rows()["kd"]
    for change in ({"measured": "later"}, {"processor": "another"}, {"threads": 2}, {"torch": "2.9"}, {"n": 9}):
        assert one.model_copy(update=change).condition != one.condition


def test_a_report_gets_every_row() -> None:
    shown = {row.method: row for row in terminal.rows()[0]}
    assert shown.keys() == rows().keys()
    assert len({(row.pair, row.condition) for row in shown.values()}) == 1
    vid, row = rows()["vid"], shown["vid"]
    wanted = (vid.extra_ms, vid.extra_memory_mb, vid.extra_train_params, vid.extra_macs)
    assert (row.extra_ms, row.extra_mb, row.params, row.macs) == wanted


def test_kdbench_report_hands_them_over(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(report, "report", lambda out, **asked: given.update(asked) or [])
    assert CliRunner().invoke(main, ["report"]).exit_code == 0
    assert given["costs"] == terminal.rows()[0] != []


def test_a_table_of_another_time_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kept, "TABLE", tmp_path / "cost.csv")
    assert terminal.rows() == ([], "")
    kept.TABLE.write_text("method,pair,extra_ms,cpu\nkd,a:b,1,me\n")
    rows, sentence = terminal.rows()
    assert rows == []
    assert re.search(r"cost.csv, cannot be read: columns .*cpu.*make costs", sentence)
    assert "\n" not in sentence


def test_the_card_shows_time_memory_and_macs() -> None:
    lines = dict(cards.card("vid"))["cost"]
    one = rows()["vid"]
    for start, number in (
        ("time", f"{one.extra_ms:.1f} ms"),
        ("memory", f"{one.extra_memory_mb:.1f} MB"),
        ("arithmetic", f"{one.extra_macs / 1e6:,.1f} million MACs"),
    ):
        assert any(line.startswith(f"{start}: {number} ") for line in lines), start


# -- the peak -------------------------------------------------------------------------------------


def test_the_peak_is_the_best_of_several_sizes_each_done_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that takes 10 ms to start, and a machine whose speed depends on what it does."""
    speed = {"mm": {8: 1e3, 16: 3e3, 32: 2e3}, "conv": {4: 4e3, 8: 6e3}}  # FLOP/s
    passed, spans = [0.0], []

    def product(a: Tensor, b: Tensor, out: Tensor) -> None:
        passed[0] += 2 * len(a) ** 3 / speed["mm"][len(a)]

    def convolution(maps: Tensor, weight: Tensor) -> None:
        passed[0] += 2 * 16 * 16**2 * 9 * len(weight) ** 2 / speed["conv"][len(weight)]

    def timed(work: object, device: torch.device) -> Span:
        assert callable(work)
        passed[0] = 0.01
        work()
        spans.append(passed[0])
        return Span(passed[0], 0.0, 0.0)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(torch, "conv2d", convolution)
    monkeypatch.setattr(flops, "timed", timed)
    monkeypatch.setattr(flops, "SIDES", {"cpu": tuple(speed["mm"])})
    monkeypatch.setattr(flops, "CHANNELS", {"cpu": tuple(speed["conv"])})
    monkeypatch.setattr(flops, "LONG", 100.0)
    assert flops.peak_gflops(CPU, torch.float32) * 1e9 == pytest.approx(6e3, rel=1e-3)
    assert sum(span >= 100 for span in spans) == 3 * 5
