"""MLKD equals the released code, with and without logit standardisation."""

import numpy as np
import pytest
import torch

from golden import Case, cases
from kdbench import Outputs
from kdbench.methods.mlkd import MLKD, share_below_median


def outputs(case: Case, side: str) -> Outputs:
    logits = torch.cat((case[f"in.{side}.logits_weak"], case[f"in.{side}.logits_strong"]))
    blank = torch.zeros(len(logits), 1, 1, 1, dtype=case.dtype)
    return Outputs((blank,), blank, blank.flatten(1), logits)


@cases("mlkd")
def test_golden(case: Case) -> None:
    case.open()
    assert case.meta["hyper"]["percentile"] == 50, "the class knows the median alone"
    student, teacher, hyper = outputs(case, "student"), outputs(case, "teacher"), case.meta["hyper"]
    method = MLKD(
        case.pair(student, teacher),
        w_ce=hyper["ce_weight"],
        w_kd=hyper["kd_weight"],
        tau=hyper["T"],
        standardise=hyper["logit_standardisation"],
    )
    found = method.loss(student, teacher, case.batch())
    case.check(
        torch.stack(list(found.values())).sum(),
        ce=found["ce"],
        kd=found["kd"],
        cc=found["class_corr"],
        bc=found["batch_corr"],
    )


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [5.0]])
def test_share_below_median(values: list[float]) -> None:
    expected = np.mean(np.array(values) <= np.percentile(values, 50))
    assert share_below_median(torch.tensor(values)).item() == pytest.approx(expected)
