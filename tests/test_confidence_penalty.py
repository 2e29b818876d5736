"""The confidence penalty equals its formula, by values and by torch's own entropy."""

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.confidence_penalty import ConfidencePenalty


def test_formula() -> None:
    student, seen = outputs((3, 8, 8), (4, 4, 4), grad=True), batch()
    method = ConfidencePenalty(pair(student, student), beta=0.3)
    ours = total(method.loss(student, student, seen))
    entropy = torch.distributions.Categorical(logits=student.logits).entropy().mean()
    theirs = F.cross_entropy(student.logits, seen.label) - 0.3 * entropy
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(value, student.feats[-1], retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_even_and_certain_predictions() -> None:
    student, seen = outputs((3, 8, 8), (4, 4, 4)), batch()
    method = ConfidencePenalty(pair(student, student))
    even = student._replace(logits=torch.zeros(6, 5))
    assert method.terms(even, even, seen)["penalty"].item() == pytest.approx(-0.1 * torch.tensor(5.0).log().item())
    certain = torch.full((6, 5), -1e4)
    certain[:, 0] = 0
    sure = student._replace(logits=certain)
    assert method.terms(sure, sure, seen)["penalty"].item() == pytest.approx(0.0)
