"""SKD equals its formula, typed anew here; it stays finite where a row differs in nothing."""

import pytest
import torch
from toys import batch, outputs, pair

from kdbench.methods.skd import SKD, mahalanobis


@pytest.mark.parametrize("ridge", [0.1, 0.001])
def test_formula_and_gradient(ridge: float) -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    z_s, z_t = (3 * student.logits).detach().requires_grad_(True), teacher.logits
    method = SKD(pair(student, teacher), weight=0.9, share=0.4, ridge=ridge)
    found = method.terms(student._replace(logits=z_s), teacher, batch())
    b = len(z_t)
    g_s, g_t = (torch.stack([torch.stack([r @ c / r.norm() / c.norm() / 7 for c in z]) for r in z]) for z in (z_s, z_t))
    apart = g_s - g_t
    inverse = torch.linalg.inv(torch.cov(apart.T) + ridge * torch.eye(b, dtype=apart.dtype))
    distance = sum((row @ inverse @ row).sqrt() for row in apart) / b
    p, q = (z_t / 4).softmax(1), (z_s / 4).softmax(1)
    soft = 16 * (p * (p / q).log()).sum() / b
    torch.testing.assert_close(found["similarity"], 0.9 * 0.6 * distance, rtol=1e-9, atol=0)
    torch.testing.assert_close(found["soft"], 0.9 * 0.4 * soft, rtol=1e-9, atol=0)
    (ours,) = torch.autograd.grad(sum(found.values()), z_s)  # type: ignore[arg-type]
    (theirs,) = torch.autograd.grad(0.9 * (0.6 * distance + 0.4 * soft), z_s)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1e4])
def test_finite_where_nothing_differs(rows: int, factor: float) -> None:
    torch.manual_seed(0)
    z = torch.randn(rows, 5)
    for z_t in (z, z.flip(1)):
        z_s = (factor * z).requires_grad_(True)
        found = mahalanobis(z_s, z_t, 0.1)
        (gradient,) = torch.autograd.grad(found, z_s)
        assert found.isfinite()
        assert gradient.isfinite().all()
    assert float(mahalanobis(z, z, 0.1)) == 0


def test_what_is_no_share_and_no_ridge_is_refused() -> None:
    both = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7)
    with pytest.raises(ValueError, match="skd: share=2 is no share"):
        SKD(pair(*both), share=2.0)
    with pytest.raises(ValueError, match="skd: ridge=0 leaves a covariance"):
        SKD(pair(*both), ridge=0.0)


@pytest.mark.parametrize(("k", "ridge"), [(100, 0.1), (10, 1e-5), (2, 0.1), (2, 1e-2)])
def test_single_precision_keeps_the_gradient(k: int, ridge: float) -> None:
    """With few classes, or a small ridge, it is a difference of numbers thousands of times as large."""
    torch.manual_seed(0)
    z_s, z_t = torch.randn(64, k), torch.randn(64, k)
    found = []
    for dtype in (torch.float32, torch.float64):
        z = z_s.to(dtype).requires_grad_(True)
        loss = mahalanobis(z, z_t.to(dtype), ridge)
        assert loss.dtype == dtype
        found.append(torch.autograd.grad(loss, z)[0].double())
    assert float((found[0] - found[1]).abs().max() / found[1].abs().max()) < 1e-6
