"""Tf-KD_reg equals its formula."""

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.tfkd import TfKD


def test_formula() -> None:
    student, seen = outputs((3, 8, 8), (4, 4, 4), grad=True), batch()
    method = TfKD(pair(student, student), alpha=0.2, T=3.0, p_y=0.9, multiplier=50.0, ce_weight=0.8).double()
    ours = total(method.loss(student, student, seen))
    p = torch.full((6, 5), 0.1 / 4, dtype=torch.float64)
    p[torch.arange(6), seen.label] = 0.9
    target = torch.exp(p / 3) / torch.exp(p / 3).sum(dim=1, keepdim=True)
    log_s = student.logits - torch.logsumexp(student.logits, dim=1, keepdim=True)
    divergence = (target * (target.log() - log_s)).sum() / (6 * 5)
    theirs = 0.8 * F.cross_entropy(student.logits, seen.label) + 0.2 * 50 * divergence
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # the table of teachers was made in float32
    grads = [torch.autograd.grad(value, student.feats[-1], retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-9)


def test_the_virtual_teacher_is_sure_of_its_label() -> None:
    student = outputs((3, 8, 8), (4, 4, 4))
    table = TfKD(pair(student, student)).teachers
    torch.testing.assert_close(table.sum(dim=1), torch.ones(5))
    assert (table.argmax(dim=1) == torch.arange(5)).all()
    cold = TfKD(pair(student, student), T=1e-3).teachers
    torch.testing.assert_close(cold, torch.eye(5))


def test_the_multiplier_undoes_the_mean_over_100_classes() -> None:
    student, seen = outputs((3, 8, 8), (4, 4, 4), k=100), batch(k=100)
    method = TfKD(pair(student, student), alpha=1.0).double()
    target = method.teachers[seen.label]
    want = F.kl_div(F.log_softmax(student.logits, dim=1), target, reduction="batchmean")
    torch.testing.assert_close(method.terms(student, student, seen)["virtual"], want)


def test_a_probability_must_be_one() -> None:
    student = outputs((3, 8, 8), (4, 4, 4))
    with pytest.raises(ValueError, match="no probability"):
        TfKD(pair(student, student), p_y=1.5)
