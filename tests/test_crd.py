"""CRD equals the released code, draws the negatives it claims to draw, and survives its own bank update."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Batch
from kdbench.methods._contrast import distinct, draws_for, factors_for, sum_log1p
from kdbench.methods.crd import CRD


def rename(name: str) -> str:
    return name.replace(".linear.", ".")


def made(labels: torch.Tensor, b: int = 6, **hyper: Any) -> CRD:
    student, teacher = outputs((3, 8, 8), (4, 4, 4), b=b), outputs((3, 8, 8), (7, 4, 4), b=b, seed=1)
    torch.manual_seed(0)
    return CRD(pair(student, teacher, train_labels=labels), **{"feat_dim": 8, "nce_k": 5, **hyper}).double()


@cases("crd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher, hyper = case.outputs("student"), case.outputs("teacher"), case.meta["hyper"]
    method = CRD(
        case.pair(student, teacher, train_labels=torch.arange(hyper["n_data"]) % 4),
        feat_dim=hyper["embed_dim"],
        nce_k=hyper["K"],
        nce_t=hyper["T"],
        nce_m=hyper["momentum"],
        beta=1.0,
    )
    renamed = case.load(method, rename, skip=["Z_student_teacher"])
    for z, value in zip((method.z_student, method.z_teacher), case["buffer_before.Z_student_teacher"], strict=True):
        z.copy_(value)
    before = {side: case[f"buffer_before.memory_{side}"].clone() for side in ("student", "teacher")}
    idx, n = case["in.indices"], hyper["n_data"]
    # The release draws with replacement: its repeats are found in copies of the banks.
    drawn = case["in.contrast_indices"][:, 1:]
    earlier = (drawn[:, :, None] == drawn[:, None]).tril(-1).sum(dim=2)  # (B, K), how often each was drawn before
    copies = 2 + int(earlier.max())
    method.nce_k = drawn.shape[1]  # more than are distinct, in one case
    for side in before:
        bank = getattr(method, f"memory_{side}")
        setattr(method, f"memory_{side}", bank.repeat(copies, 1))
    negatives = torch.zeros(len(idx), copies * n, dtype=torch.bool).scatter_(1, drawn + n * (1 + earlier), True)
    terms = method.compare(student.pooled, teacher.pooled, idx, negatives)
    assert list(terms) == ["contrast_student", "contrast_teacher"]
    case.check(
        total(terms),
        method,
        renamed,
        student_term=terms["contrast_student"],
        teacher_term=terms["contrast_teacher"],
    )
    case.same(torch.stack([method.z_student, method.z_teacher]), case["buffer_after.Z_student_teacher"], "Z")
    for side, bank in (("student", method.memory_student), ("teacher", method.memory_teacher)):
        case.same(bank[idx], case[f"buffer_after.memory_{side}_rows"], f"bank of the {side}")
        others = torch.ones(n, dtype=torch.bool).index_fill(0, idx, False)
        assert torch.equal(bank[:n][others], before[side][others])


def test_negatives_are_distinct_and_of_other_classes() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2, 1, 0, 1, 2, 2, 1, 0, 2, 1])  # 5, 6 and 6 images
    method = made(labels, nce_k=9)
    for _ in range(50):
        chosen = method.negatives(batch())
        assert chosen.sum(1).tolist() == [9] * 6
        assert not (chosen & (labels == labels[:6, None])).any()


def test_every_image_of_another_class_is_drawn_equally_often() -> None:
    labels = torch.arange(40) % 4  # 30 others per image
    method = made(labels, nce_k=10)
    many = Batch(torch.zeros(4000, 3, 8, 8), torch.zeros(4000), torch.zeros(4000, dtype=torch.int64), torch.tensor(0.5))
    torch.manual_seed(3)
    chosen = method.negatives(many)
    count = chosen.sum(0).double()
    assert (count[labels == 0] == 0).all()
    # Each of 30 is taken with probability 1/3: mean 1333, standard deviation 30; 30 images within 5 of them.
    assert ((count[labels != 0] - 4000 / 3).abs() < 150).all()
    # Two given images are taken together with probability 10 * 9 / (30 * 29).
    together = (chosen[:, 1] & chosen[:, 2]).double().mean()
    assert abs(together - 90 / 870) < 5 * math.sqrt(90 / 870 / 4000)


def test_images_of_a_batch_have_negatives_of_their_own() -> None:
    method = made(torch.arange(400) % 4, nce_k=20)
    same = Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.tensor([4, 8]), torch.tensor(0.5))
    one, other = method.negatives(same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, method.negatives(same)[0])


def test_distinct_keeps_the_first_of_each() -> None:
    drawn = torch.tensor([[4, 4, 1, 4, 0, 3, 1], [2, 0, 2, 1, 4, 4, 4]])
    found = [row.nonzero().flatten().tolist() for row in distinct(drawn, 3, 5)]
    assert found == [[0, 1, 4], [0, 1, 2]]
    assert distinct(drawn[:, :2], 2, 5).sum(1).tolist() == [1, 2]  # too few: all of them


@pytest.mark.parametrize(("k", "m"), [(1, 1), (7, 7), (16, 40), (500, 900)])
def test_enough_are_drawn_to_be_distinct(k: int, m: int) -> None:
    drawn = torch.randint(m, (2000, draws_for(k, m)))
    assert (distinct(drawn, k, m).sum(1) == k).all()


def test_a_small_training_set_gives_all_it_has() -> None:
    labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    method = made(labels, nce_k=50)
    chosen = method.negatives(batch())
    assert chosen.shape == (6, 12)
    assert chosen.sum(1).tolist() == [6] * 6  # class 0 leaves 6 others
    assert not (chosen & (labels == labels[:6, None])).any()
    assert chosen[5].nonzero().flatten().tolist() == [6, 7, 8, 9, 10, 11]
    few = batch()._replace(idx=torch.full((400,), 11))  # of 10 others 6 are taken
    assert method.negatives(few).any(0).tolist() == [True] * 10 + [False] * 2


def test_z_is_set_by_the_first_batch_only() -> None:
    method = made(torch.arange(20) % 3)
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    assert method.z_student < 0
    method.terms(student, teacher, batch())
    first = method.z_student.clone(), method.z_teacher.clone()
    assert first[0] > 0
    method.terms(student, teacher, batch())
    assert first == (method.z_student, method.z_teacher)
    assert {"z_student", "z_teacher", "memory_student", "memory_teacher"} <= set(method.state_dict())


def test_gradients_reach_the_student_through_an_updated_bank() -> None:
    """The bank is updated before backward; the gradient must be that of the bank before."""
    method = made(torch.arange(20) % 3)
    student, teacher = outputs((3, 8, 8), (4, 4, 4), grad=True), outputs((3, 8, 8), (7, 4, 4), seed=1)
    negatives = method.negatives(batch())
    bank, loss = method.memory_teacher.clone(), []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            moved = student.pooled.clone()
            moved[2, 1] += shift
        method.memory_teacher.copy_(bank)
        loss.append(method.compare(moved, teacher.pooled, batch().idx, negatives)["contrast_student"].item())
    method.memory_teacher.copy_(bank)
    pooled = student.pooled.detach().requires_grad_()
    method.compare(pooled, teacher.pooled, batch().idx, negatives)["contrast_student"].backward()
    assert not torch.equal(bank, method.memory_teacher)
    assert pooled.grad is not None
    assert pooled.grad[2, 1].item() == pytest.approx((loss[0] - loss[1]) / 2e-5, rel=1e-5)
    method.terms(student, teacher, batch())["contrast_student"].backward()
    grad = student.feats[-1].grad
    assert grad is not None
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("hyper", [{"nce_k": 6}, {"nce_t": 0.1}, {"beta": 2.0}, {"feat_dim": 9}])
def test_hyper_parameters_matter(hyper: dict[str, Any]) -> None:
    labels = torch.arange(20) % 3
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    usual, changed = (made(labels, **h).terms(student, teacher, batch())["contrast_student"] for h in ({}, hyper))
    assert usual.item() != pytest.approx(changed.item(), rel=1e-3)


def test_half_precision_changes_little() -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    exact = made(torch.arange(20) % 3).float()
    halved = made(torch.arange(20) % 3).float()
    negatives, idx = exact.negatives(batch()), batch().idx
    want = exact.compare(student.pooled.float(), teacher.pooled.float(), idx, negatives)
    with torch.autocast("cpu", torch.bfloat16):
        got = halved.compare(student.pooled.bfloat16(), teacher.pooled.bfloat16(), idx, negatives)
    for name in want:
        assert got[name].item() == pytest.approx(want[name].item(), rel=0.02)


def test_it_compiles_as_one_graph() -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    # In fp32, as students are trained: with torch 2.9, compiled code forgets what it puts into a () tensor of float64.
    pooled, idx = student.pooled.float().requires_grad_(), batch().idx
    eager, compiled = made(torch.arange(20) % 3).float(), made(torch.arange(20) % 3).float()
    negatives = eager.negatives(batch())
    grads = []
    for compare in (eager.compare, torch.compile(compiled.compare, fullgraph=True, backend="aot_eager")):
        terms = compare(pooled, teacher.pooled.float(), idx, negatives)
        grads.append(torch.autograd.grad(total(terms), pooled)[0])
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    terms = torch.compile(compiled.terms, fullgraph=True, backend="aot_eager")(student, teacher, batch())
    assert torch.isfinite(terms["contrast_student"])


@pytest.mark.parametrize("nce_t", [0.005, 0.05, 0.07, 0.2])
@pytest.mark.parametrize("double", [False, True])
def test_loss_and_gradient_are_those_of_logarithms_one_by_one(nce_t: float, double: bool) -> None:
    """Scores as far apart as they can be: student and teacher agree in one half of the banks and clash in the other."""
    kind, labels = (torch.float64 if double else torch.float32), torch.arange(37) % 3
    method = made(labels, nce_k=20, nce_t=nce_t).to(kind)
    v = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=kind), dim=1).requires_grad_()
    bank = F.normalize(torch.randn(37, 8, generator=torch.Generator().manual_seed(1), dtype=kind), dim=1)
    bank[6:12], bank[12:18] = v.detach(), -v.detach()
    idx, negatives = batch().idx, method.negatives(batch())
    z = torch.tensor(5.0, dtype=kind)
    loss = method.nce(v, bank, z, idx, negatives.to(kind))
    wide = v.detach().double().requires_grad_()
    logit = wide @ bank.double().T / nce_t - math.log(5) - math.log(20 / 37 + 1e-7)
    each = F.softplus(logit).masked_select(negatives).sum() + F.softplus(-logit.gather(1, idx[:, None])).sum()
    plain = each / 6 + 20 * math.log1p(1e-7 * 37 / 20)
    rtol, atol = (1e-12, 1e-12) if double else (3e-6, 1e-6)
    torch.testing.assert_close(loss.double(), plain, rtol=rtol, atol=atol)
    ours, theirs = torch.autograd.grad(loss, v)[0].double(), torch.autograd.grad(plain, wide)[0]
    # torch's softplus is straight from 20 on, where its slope is short of 1 by up to 2e-9
    torch.testing.assert_close(ours, theirs, rtol=0, atol=max(rtol, 1e-8) * float(theirs.abs().max()) * 4)
    assert z == 5


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 3, 4, 11, 4000])
def test_sums_of_logarithms_keep_small_numbers_and_bear_large_ones(factors: int, width: int) -> None:
    rng = torch.Generator().manual_seed(0)
    for least, most in ((-40.0, -20.0), (-12.0, -6.0), (-3.0, 20.0), (20.0, 88 / factors - 1)):
        x = (least + (most - least) * torch.rand(5, width, generator=rng)).exp()
        assert factors_for(most) >= min(factors, 3)
        exact = x.double().log1p().sum(1)
        torch.testing.assert_close(sum_log1p(x, factors).double(), exact, rtol=1e-6, atol=0)
        torch.testing.assert_close(sum_log1p(x.double(), factors), exact, rtol=1e-14, atol=0)
    assert sum_log1p(torch.zeros(2, width), factors).tolist() == [0, 0]


def test_so_many_factors_fit_into_fp32() -> None:
    assert [factors_for(most) for most in (-5.0, 10.0, 28.0, 43.0, 87.0, 88.0)] == [4, 4, 3, 2, 1, 0]
    for most in range(100):
        if n := factors_for(float(most)):
            assert torch.isfinite((1 + torch.tensor(float(most)).exp()) ** n)


def test_having_no_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        made(torch.arange(20) % 3, nce_k=0)
    with pytest.raises(ValueError, match="second"):
        made(torch.zeros(20, dtype=torch.int64))
