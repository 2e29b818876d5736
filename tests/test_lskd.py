"""LSKD equals the released code, alone and in front of DKD."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.registry import get


@cases("logit_std", "edge_constant_rows", "typical_kd_b8_c100")
@pytest.mark.parametrize("name", ["lskd", "kd+lskd"])
def test_golden(case: Case, name: str) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = get(name).build(case.pair(student, teacher), ce_weight=0.0, kd_weight=1.0, tau=case.meta["hyper"]["T"])
    terms = method.loss(student, teacher, case.batch())
    assert list(terms) == ["kd"]
    case.check(terms["kd"])


@cases("logit_std", "dkd_b8_c100")
def test_golden_with_dkd(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    hyper = case.meta["hyper"]
    method = get("lskd+dkd").build(
        case.pair(student, teacher),
        ce_weight=0.0,
        kd_weight=0.0,
        tau=hyper["T"],
        alpha=hyper["alpha"],
        beta=hyper["beta"],
    )
    terms = method.loss(student, teacher, case.batch())
    assert list(terms) == ["target", "non_target"]
    case.check(sum(terms.values()))


def test_cross_entropy_stays_on_the_raw_logits() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    found = get("lskd")(pair(student, teacher), ce_weight=1.0).loss(student, teacher, batch())
    torch.testing.assert_close(found["ce"], torch.nn.functional.cross_entropy(student.logits, batch().label))
