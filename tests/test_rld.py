"""RLD equals the released code, and stays finite where that is not."""

from typing import Any

import pytest
import torch
from logits import batch_of, bears, each_kind, hard, pair_of, shown

from golden import Case, cases, total, unweighted
from kdbench.methods.rld import RLD
from kdbench.registry import get


@cases("rld")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = RLD(
        case.pair(student, teacher),
        alpha=hyper["alpha"],
        beta=hyper["beta"],
        tau=hyper["T"],
        alpha_tau=hyper["alpha_T"],
        standardise=hyper["logit_stand"],
        warmup=hyper["warmup"] / 240,
    )
    terms = method.terms(student, teacher, case.batch(progress=hyper["epoch"] / 240))
    ramp = min(hyper["epoch"] / hyper["warmup"], 1) if hyper["warmup"] else 1
    scd, mcd = (terms["confidence"], ramp * hyper["alpha"]), (terms["correlation"], ramp * hyper["beta"])
    case.check(total(terms), **unweighted(scd=scd, mcd=mcd))


@cases("rld", "same_t_b6_c50", "standardised_b6_c20_epoch7")
def test_golden_by_default_and_behind_lskd(case: Case) -> None:
    """alpha_tau is tau unless it is said, and ``lskd+rld`` is the standardised form."""
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    pair, batch = case.pair(student, teacher), case.batch(progress=hyper["epoch"] / 240)
    if hyper["logit_stand"]:
        method = get("lskd+rld").build(pair, ce_weight=0.0, kd_weight=0.0, tau=hyper["T"], alpha_tau=hyper["alpha_T"])
        terms = method.loss(student, teacher, batch)
        assert set(terms) == {"confidence", "correlation"}
    else:
        assert hyper["alpha_T"] == hyper["T"]
        terms = RLD(pair, tau=hyper["T"]).terms(student, teacher, batch)
    case.check(total(terms))


@each_kind
@pytest.mark.parametrize("hyper", [{}, {"alpha_tau": 1.0}, {"standardise": True, "tau": 2.0}], ids=str)
def test_finite_whatever_the_logits(kind: str, hyper: dict[str, object]) -> None:
    terms = bears(get("rld"), kind, **hyper)
    if "two classes" in kind:
        assert terms["correlation"] == 0  # at most one class is left
    if kind.startswith("label is the teacher's lowest"):
        assert terms["correlation"] == 0  # none is left


def test_a_wrong_teacher_still_pushes_towards_the_label() -> None:
    s, t, _ = hard("random")
    label = t.argmin(dim=1)
    student, teacher = shown(s, t)
    loss = total(RLD(pair_of(student, teacher)).terms(student, teacher, batch_of(label)))
    (grad,) = torch.autograd.grad(loss, student.logits)
    assert (grad.gather(1, label[:, None]) < 0).all()


def test_warm_up_is_linear_over_its_share_of_the_training() -> None:
    s, t, label = hard("random")
    student, teacher = shown(s, t)

    def loss(progress: float, **hyper: Any) -> torch.Tensor:
        method = RLD(pair_of(student, teacher), **hyper)
        return torch.stack(list(method.terms(student, teacher, batch_of(label, progress)).values())).sum()

    full = loss(0.9)
    assert loss(0.0) == 0
    torch.testing.assert_close(loss(10 / 240), full / 2)
    torch.testing.assert_close(loss(0.0, warmup=0.0), full)


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("rld").hyperparameters()
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    named = RLD(pair_of(student, teacher)).loss(student, teacher, batch_of(label))
    assert set(named) == {"ce", "confidence", "correlation"}
