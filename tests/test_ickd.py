"""ICKD equals the authors' code, without the matrices that this forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.ickd import ICKD, distance


def rename(name: str) -> str:
    return name.replace("embed.conv", "embed.0").replace("embed.bn", "embed.1")


@cases("ickd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    assert teacher.last.shape[1] == case.meta["hyper"]["feat_dim"]
    method = ICKD(case.pair(student, teacher), beta=1.0)
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["channels"], method, renamed)
    case.check_buffers(method, rename)


def formed(student: Tensor, teacher: Tensor) -> Tensor:
    """The formula as it is written, with both matrices."""
    x, y = student.flatten(2), teacher.flatten(2)
    return (F.normalize(x @ x.mT, dim=2) - F.normalize(y @ y.mT, dim=2)).square().sum(dim=(1, 2)).mean() / x.shape[1]


def maps(kind: str) -> tuple[Tensor, Tensor]:
    """Embedded student map and teacher map in float32, (6, 9, 4, 4) and (6, 9, 3, 3)."""
    rng = torch.Generator().manual_seed(2)
    s, t = torch.randn(6, 9, 4, 4, generator=rng), torch.rand(6, 9, 3, 3, generator=rng)
    if kind == "zero samples":
        s[0], t[1], s[2], t[2] = 0, 0, 0, 0
    if kind == "dead teacher channel":
        t[:, 3] = 0
    if kind == "constant":
        s, t = torch.ones_like(s), torch.ones_like(t)
    if kind == "identical samples":
        s, t = s[:1].expand_as(s).clone(), t[:1].expand_as(t).clone()
    if kind == "values 1e4":
        s, t = s * 1e4, t * 1e4
    if kind == "all zero":
        s, t = torch.zeros_like(s), torch.zeros_like(t)
    return s, t


KINDS = ["random", "zero samples", "dead teacher channel", "constant", "identical samples", "values 1e4", "all zero"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_with_the_matrices(kind: str) -> None:
    s, t = maps(kind)
    found = []
    for loss in (distance, formed):
        leaf = s.clone().requires_grad_(True)
        value = loss(leaf, t)
        value.backward()
        assert leaf.grad is not None
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    scale = found[1][1].abs().max().item()
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4 * scale + 1e-7)


def test_a_dead_channel_of_the_student_has_no_slope() -> None:
    s, t = maps("random")
    s[:, 2] = 0
    leaf = s.requires_grad_(True)
    distance(leaf, t).backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_is_finite_whatever_the_maps(kind: str) -> None:
    s, t = maps(kind)
    student, teacher = outputs((9, 4, 4), b=6), outputs((9, 3, 3), b=6, seed=1)
    leaf = s.requires_grad_(True)
    student, teacher = student._replace(last=leaf), teacher._replace(last=t)
    method = ICKD(pair(student, teacher))
    loss = method.terms(student, teacher, batch())["channels"]
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_a_last_batch_of_one_image_and_one_position_trains_without_it() -> None:
    student, teacher = outputs((4, 1, 1), b=1, grad=True), outputs((6, 1, 1), b=1, seed=1)
    method = ICKD(pair(student, teacher)).double()
    loss = method.terms(student, teacher, batch(1))["channels"]
    loss.backward()
    assert loss == 0
    wide = outputs((4, 2, 2), b=1), outputs((6, 1, 1), b=1, seed=1)
    assert ICKD(pair(*wide)).double().terms(*wide, batch(1))["channels"] > 0


def test_kd_stands_beside_it_where_the_convention_says_so() -> None:
    student, teacher = outputs((3, 4, 4)), outputs((4, 4, 4), seed=1)
    names = [
        set(ICKD(pair(student, teacher), kd_weight=w).double().loss(student, teacher, batch())) for w in (0.0, 1.0)
    ]
    assert names == [{"ce", "channels"}, {"ce", "kd", "channels"}]
