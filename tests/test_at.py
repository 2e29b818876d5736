"""AT equals the released code, stage by stage."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.at import AT, distance


@cases("at")
def test_golden(case: Case) -> None:
    case.open()
    indices = case.meta["features_used"]["student_feature_maps"]
    shift = 1 - indices[0]  # some cases count their stages from 0
    student, teacher = case.outputs("student", shift=shift), case.outputs("teacher", shift=shift)
    p = case.meta["hyper"]["p"]
    method = AT(case.pair(student, teacher), p=p, beta=1.0)
    stages = {f"stage.{i}": distance(student.feats[i + shift], teacher.feats[i + shift], p) for i in indices}
    case.check(method.terms(student, teacher, case.batch())["attention"], method, **stages)


def test_stages_without_a_partner_and_the_stem_do_not_count() -> None:
    shapes = (3, 8, 8), (4, 6, 6), (5, 4, 4), (6, 2, 2)
    student, teacher = outputs(*shapes, grad=True), outputs(*shapes[:3], seed=1)
    AT(pair(student, teacher)).terms(student, teacher, batch())["attention"].backward()
    assert [feat.grad is not None for feat in student.feats] == [False, True, True, False]


def test_the_size_of_a_map_does_not_count_but_beta_and_p_do() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (4, 6, 6), seed=1)
    made = pair(student, teacher)
    usual = AT(made).terms(student, teacher, batch())["attention"]
    larger = teacher._replace(feats=tuple(9 * feat for feat in teacher.feats))
    torch.testing.assert_close(AT(made).terms(student, larger, batch())["attention"], usual)
    torch.testing.assert_close(AT(made, beta=1.0).terms(student, teacher, batch())["attention"] * 1000, usual)
    assert AT(made, p=1).terms(student, teacher, batch())["attention"] < 0.9 * usual


def test_large_maps_survive_half_precision() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (4, 6, 6), seed=1)
    want = distance(student.feats[1].half().double(), teacher.feats[1].half().double(), 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = distance(student.feats[1].half() * 512, teacher.feats[1].half() * 512, 2.0)  # squares pass 65504
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_it_compiles_as_one_graph() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (4, 4, 4), seed=1)
    method = AT(pair(student, teacher))
    got = torch.compile(method.terms, fullgraph=True, backend="eager")(student, teacher, batch())
    torch.testing.assert_close(got, method.terms(student, teacher, batch()))


def test_a_net_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="beside the stem"):
        AT(pair(outputs((3, 8, 8)), outputs((3, 8, 8), (4, 4, 4))))
