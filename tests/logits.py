"""Logits that losses on logits must bear: the degenerate inputs that the released functions were tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import toys
from narrow import there
from torch import Tensor

from golden import shapes
from kdbench import Batch, Distiller, Outputs, Pair

#: What may happen to a row of logits: name -> (student, teacher, label), each (B, K) or (B,).
KINDS = (
    "random",
    "identical",
    "identical, size 1e3",
    "identical images",
    "all zero",
    "student zero",
    "constant teacher rows",
    "size 1e2",
    "size 1e3",
    "size 2e4",
    "label is the teacher's lowest class",
    "label is the student's lowest class, size 1e3",
    "teacher certain and right, size 1e3",
    "both certain and right, size 1e3",
    "two classes",
    "two classes, size 1e3",
    "batch of one",
    "batch of one, size 1e3",
)
each_kind = pytest.mark.parametrize("kind", KINDS)


def hard(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Student (B, K) and teacher (B, K) logits in float32 and labels (B,)."""
    rng = torch.Generator().manual_seed(3)
    b, k = (1 if "batch of one" in kind else 8), (2 if "two classes" in kind else 10)
    s, t = (torch.randn(b, k, generator=rng) for _ in range(2))
    label = torch.randint(k, (b,), generator=rng)
    size = {"size 1e2": 1e2, "size 2e4": 2e4}.get(kind, 1e3 if "1e3" in kind else 1.0)
    s, t = s * size, t * size
    if kind in ("identical", "identical, size 1e3"):
        s = t.clone()
    if kind == "identical images":
        s, t, label = (part[:1].expand_as(part).clone() for part in (s, t, label))
    if kind == "all zero":
        t = torch.zeros_like(t)
    if kind in ("all zero", "student zero"):
        s = torch.zeros_like(s)
    if kind == "constant teacher rows":
        t = t[:, :1].expand_as(t).clone()
    if kind.startswith("label is the teacher's"):
        label = t.argmin(dim=1)
    if kind.startswith("label is the student's"):
        label = s.argmin(dim=1)
    if kind.startswith(("teacher certain", "both certain")):
        label = t.argmax(dim=1)
    if kind.startswith("both certain"):
        s = t * 2
    return s, t, label


def shown(s: Tensor, t: Tensor) -> tuple[Outputs, Outputs]:
    """Outputs whose logits these are (the student's with a gradient), and whose map says the same.

    Channel c of the 4x4 map is logit c, a little different in every cell, and the classifier the identity.
    """
    sides = []
    for z in (s, t):
        cells = torch.linspace(0.8, 1.2, 16, dtype=z.dtype).view(4, 4)
        last = (z[:, :, None, None] * cells).requires_grad_(z is s)
        logits = z.clone().requires_grad_(z is s)
        identity = torch.eye(z.shape[1], dtype=z.dtype).requires_grad_(z is s), torch.zeros(z.shape[1], dtype=z.dtype)
        sides.append(Outputs((last,), last, last.mean(dim=(2, 3)), logits, classifier=identity))
    return sides[0], sides[1]


def pair_of(student: Outputs, teacher: Outputs) -> Pair:
    """The pair of such outputs."""
    b, k = student.logits.shape
    return Pair(
        shapes(student), shapes(teacher), lambda x: x.mean(dim=(2, 3)), k, torch.zeros(20, dtype=torch.int64), b
    )


def batch_of(label: Tensor, progress: float = 0.5) -> Batch:
    """A batch with these labels."""
    return Batch(torch.zeros(len(label), 3, 8, 8), label, torch.arange(len(label)), torch.tensor(progress))


def staged(s: Tensor, t: Tensor) -> tuple[Outputs, Outputs]:
    """Outputs whose logits these are (the student's with a gradient), with three maps (float32) of any content."""
    sides = []
    for seed, z in enumerate((s, t)):
        side = toys.outputs((4, 8, 8), (6, 8, 8), (8, 4, 4), k=z.shape[1], b=len(z), seed=seed)
        feats = tuple(feat.float() for feat in side.feats)
        weight, bias = there(side.classifier)
        logits = z.clone().requires_grad_(z is s)
        classifier = (weight.float(), there(bias).float())
        sides.append(Outputs(feats, feats[-1], feats[-1].mean(dim=(2, 3)), logits, feats, classifier))
    return sides[0], sides[1]


def bears(make: Callable[..., Distiller], kind: str, **hyper: Any) -> dict[str, Tensor]:
    """Terms of the method on ``shown`` logits; fails unless they and every gradient are finite."""
    s, t, label = hard(kind)
    student, teacher = shown(s, t)
    method = make(pair_of(student, teacher), **hyper)
    terms = method.terms(student, teacher, batch_of(label))
    leaves = {"last": student.last, "logits": student.logits, **dict(method.named_parameters())}
    assert finite_gradients(terms, leaves), "no gradient reaches anything"
    return terms


def bears_staged(make: Callable[..., Distiller], kind: str, **hyper: Any) -> dict[str, Tensor]:
    """As ``bears`` on ``staged`` outputs, whose logits and every parameter must have a gradient."""
    s, t, label = hard(kind)
    student, teacher = staged(s, t)
    method = make(toys.pair(student, teacher), **hyper)
    terms = method.terms(student, teacher, batch_of(label))
    leaves = {"logits": student.logits, **dict(method.named_parameters())}
    assert finite_gradients(terms, leaves) == set(leaves)
    return terms


def finite_gradients(terms: dict[str, Tensor], leaves: dict[str, Tensor]) -> set[str]:
    """Which leaves a backward pass of finite terms reaches; the gradients must be finite."""
    assert all(term.isfinite() for term in terms.values()), terms
    with torch.autograd.set_detect_anomaly(True):  # nor may a NaN be met on the way and masked later
        torch.stack([term.float() for term in terms.values()]).sum().backward()
    reached = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for name, grad in reached.items():
        assert grad.isfinite().all(), f"the gradient of {name} is not finite"
    return set(reached)
