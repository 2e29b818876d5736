"""WSLD equals the authors' code."""

import torch
from logits import batch_of, bears, each_kind, hard, pair_of, shown

from golden import Case, cases
from kdbench.methods.wsld import WSLD, lag
from kdbench.registry import get


@cases("wsld")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    batch = case.batch()
    case.same(lag(student.logits, teacher.logits, batch.label), case["aux.weight"], "weight")
    method = WSLD(case.pair(student, teacher), alpha=hyper["alpha"], tau=hyper["temp"])
    case.check(method.terms(student, teacher, batch)["weighted"])


@each_kind
def test_finite_whatever_the_logits(kind: str) -> None:
    bears(get("wsld"), kind)


def test_the_weight_is_0_where_the_student_is_certain_and_right_and_1_where_the_teacher_alone_is() -> None:
    s, t, label = hard("both certain and right, size 1e3")
    assert (lag(s, t, label) == 0).all()
    s, t, label = hard("teacher certain and right, size 1e3")
    assert (lag(s, t, label)[s.argmax(dim=1) != label] == 1).all()


def test_the_weight_carries_no_gradient() -> None:
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    method = WSLD(pair_of(student, teacher), alpha=1.0, tau=1.0)
    (grad,) = torch.autograd.grad(method.terms(student, teacher, batch_of(label))["weighted"], student.logits)
    weight = lag(s, t, label)[:, None]
    torch.testing.assert_close(grad, weight * (s.softmax(dim=1) - t.softmax(dim=1)) / len(s))


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("wsld").hyperparameters()
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    named = WSLD(pair_of(student, teacher)).loss(student, teacher, batch_of(label))
    assert set(named) == {"ce", "weighted"}
