"""IKL equals the released code with weights of the image and of the class, and stays finite where KL would not."""

from typing import Any

import pytest
import torch
from logits import bears_staged, each_kind
from toys import batch, outputs, pair

from golden import Case, cases, unweighted
from kdbench import Distiller, Outputs
from kdbench.methods.ikl import IKL
from kdbench.registry import get
from kdbench.testing import check_distiller, variant


@cases("ikl")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = IKL(
        case.pair(student, teacher),
        alpha=hyper["alpha"],
        beta=hyper["beta"],
        weights="class" if hyper["GI"] else "sample",
        weight_tau=hyper["T2"],
        warmup=hyper["warmup"] / 240,
        tau=hyper["T"],
    ).to(case.dtype)
    if hyper["GI"]:
        method.class_prior.copy_(case["in.class_prior"])
    terms = method.terms(student, teacher, case.batch(progress=hyper["epoch"] / 240))
    ramp = min(hyper["epoch"] / hyper["warmup"], 1) if hyper["warmup"] else 1
    parts = unweighted(wmse=(terms["wmse"], hyper["beta"] * ramp), sce=(terms["sce"], hyper["alpha"] * ramp))
    total = terms["wmse"] + terms["sce"]
    if "student.logits" in case.meta["vanishing_gradient"]:
        torch.testing.assert_close(total, case["out.loss"], rtol=1e-6, atol=1e-9)
        (grad,) = torch.autograd.grad(total, student.logits)
        assert grad.abs().max() < 1e-9
        return
    case.check(total, **parts)


@each_kind
@pytest.mark.parametrize("weights", ["sample", "class"])
def test_finite_in_float32(kind: str, weights: str) -> None:
    terms = bears_staged(IKL, kind, weights=weights)
    if kind in ("identical", "identical, size 1e3", "all zero"):
        assert terms["wmse"] == 0


def test_a_shift_of_all_logits_changes_nothing() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    method = IKL(pair(student, teacher))
    moved = student._replace(logits=student.logits + 100.0)
    torch.testing.assert_close(method.terms(moved, teacher, batch()), method.terms(student, teacher, batch()))


def test_warm_up_is_linear_over_its_share_of_the_training() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)

    def loss(progress: float, **hyper: Any) -> torch.Tensor:
        given = batch()._replace(progress=torch.tensor(progress))
        method = IKL(pair(student, teacher), **hyper)
        return torch.stack(list(method.terms(student, teacher, given).values())).sum()

    full = loss(0.9)
    torch.testing.assert_close(loss(10 / 240), full / 2)
    torch.testing.assert_close(loss(20 / 240), full)
    torch.testing.assert_close(loss(0.0, warmup=0.0), full)


def epoch(method: Distiller, teacher: Outputs, label: torch.Tensor) -> None:
    """One epoch in batches of 4 and 2."""
    for idx in (torch.arange(4), torch.arange(4, 6)):
        part = teacher._replace(logits=teacher.logits[idx])
        method.terms(part, part, batch(len(idx))._replace(label=label[idx], idx=idx))


def test_the_prior_is_the_class_mean_of_the_epoch_before() -> None:
    teacher, other = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    label = torch.tensor([0, 1, 1, 3, 0, 3])  # no image of classes 2 and 4
    method = IKL(pair(teacher, teacher, train_labels=label), weights="class", weight_tau=2.0).double()
    prior: torch.Tensor = method.class_prior
    torch.testing.assert_close(prior.float(), torch.full((5, 5), 0.2))  # uniform in the first epoch

    uniform = prior[0].clone()

    def means(outputs: Outputs) -> torch.Tensor:
        p = (outputs.logits / 2).softmax(dim=1)
        return torch.stack([p[label == k].mean(dim=0) if (label == k).any() else uniform for k in range(5)])

    epoch(method, teacher, label)
    torch.testing.assert_close(prior, means(teacher))
    part = other._replace(logits=other.logits[:4])
    method.terms(part, part, batch(4)._replace(label=label[:4]))
    torch.testing.assert_close(prior, means(teacher))  # within an epoch it stands still
    part = other._replace(logits=other.logits[4:])
    method.terms(part, part, batch(2)._replace(label=label[4:]))
    torch.testing.assert_close(prior, means(other))
    assert not method.prior_count.any()
    assert not method.prior_sum.any()


def test_class_weights_keep_the_contract() -> None:
    """Among its checks: it resumes bit for bit, and every count and sum is in the state_dict."""
    found = check_distiller(variant(get("ikl"), weights="class"))
    assert [f.sentence for f in found if not f.ok] == []


def test_weights_of_another_name_are_refused() -> None:
    student = outputs((4, 4, 4))
    with pytest.raises(ValueError, match="weights='image'"):
        IKL(pair(student, student), weights="image")  # type: ignore[arg-type]


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("ikl").hyperparameters()
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    assert set(IKL(pair(student, teacher)).loss(student, teacher, batch())) == {"ce", "wmse", "sce"}
