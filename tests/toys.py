"""Random outputs of made-up networks, for tests that compare with a formula instead of golden data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden import shapes
from kdbench import Batch, Distiller, Outputs, Pair

Shape = tuple[int, int, int]
#: What the fixture ``plugin`` gives: the class that a plug-in file registers.
Plugin = Callable[[Path], type[Distiller]]


def outputs(*taps: Shape, k: int = 5, b: int = 6, seed: int = 0, grad: bool = False) -> Outputs:
    """float64 outputs with taps (C, H, W), stem first; the last tap is what the head pools."""
    rng = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    feats = tuple(random(b, *tap).requires_grad_(grad) for tap in taps)
    pooled = feats[-1].mean(dim=(2, 3))
    classifier = random(k, taps[-1][0]), random(k)
    return Outputs(feats, feats[-1], pooled, F.linear(pooled, *classifier), feats, classifier)


def batch(b: int = 6, k: int = 5, seed: int = 0) -> Batch:
    """Labels at random; blank images."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(k, (b,), generator=rng)
    return Batch(torch.zeros(b, 3, 8, 8, dtype=torch.float64), label, torch.arange(b), torch.tensor(0.5))


#: Maps that losses on maps must bear, each made of one at random.
MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda feat: feat,
    "zero": torch.zeros_like,
    "constant": torch.ones_like,
    "identical images": lambda feat: feat[:1].expand_as(feat).contiguous(),
    "size 1e4": lambda feat: feat * 1e4,
    "size 1e8 + 1": lambda feat: feat + 1e8,
}


def bears_maps(make: Callable[..., Distiller], ours: str, theirs: str, **hyper: Any) -> None:
    """A loss on the last maps (4, 8, 8) in float32 of these kinds; fails unless it and every gradient are finite."""
    student, teacher = (outputs((4, 8, 8), seed=seed) for seed in range(2))
    feat = MAPS[ours](student.last.float()).requires_grad_()
    student = student._replace(feats=(feat,), last=feat)
    other = MAPS[theirs](teacher.last.float())
    teacher = teacher._replace(feats=(other,), last=other)
    method = make(pair(student, teacher), **hyper)
    terms = method.terms(student, teacher, batch())
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values()), terms
    grads = [feat.grad, *(p.grad for p in method.parameters())]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def pair(student: Outputs, teacher: Outputs, **facts: Any) -> Pair:
    """The pair of these outputs; the head is the teacher's pooling and classifier."""
    assert teacher.classifier is not None
    weight, bias = teacher.classifier
    b, k = teacher.logits.shape
    given: dict[str, Any] = {
        "head": lambda last: F.linear(last.mean(dim=(2, 3)), weight.to(last), bias.to(last)),  # type: ignore[union-attr]
        "num_classes": k,
        "train_labels": torch.zeros(20, dtype=torch.int64),
        "batch_size": b,
    }
    return Pair(shapes(student), shapes(teacher), **{**given, **facts})
