"""ND equals the released code, given the class means, and takes these in its first stage."""

import pytest
import torch
from torch import Tensor
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Batch, Distiller, Outputs
from kdbench.methods.nd import ND, norm_and_direction
from kdbench.registry import get


def rename(name: str) -> str:
    return name.replace("embed.bn", "embed.0").replace("embed.linear", "embed.2")


def teach(method: Distiller, means: Tensor, teacher: Outputs) -> None:
    """The first stage, on one image of each class whose vector is the class's mean."""
    method.train().on_stage("pretrain")
    k = len(means)
    seen = Batch(torch.zeros(k, 3, 1, 1), torch.arange(k), torch.arange(k), torch.tensor(0.0))
    shown = teacher._replace(pooled=means)
    method.pretrain_terms(shown, shown, seen)
    method.train().on_stage("train")


@cases("nd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    means = case["in.teacher.class_means"]
    method = ND(
        case.pair(student, teacher, num_classes=len(means)), gamma=case.meta["hyper"]["nd_loss_factor"], dropout=0.0
    )
    renamed = case.load(method, rename)
    teach(method.to(case.dtype), means, teacher)
    case.check(method.terms(student, teacher, case.batch())["direction"], method, renamed)
    case.check_buffers(method, rename)


def test_the_first_stage_adds_up_vectors_by_class_and_trains_nothing() -> None:
    student, teacher = outputs((3, 4, 4)), outputs((4, 4, 4), seed=1)
    method = ND(pair(student, teacher)).double()
    method.on_stage("pretrain")
    state = {name: value.clone() for name, value in method.state_dict().items() if name != "sums"}
    wanted = torch.zeros(5, 4, dtype=torch.float64)
    for seed in range(3):
        seen = batch(seed=seed)
        vectors = outputs((4, 4, 4), seed=seed + 7)
        trained = [p for p in method.parameters() if p.requires_grad]
        step = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=5e-4)
        total(method.pretrain_terms(student, vectors, seen)).backward()
        step.step()
        wanted.index_add_(0, seen.label, vectors.pooled)
    torch.testing.assert_close(method.sums, wanted)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in state.items())


def test_what_the_main_stage_trains() -> None:
    alike = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    unlike = outputs((3, 4, 4)), outputs((4, 4, 4), seed=1)
    for sides, wanted in ((alike, set()), (unlike, {"0.weight", "0.bias", "2.weight", "2.bias"})):
        method = ND(pair(*sides))
        for _ in range(2):
            for stage, names in (("pretrain", {"idle"}), ("train", {f"embed.{name}" for name in wanted})):
                method.on_stage(stage)
                assert {name for name, p in method.named_parameters() if p.requires_grad} == names


def test_direction_and_length() -> None:
    """Shorter than the teacher: pushed along the class's mean; longer: turned, at the same length."""
    centre, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    for s, push in (([3.0, 0.0], [-0.2, 0.0]), ([6.0, 0.0], [0.0, 0.0]), ([0.0, 6.0], [-1 / 6, 0.0])):
        student = torch.tensor([s], requires_grad=True)
        norm_and_direction(student, teacher, centre).backward()
        torch.testing.assert_close(student.grad, torch.tensor([push]))


def test_without_a_mean_of_its_class_an_image_counts_one_and_pulls_at_nothing() -> None:
    student, teacher, centre = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), torch.randn(4, 3)
    centre[2] = 0
    found = norm_and_direction(student, teacher, centre)
    found.backward()
    rest = [0, 1, 3]
    others = norm_and_direction(student[rest], teacher[rest], centre[rest])
    torch.testing.assert_close(found, (3 * others + 1) / 4)
    assert student.grad is not None
    assert not student.grad[2].any()
    assert student.grad[rest].any(dim=1).all()


KINDS = {
    "random": 1.0,
    "zero student": 1.0,
    "zero teacher": 1.0,
    "both zero": 1.0,
    "class without a mean": 1.0,
    "identical": 1.0,
    "size 1e3": 1e3,
    "size 1e-3": 1e-3,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b", [1, 6])
@pytest.mark.parametrize("channels", [4, 3], ids=["equal", "unequal"])
def test_finite_whatever_the_vectors(kind: str, b: int, channels: int) -> None:
    student, teacher = outputs((channels, 4, 4), b=b), outputs((4, 4, 4), seed=1, b=b)
    s, t = (side.pooled.float() * KINDS[kind] for side in (student, teacher))
    means = torch.randn(5, 4)
    if kind in ("zero student", "both zero"):
        s = torch.zeros_like(s)
    if kind in ("zero teacher", "both zero"):
        t = torch.zeros_like(t)
    if kind == "identical" and channels == 4:
        s = t.clone()
    if kind == "class without a mean":
        means = torch.zeros_like(means)
    s.requires_grad_(True)
    student, teacher = student._replace(pooled=s), teacher._replace(pooled=t)
    method = ND(pair(student, teacher), gamma=1.0)
    teach(method, means, teacher)
    loss = method.terms(student, teacher, batch(b))["direction"]
    loss.backward()
    assert loss.isfinite()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert s.grad.abs().max() < 1e4
    if channels == 4 and kind == "both zero":
        assert loss == 1
        assert not s.grad.any()
    if channels == 3 and b == 1:
        assert loss == 0  # batch norm needs two images


def test_kd_stands_beside_it_where_the_convention_says_so() -> None:
    student, teacher = outputs((3, 4, 4)), outputs((4, 4, 4), seed=1)
    names = [set(ND(pair(student, teacher), kd_weight=w).double().loss(student, teacher, batch())) for w in (0.0, 1.0)]
    assert names == [{"ce", "direction"}, {"ce", "kd", "direction"}]
    plus = get("dkd+nd").build(pair(student, teacher), kd_weight=0.0).double().loss(student, teacher, batch())
    assert set(plus) == {"ce", "target", "non_target", "direction"}
