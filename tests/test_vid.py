"""VID equals the released code, stage by stage."""

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods._layers import meet
from kdbench.methods.vid import VID, surprise


def rename(name: str) -> str:
    """vid.1.conv2.weight -> means.0.2.weight, vid.1.log_scale -> rho.0."""
    _, stage, *layer = name.split(".")
    place = int(stage) - 1
    if layer == ["log_scale"]:
        return f"rho.{place}"
    return f"means.{place}.{2 * int(layer[0][-1]) - 2}.weight"


@cases("vid")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = VID(case.pair(student, teacher), beta=1.0)
    renamed = case.load(method, rename)
    stages = {}
    for i, (mu, rho) in enumerate(zip(method.means, method.rho, strict=True), start=1):
        f_s, f_t = meet(student.feats[i], teacher.feats[i])
        stages[f"stage.{i}"] = surprise(mu(f_s), f_t, rho)
    case.check(method.terms(student, teacher, case.batch())["surprise"], method, renamed, **stages)


def test_the_variance_begins_at_five_and_learns() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6), grad=True), outputs((3, 8, 8), (7, 4, 4), seed=1)
    method = VID(pair(student, teacher)).double()
    assert method.rho[0].shape == (7,)
    torch.testing.assert_close(F.softplus(method.rho[0]) + 1e-5, torch.full((7,), 5.0).double())
    method.terms(student, teacher, batch())["surprise"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert (method.rho[0].grad > 0).all()  # 5 is too wide for maps of unit variance: rho must fall
    grad = student.feats[1].grad
    assert grad is not None
    assert grad.any()


def test_beta_matters() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    terms = []
    for beta in (1.0, 2.0):
        torch.manual_seed(0)
        method = VID(pair(student, teacher), beta=beta).double()
        terms.append(method.terms(student, teacher, batch())["surprise"])
    torch.testing.assert_close(2 * terms[0], terms[1])


def test_half_precision_changes_little_and_it_compiles_as_one_graph() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    method = VID(pair(student, teacher)).double()
    want = method.terms(student, teacher, batch())["surprise"]
    got = torch.compile(method.terms, fullgraph=True, backend="eager")(student, teacher, batch())["surprise"]
    torch.testing.assert_close(got, want)
    method.float()
    student, teacher = (o._replace(feats=tuple(f.bfloat16() for f in o.feats)) for o in (student, teacher))
    with torch.autocast("cpu", torch.bfloat16):
        got = method.terms(student, teacher, batch())["surprise"]
    assert got.dtype is torch.float32
    assert got.item() == pytest.approx(want.item(), rel=0.01)


def test_a_net_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="beside the stem"):
        VID(pair(outputs((3, 8, 8)), outputs((3, 8, 8), (4, 4, 4))))
