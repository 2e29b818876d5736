"""FitNet equals the released code."""

import pytest

from golden import Case, cases
from kdbench.methods.fitnet import FitNet


def rename(name: str) -> str:
    return name.replace("regressor.conv", "regressor.0").replace("regressor.bn", "regressor.1")


@cases("fitnet")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    hyper = case.meta["hyper"]
    method = FitNet(case.pair(student, teacher), tap=hyper["hint_layer"], relu=hyper["use_relu"], beta=1.0)
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["hint"], method, renamed)
    case.check_buffers(method, rename)


def test_a_tap_that_is_not_there_is_refused() -> None:
    import torch

    from golden import shapes
    from kdbench import Outputs, Pair

    feats = tuple(torch.zeros(2, 3, 4, 4) for _ in range(3))
    sizes = shapes(Outputs(feats, feats[-1], torch.zeros(2, 3), torch.zeros(2, 5)))
    pair = Pair(sizes, sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="taps 0 to 2"):
        FitNet(pair, tap=3)
