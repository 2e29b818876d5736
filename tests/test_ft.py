"""FT equals RepDistiller's code, in both stages."""

import re

import pytest
import torch
from narrow import there

from golden import Case, cases, shapes
from kdbench import Outputs, Pair
from kdbench.methods.ft import FT


def rename(name: str) -> str:
    """translator.encoder.conv2.bias -> translator.3.bias; the paraphraser keeps its two parts."""
    role, part, layer, leaf = name.split(".")
    kind, number = there(re.fullmatch(r"(conv|bn|deconv)(\d)", layer)).groups()
    per_block = 3 if role == "translator" else 2
    index = per_block * (int(number) - 1) + (kind == "bn")
    return f"{role}.{index}.{leaf}" if role == "translator" else f"{role}.{part}.{index}.{leaf}"


@cases("ft")
def test_golden(case: Case) -> None:
    case.open()
    hyper, teacher = case.meta["hyper"], case.outputs("teacher")
    if not case.meta["features_used"]["student_feature_maps"]:
        first_stage(case)
        return
    assert (hyper["translator_bn"], hyper["paraphraser_bn"]) == (True, False), "the class has one design"
    student = case.outputs("student")
    method = FT(case.pair(student, teacher), beta=1.0, k=hyper["k"])
    renamed = case.load(method, rename)
    method.train()
    method.on_stage("train")
    case.check(method.terms(student, teacher, case.batch())["factor"], method, renamed)
    case.check_buffers(method, rename)
    assert all(p.grad is None for p in method.paraphraser.parameters()), "the paraphraser is frozen"


def first_stage(case: Case) -> None:
    """The case trains the paraphraser, on the teacher alone."""
    teacher = case.outputs("teacher")
    method = FT(case.pair(teacher, teacher), k=case.meta["hyper"]["k"])
    renamed = case.load(method, rename)
    method.on_stage("pretrain")
    case.check(method.pretrain_terms(teacher, teacher, case.batch())["reconstruction"], method, renamed)
    assert all(p.grad is None for p in method.translator.parameters())


def test_a_factor_without_channels_is_refused() -> None:
    feats = tuple(torch.zeros(2, 4, 4, 4) for _ in range(3))
    sizes = shapes(Outputs(feats, feats[-1], torch.zeros(2, 4), torch.zeros(2, 5)))
    pair = Pair(sizes, sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="take at least"):
        FT(pair, k=0.1)
