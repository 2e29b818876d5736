"""CRD equals the released code, draws the negatives it claims to draw, and survives its own bank update."""

import math
from typing import Any

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Batch
from kdbench.methods._layers import distinct, draws_for
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
    idx = case["in.indices"]
    terms = method.compare(student.pooled, teacher.pooled, idx, case["in.contrast_indices"])
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
        others = torch.ones(len(bank), dtype=torch.bool).index_fill(0, idx, False)
        assert torch.equal(bank[others], before[side][others])


def test_negatives_are_distinct_and_of_other_classes() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2, 1, 0, 1, 2, 2, 1, 0, 2, 1])  # 5, 6 and 6 images
    method = made(labels, nce_k=9)
    for _ in range(50):
        chosen = method.contrast(batch())
        assert torch.equal(chosen[:, 0], torch.arange(6))
        for row in chosen:
            assert len(set(row[1:].tolist())) == 9
            assert (labels[row[1:]] != labels[row[0]]).all()


def test_every_image_of_another_class_is_drawn_equally_often() -> None:
    labels = torch.arange(40) % 4  # 30 others per image
    method = made(labels, nce_k=10)
    many = Batch(torch.zeros(4000, 3, 8, 8), torch.zeros(4000), torch.zeros(4000, dtype=torch.int64), torch.tensor(0.5))
    torch.manual_seed(3)
    chosen = method.contrast(many)[:, 1:]
    count = torch.bincount(chosen.flatten(), minlength=40).double()
    assert (count[labels == 0] == 0).all()
    # Each of 30 is taken with probability 1/3: mean 1333, standard deviation 30; 30 images within 5 of them.
    assert ((count[labels != 0] - 4000 / 3).abs() < 150).all()
    # Two given images are taken together with probability 10 * 9 / (30 * 29).
    together = ((chosen == 1).any(1) & (chosen == 2).any(1)).double().mean()
    assert abs(together - 90 / 870) < 5 * math.sqrt(90 / 870 / 4000)


def test_images_of_a_batch_have_negatives_of_their_own() -> None:
    method = made(torch.arange(400) % 4, nce_k=20)
    same = Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.tensor([4, 8]), torch.tensor(0.5))
    one, other = method.contrast(same)[:, 1:]
    assert not torch.equal(one.sort().values, other.sort().values)
    assert not torch.equal(one, method.contrast(same)[0, 1:])


def test_distinct_keeps_the_first_of_each() -> None:
    drawn = torch.tensor([[4, 4, 1, 4, 0, 3, 1], [2, 0, 2, 1, 4, 4, 4]])
    assert distinct(drawn, 3, 5).tolist() == [[4, 1, 0], [2, 0, 1]]


@pytest.mark.parametrize(("k", "m"), [(1, 1), (7, 7), (16, 40), (500, 900)])
def test_enough_are_drawn_to_be_distinct(k: int, m: int) -> None:
    drawn = torch.randint(m, (2000, draws_for(k, m)))
    assert (distinct(drawn, k, m).sort(1).values.diff(dim=1) > 0).all()


def test_a_small_training_set_gives_all_it_has() -> None:
    labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    method = made(labels, nce_k=50)
    chosen = method.contrast(batch())
    assert chosen.shape == (6, 1 + 6)  # class 0 leaves 6 others
    assert (labels[chosen[:, 1:]] != labels[chosen[:, :1]]).all()
    assert (chosen[:, 1:].sort(1).values.diff(dim=1) > 0).all()
    drawn = torch.cat([method.contrast(batch())[5:, 1:] for _ in range(400)])  # of 6 others, image 5 sees each
    assert torch.equal(drawn.unique(), torch.arange(6, 12))


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
    contrast = method.contrast(batch())
    bank, loss = method.memory_teacher.clone(), []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            moved = student.pooled.clone()
            moved[2, 1] += shift
        method.memory_teacher.copy_(bank)
        loss.append(method.compare(moved, teacher.pooled, batch().idx, contrast)["contrast_student"].item())
    method.memory_teacher.copy_(bank)
    pooled = student.pooled.detach().requires_grad_()
    method.compare(pooled, teacher.pooled, batch().idx, contrast)["contrast_student"].backward()
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
    contrast, idx = exact.contrast(batch()), batch().idx
    want = exact.compare(student.pooled.float(), teacher.pooled.float(), idx, contrast)
    with torch.autocast("cpu", torch.bfloat16):
        got = halved.compare(student.pooled.bfloat16(), teacher.pooled.bfloat16(), idx, contrast)
    for name in want:
        assert got[name].item() == pytest.approx(want[name].item(), rel=0.02)


def test_it_compiles_as_one_graph() -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    # In fp32, as students are trained: with torch 2.9, compiled code forgets what it puts into a () tensor of float64.
    pooled, idx = student.pooled.float().requires_grad_(), batch().idx
    eager, compiled = made(torch.arange(20) % 3).float(), made(torch.arange(20) % 3).float()
    contrast = eager.contrast(batch())
    grads = []
    for compare in (eager.compare, torch.compile(compiled.compare, fullgraph=True, backend="aot_eager")):
        terms = compare(pooled, teacher.pooled.float(), idx, contrast)
        grads.append(torch.autograd.grad(total(terms), pooled)[0])
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    terms = torch.compile(compiled.terms, fullgraph=True, backend="aot_eager")(student, teacher, batch())
    assert torch.isfinite(terms["contrast_student"])


def test_having_no_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        made(torch.arange(20) % 3, nce_k=0)
    with pytest.raises(ValueError, match="second"):
        made(torch.zeros(20, dtype=torch.int64))
