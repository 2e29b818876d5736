"""DKD equals the released code, and stays finite where that is not."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total, unweighted
from kdbench import Outputs
from kdbench.methods.dkd import DKD
from kdbench.registry import get


@cases("dkd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = DKD(
        case.pair(student, teacher),
        alpha=hyper["alpha"],
        beta=hyper["beta"],
        warmup=hyper["warmup"] / 240,
        tau=hyper["T"],
    )
    target, non_target = method.terms(student, teacher, case.batch(progress=hyper["epoch"] / 240)).values()
    if "student.logits" in case.meta["vanishing_gradient"]:
        torch.testing.assert_close(target + non_target, case["out.loss"], rtol=0, atol=1e-9)
        (grad,) = torch.autograd.grad(target + non_target, student.logits)
        assert grad.abs().max() < 1e-9
        return
    ramp = min(hyper["epoch"] / hyper["warmup"], 1) if hyper["warmup"] else 1
    weighed = {"target_class": (target, hyper["alpha"] * ramp), "non_target_class": (non_target, hyper["beta"] * ramp)}
    case.check(target + non_target, **unweighted(**weighed))


def logits(scale: float, k: int, *, dtype: torch.dtype = torch.float32) -> tuple[Outputs, Outputs]:
    sides = [outputs((4, 4, 4), k=k, b=16, seed=seed) for seed in (0, 1)]
    student, teacher = (s._replace(logits=s.logits.to(dtype) * scale / s.logits.abs().max().to(dtype)) for s in sides)
    return student._replace(logits=student.logits.requires_grad_(True)), teacher


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("scale", [1.0, 1e3, 2e4])
def test_finite_at_any_size_of_logits_and_with_two_classes(scale: float, k: int, tau: float) -> None:
    student, teacher = logits(scale, k)
    terms = DKD(pair(student, teacher), tau=tau).terms(student, teacher, batch(16, k))
    loss = total(terms)
    loss.backward()
    assert loss.isfinite()
    assert student.logits.grad is not None
    assert student.logits.grad.isfinite().all()
    assert student.logits.grad.any()
    if k == 2:
        assert terms["non_target"] == 0  # one other class: nothing to rank


def test_warm_up_is_linear_over_its_share_of_the_training() -> None:
    student, teacher = logits(5.0, 4)
    method = DKD(pair(student, teacher))

    def loss(progress: float) -> torch.Tensor:
        given = batch(16, 4)._replace(progress=torch.tensor(progress))
        return torch.stack(list(method.terms(student, teacher, given).values())).sum()

    full = loss(0.9)
    assert loss(0.0) == 0
    torch.testing.assert_close(loss(10 / 240), full / 2)
    torch.testing.assert_close(loss(20 / 240), full)
    always = DKD(pair(student, teacher), warmup=0.0)
    torch.testing.assert_close(
        total(always.terms(student, teacher, batch(16, 4)._replace(progress=torch.tensor(0.0)))), full
    )


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("dkd").hyperparameters()
    student, teacher = logits(1.0, 4)
    named = DKD(pair(student, teacher)).loss(student, teacher, batch(16, 4))
    assert set(named) == {"ce", "target", "non_target"}
