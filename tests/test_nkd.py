"""NKD equals the authors' code."""

import torch
import torch.nn.functional as F
from logits import batch_of, bears, each_kind, hard, pair_of, shown

from golden import Case, cases, total, unweighted
from kdbench.methods.nkd import NKD
from kdbench.registry import get


@cases("nkd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = NKD(case.pair(student, teacher), gamma=hyper["gamma"], tau=hyper["temp"])
    terms = method.terms(student, teacher, case.batch())
    case.check(
        total(terms), **unweighted(target=(terms["target"], 1.0), non_target=(terms["non_target"], hyper["gamma"]))
    )


@each_kind
def test_finite_whatever_the_logits(kind: str) -> None:
    terms = bears(get("nkd"), kind)
    if "two classes" in kind:
        assert terms["non_target"] == 0  # one other class: its share is 1


def test_equal_logits_still_pull_towards_the_label_alone() -> None:
    s, _, label = hard("random")
    student, teacher = shown(s, s)
    (pull,) = torch.autograd.grad(
        NKD(pair_of(student, teacher)).terms(student, teacher, batch_of(label))["target"], student.logits
    )
    p = s.softmax(dim=1)
    wanted = p.gather(1, label[:, None]) * (p - F.one_hot(label, 10)) / len(s)
    torch.testing.assert_close(pull, wanted)
    (rest,) = torch.autograd.grad(
        NKD(pair_of(student, teacher), tau=3.0).terms(student, teacher, batch_of(label))["non_target"],
        student.logits,
    )
    assert rest.abs().max() < 1e-6


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("nkd").hyperparameters()
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    named = NKD(pair_of(student, teacher)).loss(student, teacher, batch_of(label))
    assert set(named) == {"ce", "target", "non_target"}
