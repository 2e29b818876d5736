"""LSKD equals the released code, alone and in front of DKD."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench.methods.lskd import LSKD
from kdbench.registry import get


@cases("logit_std")
@pytest.mark.parametrize("alone", [True, False])
def test_golden(case: Case, alone: bool) -> None:
    """KD on z-scores, by lskd alone and as kd+lskd; where the case says so, DKD on z-scores."""
    case.open()
    student, teacher, hyper = case.outputs("student"), case.outputs("teacher"), case.meta["hyper"]
    of_dkd = "alpha" in hyper
    weights = {"alpha": hyper["alpha"], "beta": hyper["beta"]} if of_dkd else {"kd_weight": 1.0}
    name = "dkd+lskd" if of_dkd else "lskd" if alone else "kd+lskd"
    method = get(name).build(case.pair(student, teacher), ce_weight=0.0, tau=hyper["T"], **weights)
    terms = method.loss(student, teacher, case.batch())
    assert list(terms) == (["target", "non_target"] if of_dkd else ["kd"])
    case.check(total(terms))


def test_cross_entropy_stays_on_the_raw_logits() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    found = LSKD(pair(student, teacher), ce_weight=1.0).loss(student, teacher, batch())
    torch.testing.assert_close(found["ce"], torch.nn.functional.cross_entropy(student.logits, batch().label))


@pytest.mark.parametrize("other", ["confidence_penalty", "deit", "label_smoothing", "tfkd"])
def test_methods_that_learn_labels_from_the_logits_are_refused_beside_it(other: str) -> None:
    """CE of raw logits plus a smoothing of standardised ones is no CE with smoothed labels."""
    with pytest.raises(ValueError, match=f"lskd cannot stand beside {other}: what it makes of the labels"):
        get(f"lskd+{other}")


@pytest.mark.parametrize("other", ["dskd", "mas", "ofa", "srrl"])
def test_methods_with_logits_of_their_own_are_refused_beside_it(other: str) -> None:
    """They would compare theirs, as they are, with the teacher's standardised ones."""
    with pytest.raises(ValueError, match=f"lskd cannot stand beside {other}: it has logits of its own"):
        get(f"{other}+lskd+crd")
