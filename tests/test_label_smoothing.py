"""Label smoothing equals cross-entropy with a softened label."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.label_smoothing import LabelSmoothing
from kdbench.registry import get

STUDENT, SEEN = outputs((3, 8, 8), (4, 4, 4), grad=True), batch()


def softened(eps: float, spread: str, k: int = 5) -> torch.Tensor:
    share = eps / k if spread == "all" else eps / (k - 1)
    q = torch.full((6, k), share, dtype=torch.float64)
    q[torch.arange(6), SEEN.label] = 1 - eps + (share if spread == "all" else 0)
    return q


@pytest.mark.parametrize("spread", ["all", "others"])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_loss_and_gradient_are_those_of_the_softened_label(spread: str, eps: float) -> None:
    method = LabelSmoothing(pair(STUDENT, STUDENT), eps=eps, spread=spread, ce_weight=0.7)  # type: ignore[arg-type]
    ours = total(method.loss(STUDENT, STUDENT, SEEN))
    theirs = 0.7 * F.cross_entropy(STUDENT.logits, softened(eps, spread))
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(value, STUDENT.feats[-1], retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_the_default_is_pytorchs_label_smoothing() -> None:
    ours = total(LabelSmoothing(pair(STUDENT, STUDENT)).loss(STUDENT, STUDENT, SEEN))
    torch.testing.assert_close(ours, F.cross_entropy(STUDENT.logits, SEEN.label, label_smoothing=0.1))


@pytest.mark.parametrize(("hyper", "says"), [({"eps": 1.0}, "no share"), ({"spread": "some"}, "neither")])
def test_nonsense_is_refused(hyper: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LabelSmoothing(pair(STUDENT, STUDENT), **hyper)


@pytest.mark.parametrize("name", ["label_smoothing", "confidence_penalty", "tfkd"])
def test_controls_take_no_kd_weight_and_no_teacher(name: str) -> None:
    cls = get(name)
    assert not {"kd_weight", "tau"} & set(cls.hyperparameters())
    assert not cls.needs_teacher
    assert cls.family == "control"
    method = cls(pair(STUDENT, STUDENT)).double()
    one, other = (total(method.loss(STUDENT, outputs((3, 8, 8), (4, 4, 4), seed=s), SEEN)) for s in (7, 8))
    assert one == other
