"""What a trained student is worth: accuracy, likelihood, calibration, agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision

ECE_BINS = 15


def measure(logits: Tensor, label: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """Scores of (N, K) logits against (N,) labels and the teacher's (N,) predictions.

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
        "top1": ranked[:, 0].float().mean() * 100, "top5": ranked.any(dim=1).float().mean() * 100,
        "nll": F.cross_entropy(logits, label), "ece": gap.abs().sum() / n * 100,
    }
    if teacher is not None:
        found["agreement"] = (predicted == teacher).float().mean() * 100
    return {name: value.item() for name, value in found.items()}


@torch.no_grad()
def predictions(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision
) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N,) labels of a network in eval mode."""
    logits, labels = [], []
    for image, label in batches:
        with precision.autocast(image.device):
            seen: Outputs = net(image)
        logits.append(seen.logits.float())
        labels.append(label)
    return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def evaluate(lanes: Sequence[Lane], batches: Iterable[tuple[Tensor, Tensor]], teacher: Tensor | None) -> None:
    """Score several lanes in one pass over the test images; results go to ``lane.report``."""
    logits: list[list[Tensor]] = [[] for _ in lanes]
    labels = []
    for lane in lanes:
        lane.student.eval()
        lane.method.eval()
    for image, label in batches:
        labels.append(label)
        for lane, found in zip(lanes, logits, strict=True):
            with lane.precision.autocast(image.device):
                found.append(lane.method.predict(lane.student(image)).float())
    for lane, found in zip(lanes, logits, strict=True):
        lane.report = measure(torch.cat(found), torch.cat(labels), teacher)
        lane.train_mode()
