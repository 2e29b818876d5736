"""Networks with next to no stages, and networks in half precision, under the methods that read maps."""

from __future__ import annotations

import pytest
import torch
from toys import batch, outputs, pair

from kdbench import registry


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
