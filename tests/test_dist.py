"""DIST equals the released code."""

import torch
from toys import batch, outputs, pair

from golden import Case, cases, total, unweighted
from kdbench.methods.dist import DIST


@cases("dist")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    if student.logits.dim() == 4:  # segmentation: every position is a row, the classes are its columns
        student, teacher = (o._replace(logits=o.logits.transpose(1, 3).flatten(0, 2)) for o in (student, teacher))
    method = DIST(case.pair(student, teacher), beta=hyper["beta"], gamma=hyper["gamma"], tau=hyper.get("tau", 1.0))
    inter, intra = method.terms(student, teacher, case.batch()).values()
    if "student.logits" in case.meta["vanishing_gradient"]:
        torch.testing.assert_close(inter + intra, case["out.loss"], rtol=1e-6, atol=1e-9)
        (grad,) = torch.autograd.grad(inter + intra, student.logits)
        assert grad.abs().max() < 1e-9
        return
    case.check(inter + intra, **unweighted(inter=(inter, hyper["beta"]), intra=(intra, hyper["gamma"])))


def test_constant_probabilities_give_finite_gradients() -> None:
    given = outputs((4, 4, 4), k=2, b=2)
    z = torch.zeros(2, 2, requires_grad=True)
    student, teacher = given._replace(logits=z), given._replace(logits=1e3 * given.logits.float())
    loss = total(DIST(pair(student, teacher)).terms(student, teacher, batch(2, 2)))
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()
