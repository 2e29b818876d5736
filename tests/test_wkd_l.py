"""WKD-L equals the released code with costs of either kind; one shared kernel is as good as one for every image."""

import math
from typing import Any

import pytest
import torch
from logits import bears_staged, each_kind
from toys import batch, outputs, pair

from golden import Case, cases, unweighted
from kdbench import Outputs
from kdbench.methods.wkd_l import WKDL, decayed
from kdbench.registry import get
from kdbench.testing import check_distiller, variant


@cases("wkd_l")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    if hyper["cost"] == "fc":
        teacher = teacher._replace(classifier=(case["in.teacher.classifier.weight"], None))
    method = WKDL(
        case.pair(student, teacher),
        gamma=hyper["gamma"],
        temperature=hyper["temperature"],
        cost=hyper["cost"],
        sharpen=hyper["sharpen"],
        smoothing=hyper["sinkhorn_lambda"],
        iterations=hyper["sinkhorn_iter"],
        decay=hyper["cosine_decay_epoch"] / hyper["epochs"],
    ).to(case.dtype)
    if hyper["cost"] == "matrix":
        method.class_distance.copy_(case["in.class_distance"])
    terms = method.terms(student, teacher, case.batch(progress=hyper["epoch"] / hyper["epochs"]))
    parts = unweighted(target=(terms["target"], 1.0), wasserstein=(terms["wasserstein"], hyper["gamma_now"]))
    case.check(terms["target"] + terms["wasserstein"], **parts)


@each_kind
@pytest.mark.parametrize("cost", ["fc", "matrix"])
def test_finite_in_float32(kind: str, cost: str) -> None:
    bears_staged(WKDL, kind, cost=cost)


def test_equal_and_zero_rows_of_the_classifier_are_served() -> None:
    student, teacher = outputs((4, 4, 4), grad=True), outputs((4, 4, 4), seed=1)
    assert teacher.classifier is not None
    weight = teacher.classifier[0].clone()
    weight[1], weight[2] = weight[0], 0
    terms = WKDL(pair(student, teacher)).terms(student, teacher._replace(classifier=(weight, None)), batch())
    assert terms["wasserstein"].isfinite()


def plan_by_image(student: Outputs, teacher: Outputs, label: torch.Tensor) -> torch.Tensor:
    """The transport as the paper writes it: every image has its own classes, costs and kernel."""
    assert teacher.classifier is not None
    rows = teacher.classifier[0] / teacher.classifier[0].norm(dim=1, keepdim=True)
    cost = 1 - torch.exp(-(1 - rows @ rows.T)).clamp(max=1) + 1e-8
    found = []
    for z_s, z_t, y in zip(student.logits, teacher.logits, label.tolist(), strict=True):
        left = [k for k in range(len(z_s)) if k != y]
        p, q, part = (z_s[left] / 8).softmax(0), (z_t[left] / 8).softmax(0), cost[left][:, left]
        kernel, u = torch.exp(-part / 0.05), torch.full_like(p, 1 / len(left))
        for _ in range(10):
            v = q / (kernel.T @ u + 1e-8)
            u = p / (kernel @ v + 1e-8)
        found.append((u[:, None] * kernel * v * part).sum())
    return torch.stack(found).mean()


def test_one_shared_kernel_gives_the_plan_of_every_image() -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    label = batch(k=7).label
    got = WKDL(pair(student, teacher), gamma=1.0).terms(student, teacher, batch(k=7))["wasserstein"]
    torch.testing.assert_close(got, plan_by_image(student, teacher, label))


def test_classes_that_are_alike_are_near() -> None:
    """The student takes class 1 for class 0: cheaper where the teacher's classifier finds the two alike."""
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    label = torch.full((6,), 4)
    student = student._replace(logits=50.0 * torch.eye(5, dtype=torch.float64)[[1] * 6])
    teacher = teacher._replace(logits=50.0 * torch.eye(5, dtype=torch.float64)[[0] * 6])
    near, far = torch.eye(5, 4, dtype=torch.float64), torch.eye(5, 4, dtype=torch.float64)
    near[1] = torch.tensor([1.0, 0.2, 0.0, 0.0])
    method = WKDL(pair(student, teacher))
    found = [
        method.terms(student, teacher._replace(classifier=(rows, None)), batch()._replace(label=label))["wasserstein"]
        for rows in (near, far)
    ]
    assert found[0] < found[1] / 2


def test_a_matrix_is_kept_with_the_state_and_is_flat_until_one_is_loaded() -> None:
    student = outputs((4, 4, 4))
    method = WKDL(pair(student, student), cost="matrix")
    assert torch.equal(method.class_distance, 1 - torch.eye(5))
    assert "class_distance" in method.state_dict()
    found = check_distiller(variant(get("wkd_l"), cost="matrix"))
    assert [f.sentence for f in found if not f.ok] == []


def test_gamma_falls_over_the_last_part() -> None:
    shares = torch.tensor([0.0, 150 / 240, 195 / 240, 1.0], dtype=torch.float64)
    torch.testing.assert_close(decayed(shares, 150 / 240), torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64))
    assert decayed(shares, 1.0) == 1.0
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)

    def found(progress: float, **hyper: Any) -> dict[str, torch.Tensor]:
        given = batch()._replace(progress=torch.tensor(progress))
        return WKDL(pair(student, teacher), **hyper).terms(student, teacher, given)

    early, late = found(0.1), found(0.9)
    assert early["target"] == late["target"]  # which never falls
    cosine = (1 + math.cos(math.pi * (0.9 - 0.625) / 0.375)) / 2
    torch.testing.assert_close(late["wasserstein"], early["wasserstein"] * cosine, rtol=1e-5, atol=0)
    torch.testing.assert_close(found(0.9, decay=1.0)["wasserstein"], early["wasserstein"])


@pytest.mark.parametrize(
    ("hyper", "words"),
    [({"cost": "cka"}, "cost='cka'"), ({"smoothing": 0.0}, "0.0"), ({"iterations": 0}, "at least 1")],
)
def test_what_gives_no_plan_is_refused(hyper: dict[str, Any], words: str) -> None:
    student = outputs((4, 4, 4))
    with pytest.raises(ValueError, match=words):
        WKDL(pair(student, student), **hyper)


def test_a_teacher_without_a_linear_classifier_is_refused() -> None:
    student = outputs((4, 4, 4))
    method = WKDL(pair(student, student))
    with pytest.raises(ValueError, match="no linear classifier"):
        method.terms(student, student._replace(classifier=None), batch())


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("wkd_l").hyperparameters()
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    assert set(WKDL(pair(student, teacher)).loss(student, teacher, batch())) == {"ce", "target", "wasserstein"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_costs_of_half_logits_are_not_rounded(dtype: torch.dtype) -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    method = WKDL(pair(student, teacher))
    assert method.costs(teacher._replace(logits=teacher.logits.to(dtype))).dtype == torch.float32
