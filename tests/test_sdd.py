"""SDD equals the released code (and DSKD's with standardisation), and stays finite where that is not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from logits import batch_of, bears, each_kind, hard, pair_of, shown
from narrow import there

from golden import Case, cases
from kdbench import Outputs
from kdbench.methods.sdd import SDD, discord, region_logits
from kdbench.registry import get


def side(case: Case, name: str) -> Outputs:
    classifier = case[f"in.{name}.classifier.weight"], case[f"in.{name}.classifier.bias"]
    given = case.outputs(name)
    return given._replace(classifier=classifier, pooled=given.last.mean(dim=(2, 3)))


@cases("sdd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = side(case, "student"), side(case, "teacher")
    extra: dict[str, Any] = {key: hyper[key] for key in ("alpha", "beta") if key in hyper}
    if "alpha_T" in hyper:
        extra["alpha_tau"] = hyper["alpha_T"]
    if "warmup" in hyper:
        extra["warmup"] = hyper["warmup"] / 240
    method = SDD(
        case.pair(student, teacher, num_classes=len(case["in.student.classifier.weight"])),
        base=hyper["base"],
        M=hyper["M"],
        weight=1.0,
        weighting=hyper["weighting"],
        standardise=hyper["logit_stand"],
        tau=hyper["T"],
        **extra,
    )
    batch = case.batch(progress=hyper["epoch"] / 240)
    shown_weights = discord(method.regions(teacher), batch.label).T
    if hyper["weighting"] == "sample":
        case.same(shown_weights.to(case.dtype), case["aux.weight"], "weight")
    assert len(shown_weights) == hyper["regions"]
    case.check(method.terms(student, teacher, batch)["regions"])


@each_kind
@pytest.mark.parametrize(
    "hyper",
    [{}, {"base": "dkd"}, {"base": "rld"}, {"standardise": True, "tau": 2.0}, {"base": "dkd", "weighting": "mean"}],
    ids=str,
)
def test_finite_whatever_the_logits(kind: str, hyper: dict[str, Any]) -> None:
    assert bears(get("sdd"), kind, **hyper)["regions"].requires_grad


def test_finite_on_zero_maps_of_either_side() -> None:
    _, t, label = hard("random")
    for s_map, t_map in ((torch.zeros_like(t), t), (t, torch.zeros_like(t)), (t * 0, t * 0)):
        student, teacher = shown(s_map.clone(), t_map)
        for base in ("kd", "dkd", "rld"):
            for standardise in (False, True):
                method = SDD(pair_of(student, teacher), base=base, standardise=standardise)
                loss = method.terms(student, teacher, batch_of(label))["regions"]
                grads = torch.autograd.grad(loss, [student.last, there(student.classifier)[0]])
                assert loss.isfinite()
                assert all(grad.isfinite().all() for grad in grads)


def test_regions_are_cells_row_by_row() -> None:
    last, weight, bias = torch.randn(2, 3, 8, 8), torch.randn(5, 3), torch.randn(5)
    found = region_logits(last, weight, bias, (1, 2, 4))
    assert found.shape == (2, 21, 5)
    for region, cell in ((0, last), (2, last[:, :, :4, 4:]), (5 + 4 + 3, last[:, :, 2:4, 6:])):
        torch.testing.assert_close(found[:, region], F.linear(cell.mean(dim=(2, 3)), weight, bias))


def test_weights_are_2_where_a_region_contradicts_the_whole() -> None:
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    z = torch.stack([torch.stack([right, right, wrong]), torch.stack([wrong, right, wrong])])
    assert discord(z, torch.tensor([0, 0])).tolist() == [[1, 1, 2], [1, 2, 1]]


def test_only_dkd_and_rld_warm_up() -> None:
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    for base in ("kd", "dkd", "rld"):
        method = SDD(pair_of(student, teacher), base=base)
        start, half, full = (
            method.terms(student, teacher, batch_of(label, progress))["regions"] for progress in (0.0, 10 / 240, 0.5)
        )
        assert full > 0
        torch.testing.assert_close(half, full if base == "kd" else full / 2)
        torch.testing.assert_close(start, full if base == "kd" else torch.zeros(()))


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("sdd").hyperparameters()
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    named = SDD(pair_of(student, teacher)).loss(student, teacher, batch_of(label))
    assert set(named) == {"ce", "regions"}


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"base": "nkd"}, "base='nkd' is not known; take kd, dkd or rld"),
        ({"weighting": "region"}, "weighting='region' is not known; take sample or mean"),
        ({"M": "2-4"}, "M='2-4' is not known; take 1-2-4, 1-2, 1-4 or 1"),
        ({"M": "all"}, "M='all' is not known"),
    ],
)
def test_an_unknown_word_is_refused(hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SDD(pair_of(*shown(*hard("random")[:2])), **hyper)


def test_a_head_that_is_not_linear_on_the_pooled_map_is_refused() -> None:
    student, teacher = shown(*hard("random")[:2])
    wider = teacher._replace(pooled=torch.zeros(8, 14))
    for sides, words in (((student, wider), "the teacher's head"), ((wider, teacher), "the student's head")):
        with pytest.raises(ValueError, match=words):
            SDD(pair_of(*sides))
    method = SDD(pair_of(student, teacher))
    with pytest.raises(ValueError, match="no linear classifier"):
        method.terms(student, teacher._replace(classifier=None), batch_of(hard("random")[2]))
