"""What ``Tapped``, ``make_pair`` and ``fold`` promise, over the zoo's families and timm's."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import timm
import torch
from telling import thinned
from timm.models.vgg import VGG
from torch import Tensor, nn

from kdbench import Pair
from kdbench.models import Tapped, create, fold, make_pair
from kdbench.models.timm_taps import TimmReader

ZOO = ("resnet8", "resnet8x4", "wrn_16_2", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2")
#: Model, then its taps at 32 px: stem first.
TIMM = {
    "timm/test_resnet": 5,
    "timm/test_convnext": 5,
    "timm/test_vit": 5,
    "timm/regnetx_002": 5,
    "timm/mobilenetv2_100": 5,
    "timm/resnet18": 5,
    "timm/convnext_atto": 5,
}
SLOW = {
    "timm/vit_tiny_patch16_224": 5,
    "timm/deit_tiny_distilled_patch16_224": 5,
    "timm/efficientnet_b0": 5,
    "timm/swin_tiny_patch4_window7_224": 5,
    "timm/resmlp_12_224": 5,
    "timm/densenet121": 5,
    "timm/dla34": 6,
    "timm/pvt_v2_b0": 5,
    "timm/vgg11_bn": 6,
    "timm/mobilenetv3_small_050": 5,
    "timm/nest_tiny": 4,
    "timm/xcit_nano_12_p16_224": 5,
}
EVERY = (*ZOO, *TIMM, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


def scramble(tapped: Tapped) -> Tapped:
    """Batch norms as after some training; a fresh one would hide most mistakes."""
    torch.manual_seed(1)
    for module in tapped.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return tapped


@pytest.mark.parametrize("name", EVERY)
def test_taps_and_head(name: str) -> None:
    tapped = scramble(create(name, 10)).eval()
    image = torch.randn(3, 3, 32, 32)
    shown = tapped(image)
    torch.testing.assert_close(tapped.net(image), shown.logits)
    torch.testing.assert_close(tapped.head(shown.last), shown.logits)
    weight, bias = shown.classifier
    torch.testing.assert_close(shown.pooled @ weight.T + bias, shown.logits)
    assert weight.requires_grad
    assert weight.shape == (10, shown.pooled.shape[1])
    assert all(feat.dim() == 4 and len(feat) == 3 for feat in (*shown.feats, shown.last))
    if name.startswith("timm/"):
        assert len(shown.feats) == (TIMM | SLOW)[name]
        assert shown.preacts is None
    sides = [feat.shape[2] for feat in shown.feats]
    assert sides == sorted(sides, reverse=True)
    shapes = tapped.shapes((3, 32, 32))
    assert shapes.feats == tuple(tuple(feat.shape[1:]) for feat in shown.feats)
    assert shapes.last == tuple(shown.last.shape[1:])
    assert shapes.pooled == shown.pooled.shape[1]


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "ResNet50", "ShuffleV1"])
def test_preacts_are_the_feats_before_their_relu(name: str) -> None:
    shown = create(name, 10)(torch.randn(2, 3, 32, 32))
    assert shown.preacts[0] is shown.feats[0]
    assert len(shown.preacts) == len(shown.feats)
    for feat, preact in zip(shown.feats[1:], shown.preacts[1:], strict=True):
        assert torch.equal(preact.relu(), feat)
        assert (preact < 0).any()


def test_wrn_counts_a_batch_once() -> None:
    """The released networks' preacts update three running statistics twice per batch."""
    tapped = create("wrn_16_1", 10)
    tapped.train()
    tapped(torch.randn(4, 3, 32, 32))
    counts = {key: value.item() for key, value in tapped.state_dict().items() if key.endswith("num_batches_tracked")}
    assert set(counts.values()) == {1}
    shown = tapped.eval()(torch.randn(4, 3, 32, 32))
    assert torch.equal(shown.preacts[1], tapped.get_submodule("net.block2.layer.0.bn1")(shown.feats[1]))
    assert torch.equal(shown.preacts[3].relu(), shown.last)


@pytest.mark.parametrize("name", ["wrn_16_1", "timm/test_convnext", "timm/test_vit"])
def test_looking_changes_nothing(name: str) -> None:
    tapped = create(name, 10)
    tapped.net.train()
    first = next(tapped.net.children())
    first.eval()
    before, random = copy.deepcopy(tapped.state_dict()), torch.get_rng_state()
    tapped.shapes((3, 32, 32))
    tapped.norms()
    assert torch.equal(torch.get_rng_state(), random)
    assert tapped.net.training
    assert not first.training
    for key, value in tapped.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_creating_draws_what_timm_draws(name: str) -> None:
    """The trial that finds the taps takes no random number and leaves every bit: a seed means the same weights."""
    torch.manual_seed(3)
    ours, after = create(f"timm/{name}", 10, image_size=160).net.state_dict(), torch.get_rng_state()
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=10).state_dict()
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_vit"])
def test_copies_do_not_share_hooks(name: str) -> None:
    tapped = create(name, 10).eval()
    twin, image = copy.deepcopy(tapped), torch.randn(2, 3, 32, 32)
    for parameter in twin.parameters():
        parameter.data.mul_(0.5)
    ours, theirs = tapped(image), twin(image)
    assert not torch.equal(ours.feats[0], theirs.feats[0])
    torch.testing.assert_close(tapped(image).feats[0], ours.feats[0])
    torch.testing.assert_close(twin.net(image), theirs.logits)


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "ShuffleV2",
        "timm/test_vit",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("wrn_16_1", "timm/test_convnext")),
    ],
)
def test_compiles_as_one_graph(name: str) -> None:
    torch.compiler.reset()
    tapped, image = create(name, 10).eval(), torch.randn(2, 3, 32, 32)
    want, got = tapped(image), torch.compile(tapped, backend="eager", fullgraph=True)(image)
    for ours, theirs in zip((*want.feats, want.logits), (*got.feats, got.logits), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_models_without_intermediates_are_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older timm has no ``forward_intermediates`` for VGG, and its ReLUs work in place."""
    narrow = partial(timm.create_model, mlp_ratio=1 / 128)  # as published its head has 100 million weights
    monkeypatch.setattr(timm, "create_model", narrow)
    torch.manual_seed(0)
    net: Any = timm.create_model("vgg11", num_classes=10).eval()
    image = torch.randn(2, 3, 32, 32)
    maps = net.forward_intermediates(image)[1]
    monkeypatch.delattr(VGG, "forward_intermediates")
    torch.manual_seed(0)
    tapped = create("timm/vgg11", 10).eval()
    shown = tapped(image)
    torch.testing.assert_close(shown.logits, net(image))
    torch.testing.assert_close(tapped.head(shown.last), shown.logits)
    assert [f.shape for f in shown.feats] == [m.shape for m in maps]
    for feat, want in zip(shown.feats, maps, strict=True):
        torch.testing.assert_close(feat, want)


class Plain(nn.Module):
    """A model as old timm had them: no intermediates, and a ReLU in place behind every tap."""

    def __init__(self, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.feature_info = [{"module": tap} for tap in taps]
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.classifier = nn.Linear(5, 10)

    def forward_features(self, x: Tensor) -> Tensor:
        second: Tensor = self.b(self.a(x).relu_())
        return second.relu_()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_hooked_taps_survive_a_relu_in_place() -> None:
    net = Plain(("a", "b"))
    tapped = Tapped(net, "plain", reader=TimmReader(net, "plain", image_size=8))
    image = torch.randn(2, 3, 8, 8)
    stem, first, second = tapped(image).feats
    assert torch.equal(first, net.a(image))
    assert torch.equal(second, net.b(first.relu()))
    assert stem is first


def test_models_without_any_tap() -> None:
    with pytest.raises(ValueError, match="plain cannot be tapped: this timm has neither"):
        TimmReader(Plain(("nowhere",)), "plain", image_size=8)


def test_heads_that_are_not_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Plain(("a", "b"))
    monkeypatch.setattr(net, "forward", lambda x: net.forward_head(net.forward_features(x)) + 1)
    with pytest.raises(ValueError, match="plain cannot be tapped: its head on its last map is not one linear layer"):
        TimmReader(net, "plain", image_size=8)


class Normed(Plain):
    """A head whose norm stands before the linear layer, but after what it calls ``pre_logits``."""

    def __init__(self) -> None:
        super().__init__(("a", "b"))
        self.norm = nn.BatchNorm1d(5)
        self.behind: nn.Module = nn.Identity()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.behind(self.classifier(self.norm(pooled)))


def test_pooled_is_the_input_of_the_last_linear_layer() -> None:
    """On a fresh network the norm changes next to nothing, so only a shaken one shows where it stands."""
    net = Normed()
    tapped = scramble(Tapped(net, "normed", reader=TimmReader(net, "normed", image_size=8))).eval()
    nn.init.normal_(net.get_buffer("norm.running_mean"))
    shown = tapped(torch.randn(3, 3, 8, 8))
    torch.testing.assert_close(shown.pooled, net.norm(shown.last.mean((2, 3))))
    torch.testing.assert_close(shown.pooled @ net.classifier.weight.T + net.classifier.bias, shown.logits)
    torch.testing.assert_close(tapped.head(shown.last), shown.logits)
    twin = copy.deepcopy(tapped)
    twin.get_parameter("net.classifier.weight").data.zero_()
    assert torch.equal(twin(torch.randn(3, 3, 8, 8)).logits, twin.get_parameter("net.classifier.bias").expand(3, 10))
    tapped.train()(torch.randn(3, 3, 8, 8)).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_norm_behind_the_last_linear_layer() -> None:
    net = Normed()
    net.behind = nn.BatchNorm1d(10)
    with pytest.raises(ValueError, match="normed cannot be tapped: its head on its last map is not one linear layer"):
        TimmReader(net, "normed", image_size=8)


@pytest.mark.parametrize("name", ["timm/efficientvit_m0", pytest.param("timm/shvit_s1", marks=pytest.mark.slow)])
def test_real_heads_with_a_norm(name: str) -> None:
    tapped = create(name, 10, image_size=64)
    torch.manual_seed(1)
    for module in tapped.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), std=0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    image = torch.randn(3, 3, 64, 64)
    shown, want = tapped.eval()(image), tapped.net(image)
    weight, bias = shown.classifier
    for way in (shown.logits, tapped.head(shown.last), shown.pooled @ weight.T + bias):
        torch.testing.assert_close(way, want, rtol=1e-4, atol=1e-4)


def test_outputs_that_are_not_one_number_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Plain(("a", "b"))
    for forward in (
        lambda x: net.forward_head(net.forward_features(x)) / 0,
        lambda x: (net.forward_head(net.forward_features(x)),),
        lambda x: net.forward_head(net.forward_features(x))[:, :5],
    ):
        monkeypatch.setattr(net, "forward", forward)
        with pytest.raises(ValueError, match="plain cannot be tapped: its output is not one finite number for each"):
            TimmReader(net, "plain", image_size=8)


def test_taps_that_spoil_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Plain(("a", "b"))
    monkeypatch.setattr(net, "forward_features", lambda x: net.b(net.a(x).exp().mul_(2)).relu_())
    with pytest.raises(ValueError, match="plain cannot be tapped: one of the variables needed for gradient"):
        TimmReader(net, "plain", image_size=8)


def test_models_without_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    for classifier in (nn.Identity(), None, nn.ModuleList([nn.Linear(5, 10), nn.Linear(5, 10)])):
        net = Plain(("a", "b"))
        monkeypatch.setattr(net, "get_classifier", lambda classifier=classifier: classifier)
        with pytest.raises(ValueError, match="plain has no linear classifier: its head is to be one linear layer, it "):
            TimmReader(net, "plain", image_size=8)


def test_a_stem_that_is_no_map_keeps_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would take what it keeps: a whole graph, with which the model cannot even be copied."""
    net = Plain(("a", "b"))
    stem = net.stem = nn.Flatten()
    monkeypatch.setattr(net, "forward_features", lambda x: net.b(net.a(x + 0 * stem(x).sum()).relu()).relu())
    tapped = Tapped(net, "plain", reader=TimmReader(net, "plain", image_size=8))
    assert not stem._forward_hooks
    tapped(torch.randn(2, 3, 8, 8)).logits.sum().backward()
    copy.deepcopy(tapped)


@pytest.mark.parametrize(
    "odd", [nn.Conv3d(2, 2, 1), nn.Conv2d(3, 4, 1, stride=2)], ids=["3-d", "kills torch on the CPU"]
)
def test_models_that_cannot_be_channels_last(odd: nn.Module) -> None:
    """timm/lambda_resnet26t has weights of five dimensions; the 1x1 stride of timm/repvgg_a0 ends the process."""
    net = Plain(("a", "b"))
    net.odd, seen = odd, []
    net.a.register_forward_hook(lambda module, args, shown: seen.append(args[0].is_contiguous()))
    tapped = Tapped(net, "plain", reader=TimmReader(net, "plain", image_size=8))
    assert tapped.to("cpu").to(memory_format=torch.channels_last) is tapped
    tapped.to(torch.float64, memory_format=torch.channels_last)
    assert tapped.get_parameter("net.a.weight").dtype == torch.float64
    folded = fold(tapped)
    seen.clear()
    folded(torch.randn(2, 3, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last))
    assert seen == [True]
    usual = create("resnet8", 10).to(memory_format=torch.channels_last)
    assert usual.get_parameter("net.layer1.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        pytest.param("timm/crossvit_tiny_240", 240, "has no linear classifier", marks=pytest.mark.slow),
        pytest.param(
            "timm/coat_tiny", 224, "timm/coat_tiny cannot be tapped: what its head pools", marks=pytest.mark.slow
        ),
        pytest.param("timm/inception_v3", 32, "timm/inception_v3 cannot take 32-px images", marks=pytest.mark.slow),
        ("timm/test_vit", 8, r"timm/test_vit.*8"),
    ],
)
def test_refusals(name: str, size: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        create(name, 10, image_size=size)


def pair(student: Tapped, teacher: Tapped, classes: int = 10) -> Pair:
    return make_pair(
        student, teacher, image_shape=(3, 32, 32), num_classes=classes, train_labels=torch.arange(7) % 10, batch_size=4
    )


@pytest.mark.parametrize("name", ["resnet8x4", "ShuffleV2", "timm/test_convnext", "timm/test_vit"])
@pytest.mark.parametrize("frozen", [True, False])
def test_pair(name: str, frozen: bool) -> None:
    student, teacher = create("resnet8", 10), create(name, 10).eval()
    teacher.requires_grad_(not frozen)
    known = pair(student, teacher)
    assert known.student == student.shapes((3, 32, 32))
    assert known.teacher == teacher.shapes((3, 32, 32))
    assert (known.num_train, known.batch_size, known.num_classes) == (7, 4, 10)
    shown = teacher(torch.randn(2, 3, 32, 32))
    last = shown.last.detach().requires_grad_()
    logits = known.head(last)
    torch.testing.assert_close(logits, shown.logits)
    logits.square().sum().backward()
    assert last.grad is not None
    assert last.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    holder: Any = nn.Module()
    holder.head = known.head
    assert not holder.state_dict()


def test_head_follows_the_teacher() -> None:
    """Moved or loaded after the pair was made, the teacher's weights are still the ones used."""
    teacher = create("resnet8", 10).eval().requires_grad_(False)
    known = pair(create("resnet8", 10), teacher)
    teacher.double()
    teacher.get_parameter("net.fc.bias").fill_(5.0)
    shown = teacher(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    torch.testing.assert_close(known.head(shown.last), shown.logits)


def test_pair_norms_go_with_preacts() -> None:
    student = create("resnet8", 10)
    assert len(pair(student, create("wrn_16_1", 10)).teacher_norms or ()) == 3
    assert pair(student, create("MobileNetV2", 10)).teacher_norms is None
    assert pair(student, create("timm/test_resnet", 10)).teacher_norms is None


def test_pair_of_other_data() -> None:
    with pytest.raises(ValueError, match="the teacher resnet20 has 100 classes, the data 10"):
        pair(create("resnet8", 10), create("resnet20", 100))


def flat(tapped: Tapped, image: Tensor) -> tuple[Tensor, ...]:
    return tuple(tapped(image)._replace(classifier=None).tensors().values())


@pytest.mark.parametrize(
    ("name", "dtype"), thinned([*ZOO, "resnet110", "timm/test_convnext"], [torch.float32, torch.float64])
)
def test_fold(name: str, dtype: torch.dtype) -> None:
    tapped = scramble(create(name, 10)).to(dtype)
    modes = [m.training for m in tapped.modules()]
    before = copy.deepcopy(tapped.state_dict())
    folded, image = fold(tapped), torch.randn(2, 3, 32, 32, dtype=dtype)
    assert [m.training for m in tapped.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in tapped.state_dict().items())
    assert not folded.training
    assert not any(p.requires_grad for p in folded.parameters())
    rtol = 1e-5 if dtype is torch.float32 else 1e-9
    for ours, want in zip(flat(folded, image), flat(tapped.eval(), image), strict=True):
        assert (ours - want).abs().max() <= rtol * want.abs().max()
    norms, kept = tapped.norms(), folded.norms()
    assert (norms is None) == (kept is None)
    for its, folded_its in zip(norms or (), kept or (), strict=True):
        assert torch.equal(its[0], folded_its[0])
        assert torch.equal(its[1], folded_its[1])
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert left == ({"wrn_16_2": 7}.get(name, 0))


@pytest.mark.parametrize(("name", "before"), [("timm/test_vit", 1), ("timm/gmixer_12_224", 0)])
def test_tokens_are_the_networks_own_rows(name: str, before: int) -> None:
    tapped, image = create(name, 10, image_size=64).eval(), torch.randn(2, 3, 64, 64)
    own = list[Tensor]()
    tapped.net.blocks[-1].register_forward_hook(lambda module, args, shown: own.append(shown))  # type: ignore[index, union-attr]
    seen = tapped(image)
    assert seen.tokens is not None
    assert torch.equal(seen.tokens[-1], own[0])
    for rows, feat in zip(seen.tokens, seen.feats, strict=True):
        patches = rows[:, rows.shape[1] - feat.shape[2] * feat.shape[3] :]
        assert torch.equal(patches.transpose(1, 2).unflatten(2, feat.shape[2:]), feat)
    assert seen.tokens[-1].shape[1] == 16 + before


def test_networks_of_maps_show_no_tokens() -> None:
    assert all(create(name, 10)(torch.randn(2, 3, 32, 32)).tokens is None for name in ("resnet8", "timm/test_convnext"))


@pytest.mark.parametrize(
    ("name", "size", "before"),
    [("timm/levit_128s", 224, 0), ("timm/deit_tiny_distilled_patch16_224", 64, 2)],
)
def test_a_distilled_head_is_one_linear_layer_on_both_vectors(name: str, size: int, before: int) -> None:
    tapped, image = create(name, 10, image_size=size).eval(), torch.randn(2, 3, size, size)
    torch.manual_seed(0)
    for head in tapped.net.get_classifier():  # type: ignore[operator]
        for parameter in head.parameters():
            nn.init.normal_(parameter)  # two heads that differ in every weight
    seen = tapped(image)
    torch.testing.assert_close(seen.logits, tapped.net(image), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tapped.head(seen.last), seen.logits)
    assert seen.classifier is not None
    assert seen.classifier[0].shape == (10, seen.pooled.shape[1])
    assert seen.tokens is not None
    assert seen.tokens[-1].shape[1] - seen.feats[-1].shape[2:].numel() == before
    assert seen.heads is not None
    torch.testing.assert_close(torch.stack(seen.heads).mean(dim=0), seen.logits)
    tapped.net.set_distilled_training(True)  # type: ignore[operator]
    theirs = tapped.net.train()(image)
    tapped.net.set_distilled_training(False)  # type: ignore[operator]
    assert isinstance(theirs, tuple)
    tapped.train()
    for ours, own in zip(tapped(image).heads, theirs, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-3, atol=1e-3)
    tapped(image).logits.sum().backward()
    assert all(p.grad is not None for head in tapped.net.get_classifier() for p in head.parameters())  # type: ignore[operator]
