"""MAS equals the released code; its target reaches the methods it is combined with."""

import torch
from mag_cases import check_main_stage, rename
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench import kl
from kdbench.methods.mas import MAS
from kdbench.registry import get


@cases("mas")
def test_golden(case: Case) -> None:
    check_main_stage("mas", case)


@cases("mas")
def test_golden_target(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    low, high = case.meta["hyper"]["encoder_dims"]
    method = MAS(case.pair(student, teacher), low_dim=low, high_dim=high)
    case.load(method, rename)
    case.same(method.transform(student, teacher)[1].logits, case["aux.stable_logits"], "stable logits")


def test_in_a_combination_kd_sees_the_mean_once() -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4), grad=True), outputs((3, 8, 8), (7, 4, 4), seed=1)
    method = get("mas+fitnet").build(pair(student, teacher), tap=1, kd_weight=2.0, tau=3.0).double()
    method.on_stage("train")
    mas = next(part for part in method.modules() if isinstance(part, MAS))
    mean = (teacher.logits + mas.low(teacher.pooled) + mas.high(teacher.pooled)) / 3
    named = method.loss(student, teacher, batch())
    torch.testing.assert_close(named["kd"], 2 * kl(student.logits, mean, 3.0))
