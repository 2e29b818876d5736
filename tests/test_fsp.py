"""FSP equals RepDistiller's code."""

import pytest
import torch

from golden import Case, cases, shapes
from kdbench import Outputs, Pair, Shapes
from kdbench.methods.fsp import FSP


@cases("fsp")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = FSP(case.pair(student, teacher))
    case.check(method.pretrain_terms(student, teacher, case.batch())["flow"])
    assert method.terms(student, teacher, case.batch()) == {}


def test_unequal_channels_are_refused() -> None:
    def sizes(channels: int) -> Shapes:
        feats = (torch.zeros(2, 4, 4, 4), torch.zeros(2, channels, 4, 4))
        return shapes(Outputs(feats, feats[-1], torch.zeros(2, channels), torch.zeros(2, 5)))

    pair = Pair(sizes(4), sizes(8), lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"student has \[4, 4\], the teacher \[4, 8\]"):
        FSP(pair)
