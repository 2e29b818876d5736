"""AFD equals the authors' code."""

import torch

from golden import Case, cases
from kdbench.methods.afd import AFD


def rename(name: str) -> str:
    return name.replace(".linear.", ".0.").replace(".bn.", ".1.")


@cases("afd")
def test_golden(case: Case) -> None:
    case.open()
    used = case.meta["features_used"]
    student, teacher = (  # the class leaves out the stem, so the first map of a case becomes tap 1
        case.outputs(side, shift=1 - used[f"{side}_feature_maps"][0]) for side in ("student", "teacher")
    )
    method = AFD(case.pair(student, teacher), beta=1.0, qk_dim=case.meta["hyper"]["qk_dim"])
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["attention"], method, renamed)
    case.check_buffers(method, rename)


@cases("afd", "typical_r56_r20")
def test_attention_over_student_stages_sums_to_one(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = AFD(case.pair(student, teacher), qk_dim=8).to(case.dtype)
    alpha = method.attend(student.feats[1:], teacher.feats[1:])
    assert alpha.shape == (4, 3, 3)
    assert torch.allclose(alpha.sum(dim=2), torch.ones(4, 3, dtype=case.dtype))
