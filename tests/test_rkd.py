"""RKD equals the released code."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total, unweighted
from kdbench.methods.rkd import RKD, angle_potential


@cases("rkd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    hyper = case.meta["hyper"]
    method = RKD(case.pair(student, teacher), beta_d=hyper["w_distance"], beta_a=hyper["w_angle"])
    distance, angle = method.terms(student, teacher, case.batch()).values()
    if "student.pooled" in case.meta["vanishing_gradient"]:
        assert distance + angle == case["out.loss"] == 0
        (grad,) = torch.autograd.grad(distance + angle, student.pooled)
        assert grad.abs().max() < 1e-9
        return
    weighed = {"distance": (distance, hyper["w_distance"]), "angle": (angle, hyper["w_angle"])}
    case.check(distance + angle, **unweighted(**weighed))


def test_angles_are_those_of_difference_vectors_in_float32() -> None:
    x = torch.randn(7, 256, generator=torch.Generator().manual_seed(0), requires_grad=True)
    double = x.detach().double().requires_grad_(True)
    apart = ~torch.eye(7, dtype=torch.bool)[:, :, None]
    difference = torch.nn.functional.normalize(double[None] - double[:, None], dim=2)
    expected = difference @ difference.transpose(1, 2)
    weight = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(1)) * apart * apart.transpose(1, 2)
    found = angle_potential(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert x.grad is not None
    assert double.grad is not None
    assert (x.grad.double() - double.grad).norm() < 1e-5 * double.grad.norm()


@pytest.mark.parametrize("pooled", [torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(1, 4)])
def test_equal_vectors_give_a_finite_loss_and_no_gradient(pooled: torch.Tensor) -> None:
    given = outputs((4, 4, 4), b=len(pooled))
    student = given._replace(pooled=pooled.clone().double().requires_grad_(True))
    terms = RKD(pair(student, given)).terms(student, given, batch(len(pooled)))
    loss = total(terms)
    loss.backward()
    assert loss.isfinite()
    assert student.pooled.grad is not None
    assert not student.pooled.grad.any()
