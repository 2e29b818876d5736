"""Calibration: does a network that is 80 % sure have 80 % right?

Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017. https://arxiv.org/abs/1706.04599
(reliability diagram, ECE, temperature scaling). Adaptive ECE, with bins of equal numbers of images: Mukhoti et al.
Calibrating Deep Neural Networks using Focal Loss. NeurIPS 2020. https://arxiv.org/abs/2002.09437
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.optimize import minimize_scalar
from torch import Tensor

from kdbench.data.stratified import stratified
from kdbench.probes import checked
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.utils.seeding import stable_seed

#: The temperature is looked for between exp(-SPAN) and exp(SPAN).
SPAN = 4.0
#: So near to an end of that the best temperature is taken to lie beyond it, in units of SPAN.
EDGE = 1e-3


class CalibrationSettings(Settings):
    """``bins`` of the diagram; ``seed`` of the half that the temperature is chosen on."""

    bins: Annotated[int, Field(ge=2, le=1000)] = 15
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (low, high]; shares of 1."""

    low: float
    high: float
    images: int
    confidence: float | None  # mean; None: no images
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Errors of calibration in percent, Brier score (0 to 2) and NLL in nats: less is better."""

    bins: tuple[Bin, ...]
    ece: float
    adaptive_ece: float
    brier: float
    nll: float


def calibration(logits: Tensor, labels: Tensor, *, bins: int = 15, temperature: float = 1.0) -> Calibration:
    """How honest the confidences of a network are.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.
        bins: of the confidence, equal in width, and equal in number of images for the adaptive error.
        temperature: what the logits are divided by first.

    Raises:
        ValueError: there are no images, labels that are no classes, logits that are not finite, or no such bins or
            temperature.

    >>> sure = torch.tensor([[0.0, 200.0]] * 4)  # always certain, right three times of four
    >>> found = calibration(sure, torch.tensor([1, 1, 1, 0]))
    >>> found.ece, found.adaptive_ece, found.brier
    (25.0, 25.0, 0.5)
    """
    labels = checked.answers(logits, labels)
    if bins < 1 or not 0 < temperature < math.inf:
        raise ValueError(f"calibration takes one bin or more and a temperature above 0, not {bins} and {temperature}")
    wide = logits.double() / temperature
    chances = wide.softmax(dim=1)
    confidence, predicted = chances.max(dim=1)
    right = (predicted == labels).double()
    gaps = 0.0
    found = []
    # As the record's own ECE: the edge belongs to the bin below.
    places = (confidence * bins).ceil().clamp(1, bins).long() - 1
    for place in range(bins):
        inside = places == place
        images = int(inside.sum())
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if images else (None, None)
        found.append(Bin(place / bins, (place + 1) / bins, images, *means))
        if images:
            gaps += abs(float((right - confidence)[inside].sum()))
    # Images that are equally sure stand in no order: each counts as right as all of them are.
    _, alike, sizes = confidence.unique(return_inverse=True, return_counts=True)
    share = torch.zeros(len(sizes), dtype=right.dtype).index_add_(0, alike, right) / sizes
    gap = share[alike] - confidence
    order = confidence.argsort(stable=True)
    equal = sum(abs(float(gap[part].sum())) for part in order.tensor_split(min(bins, len(labels))))
    truth = F.one_hot(labels, logits.shape[1])
    return Calibration(
        tuple(found),
        ece=100 * gaps / len(labels),
        adaptive_ece=100 * equal / len(labels),
        brier=float((chances - truth).square().sum(dim=1).mean()),
        nll=float(F.cross_entropy(wide, labels)),
    )


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least NLL on (N, K) logits and (N,) labels, from exp(-``SPAN``) to exp(``SPAN``).

    Raises:
        ValueError: there are no images, labels that are no classes, or logits that are not finite.

    >>> logits = torch.tensor([[0.0, 8.0]] * 4)  # right three times of four: 3 / 4 = sigmoid(ln 3)
    >>> found = best_temperature(logits, torch.tensor([1, 1, 1, 0]))
    >>> round(8 / found, 3)  # ln 3
    1.099
    """
    labels = checked.answers(logits, labels)
    wide = logits.double()
    best = minimize_scalar(
        lambda log: float(F.cross_entropy(wide / float(torch.tensor(log).exp()), labels)),
        bounds=(-SPAN, SPAN),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(torch.tensor(float(best.x), dtype=torch.float64).exp())


def _measure(subject: Subject, settings: CalibrationSettings, context: Context) -> Found:
    logits, labels = subject.logits, subject.labels
    whole = calibration(logits, labels, bins=settings.bins)
    chosen = stratified(labels, len(labels) // 2, stable_seed(settings.seed, "calibration"))
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    if not len(chosen):
        raise ValueError("one test image has no half to choose a temperature on")
    temperature = best_temperature(logits[chosen], labels[chosen])
    half = calibration(logits[rest], labels[rest], bins=settings.bins)
    scaled = calibration(logits[rest], labels[rest], bins=settings.bins, temperature=temperature)
    summary: dict[str, float | None] = {
        "ECE (%)": whole.ece,
        "adaptive ECE (%)": whole.adaptive_ece,
        "Brier": whole.brier,
        "NLL": whole.nll,
        "temperature": temperature,
        "ECE after (%)": scaled.ece,
        "adaptive ECE after (%)": scaled.adaptive_ece,
        "Brier after": scaled.brier,
        "NLL after": scaled.nll,
    }
    rows: list[dict[str, bool | int | float | str | None]] = []
    for part, one in (("test", whole), ("half", half), ("half, scaled", scaled)):
        errors = {"ece": one.ece, "adaptive_ece": one.adaptive_ece, "brier": one.brier, "nll": one.nll}
        rows += [{"part": part, "measure": name, "value": value} for name, value in errors.items()]
        rows += [
            {"part": part, "measure": "bin", "low": at.low, "high": at.high, "images": at.images,
             "confidence": at.confidence, "accuracy": at.accuracy}
            for at in one.bins
        ]  # fmt: skip
    notes = []
    if SPAN - abs(math.log(temperature)) < EDGE:
        notes.append(f"the temperature {temperature:.3g} is an end of what is looked through; the best may lie beyond")
    return Found(summary, rows, notes=notes)


PROBE = Probe("calibration", CalibrationSettings, _measure, version=2)
