"""PFFU (our reading) equals its formula, retyped here; its attention is not degenerate."""

import math

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.pffu import PFFU, uniformise
from kdbench.registry import get

STUDENT = outputs((3, 16, 16), (4, 16, 16), (5, 8, 8), (6, 2, 2), grad=True)
TEACHER, SEEN = outputs((3, 16, 16), (4, 8, 8), (9, 4, 4), seed=1), batch()


def vector(feat: torch.Tensor, side: int, tau_a: float, variant: str) -> torch.Tensor:
    """One image and one token at a time."""
    made = []
    for image in F.adaptive_avg_pool2d(feat, side):
        tokens = [image[:, i, j] for i in range(side) for j in range(side)]
        rows = [token / token.norm() for token in tokens]
        a = torch.stack([torch.stack([p @ q for q in rows]).div(tau_a).softmax(0) for p in rows])
        energy = torch.stack([(token**2).mean() for token in tokens])
        made.append(a.reshape(-1) if variant == "map" else a @ energy)
    return torch.stack(made)


@pytest.mark.parametrize("variant", ["map", "vector"])
def test_formula(variant: str) -> None:
    method = PFFU(
        pair(STUDENT, TEACHER),
        tau_a=0.3,
        variant=variant,  # type: ignore[arg-type]
        hidden=8,
        lam=7.0,
        beta=0.6,
        tau=3.0,
        ce_weight=0.9,
        kd_weight=0.8,
    ).double()
    ours = total(method.loss(STUDENT, TEACHER, SEEN))

    def divergence(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(target / 3, dim=1)
        return 9 * (p * (p.log() - torch.log_softmax(z / 3, dim=1))).sum() / 6

    theirs = 0.9 * F.cross_entropy(STUDENT.logits, SEEN.label) + 0.8 * divergence(STUDENT.logits, TEACHER.logits)
    levels = ((STUDENT.feats[3], TEACHER.feats[2], 2), (STUDENT.feats[2], TEACHER.feats[1], 4))
    for head, (f_s, f_t, side) in zip(method.heads, levels, strict=True):
        u_s, u_t = vector(f_s, side, 0.3, variant), vector(f_t, side, 0.3, variant)
        z_s, z_t = head(u_s), head(u_t)
        label = F.cross_entropy(z_t, SEEN.label) + F.cross_entropy(z_s, SEEN.label)
        theirs = theirs + 0.6 * (label + divergence(z_s, z_t.detach()) + 7 * ((u_s - u_t) ** 2).mean())
    torch.testing.assert_close(ours, theirs)
    seen = [*method.parameters(), *STUDENT.feats[2:]]
    torch.testing.assert_close(*(torch.autograd.grad(value, seen, retain_graph=True) for value in (ours, theirs)))


@pytest.mark.parametrize(("variant", "length"), [("map", 256), ("vector", 16)])
def test_vectors_are_as_long_whatever_the_channels_and_sides(variant: str, length: int) -> None:
    for c, h in ((3, 4), (64, 8), (17, 32), (5, 7)):
        feat = torch.rand(2, c, h, h, dtype=torch.float64)
        made = uniformise(feat, 4, 0.1, variant)
        assert made.shape == (2, length)
        torch.testing.assert_close(made, vector(feat, 4, 0.1, variant))


def test_the_map_ignores_the_scale_of_its_input_and_survives_zeros() -> None:
    feat = torch.rand(2, 5, 8, 8)
    torch.testing.assert_close(uniformise(feat, 4, 0.1), uniformise(100 * feat, 4, 0.1))
    zero = torch.zeros(2, 5, 8, 8, requires_grad=True)
    made = uniformise(zero, 4, 0.1)
    made.square().sum().backward()
    torch.testing.assert_close(made, torch.full((2, 256), 1 / 16))
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_the_branchs_target_passes_no_gradient_to_the_teacher() -> None:
    teacher = outputs((3, 16, 16), (4, 8, 8), (9, 4, 4), seed=1, grad=True)
    method = PFFU(pair(STUDENT, teacher)).double()
    total(method.terms(STUDENT, teacher, SEEN)).backward()
    assert all(feat.grad is None for feat in teacher.feats)
    assert all(p.grad is not None for p in method.parameters())


def test_attention_is_neither_uniform_nor_one_hot_at_the_default_temperature() -> None:
    from sklearn.datasets import load_digits

    from kdbench.models import create

    torch.manual_seed(0)
    digits = torch.tensor(load_digits().images[:16], dtype=torch.float32)[:, None]
    image = F.interpolate((digits / 8 - 1).expand(-1, 3, -1, -1), size=32, mode="bilinear")
    with torch.no_grad():
        feats = create("resnet8x4", 10, image_size=32).train()(image).feats[1:]

    def entropy(tau_a: float) -> list[float]:
        rows = [uniformise(feat, 4, tau_a).unflatten(1, (16, 16)) for feat in feats]
        return [-(row * row.log()).sum(dim=2).mean().item() / math.log(16) for row in rows]

    default = get("pffu").hyperparameters()["tau_a"].default
    assert all(0.3 < value < 0.95 for value in entropy(default)), entropy(default)
    assert all(value > 0.98 for value in entropy(1.0)), "the pitfall that the default avoids"


def test_stages_meet_from_the_deepest_upwards_without_the_stems() -> None:
    for made in (pair(STUDENT, TEACHER), pair(TEACHER, STUDENT)):
        assert PFFU(made).levels == [(1, 2), (2, 4)]
    assert PFFU(pair(STUDENT, STUDENT)).levels == [(1, 2), (2, 4), (3, 4)]
    assert PFFU(pair(STUDENT, STUDENT), grid=3).levels == [(1, 2), (2, 3), (3, 3)]


def test_what_cannot_be_served_is_refused() -> None:
    single = outputs((3, 8, 8), (4, 1, 1))
    with pytest.raises(ValueError, match="2x2 px or more"):
        PFFU(pair(STUDENT, single))
    with pytest.raises(ValueError, match="neither"):
        PFFU(pair(STUDENT, TEACHER), variant="both")  # type: ignore[arg-type]
