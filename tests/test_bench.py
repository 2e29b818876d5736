"""kdbench bench: fair (same losses, same work, in turn), right counts of FLOP, a result that can be read again."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import flat, refused
from rich.console import Console
from telling import fast
from torch import Tensor, nn
from training import CPU, TINY

from kdbench import Batch, Distiller, Outputs, models, registry
from kdbench.bench import clock, flops, measure, on_table, reference, side_by_side
from kdbench.bench.engine_side import Engine, cut
from kdbench.bench.result import Result
from kdbench.bench.steps import Steps
from kdbench.bench.work import Work, pixels
from kdbench.distiller import kl
from kdbench.engine import precision
from kdbench.engine.graph import train_step as capture
from kdbench.engine.graph.backend import Eager
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.terminal import bench as show
from kdbench.utils.plan import BatchPlan


def work(methods: str = "kd") -> Work:
    return replace(measure.check(TINY)[0], specs=tuple(registry.parse(methods)))


def teacher_and_student(name: str) -> tuple[Distiller, Outputs, Outputs, Batch]:
    """A public class, both outputs on one batch (gradients on the student's) and the batch."""
    made = work(name)
    teacher = made.teacher()
    student, method = made.build(made.specs[0], teacher)
    image, label, idx = next(made.batches())
    with torch.no_grad():
        seen = teacher(image)
    return method, student(image), seen, Batch(image, label, idx, torch.tensor(0.0))


SIX = ["kd", "fitnet", "at", "sp", "vid", "crd[nce_k=20]", "nst"]


@pytest.mark.parametrize("spec", SIX)
def test_the_reference_computes_the_losses_of_the_public_classes(spec: str) -> None:
    name = spec.partition("[")[0]
    method, student, teacher, batch = teacher_and_student(spec)
    weights = list(method.parameters())
    _, leaves = cut(student)
    contrast = None
    if name == "crd":
        torch.manual_seed(5)
        drawn = method.negatives(batch).nonzero()[:, 1]  # type: ignore[operator]
        contrast = torch.cat([batch.idx[:, None], drawn.view(len(batch.idx), -1)], dim=1)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    theirs = reference.loss(name, method, leaves, teacher, batch, contrast)
    wanted = [leaves.pooled, leaves.feats[1], leaves.logits, *weights]
    their_grads = torch.autograd.grad(theirs, wanted, allow_unused=True)
    their_state = {k: v.clone() for k, v in method.state_dict().items()}

    method.load_state_dict(before)
    torch.manual_seed(5)  # the same negatives
    ours = torch.stack(list(method.loss(leaves, teacher, batch).values())).sum()
    our_grads = torch.autograd.grad(ours, wanted, allow_unused=True)

    assert theirs.item() == pytest.approx(ours.item(), rel=2e-5)
    for our, their in zip(our_grads, their_grads, strict=True):
        assert (our is None) == (their is None)
        if our is not None and their is not None:
            assert (our - their).abs().max() <= 2e-4 * our.abs().max() + 1e-9
    for key, value in method.state_dict().items():
        assert torch.allclose(value, their_state[key], rtol=1e-4, atol=1e-6), key


def test_the_reference_computes_the_kl_term_whatever_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    method, student, teacher, batch = teacher_and_student("sp")
    seen: list[Tensor] = []
    real = kl

    def spy(*args: Tensor) -> Tensor:
        seen.append(real(*args))
        return seen[-1]

    monkeypatch.setattr(reference, "kl", spy)
    assert method.kd_weight == 0
    reference.loss("sp", method, student, teacher, batch)
    assert len(seen) == 1


def test_a_reference_negative_is_distinct_and_of_another_class() -> None:
    shown = pixels(n=80, side=8, num_classes=5)
    *_, contrast = reference.Images(shown, negatives=64)[7]
    assert contrast[0] == 7
    assert len(set(contrast[1:])) == 64
    assert (shown.labels[contrast[1:]] != shown.labels[7]).all()


def test_a_reference_batch_is_one_of_the_engines_views() -> None:
    made = work()
    loader = made.loader()
    image, label, idx = next(reference.batches(made.pixels, 4))
    steps = torch.arange(9)
    for one, its_label, its_idx in zip(image, label, idx, strict=True):
        dy, dx, flip = (part.flatten() for part in torch.meshgrid(steps, steps, torch.arange(2), indexing="ij"))
        views = loader.gather(BatchPlan(its_idx.expand(162), dy, dx, flip.bool()))
        assert (views == one).flatten(1).all(1).any()
        assert its_label == made.pixels.labels[its_idx]


def test_both_sides_begin_with_the_same_weights_and_do_the_same_steps() -> None:
    made = work("kd,fitnet")
    plain, engine = reference.Reference(made), Engine(made)
    for script, lane in zip(plain.scripts, engine.lanes, strict=True):
        for ours, theirs in zip(lane.student.parameters(), script.student.parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert theirs.is_contiguous()
    plain.run(3)
    engine.run(3)
    assert [len(script.losses) for script in plain.scripts] == [3, 3]
    assert [lane.images for lane in engine.lanes] == [12, 12]


def test_a_failed_lane_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(work("kd,fitnet"))
    monkeypatch.setattr(engine.lanes[1].method, "beta", float("inf"))
    with pytest.raises(ValueError, match="cannot time fitnet: term 'hint'"):
        engine.run(1)


def test_the_parts_of_a_step_are_timed_without_changing_its_gradients() -> None:
    """The cut graph gives the student the gradients of the whole one."""
    made = work("at")
    whole, apart = Engine(made), Engine(made)
    batch = whole.batch()
    seen = whole.look(batch)
    lane, other = whole.lanes[0], apart.lanes[0]
    lane.step(seen, batch)
    parts = clock.Parts(CPU)
    apart._split_lane(other, seen, batch, parts)
    assert set(parts.seconds) == {"students", "losses", "optimiser"}
    for ours, theirs in zip(lane.student.parameters(), other.student.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_alternation_alternates() -> None:
    order: list[str] = []
    spans = clock.alternate(lambda: order.append("a"), lambda: order.append("b"), 3, CPU)
    assert order == list("ababab")
    assert len(spans) == 3


def test_a_ratio_is_taken_within_each_alternation() -> None:
    spans = [(clock.Span(a, 0.0, 9.0), clock.Span(b, 0.0, 1.0)) for a, b in ((6.0, 2.0), (8.0, 2.0), (5.0, 1.0))]
    compared = measure._compare(spans, 60)
    assert compared.ratio.raw == [3.0, 4.0, 5.0]
    assert (compared.ratio.median, compared.ratio.least, compared.ratio.most) == (4.0, 3.0, 5.0)
    assert compared.engine.images_per_second == 30.0


@pytest.mark.parametrize(
    ("name", "forward", "both"),
    [
        ("resnet20", 81.6, 244.0),
        ("resnet32x4", 2166.1, 6496.5),
        ("vgg8", 192.4, 573.6),
        ("ShuffleV1", 77.4, 232.0),
        ("MobileNetV2", 13.0, 39.0),
        ("ShuffleV2", 89.0, 267.0),
    ],
)
def test_flop_of_the_networks(name: str, forward: float, both: float) -> None:
    net = models.create(name, 100)
    image = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        assert flops.count(lambda: net(image)) / 2e6 == pytest.approx(forward, abs=0.051)
    # The last three are published as three times the forward pass; the image needs no gradient.
    assert flops.count(lambda: net(image).logits.sum().backward()) / 2e6 == pytest.approx(both, rel=0.012)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 3, padding=1, groups=4),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 12, 4, 2, 1),
    ],
)
def test_the_backward_pass_of_a_convolution_costs_twice_the_forward(layer: nn.Module) -> None:
    x = torch.zeros(2, 8, 6, 6, requires_grad=True)
    with torch.no_grad():
        forward = flops.count(lambda: layer(x))
    assert flops.count(lambda: layer(x).sum().backward()) == 3 * forward


# -- the engine's side is what `kdbench run` runs -------------------------------------------------


def test_steps_are_the_full_batches_of_the_loaders_epochs_in_a_row() -> None:
    made = replace(work(), batch_size=24)  # 80 images: three full batches and a shorter one
    loader = made.loader()
    wanted = list(islice(made.batches(loader), 8))
    for steps in (1, 2, 3):
        ours = Steps(loader, steps)
        found = [batch for epoch in range(-(-8 // steps)) for batch in ours.epoch(epoch)][:8]
        for our, their in zip(found, wanted, strict=True):
            assert all(map(torch.equal, our, their))
        assert len(ours) == steps
        assert ours._pixels is loader._pixels
    with pytest.raises(ValueError, match="1 to 3 full batches, not 4"):
        Steps(loader, 4)


def state(lane: Lane) -> dict[str, Tensor]:
    """Every tensor that training changes."""
    momenta = {
        f"{n} {key}": value
        for n, own in lane.optimizer.state_dict()["state"].items()
        for key, value in own.items()
        if isinstance(value, Tensor)
    }
    return {**lane.student.state_dict(), **{f"method {k}": v for k, v in lane.method.state_dict().items()}, **momenta}


def assert_same_lanes(ours: Engine, theirs: Engine) -> None:
    for our, their in zip(ours.lanes, theirs.lanes, strict=True):
        assert [point["terms"] for point in our.curve] == [point["terms"] for point in their.curve]
        one, other = state(our), state(their)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), our.key


def test_the_captured_step_is_timed_where_there_is_a_machine_and_ends_as_the_loop() -> None:
    made = work("kd,crd[nce_k=20],vid")
    plain, ours = Engine(made), Engine(made, machine=Eager())
    for steps in (1, 3, 3, 2):
        plain.run(steps)
        assert plain.captured == 0
        ours.run(steps)
        assert ours.captured == 3
    plain.run_eager(2)
    ours.run_eager(2)  # what looks into a step leaves the captured one as it is
    plain.run(2)
    ours.run(2)
    assert ours.notes == []
    assert_same_lanes(ours, plain)


def test_one_length_of_run_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    real = capture.Captured.__init__

    def counting(self: capture.Captured, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        real(self, *args, **kwargs)

    monkeypatch.setattr(capture.Captured, "__init__", counting)
    engine = Engine(work(), machine=Eager())
    for steps in (1, 1, 2, 2, 2):
        engine.run(steps)
    engine.run_eager(1)
    engine.run(2)
    assert made == 2


@pytest.fixture
def no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak is not measured: it takes the longest of a tiny bench."""
    monkeypatch.setattr(flops, "peak_gflops", lambda device, dtype: 1.0)
    monkeypatch.setattr(flops, "peak_copy", lambda device: 1.0)


@pytest.mark.usefixtures("no_peaks")
def test_a_lane_outside_the_captured_step_is_noted_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    real = capture.Captured._rehearse

    def refusing(self: capture.Captured, track: Any, seen: Any) -> None:
        if track.lane.key == "fitnet":
            raise capture.CannotCapture("it asks the host [twice]")
        real(self, track, seen)

    monkeypatch.setattr(capture.Captured, "_rehearse", refusing)
    monkeypatch.setattr(measure, "machine_for", lambda device, graphs: Eager())
    result = measure.bench(replace(TINY, methods="kd,fitnet", table=False, repeat=1))
    (pair,) = result.pairs
    assert pair.captured == 1
    assert pair.notes == ["fitnet runs beside the graph, step by step: it asks the host [twice]"]
    text = shown(result)
    assert "1 of 2" in text
    assert "it asks the host [twice]" in flat(text)
    assert text.count("eager pass") == 3  # split, FLOP, memory


# -- on a ready table ----------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [None, Eager()], ids=["loop", "captured"])
def test_the_table_gives_the_bits_of_the_live_teacher_which_is_not_asked(machine: Eager | None, tmp_path: Path) -> None:
    live, ours = Engine(work()), Engine(work(), machine=machine)
    live.run(1)
    ours.run(1)
    with on_table.taught(ours, 6, 3, tmp_path) as run:  # the last run crosses into the loader's second epoch
        before = ours.asked
        for _ in range(3):
            run()
            live.run(6)
        assert ours.asked == before
    assert live.asked == 19
    live.run(1)
    ours.run(1)
    assert ours.setting.table is None
    assert ours.asked > before
    assert_same_lanes(ours, live)


def test_no_time_is_taken_while_the_live_teacher_answers(tmp_path: Path) -> None:
    engine = Engine(work())
    with on_table.taught(engine, 2, 1, tmp_path) as run:
        run()
        with pytest.raises(ValueError, match="cannot time kd on a table: the live teacher was asked 2 times"):
            run()  # nothing was filled for a second run


def test_a_damaged_entry_is_not_timed(tmp_path: Path) -> None:
    engine = Engine(work())
    with on_table.taught(engine, 2, 1, tmp_path) as run:
        table = engine.setting.table
        assert table is not None
        row = int(table.rows(engine.lanes[0].epoch)[0])
        with (table.place.folder / "logits.rows").open("r+b") as file:
            file.seek(row * 5 * 4)
            file.write(b"\x01\x02\x03\x04")
        with pytest.raises(ValueError, match="the live teacher was asked 1 times"):
            run()


@pytest.mark.usefixtures("no_peaks")
def test_where_no_table_can_be_the_row_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(on_table.NoTable, match="feature maps"), on_table.taught(Engine(work("kd,at")), 1, 1, tmp_path):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("", (), {"free": 1000}))
    result = measure.bench(replace(TINY, methods="kd", repeat=1))
    assert result.pairs[0].on_table is None
    assert "1 MB" in result.pairs[0].no_table
    assert "on a ready table: no table of teacher resnet14" in flat(shown(result))


# -- side by side --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "ShuffleV2"])
def test_a_stack_has_the_gradients_and_statistics_of_the_row(name: str) -> None:
    made = replace(work(), student_name=name, pixels=pixels(n=80, side=32, num_classes=5))
    image, label, _ = next(made.batches())
    row, nets = side_by_side.students(made, 3), side_by_side.students(made, 3)
    assert not torch.equal(next(row[0].parameters()), next(row[1].parameters()))
    wanted = side_by_side.one_row(row, image, label, Precision())
    stack = side_by_side.Stack(nets)
    found = stack.gradients(image, label, Precision())
    assert found.keys() == wanted[0].keys()
    for number, own in enumerate(wanted):
        largest = max(grad.abs().max() for grad in own.values())
        for key, grad in own.items():
            assert torch.allclose(found[key][number], grad, rtol=1e-3, atol=1e-5 * float(largest)), key
        for key, buffer in row[number].named_buffers():
            assert torch.allclose(stack.buffers[key][number], buffer, rtol=1e-4, atol=1e-5), key


def test_the_ways_take_turns_and_one_that_cannot_be_gone_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found = side_by_side.measure(work(), 2, count=2)
    assert set(found.seconds) == {"row", "stacked"}
    assert [len(seconds) for seconds in found.seconds.values()] == [2, 2]
    assert found.ratios["stacked"].raw == [r / s for r, s in zip(*found.seconds.values(), strict=True)]
    assert found.refused == {}

    def dropping(self: models.Tapped, image: Tensor) -> Outputs:
        seen: Outputs = real(self, image)
        return seen._replace(logits=nn.functional.dropout(seen.logits))

    real = models.Tapped.forward
    monkeypatch.setattr(models.Tapped, "forward", dropping)
    found = side_by_side.measure(work(), 1, count=2)
    assert set(found.seconds) == {"row"}
    assert "random" in found.refused["stacked"]


# -- the whole -----------------------------------------------------------------------------------


def shown(result: Result) -> str:
    """What the terminal says of it."""
    screen = Console(width=100, record=True, file=io.StringIO())
    show.show(result, screen)
    text = screen.export_text()
    assert max(map(len, text.splitlines())) <= 100
    return text


@pytest.mark.usefixtures("no_peaks")
def test_the_bench_of_captured_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "machine_for", lambda device, graphs: Eager())
    (pair,) = measure.bench(TINY).pairs
    assert pair.captured == 2
    assert pair.on_table is not None
    assert pair.notes == []


@pytest.mark.slow
def test_the_whole_bench_and_its_file(tmp_path: Path) -> None:
    said: list[str] = []
    before = torch.get_rng_state()
    file = tmp_path / "found.json"
    result = measure.bench(replace(TINY, lanes_fit=True, side_by_side=True, file=file), said.append)
    assert torch.equal(before, torch.get_rng_state())
    text = file.read_text(encoding="utf-8")
    assert Result.model_validate_json(text) == result
    saved = json.loads(text)
    assert {"torch", "timm", "cpu", "threads", "instructions"} <= set(saved["environment"])
    assert "kdbench" in saved["code"]
    assert saved["environment"]["threads"] == 1
    (pair,) = result.pairs
    assert (pair.pair, pair.methods, pair.steps) == ("resnet14:resnet8", ["kd", "crd[nce_k=20]"], 1)
    assert set(pair.split) == {"data", "teacher", "students", "losses", "optimiser"}
    assert pair.on_table is not None
    for side in (pair.compared.reference, pair.compared.engine, result.pipeline.engine, pair.on_table.compared.engine):
        assert len(side.cpu) == len(side.wall) == len(side.system) == 2
    assert (pair.on_table.method, pair.on_table.steps) == ("kd", 1)
    assert pair.lane_fit is not None
    assert pair.lane_fit.lanes == [1, 4, 8, 12]
    assert pair.side_by_side is not None
    assert pair.side_by_side.students == 12
    assert pair.captured == 0
    assert pair.step_gflop > 0
    assert 0 < pair.overhead.share < 1
    assert pair.guard is not None
    assert 0 < pair.guard.lane_step < pair.guard.lane_epoch
    assert pair.guard.share > 2 * pair.guard.lane_step / (sum(pair.compared.engine.cpu) or 1)
    text = shown(result)
    assert "[least, most]" in text
    assert "crd[nce_k=20]" in text
    assert "kd alone on a ready table" in text
    assert "12 students, forward and backward" in text
    assert "guard around the methods" in text
    assert result.environment["instructions"] in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("name", ["fp32", "tf32", "amp"])
def test_the_bench_on_a_gpu_times_graphs(name: str) -> None:
    asked = replace(TINY, device="cuda", precision=name, batch_size=16, steps=3, lanes_fit=True, side_by_side=True)
    result = measure.bench(asked)
    (pair,) = result.pairs
    assert pair.captured == 2, pair.notes
    assert pair.on_table is not None, pair.no_table
    assert pair.side_by_side is not None
    assert {"row", *(f"{k} streams" for k in side_by_side.STREAMS)} <= set(pair.side_by_side.seconds)
    assert "eager pass" in shown(result)


def test_saved_results_can_still_be_read() -> None:
    files = sorted(
        (Path(__file__).parent.parent / "results" / "bench").glob("resnet*.json")
    )  # beside those of `kdbench data bench`
    assert files
    for file in files:
        old = Result.model_validate_json(file.read_text(encoding="utf-8"))
        assert shown(old)


@pytest.mark.usefixtures("no_peaks")
def test_bf16_without_instructions_for_it_is_a_warning_above_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda has=has: has)
        found = measure.bench(replace(TINY, methods="kd", precision="amp", table=False, repeat=1))
        assert ("warning: precision amp computes in bf16" in flat(shown(found))) is not has


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pair", "resnet56"], "a pair is written teacher:student"),
        (["--pair", "resnet56:resnet21"], "resnet21"),
        (["--methods", "kdd"], "no method 'kdd'"),
        (["--precision", "half"], "no precision 'half'"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--repeat", "0"], "--repeat takes"),
        (["--steps", "0"], "--steps takes"),
        (["--steps", "782"], "--steps takes 1 to 781, the full batches of an epoch, not 782"),
        (["--graphs", "on"], "--graphs takes auto or off, not 'on'"),
        (["--out", "nowhere/x.json"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_word_is_one_sentence(words: list[str], sentence: str) -> None:
    assert sentence in refused("bench", *words)


@pytest.mark.parametrize("name", fast([n for n in registry.names() if not registry.get(n).views]))
def test_both_sides_run_every_method_of_one_view(name: str) -> None:
    made = work(name)
    try:
        made.check()
    except ValueError as error:
        pytest.skip(f"the method refuses the pair: {error}")
    plain, engine = reference.Reference(made), Engine(made)
    plain.run(1)
    engine.run(1)
    assert [len(script.losses) for script in plain.scripts] == [1]


def test_a_method_of_many_views_is_refused() -> None:
    viewing = next(n for n in registry.names() if registry.get(n).views)
    with pytest.raises(ValueError, match="plain view"):
        work(viewing).check()
