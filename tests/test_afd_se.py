"""AFD-SE equals the code of the multi-granularity repository."""

import pytest
import torch

from golden import Case, cases, shapes
from kdbench import Outputs, Pair, Shapes
from kdbench.methods.afd_se import AFDSE


def rename(name: str) -> str:
    stage, layer, leaf = name.removeprefix("attention.").split(".")
    return f"attention.{int(stage) - 1}.excite.{'0' if layer == 'conv1' else '2'}.{leaf}"


@cases("afd_se")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    hyper = case.meta["hyper"]
    method = AFDSE(case.pair(student, teacher), beta=1.0, ratio=hyper["att_f"], eps=hyper["eps"])
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["channels"], method, renamed)


def test_unequal_stages_are_refused() -> None:
    def sizes(side: int) -> Shapes:
        feats = (torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, side, side))
        return shapes(Outputs(feats, feats[-1], torch.zeros(2, 6), torch.zeros(2, 5)))

    pair = Pair(sizes(4), sizes(2), lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="equal shapes"):
        AFDSE(pair)
