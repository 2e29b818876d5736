"""HKD equals the SemCKD repository's port."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench.methods.hkd_port import HKDPort, flow


@cases("hkd")
def test_golden(case: Case) -> None:
    case.open()
    layers = case.meta["features_used"]["student_feature_maps"]
    shift = 1 - layers[0]  # the first stage given is the first stage of the class
    student, teacher = case.outputs("student", shift=shift), case.outputs("teacher", shift=shift)
    hyper = case.meta["hyper"]
    method = HKDPort(case.pair(student, teacher), beta=1.0, first_weight=hyper["init_weight"])
    stages = {f"stage.{i}": flow(student.feats[i + shift], teacher.feats[i + shift]) for i in layers}
    terms = method.terms(student, teacher, case.batch())
    case.check(terms["first"] + terms["others"], **stages)


@pytest.mark.parametrize("zero", [slice(0, 1), slice(None)])
def test_maps_of_zeros_give_finite_gradients(zero: slice) -> None:
    given = outputs((3, 4, 4), (5, 4, 4), b=3)
    x = given.feats[1].detach().float().clone()
    x[zero] = 0
    student = given._replace(feats=(given.feats[0], x.requires_grad_(True)))
    teacher = given._replace(feats=tuple(f.float().flip(0) for f in given.feats))
    loss = total(HKDPort(pair(student, teacher)).terms(student, teacher, batch(3)))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_float32_is_exact_where_the_release_is_not() -> None:
    """Rounding made up to 3 % of its loss: an image far from the origin seemed away from itself."""
    rng = torch.Generator().manual_seed(0)
    s, t = (torch.randn(4, 64, 8, 8, generator=rng, dtype=torch.float64) * 0.1 + 30 for _ in range(2))
    expected = flow(s, t)
    torch.testing.assert_close(flow(s.float(), t.float()).double(), expected, rtol=2e-3, atol=0)


def test_opposite_maps_keep_the_logarithm_finite() -> None:
    given = outputs((3, 4, 4), (5, 4, 4), b=2)
    half = 1e3 * given.feats[1][:1].detach().float()
    x = torch.cat([half, -half]).requires_grad_(True)
    student = given._replace(feats=(given.feats[0], x))
    teacher = given._replace(feats=tuple(f.detach().float() for f in given.feats))
    loss = total(HKDPort(pair(student, teacher)).terms(student, teacher, batch(2)))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
