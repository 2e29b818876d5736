"""ITRD equals the authors' code, and stays finite where that is not."""

import math

import pytest
import torch
from torch import Tensor, nn
from toys import batch, outputs, pair

from golden import Case, cases, total, unweighted
from kdbench import Outputs, Pair
from kdbench.methods.itrd import ITRD, correlation


@cases("itrd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = ITRD(
        case.pair(student, teacher),
        lambda_corr=hyper["lambda_corr"],
        lambda_mutual=hyper["lambda_mutual"],
        alpha=hyper["alpha_it"],
    )
    renamed = case.load(method, lambda name: name.replace("embed.linear", "embed"))
    terms = method.terms(student, teacher, case.batch())
    case.check(
        total(terms),
        method,
        renamed,
        **unweighted(
            correlation=(terms["correlation"], hyper["lambda_corr"]), mutual=(terms["mutual"], hyper["lambda_mutual"])
        ),
    )


def vectors(kind: str, d_s: int, d_t: int, b: int = 8) -> tuple[Outputs, Outputs]:
    """Pooled vectors in float32; ``kind`` names what is wrong with them."""
    rng = torch.Generator().manual_seed(1)

    def blank(pooled: Tensor) -> Outputs:
        last = pooled[:, :, None, None]
        return Outputs((last,), last, pooled, torch.zeros(len(pooled), 5))

    s, t = (torch.randn(b, d, generator=rng) for d in (d_s, d_t))
    if kind == "dead teacher dimension":
        t[:, 1] = 0.5
    if kind == "all-zero student":
        s = torch.zeros_like(s)
    if kind == "all-zero teacher":
        t = torch.zeros_like(t)
    if kind.startswith("identical samples"):
        s, t = s[:1].expand_as(s).clone(), t[:1].expand_as(t).clone()
    if kind == "zero samples":
        s[0], t[-1] = 0, 0
    if kind == "all zero":
        s, t = torch.zeros_like(s), torch.zeros_like(t)
    if kind.endswith("size 1e3"):
        s, t = s * 1e3, t * 1e3
    return blank(s.requires_grad_(True)), blank(t)


KINDS = [
    "random",
    "dead teacher dimension",
    "all-zero student",
    "all-zero teacher",
    "all zero",
    "identical samples",
    "identical samples, size 1e3",
    "zero samples",
    "size 1e3",
]


def given(student: Outputs, teacher: Outputs) -> Pair:
    shown = teacher._replace(classifier=(torch.zeros(5, 1), torch.zeros(5)))
    return pair(student, shown)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", [(6, 6), (6, 9)], ids=["equal", "unequal"])
@pytest.mark.parametrize("b", [1, 2, 8])
def test_finite_whatever_the_vectors(kind: str, widths: tuple[int, int], b: int) -> None:
    student, teacher = vectors(kind, *widths, b=b)
    method = ITRD(given(student, teacher))
    with torch.no_grad():
        method.embed.weight[0], method.embed.bias[0] = 0, 0  # a dimension of the embedding that is always 0
    terms = method.terms(student, teacher, batch(len(student.pooled)))
    assert all(term.isfinite() for term in terms.values()), terms
    total(terms).backward()
    for leaf in (student.pooled, *method.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() < 1e4
    if b == 1:
        assert terms["correlation"] == 0


def test_a_dead_dimension_counts_as_uncorrelated() -> None:
    student, teacher = vectors("all-zero teacher", 6, 9)
    method = ITRD(given(student, teacher), lambda_corr=1.0)
    assert method.terms(student, teacher, batch(8))["correlation"].item() == pytest.approx(math.log2(9))


def test_a_perfect_match_is_bounded_by_the_batch() -> None:
    student, _ = vectors("random", 6, 6)
    method = ITRD(given(student, student), lambda_corr=1.0, alpha=1.5)
    nn.init.eye_(method.embed.weight)
    best = math.log2(6) - 3 * math.log2(8)
    assert method.terms(student, student, batch(8))["correlation"].item() == pytest.approx(best, rel=1e-4)


def test_kd_stands_beside_it_where_the_convention_says_so() -> None:
    student, teacher = outputs((3, 4, 4)), outputs((4, 4, 4), seed=1)
    names = [
        set(ITRD(pair(student, teacher), kd_weight=w).double().loss(student, teacher, batch())) for w in (0.0, 1.0)
    ]
    assert names == [{"ce", "correlation", "mutual"}, {"ce", "kd", "correlation", "mutual"}]


def test_a_dimension_far_from_zero_counts_where_the_numbers_can_tell_it() -> None:
    """Spread by 5e-5 around 100: nothing but rounding in single precision, a correlation in double."""
    torch.manual_seed(0)
    around = torch.randn(32, 3, dtype=torch.float64)
    far = torch.cat([around[:, :2], 100 + 5e-5 * around[:, 2:]], dim=1)
    assert float(correlation(far, around, 1.5)) == pytest.approx(float(correlation(around, around, 1.5)), rel=1e-4)
    assert correlation(far.float(), around.float(), 1.5).isfinite()


def test_an_exponent_that_rewards_nothing_is_refused() -> None:
    both = outputs((4, 4, 4)), outputs((4, 4, 4))
    with pytest.raises(ValueError, match="itrd: alpha=-1 does not reward correlation"):
        ITRD(pair(*both), alpha=-1.0)
