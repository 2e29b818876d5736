"""AB equals RepDistiller's code."""

import pytest
import torch
from toys import batch

from golden import Case, cases, shapes
from kdbench import Outputs, Pair
from kdbench.methods.ab import AB


def rename(name: str) -> str:
    return name.replace(".conv.", ".0.").replace(".bn.", ".1.")


@cases("ab")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = (
        o._replace(preacts=o.feats, feats=tuple(f.relu() for f in o.feats))
        for o in (case.outputs("student"), case.outputs("teacher"))
    )
    method = AB(case.pair(student, teacher), margin=case.meta["hyper"]["margin"])
    renamed = case.load(method, rename)
    method.train()
    method.on_stage("pretrain")
    case.check(method.pretrain_terms(student, teacher, case.batch())["boundary"], method, renamed)
    case.check_buffers(method, rename)


def outputs(*sizes: tuple[int, int]) -> Outputs:
    feats = tuple(torch.randn(2, c, side, side) for c, side in sizes)
    return Outputs(feats, feats[-1], torch.randn(2, 3), torch.randn(2, 5))


def build(student: Outputs, teacher: Outputs) -> AB:
    pair = Pair(shapes(student), shapes(teacher), lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    return AB(pair)


def test_a_model_without_preacts_is_read_after_its_relus() -> None:
    student, teacher = outputs((3, 8), (4, 8)), outputs((3, 8), (4, 8))
    method = build(student, teacher)
    same = method.pretrain_terms(student, teacher._replace(preacts=teacher.feats), batch(2))["boundary"]
    assert method.pretrain_terms(student, teacher, batch(2))["boundary"] == same > 0


def test_connectors_learn_in_the_first_stage_only_and_the_main_stage_is_plain() -> None:
    student, teacher = outputs((3, 8), (4, 8)), outputs((3, 8), (6, 3))
    method = build(student, teacher)
    method.on_stage("pretrain")
    assert all(p.requires_grad for p in method.parameters())
    assert method.pretrain_terms(student, teacher, batch(2))["boundary"].isfinite()
    method.on_stage("train")
    assert not any(p.requires_grad for p in method.parameters())
    assert method.terms(student, teacher, batch(2)) == {}


def test_unequal_numbers_of_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 1 stages, the teacher 2"):
        build(outputs((3, 8), (4, 8)), outputs((3, 8), (4, 8), (4, 4)))
