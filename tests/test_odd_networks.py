"""Networks with next to no stages, and networks in half precision, under the methods that read maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import batch, outputs, pair

from kdbench import models, registry


@pytest.mark.parametrize("name", ["ab", "afd", "afd_se", "at", "fsp", "hkd", "hkd_port", "nst", "ofd", "semckd", "vid"])
def test_a_network_that_shows_its_stem_alone_has_nothing_to_compare(name: str) -> None:
    stem, whole = outputs((4, 8, 8)), outputs((4, 8, 8), (4, 4, 4))
    for student, teacher in ((stem, whole), (whole, stem), (stem, stem)):
        with pytest.raises(ValueError, match=f"{name}: both nets must show a stage beside the stem"):
            registry.get(name).build(pair(student, teacher))


@pytest.mark.parametrize("name", ["ab", "ofd", "pffu"])
def test_sums_over_maps_and_empty_places_are_finite_in_half_precision(name: str) -> None:
    taps = (16, 32, 32), (64, 32, 32), (64, 16, 16)
    feats = [tuple(3 * feat.half().relu() for feat in outputs(*taps, seed=seed).feats) for seed in range(2)]
    feats[1][-1][:, :, :4, :4] = 0
    student, teacher = (
        outputs(*taps)._replace(feats=one, last=one[-1], preacts=one, pooled=one[-1].mean((2, 3)), logits=logits.half())
        for one, logits in zip(feats, (outputs(*taps).logits, outputs(*taps, seed=1).logits), strict=True)
    )
    norms = tuple((torch.ones(size[0]), torch.zeros(size[0])) for size in taps[1:])
    method = registry.get(name).build(pair(student, teacher, teacher_norms=norms)).half()
    method.on_stage(stage := "pretrain" if method.pretrain_epochs else "train")
    of = method.pretrain_terms if stage == "pretrain" else method.terms
    found = of(student, teacher, batch())
    assert all(term.isfinite() for term in found.values()), found


@pytest.mark.parametrize("name", ["cat_kd", "sdd"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_head_that_reads_no_mean_of_the_last_map_has_no_regions(name: str, side: int) -> None:
    """A norm between pooling and classifier, a class token: the widths are the same, and the logits are not."""
    nets = [models.create(net, 10) for net in ("resnet8x4", "timm/convnext_atto")]
    student, teacher = nets if side else reversed(nets)
    facts: dict[str, Any] = {"num_classes": 10, "train_labels": torch.arange(40) % 10, "batch_size": 4}
    made = models.make_pair(student, teacher, image_shape=(3, 64, 64), **facts)
    assert made.averaged == (bool(side), not side)
    with pytest.raises(ValueError, match=f"{name}: the {('student', 'teacher')[side]}'s head is not linear"):
        registry.get(name).build(made)


@pytest.mark.parametrize(
    "net", ["resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "timm/resnet18"]
)
def test_heads_of_the_zoo_read_the_mean(net: str) -> None:
    one = models.create(net, 10)
    facts: dict[str, Any] = {"num_classes": 10, "train_labels": torch.arange(40) % 10, "batch_size": 4}
    assert models.make_pair(one, one, image_shape=(3, 32, 32), **facts).averaged == (True, True)


def test_rounding_of_half_precision_is_no_other_head() -> None:
    torch.manual_seed(0)
    one = models.create("MobileNetV2", 100).half()
    facts: dict[str, Any] = {"num_classes": 100, "train_labels": torch.arange(200) % 100, "batch_size": 4}
    assert models.make_pair(one, one, image_shape=(3, 32, 32), **facts).averaged == (True, True)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("at[p=0]", "at: p=0 makes every attention the same"),
        ("afd_se[eps=0]", "afd_se: eps=0 divides an empty channel by 0"),
        ("wkd_f[eps=0]", "wkd_f: eps=0 has no gradient at a constant channel"),
        ("irg[transform=1-1]", "compares a tap with itself"),
        ("skd[ridge=1e-9]", "skd: ridge=1e-09 is too small for a sound inverse"),
        ("itrd[alpha=30]", "itrd: alpha=30 takes powers that are 0 in float32"),
    ],
)
def test_values_that_a_method_cannot_use_are_refused_when_it_is_built(row: str, why: str) -> None:
    (spec,) = registry.parse(row)
    shown = outputs((4, 8, 8), (4, 4, 4), (4, 4, 4))
    with pytest.raises(ValueError, match=why):
        registry.get(spec.name).build(pair(shown, shown), **dict(spec.hyper))
