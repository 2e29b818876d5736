"""Logits that break careless losses: huge, constant, identical, of two classes, of one image; all float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import outputs, pair

from kdbench import Batch, Distiller, Outputs

K, B = 8, 6


def _sized(scale: float, *, k: int = K, b: int = B) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(k + b)
    ours, theirs = (torch.randn(b, k, generator=rng) * scale for _ in range(2))
    return ours, theirs, torch.randint(k, (b,), generator=rng)


def _identical(scale: float) -> tuple[Tensor, Tensor, Tensor]:
    ours, _, label = _sized(scale)
    return ours, ours.clone(), label


def _zero(*, student: bool, teacher: bool) -> tuple[Tensor, Tensor, Tensor]:
    ours, theirs, label = _sized(3.0)
    return ours * (not student), theirs * (not teacher), label


def _lowest(side: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    given = _sized(scale)
    return given[0], given[1], given[side].argmin(dim=1)


def _certain(scale: float) -> tuple[Tensor, Tensor, Tensor]:
    ours, theirs, label = _sized(3.0)
    return ours, theirs + scale * torch.nn.functional.one_hot(label, K), label


def _same_images(scale: float) -> tuple[Tensor, Tensor, Tensor]:
    ours, theirs, label = _sized(scale)
    return ours[:1].repeat(B, 1), theirs[:1].repeat(B, 1), label[:1].repeat(B)


#: What is hard about them -> student's logits (B, K), teacher's, labels (B,).
HARD: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]] = {
    "random": lambda: _sized(3.0),
    "size 1e2": lambda: _sized(1e2),
    "size 1e3": lambda: _sized(1e3),
    "size 2e4": lambda: _sized(2e4),
    "identical": lambda: _identical(3.0),
    "identical, size 1e3": lambda: _identical(1e3),
    "all zero": lambda: _zero(student=True, teacher=True),
    "student zero": lambda: _zero(student=True, teacher=False),
    "teacher zero": lambda: _zero(student=False, teacher=True),
    "label is the teacher's lowest": lambda: _lowest(1, 1e3),
    "label is the student's lowest": lambda: _lowest(0, 1e3),
    "teacher certain and right": lambda: _certain(1e3),
    "identical images": lambda: _same_images(3.0),
    "two classes": lambda: _sized(3.0, k=2),
    "two classes, size 1e3": lambda: _sized(1e3, k=2),
    "one image": lambda: _sized(3.0, b=1),
    "one image, size 1e3": lambda: _sized(1e3, b=1),
}

hard = pytest.mark.parametrize("name", HARD)


def given(name: str) -> tuple[Outputs, Outputs, Batch]:
    """Both sides and the batch; the student's logits want a gradient, its maps (float32) too."""
    ours, theirs, label = HARD[name]()
    b, k = ours.shape
    shown = []
    for seed, logits in enumerate((ours, theirs)):
        side = outputs((4, 8, 8), (6, 8, 8), (8, 4, 4), k=k, b=b, seed=seed)
        feats = tuple(feat.float() for feat in side.feats)
        assert side.classifier is not None
        weight, bias = side.classifier
        assert bias is not None
        classifier = (weight.float(), bias.float())
        shown.append(Outputs(feats, feats[-1], feats[-1].mean(dim=(2, 3)), logits, feats, classifier))
    student, teacher = shown
    student = student._replace(logits=student.logits.requires_grad_(True))
    return student, teacher, Batch(torch.zeros(b, 3, 8, 8), label, torch.arange(b), torch.tensor(0.5))


def finite(make: Callable[..., Distiller], name: str) -> dict[str, Tensor]:
    """Terms of the method on one of ``HARD``; they and every gradient must be finite."""
    student, teacher, batch = given(name)
    method = make(pair(student, teacher))
    terms = method.terms(student, teacher, batch)
    with torch.autograd.set_detect_anomaly(True):  # nor may a NaN be met on the way and masked later
        torch.stack([term.float() for term in terms.values()]).sum().backward()
    assert all(term.isfinite() for term in terms.values()), terms
    grad = student.logits.grad
    assert grad is not None
    assert grad.isfinite().all(), grad
    own = {key: p.grad for key, p in method.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in own.values()), own
    return terms
