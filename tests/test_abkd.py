"""ABKD equals the released code in every branch, follows the definition where that does not, and is finite everywhere."""

from typing import Any

import pytest
import torch
from logits import bears_staged, each_kind
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench import kl
from kdbench.methods.abkd import ABKD, divergence
from kdbench.registry import get

EXPONENTS = [
    (0.8, 0.3),
    (1.0, 0.0),
    (0.0, 1.0),
    (0.0, 0.0),
    (1.2, -0.2),
    (-0.3, 0.8),
    (0.6, -0.6),
    (-0.6, 0.6),
    (0.5, 0.0),
]
exponents = pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)


@cases("abkd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    # Where the two cancel, the release has 1 / alpha for 1 / alpha^2.
    weight = hyper["alpha"] if hyper["alpha"] and hyper["alpha"] + hyper["beta"] == 0 else 1.0
    method = ABKD(case.pair(student, teacher), alpha=hyper["alpha"], beta=hyper["beta"], weight=weight, tau=hyper["T"])
    case.check(method.terms(student, teacher, case.batch())["divergence"])


@each_kind
@exponents
def test_finite_in_float32(kind: str, alpha: float, beta: float) -> None:
    (found,) = bears_staged(ABKD, kind, alpha=alpha, beta=beta).values()
    if kind in ("identical", "identical, size 1e3", "all zero"):
        assert found.abs() < 1e-3


def definition(z_s: torch.Tensor, z_t: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """The divergence at a point where no exponent is 0, term by term."""
    p, q, both = z_t.softmax(1), z_s.softmax(1), alpha + beta
    inside = p**alpha * q**beta - alpha / both * p**both - beta / both * q**both
    return -inside.sum(1).mean() / (alpha * beta)


@exponents
def test_it_is_a_divergence_and_the_limit_of_its_neighbours(alpha: float, beta: float) -> None:
    z_s, z_t = outputs((4, 4, 4)).logits, outputs((4, 4, 4), seed=1).logits
    found = divergence(z_s, z_t, 1.0, alpha, beta)
    assert found > 0
    assert divergence(z_t, z_t, 1.0, alpha, beta).abs() < 1e-12
    near = definition(z_s, z_t, alpha + 3e-5, beta + 2e-5)
    released = {(0.5, 0.0): 1 / 0.5}.get((alpha, beta), 1.0)  # 1 / alpha, where the limit has its square
    torch.testing.assert_close(found * released, near, rtol=1e-2, atol=0)


def test_kl_either_way() -> None:
    z_s, z_t = outputs((4, 4, 4)).logits, outputs((4, 4, 4), seed=1).logits
    torch.testing.assert_close(divergence(z_s, z_t, 2.0, 1.0, 0.0) * 4, kl(z_s, z_t, 2.0))
    torch.testing.assert_close(divergence(z_s, z_t, 2.0, 0.0, 1.0) * 4, kl(z_t, z_s, 2.0))


@pytest.mark.parametrize(("alpha", "beta"), [(0.1 + 0.2, -0.3), (1e-9, 1.0), (1.0, -1e-12)])
def test_what_rounding_leaves_of_zero_is_zero(alpha: float, beta: float) -> None:
    z_s, z_t = outputs((4, 4, 4)).logits.float(), outputs((4, 4, 4), seed=1).logits.float()
    exact = divergence(z_s, z_t, 4.0, round(alpha, 6), round(beta, 6))
    torch.testing.assert_close(divergence(z_s, z_t, 4.0, alpha, beta), exact)


def test_weight_and_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("abkd").hyperparameters()
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)

    def loss(**hyper: Any) -> dict[str, torch.Tensor]:
        return ABKD(pair(student, teacher), **hyper).loss(student, teacher, batch())

    assert set(loss()) == {"ce", "divergence"}
    torch.testing.assert_close(loss(weight=8.0)["divergence"] * 4, loss()["divergence"])


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 1e-5), (0.7, 2e-6), (1e-5, 0.7), (0.7, -0.7 + 1e-5), (1e-4, 1e-4)])
def test_single_precision_bears_a_small_exponent(alpha: float, beta: float) -> None:
    """It is divided by the exponent: rounding alone would be left of what stands above."""
    torch.manual_seed(0)
    z_s, z_t = 2 * torch.randn(16, 20), 2 * torch.randn(16, 20)
    single = divergence(z_s, z_t, 1.0, alpha, beta)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(divergence(z_s.double(), z_t.double(), 1.0, alpha, beta)), rel=1e-5)
