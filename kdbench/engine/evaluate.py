"""What a trained student is worth: accuracy, likelihood, calibration, agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.engine.errors import Failed
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.torch_private import versions

ECE_BINS = 15

#: A copy of a student that answers the same up to rounding, and faster; see ``kdbench.models.fold``.
Fold = Callable[[Any], nn.Module]
Batches = Iterable[tuple[Tensor, Tensor]]


def scores(logits: Tensor, label: Tensor, teacher: Tensor | None = None) -> dict[str, Tensor]:
    """Scores of (N, K) logits against (N,) labels and the teacher's (N,) predictions, () each, on their device.

    Returns:
        top1, top5 and agreement in percent, nll in nats, ece in percent (15 equal bins of the
        confidence, Guo et al. 2017). Agreement only with ``teacher``.
    """
    logits = logits.float()
    n = len(label)
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == label[:, None]
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    right = (predicted == label).float()
    bins = (confidence.nan_to_num() * ECE_BINS).ceil().clamp(1, ECE_BINS).long() - 1
    gap = torch.zeros(ECE_BINS, device=logits.device).index_add_(0, bins, right - confidence)
    found = {
        "top1": ranked[:, 0].float().mean() * 100,
        "top5": ranked.any(dim=1).float().mean() * 100,
        "nll": F.cross_entropy(logits, label),
        "ece": gap.abs().sum() / n * 100,
    }
    if teacher is not None:
        found["agreement"] = (predicted == teacher).float().mean() * 100
    return found


def read(found: Sequence[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Scores of several networks as numbers; waits for the device once."""
    if not found:
        return []
    values = iter(torch.stack([value for one in found for value in one.values()]).tolist())
    return [{name: next(values) for name in one} for one in found]


def measure(logits: Tensor, label: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """``scores`` as numbers.

    >>> logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    >>> measure(logits, torch.tensor([0, 1]))["top1"]
    50.0
    """
    return read([scores(logits, label, teacher)])[0]


@torch.no_grad()
def predictions(net: nn.Module, batches: Batches, precision: Precision) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N,) labels of a network in eval mode, in this precision whatever the process is set to.

    >>> from kdbench.testing.examples import setting
    >>> shared = setting()
    >>> logits, label = predictions(shared.teacher, shared.test(), shared.precision)
    >>> logits.shape, label.shape
    (torch.Size([27, 5]), torch.Size([27]))
    """
    logits, labels = [], []
    for image, label in batches:
        with precision.switched(image.device), precision.autocast(image.device):
            seen: Outputs = net(image)
        logits.append(seen.logits.float())
        labels.append(label)
    return torch.cat(logits), torch.cat(labels)


def answer(lane: Lane, net: nn.Module, image: Tensor) -> Tensor:
    """(B, K) float32 logits of a lane, whose student or its copy is ``net``.

    Raises:
        Failed: it changed the images, which others are evaluated on.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> answer(lane, lane.student, torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 5])
    """
    before = versions([image])
    with lane.precision.autocast(image.device):
        logits = lane.method.predict(net(image.detach())).float()
    if versions([image]) != before:
        raise Failed("the network changed the test images, which others are evaluated on")
    return logits


def eval_mode(lane: Lane) -> None:
    """Until its next ``train_mode``."""
    lane.student.eval()
    lane.method.eval()


@contextmanager
def in_eval_mode(lane: Lane) -> Iterator[None]:
    """A lane in eval mode inside, without gradients; in the modes of its stage after.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("kd")
    >>> with in_eval_mode(lane):
    ...     lane.student.training
    False
    >>> lane.student.training
    True
    """
    eval_mode(lane)
    try:
        with torch.no_grad():
            yield
    finally:
        lane.train_mode()


def when(lane: Lane) -> str:
    """For the sentence of a lane that fails."""
    return f" when it was evaluated after epoch {lane.epoch}"


def _answers(lane: Lane, batches: Batches, fold: Fold | None) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N,) labels."""
    logits, labels = [], []
    with in_eval_mode(lane), lane.own_rng():
        net = lane.student if fold is None else fold(lane.student)
        for image, label in batches:
            logits.append(answer(lane, net, image))
            labels.append(label)
    return torch.cat(logits), torch.cat(labels)


def evaluate(
    lanes: Sequence[Lane],
    test: Callable[[], Batches],
    teacher: Tensor | None,
    fold: Fold | None = None,
    guard: Guard | None = None,
) -> None:
    """Score lanes on the test images, one after the other; results go to ``lane.report``.

    A lane that raises has a ``failure``, and no new report.

    Args:
        lanes: of one group.
        test: the test images and labels; asked for once per lane.
        teacher: (N,) predictions; None: no agreement.
        fold: makes the copy of a student that is scored, one at a time; None: the student itself.
        guard: that of the group; None: one for this evaluation.

    Raises:
        OutOfMemory: one of them does not fit.

    >>> from kdbench.testing.examples import lanes, setting
    >>> group = lanes("kd", "fitnet")
    >>> evaluate(group, setting().test, None)
    >>> [sorted(lane.report) for lane in group]
    [['ece', 'nll', 'top1', 'top5'], ['ece', 'nll', 'top1', 'top5']]
    """
    if guard is None:
        with Guard() as own:
            evaluate(lanes, test, teacher, fold, own)
        return
    found: dict[Lane, dict[str, Tensor]] = {}

    def score(lane: Lane) -> None:
        found[lane] = scores(*_answers(lane, test(), fold), teacher)

    guard.note(thorough=True)
    for lane in lanes:
        if not guard.run(lane, when(lane), partial(score, lane), what=f"the evaluation of {lane.key}"):
            found.pop(lane, None)
    for lane, report in zip(found, read(list(found.values())), strict=True):
        lane.report = report
