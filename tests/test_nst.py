"""NST equals the released code."""

import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.nst import NST, discrepancy


@cases("nst")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = NST(case.pair(student, teacher), beta=1.0)
    stages = {
        f"stage.{i}": discrepancy(student.feats[i], teacher.feats[i])
        for i in case.meta["features_used"]["student_feature_maps"]
    }
    case.check(method.terms(student, teacher, case.batch())["mmd"], **stages)


def test_maps_of_zeros_get_a_finite_gradient_in_float32() -> None:
    given = outputs((3, 4, 4), (5, 4, 4), b=2)
    zeros = tuple(torch.zeros_like(f, dtype=torch.float32).requires_grad_(True) for f in given.feats)
    student = given._replace(feats=zeros)
    teacher = given._replace(feats=tuple(f.float() for f in given.feats))
    NST(pair(student, teacher)).terms(student, teacher, batch(2))["mmd"].backward()
    assert zeros[1].grad is not None
    assert zeros[1].grad.isfinite().all()
