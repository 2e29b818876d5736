"""The 32-px zoo against the published networks: keys, numbers, sizes, names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden import FOLDER
from kdbench import Outputs
from kdbench.models import create, double, names, resolve

MODELS = FOLDER / "models"
PUBLISHED = (
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "ResNet50",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
)
SMALL = ("resnet8", "resnet8x4", "wrn_16_1", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")
#: Parameters at 100 classes, counted by instantiating the reference models.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet116": 1_833_780,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet8x4_double": 4_875_428,
    "resnet14x2": 703_732,
    "resnet38": 569_972,
    "resnet38x2": 2_255_604,
    "resnet110x2": 6_911_220,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "ResNet50": 23_705_252,
    "MobileNetV2": 812_836,
    "MobileNetV2_1_0": 2_353_060,
    "ShuffleV1": 949_258,
    "ShuffleV2": 1_355_528,
    "ShuffleV2_1.5": 2_580_548,
}
golden = pytest.mark.skipif(not MODELS.is_dir(), reason="the golden data (../shared/golden) are not here")


def keys(name: str) -> dict[str, Any]:
    """The JSON that describes a published network."""
    described: dict[str, Any] = json.loads((MODELS / "keys" / f"{name}.json").read_text())
    return described


def by_recipe(name: str, seed: int) -> dict[str, Tensor]:
    """Weights that the golden README defines by a numpy stream."""
    stream = np.random.RandomState(seed)
    state = {}
    for key, shape, _ in keys(name)["state_keys"]:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        if key.endswith("running_mean"):
            drawn = 0.1 * stream.standard_normal(shape)
        elif key.endswith("running_var"):
            drawn = 0.5 + stream.random_sample(shape)
        elif len(shape) >= 2:
            drawn = stream.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith("weight"):
            drawn = 0.5 + 0.5 * stream.random_sample(shape)
        else:
            drawn = 0.1 * stream.standard_normal(shape)
        state[key] = torch.from_numpy(drawn.astype(np.float32).astype(np.float16)).double()
    return state


def compare(shown: Outputs, raw: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Every stored output, whole or subsampled, to 1e-9 of its largest entry."""
    ours = {f"feat.{i}": feat for i, feat in enumerate((*shown.feats, shown.pooled))} | {"logits": shown.logits}
    if shown.preacts is not None:
        ours |= {f"preact.{i}": preact for i, preact in enumerate(shown.preacts)}
    compared = 0
    for full, want in raw.items():
        kind, _, name = full.partition(".")
        if kind not in ("out", "outsub"):
            continue
        got = ours[name].flatten()[:: meta["subsampled"][name]["stride"]] if kind == "outsub" else ours[name]
        assert got.shape == want.shape, name
        worst = (got - want).abs().max().item()
        assert worst <= 1e-9 * want.abs().max().item(), f"{name} is off by {worst:.3g}"
        if kind == "outsub":
            sums = torch.stack([ours[name].sum(), ours[name].abs().sum(), ours[name].norm()])
            theirs = raw[f"outstat.{name}"].double()
            assert ((sums - theirs).abs() <= 1e-9 * theirs[1]).all(), name
        compared += 1
    assert compared >= len(shown.feats) + 2


@golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_is_the_published_one(name: str) -> None:
    state = create(name, 100).net.state_dict()
    ours = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()]
    assert ours == keys(name)["state_keys"]


@golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_are_the_published_ones_by_recipe(name: str) -> None:
    raw, meta = (
        load_file(MODELS / "recipe" / f"{name}.safetensors"),
        json.loads((MODELS / "recipe" / f"{name}.json").read_text()),
    )
    tapped = create(name, 100).double().eval()
    tapped.net.load_state_dict(by_recipe(name, meta["seed"]))
    with torch.no_grad():
        compare(tapped(raw["in.image"].double()), raw, meta)


@golden
@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_1", "MobileNetV2"])
def test_outputs_are_the_published_ones_from_a_state_file(name: str) -> None:
    raw = load_file(MODELS / f"state_{name}.safetensors")
    meta = json.loads((MODELS / f"state_{name}.json").read_text())
    tapped = create(name, 100).double().eval()
    state = {key.removeprefix("state."): value for key, value in raw.items() if key.startswith("state.")}
    tapped.net.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    with torch.no_grad():
        compare(tapped(raw["in.image"].double()), raw, meta)


@golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_norms_are_the_published_ones(name: str) -> None:
    tapped = create(name, 100)
    for parameter in tapped.parameters():
        parameter.data.normal_()
    published = keys(name)["bn_before_relu"]
    if isinstance(published, str):  # "not provided"
        assert tapped.norms() is None
        return
    norms = tapped.norms()
    assert norms is not None
    modules = dict(tapped.net.named_modules())
    assert len(norms) == len(published) == len(tapped.shapes((3, 32, 32)).feats) - 1
    for (weight, bias), path in zip(norms, published, strict=True):
        assert torch.equal(weight, modules[path].weight)
        assert torch.equal(bias, modules[path].bias)
        assert not weight.requires_grad
        assert weight.data_ptr() != modules[path].weight.data_ptr()


def test_parameter_counts() -> None:
    assert set(names()) == set(PARAMETERS)
    assert {n: sum(p.numel() for p in create(n, 100).parameters()) for n in names()} == PARAMETERS


#: The deepest and widest of families whose others are tried.
DEEP = {"ResNet50", "resnet110", "resnet110x2", "resnet116", "vgg16", "vgg19"}


def deep_slow(some: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in some]


@pytest.mark.parametrize("name", deep_slow(names()))
def test_8px_images_train(name: str) -> None:
    tapped = create(name, 10)
    shown = tapped(torch.randn(4 if PARAMETERS[name] > 1e7 else 64, 3, 8, 8))
    (shown.logits.square().mean() + sum(f.square().mean() for f in shown.feats)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tapped.parameters())
    shapes = tapped.shapes((3, 8, 8))
    assert len(shapes.feats) == len(shown.feats)
    assert shapes.pooled == shown.pooled.shape[1]


@pytest.mark.parametrize("name", SMALL)
def test_64px_images(name: str) -> None:
    shapes = create(name, 200).shapes((3, 64, 64))
    assert shapes.last[1] == (4 if name in ("vgg8", "MobileNetV2") else 8 if name.startswith("Sh") else 16)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_autocast(name: str) -> None:
    torch.manual_seed(0)
    tapped, image = create(name, 10).eval(), torch.randn(2, 3, 32, 32)
    want = tapped(image).logits
    tapped = tapped.to(memory_format=torch.channels_last)
    image = image.to(memory_format=torch.channels_last)
    torch.testing.assert_close(tapped(image).logits, want, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert tapped.train()(image).logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet20", "MobileNetV2", "ShuffleV2_1.5", "wrn_16_2"])
def test_timm_knows_the_zoo(name: str) -> None:
    entry = "cifar_" + name.lower().replace(".", "_")
    assert timm.is_model(entry)
    net = timm.create_model(entry, num_classes=7)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert net.state_dict().keys() == create(name, 7).net.state_dict().keys()
    with pytest.raises(ValueError, match="no pretrained weights"):
        timm.create_model(entry, pretrained=True)
    with pytest.raises(TypeError, match="takes num_classes only, not drop_rate"):
        timm.create_model(entry, drop_rate=0.1)


def test_initialisation() -> None:
    """Kaiming fan-out for ResNets, sqrt(2 / (k k C_out)) for the others, torch's own for ShuffleNets."""
    torch.manual_seed(0)
    for name, path, std in (
        ("resnet110", "layer3.5.conv1", (2 / (9 * 64)) ** 0.5),
        ("ResNet50", "layer1.0.conv3", (2 / 256) ** 0.5),
        ("wrn_40_2", "block3.layer.2.conv1", (2 / (9 * 128)) ** 0.5),
        ("vgg8", "block3.0", (2 / (9 * 512)) ** 0.5),
        ("MobileNetV2", "blocks.6.0.conv.3", (2 / (9 * 480)) ** 0.5),
        ("MobileNetV2", "classifier.0", 0.01),
        ("ShuffleV2", "layer3.0.conv5", (1 / 232 / 3) ** 0.5),
    ):
        weight = create(name, 100).net.get_parameter(f"{path}.weight")
        assert abs(weight.std().item() / std - 1) < 0.05, (name, path)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("resnet20", "resnet20"),
        ("ResNet-20", "resnet20"),
        ("resnet-8x4", "resnet8x4"),
        ("resnet_32x4", "resnet32x4"),
        ("wrn-16-2", "wrn_16_2"),
        ("WRN40_2", "wrn_40_2"),
        ("wideresnet-40-1", "wrn_40_1"),
        ("VGG13", "vgg13"),
        ("mobilenetv2", "MobileNetV2"),
        ("mobilenet_v2", "MobileNetV2"),
        ("shufflenetv2", "ShuffleV2"),
        ("shuffle-v1", "ShuffleV1"),
        ("ShuffleNetV2_1.5", "ShuffleV2_1.5"),
        ("resnet50", "ResNet50"),
        ("cifar_resnet56", "resnet56"),
        ("timm/cifar_resnet56", "resnet56"),
        ("timm/resnet18", "timm/resnet18"),
        ("timm/ResNet18", "timm/resnet18"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ],
)
def test_resolve(written: str, canonical: str) -> None:
    assert resolve(written) == canonical


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("resnet21", r"no model 'resnet21'; the nearest are .*resnet20"),
        ("convnext_atto", r"no model 'convnext_atto'; the nearest are timm/convnext_atto"),
        ("qqq", r"no model 'qqq'; there are MobileNetV2, .* and timm/NAME"),
        ("timm/resnet19", r"timm has no model 'resnet19'; the nearest are .*resnet18"),
    ],
)
def test_unknown_names(written: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve(written)


def test_every_name_resolves_to_itself() -> None:
    assert [resolve(name.upper()) for name in names()] == names()


def test_create_refuses() -> None:
    with pytest.raises(ValueError, match="resnet20 needs at least one class, not num_classes=0"):
        create("resnet20", 0)
    with pytest.raises(ValueError, match="resnet20 has no pretrained weights"):
        create("resnet20", 10, pretrained=True)


@pytest.mark.parametrize("name", deep_slow(sorted(set(names()) - {"resnet8x4_double"})))
def test_double_has_twice_the_channels(name: str) -> None:
    wider = double(name)
    assert wider == resolve(wider.upper()) == f"{name}_double"
    with torch.device("meta"):
        ours, theirs = (create(n, 10).shapes((3, 32, 32)) for n in (wider, name))
    assert ours.feats == tuple((2 * c, h, w) for c, h, w in theirs.feats)
    head = {
        "MobileNetV2": 1280,
        "MobileNetV2_1_0": 1280,
        "ShuffleV2": 1024,
        "ShuffleV2_1.5": 1024,
    }  # before it, not doubled
    assert ours.pooled == head.get(name, 2 * theirs.pooled)


def test_double_refuses() -> None:
    assert double("resnet-8x4") == "resnet8x4_double"  # 4.88M parameters, as published: see above
    with pytest.raises(ValueError, match="resnet8x4_double is a network of double width itself"):
        double("resnet8x4_double")
    with pytest.raises(ValueError, match="timm/resnet18 has no twin of double width"):
        double("timm/resnet18")
