"""DSKD (our reading) equals its formula, retyped here."""

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.dskd import DSKD, Branch

STUDENT = outputs((3, 16, 16), (4, 16, 16), (5, 8, 8), (6, 4, 4), grad=True)
TEACHER, SEEN = outputs((3, 16, 16), (9, 2, 2), seed=1), batch()


@pytest.mark.parametrize("favour", ["lagging", "leading"])
@pytest.mark.parametrize("aux_ce", [0.0, 0.5])
def test_formula(favour: str, aux_ce: float) -> None:
    method = DSKD(
        pair(STUDENT, TEACHER),
        gamma=3.0,
        tau_w=2.0,
        favour=favour,  # type: ignore[arg-type]
        aux_ce=aux_ce,
        beta=0.7,
        tau=3.0,
        ce_weight=0.9,
        kd_weight=0.8,
    ).double()
    ours = total(method.loss(STUDENT, TEACHER, SEEN))

    def divergence(z: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(TEACHER.logits / 3, dim=1)
        return 9 * (p * (p.log() - torch.log_softmax(z / 3, dim=1))).sum() / 6

    stages = []
    for branch, tap in zip(method.branches, STUDENT.feats[1:3], strict=True):
        assert isinstance(branch, Branch)
        g, z = branch(tap)  # (6, 9, 4, 4), (6, 5)
        torch.testing.assert_close(z, branch.classifier(g.mean(dim=(2, 3))))
        pooled = F.avg_pool2d(g, 2)  # the teacher's map is 2x2
        part = divergence(z) + 3 * ((pooled - TEACHER.last) ** 2).mean() + aux_ce * F.cross_entropy(z, SEEN.label)
        stages.append(part)
    sign = 1 if favour == "lagging" else -1
    raised = [torch.exp(sign * stage.detach() / 2) for stage in stages]
    weighed = sum(2 * r / sum(raised) * stage for r, stage in zip(raised, stages, strict=True))
    plain = 0.9 * F.cross_entropy(STUDENT.logits, SEEN.label) + 0.8 * divergence(STUDENT.logits)
    theirs = plain + 0.7 * weighed
    torch.testing.assert_close(ours, theirs)
    seen = [*method.parameters(), *STUDENT.feats[1:]]
    torch.testing.assert_close(*(torch.autograd.grad(value, seen, retain_graph=True) for value in (ours, theirs)))


def test_weights_sum_to_the_number_of_shallow_stages_and_favour_a_side() -> None:
    losses = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    lagging = DSKD(pair(STUDENT, TEACHER)).weights(losses)
    leading = DSKD(pair(STUDENT, TEACHER), favour="leading").weights(losses)
    for weights in (lagging, leading):
        assert weights.sum().item() == pytest.approx(3)
        assert not weights.requires_grad
    assert lagging.argmax() == 1
    assert leading.argmax() == 0
    even = DSKD(pair(STUDENT, TEACHER), tau_w=1e6).weights(losses)
    torch.testing.assert_close(even, torch.ones(3), atol=1e-4, rtol=0)


def test_branches_end_at_the_deepest_stages_side_and_the_stem_has_none() -> None:
    method = DSKD(pair(STUDENT, TEACHER)).double()
    shown = [branch(tap)[0] for branch, tap in zip(method.branches, STUDENT.feats[1:3], strict=True)]
    assert [g.shape for g in shown] == [(6, 9, 4, 4)] * 2
    total(method.terms(STUDENT, TEACHER, SEEN)).backward()
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7])
def test_any_side_can_be_served(side: int) -> None:
    student = outputs((3, 9, 9), (4, 9, 9), (4, side, side), (6, side, side))
    for teacher in (TEACHER, outputs((3, 9, 9), (9, 9, 9), seed=2), outputs((3, 9, 9), (9, 1, 1), seed=2)):
        terms = DSKD(pair(student, teacher)).double().terms(student, teacher, SEEN)
        assert all(term.isfinite() for term in terms.values())


def test_what_cannot_be_served_is_refused() -> None:
    shallow = outputs((3, 8, 8), (4, 4, 4))
    with pytest.raises(ValueError, match="one stage only"):
        DSKD(pair(shallow, TEACHER))
    with pytest.raises(ValueError, match="neither"):
        DSKD(pair(STUDENT, TEACHER), favour="both")  # type: ignore[arg-type]
