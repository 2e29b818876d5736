"""HKD equals its formula, retyped here; the weight of the stages follows the clock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import batch, outputs, pair

from golden import total
from kdbench import Batch, Outputs
from kdbench.methods.hkd import HKD

TAPS = ((3, 4, 4), (5, 4, 4), (6, 2, 2), (7, 2, 2))
WIDE = ((6, 4, 4), (10, 4, 4), (12, 2, 2), (14, 2, 2))


def at(progress: float, b: int = 6) -> Batch:
    return batch(b)._replace(progress=torch.tensor(progress))


def divergence(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Rows of both similarities as probabilities, Jeffreys, mean over all pairs of images, both summed."""
    total = f_s.new_zeros(())
    for kernel in ("cosine", "student_t"):
        p = []
        for f in (f_s.flatten(1), f_t.flatten(1)):
            rows = []
            for x in f:
                if kernel == "cosine":
                    similar = [(x @ y / (x.norm() * y.norm()) + 1) / 2 for y in f]
                else:
                    similar = [1 / (1 + ((x - y).square().sum() + 1e-6).sqrt()) for y in f]
                rows.append(torch.stack(similar) / torch.stack(similar).sum())
            p.append(torch.stack(rows))
        total = total + ((p[1] - p[0]) * (p[1].log() - p[0].log())).mean()
    return total


@pytest.mark.parametrize(("progress", "epoch"), [(0.0, 0), (0.9 / 240, 0), (1 / 240, 1), (7 / 240, 7), (0.5, 120)])
def test_formula(progress: float, epoch: int) -> None:
    student, teacher = outputs(*TAPS, grad=True), outputs(*WIDE, seed=1)
    method = HKD(pair(student, teacher), beta=2.0)
    terms = method.terms(student, teacher, at(progress))
    w = 100 * 0.7**epoch
    stages = torch.stack(list(map(divergence, student.feats[1:], teacher.feats[1:]))).sum()
    expected = {"embedding": 2 * divergence(student.pooled, teacher.pooled), "stages": 2 * w * stages}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad(v, student.feats[1:], retain_graph=True, allow_unused=True)
            for v in (terms[name], value)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_every_epoch_of_a_run_has_its_own_weight() -> None:
    """In float32, e / 240 * 240 may fall short of e: the first batch must not belong to the epoch before."""
    student, teacher = outputs(*TAPS), outputs(*WIDE, seed=1)
    method = HKD(pair(student, teacher))
    steps, whole = 782, method.terms(student, teacher, at(0.0))["stages"]
    for epoch in (*range(30), 63, 125, 126, 239):
        of_epoch = [method.terms(student, teacher, at((epoch + n / steps) / 240))["stages"] for n in (0, 1, steps - 1)]
        assert of_epoch[0] == of_epoch[1] == of_epoch[2]
        torch.testing.assert_close(of_epoch[0], 0.7**epoch * whole, rtol=1e-4, atol=0)


@pytest.mark.parametrize("zero", [slice(0, 1), slice(None)])
def test_zeros_give_finite_gradients(zero: slice) -> None:
    student, teacher = outputs(*TAPS), outputs(*WIDE, seed=1)
    x = [t.detach().float().clone() for t in (*student.feats, student.pooled)]
    for t in x:
        t[zero] = 0
        t.requires_grad_(True)
    dead = Outputs(tuple(x[:-1]), x[-2], x[-1], student.logits.float())
    feats = tuple(f.float() for f in teacher.feats)
    seen = Outputs(feats, feats[-1], teacher.pooled.float(), teacher.logits.float())
    loss = total(HKD(pair(student, teacher)).terms(dead, seen, at(0.0)))
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.isfinite()
    for t in x[1:]:
        assert t.grad is not None
        assert t.grad.isfinite().all()
