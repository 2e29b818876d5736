"""CAT-KD equals the authors' code, given the class activation maps."""

import pytest
import torch

from golden import Case, cases, shapes
from kdbench import Outputs, Pair
from kdbench.methods.cat_kd import class_maps
from kdbench.registry import get


def outputs(case: Case, side: str) -> Outputs:
    """A model whose class activation maps are the case's: the classifier is the identity."""
    maps = case[f"in.{side}.cam"]
    classifier = (torch.eye(maps.shape[1], dtype=case.dtype), None)
    return Outputs((maps,), maps, maps.mean(dim=(2, 3)), case["in.teacher.logits"], classifier=classifier)


@cases("cat_kd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher, hyper = outputs(case, "student"), outputs(case, "teacher"), case.meta["hyper"]
    method = get("cat_kd")(
        case.pair(student, teacher),
        beta=hyper["weight"],
        resolution=hyper["resolution"],
        normalise=hyper["normalize"],
        binarise=hyper["binarize"],
        top=hyper["cams"] - 1 if hyper["cams"] else 0,  # theirs moves one class less than asked for
    )
    case.check(method.terms(student, teacher, case.batch())["cat"])


def test_mean_of_the_maps_is_the_logits_without_bias() -> None:
    last, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, requires_grad=True)
    shown = Outputs((last,), last, last.mean(dim=(2, 3)), torch.zeros(2, 5), classifier=(weight, torch.ones(5)))
    maps = class_maps(shown)
    assert torch.allclose(maps.mean(dim=(2, 3)), last.mean(dim=(2, 3)) @ weight.T, atol=1e-6)
    assert maps.requires_grad
    with pytest.raises(ValueError, match="no linear classifier"):
        class_maps(shown._replace(classifier=None))


def test_what_cannot_be_served_is_refused() -> None:
    last = torch.zeros(2, 3, 4, 4)
    sizes = shapes(Outputs((last,), last, torch.zeros(2, 3), torch.zeros(2, 5)))
    pair = Pair(sizes, sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="top=6"):
        get("cat_kd")(pair, top=6)
    wider = Pair(sizes._replace(pooled=9), sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="3 channels become 9"):
        get("cat_kd")(wider)
