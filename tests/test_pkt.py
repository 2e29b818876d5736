"""PKT equals the released code, and survives vectors of zeros."""

import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.pkt import PKT


@cases("pkt")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = PKT(case.pair(student, teacher), beta=1.0)
    method.eps = case.meta["hyper"]["eps"]
    loss = method.terms(student, teacher, case.batch())["affinity"]
    if "student.pooled" not in case.meta["non_finite_gradient"]:
        case.check(loss)
        return
    assert abs(loss.item() - case["out.loss"].item()) <= 1e-6 * case["out.loss"].item() + 1e-9
    loss.backward()
    grad = student.pooled.grad
    assert grad is not None
    assert grad.isfinite().all()
    assert grad.any()


def test_a_vector_of_zeros_gets_no_gradient_and_the_others_do() -> None:
    teacher = outputs((4, 4, 4))
    x = teacher.pooled.flip(0).clone()
    x[1] = 0
    student = teacher._replace(pooled=x.requires_grad_(True))
    PKT(pair(student, teacher)).terms(student, teacher, batch())["affinity"].backward()
    assert x.grad is not None
    assert not x.grad[1].any()
    assert torch.tensor([x.grad[i].any() for i in (0, 2, 3, 4, 5)]).all()


def test_opposite_vectors_keep_the_logarithm_finite() -> None:
    given = outputs((4, 4, 4), b=2)
    x = torch.tensor([[1e4, 3.0, 7e3, 1.0], [-1e4, -3.0, -7e3, -1.0]], requires_grad=True)
    student, teacher = given._replace(pooled=x), given._replace(pooled=x.detach().abs())
    loss = PKT(pair(student, teacher)).terms(student, teacher, batch(2))["affinity"]
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
