"""kdbench bench: fair (same losses, same work, in turn), right counts of FLOP, a result that can be read again."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, models, registry
from kdbench.bench import clock, flops, measure, reference, show
from kdbench.bench.engine_side import Engine, cut
from kdbench.bench.result import Result
from kdbench.bench.work import Work, pixels
from kdbench.cli import main

CPU = torch.device("cpu")
TINY = measure.Request(
    pairs=("resnet14:resnet8",), methods="kd,crd[nce_k=20]", repeat=2, steps=1, batch_size=4, images=80, side=8,
    num_classes=5,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
        contrast = method.contrast(batch)  # type: ignore[operator]
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
    real = reference.kl

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
        views = loader.gather(its_idx.expand(162), dy, dx, flip.bool())
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


def test_a_failed_lane_is_not_timed() -> None:
    engine = Engine(work("kd,fitnet"))
    engine.lanes[1].method.beta = float("inf")  # type: ignore[assignment]
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


@pytest.mark.parametrize(("name", "forward", "both"), [
    ("resnet20", 81.6, 244.0), ("resnet32x4", 2166.1, 6496.5), ("vgg8", 192.4, 573.6), ("ShuffleV1", 77.4, 232.0),
    ("MobileNetV2", 13.0, 39.0), ("ShuffleV2", 89.0, 267.0),
])
def test_flop_of_the_networks(name: str, forward: float, both: float) -> None:
    net = models.create(name, 100)
    image = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        assert flops.count(lambda: net(image)) / 2e6 == pytest.approx(forward, abs=0.051)
    # The last three are published as three times the forward pass; the image needs no gradient.
    assert flops.count(lambda: net(image).logits.sum().backward()) / 2e6 == pytest.approx(both, rel=0.012)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Conv2d(8, 12, 3, stride=2, padding=1),
    nn.ConvTranspose2d(8, 12, 4, 2, 1),
])
def test_the_backward_pass_of_a_convolution_costs_twice_the_forward(layer: nn.Module) -> None:
    x = torch.zeros(2, 8, 6, 6, requires_grad=True)
    with torch.no_grad():
        forward = flops.count(lambda: layer(x))
    assert flops.count(lambda: layer(x).sum().backward()) == 3 * forward


def test_the_whole_bench_and_its_file() -> None:
    said: list[str] = []
    before = torch.get_rng_state()
    result = measure.bench(replace(TINY, lanes_fit=True), said.append)
    assert torch.equal(before, torch.get_rng_state())
    text = result.model_dump_json()
    assert Result.model_validate_json(text) == result
    saved = json.loads(text)
    assert {"torch", "timm", "cpu", "threads"} <= set(saved["environment"])
    assert "kdbench" in saved["code"]
    assert saved["environment"]["threads"] == 1
    (pair,) = result.pairs
    assert (pair.pair, pair.methods, pair.steps) == ("resnet14:resnet8", ["kd", "crd[nce_k=20]"], 1)
    assert set(pair.split) == {"data", "teacher", "students", "losses", "optimiser"}
    for side in (pair.compared.reference, pair.compared.engine, result.pipeline.engine):
        assert len(side.cpu) == len(side.wall) == len(side.system) == 2
    assert pair.lane_fit is not None
    assert pair.lane_fit.lanes == [1, 4, 8, 12]
    assert pair.step_gflop > 0
    assert 0 < pair.overhead.share < 1
    screen = Console(width=100, record=True, file=io.StringIO())
    show.show(result, screen)
    text = screen.export_text()
    assert "[least, most]" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("words", "sentence"), [
    (["--pair", "resnet56"], "a pair is written teacher:student"),
    (["--pair", "resnet56:resnet21"], "resnet21"),
    (["--methods", "kdd"], "no method 'kdd'"),
    (["--precision", "half"], "no precision 'half'"),
    (["--device", "tpu"], "no device 'tpu'"),
    (["--repeat", "0"], "--repeat takes"),
    (["--steps", "0"], "--steps takes"),
    (["--out", "nowhere/x.json"], "there is no folder nowhere"),
])
def test_a_wrong_word_is_one_sentence(words: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, ["bench", *words])
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", [n for n in registry.names() if not registry.get(n).views])
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
