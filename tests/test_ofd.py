"""OFD equals mdistiller's port."""

import pytest
import torch
from toys import batch

from golden import Case, cases, shapes
from kdbench import Outputs, Pair
from kdbench.methods.ofd import OFD, margin


def rename(name: str) -> str:
    return name.replace(".conv.", ".0.").replace(".bn.", ".1.")


@cases("ofd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = (o._replace(preacts=o.feats) for o in (case.outputs("student"), case.outputs("teacher")))
    assert case.meta["hyper"]["connector_kernel"] == 1, "the class has no wider connector"
    stages = range(1, len(teacher.feats))
    norms = tuple((case[f"in.teacher.bn.{i}.weight"], case[f"in.teacher.bn.{i}.bias"]) for i in stages)
    method = OFD(case.pair(student, teacher, teacher_norms=norms), beta=case.meta["hyper"]["feat_weight"])
    for i in stages:  # theirs are of a float32 computation
        ours = getattr(method, f"margin{i - 1}").flatten()
        assert torch.allclose(ours, case[f"aux.margin.{i}"], rtol=1e-5, atol=1e-6)
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["overhaul"], method, renamed)
    case.check_buffers(method, rename)


def test_margin_is_the_mean_of_the_negative_responses() -> None:
    weight, bias = torch.tensor([0.7, -1.5, 2.0]), torch.tensor([0.3, -0.4, 0.0])
    draws = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0)) * weight + bias
    for channel, value in enumerate(margin(weight, bias)):
        negative = draws[:, channel][draws[:, channel] < 0]
        assert negative.mean() == pytest.approx(value.item(), abs=0.01)


def test_margins_of_dead_channels_are_finite() -> None:
    weight, bias = torch.tensor([0.0, 0.0, 0.0, 1e-30, 1.0]), torch.tensor([1.0, 0.0, -2.0, 5.0, 50.0])
    assert torch.allclose(margin(weight, bias), torch.tensor([0.0, 0.0, -2.0, 0.0, -3.0]))


def sized(*channels: int) -> Outputs:
    feats = tuple(torch.randn(2, c, 4, 4) for c in channels)
    return Outputs(feats, feats[-1], torch.randn(2, 3), torch.randn(2, 5))


def test_unequal_numbers_of_stages_are_paired_from_the_deepest() -> None:
    student, teacher = sized(3, 4, 5), sized(3, 6, 7, 8)
    teacher = teacher._replace(preacts=teacher.feats)
    norms = tuple((torch.full((c,), float(c)), torch.zeros(c)) for c in (6, 7, 8))
    pair = Pair(shapes(student), shapes(teacher), lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2, norms)
    method = OFD(pair)
    assert [len(method.connector.get_parameter(f"{stage}.0.weight")) for stage in (0, 1)] == [7, 8]
    assert [len(method.get_buffer(f"margin{stage}")) for stage in (0, 1)] == [7, 8]
    assert method.terms(student, teacher, batch(2))["overhaul"].isfinite()


def test_a_teacher_without_norms_is_refused() -> None:
    sizes = shapes(sized(3, 4))
    pair = Pair(sizes, sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="names no batch norms"):
        OFD(pair)
