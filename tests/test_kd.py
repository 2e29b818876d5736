"""KD equals the released code."""

import pytest

from golden import Case, cases
from kdbench.methods.kd import KD
from kdbench.registry import get


@cases("kd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = KD(case.pair(student, teacher), ce_weight=0.0, kd_weight=1.0, tau=case.meta["hyper"]["T"])
    terms = method.loss(student, teacher, case.batch())
    assert list(terms) == ["kd"]
    case.check(terms["kd"])


def test_defaults_are_those_of_the_crd_suite() -> None:
    common = {name: hyper.default for name, hyper in get("kd").hyperparameters().items()}
    assert common == pytest.approx({"ce_weight": 0.1, "kd_weight": 0.9, "tau": 4.0})
