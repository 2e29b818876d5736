"""Similarity: which layers of a student see the images as which layers of its teacher do, and how its answers differ.

Centred kernel alignment: Kornblith, Norouzi, Lee, Hinton. Similarity of Neural Network Representations Revisited.
ICML 2019. https://arxiv.org/abs/1905.00414. Of minibatches, with the unbiased HSIC of Song et al. (JMLR 2012), as in
Nguyen, Raghu, Kornblith. Do Wide and Deep Networks Learn the Same Things? ICLR 2021.
https://arxiv.org/abs/2010.15327. Difference of the correlations between classes: Tian, Krishnan, Isola. Contrastive
Representation Distillation. ICLR 2020. https://arxiv.org/abs/1910.10699. Difference of the mean logits of each class:
Zhao et al. Decoupled Knowledge Distillation. CVPR 2022. https://arxiv.org/abs/2203.08679
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdbench.distiller import Outputs
from kdbench.probes import checked
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.utils.findings import Matrix

#: The unbiased estimate divides by N - 3.
FEWEST = 4
#: Deviations of a channel from its mean that are no more than rounding, in shares of its largest value.
ROUNDING = 1e-6


class SimilaritySettings(Settings):
    """``batch``: images of a minibatch."""

    batch: Annotated[int, Field(ge=FEWEST, le=4096)] = 256


def layers(seen: Outputs) -> dict[str, Tensor]:
    """The layers that are compared, (B, ...) each, shallow to deep: stem, stages, pooled vector, logits.

    >>> feats = torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)
    >>> list(layers(Outputs(feats, feats[-1], torch.zeros(2, 6), torch.zeros(2, 10))))
    ['stem', 'stage 1', 'pooled', 'logits']
    """
    names = ["stem", *(f"stage {at}" for at in range(1, len(seen.feats)))]
    return dict(zip(names, seen.feats, strict=True)) | {"pooled": seen.pooled, "logits": seen.logits}


def similarity(batches: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> Matrix:
    """Debiased linear CKA of every layer of one network against every layer of another, over minibatches.

    Args:
        batches: for each minibatch of B images the layers of both networks, (B, ...) each, by name. Minibatches of
            fewer than ``FEWEST`` images are left out.

    They need not be equal: each counts as its number of pairs of images, which is how sure its estimate is.

    Returns:
        One number for each pair of layers: 1 for equal maps (up to rotation and scale), near 0, on either side, for
        independent ones. None where a layer is constant.

    Raises:
        ValueError: no minibatch is large enough, its layers are not of the same images, or a value is not finite.

    >>> x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    >>> turned = 3 * x @ torch.linalg.qr(torch.randn(5, 5)).Q
    >>> found = similarity([({"a": x}, {"b": turned})])
    >>> round(found.values[0][0], 4)
    1.0
    """
    cross: Tensor | None = None
    ours: Tensor | None = None
    theirs: Tensor | None = None
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    for left, right in batches:
        n = len(next(iter(left.values())))
        if any(len(layer) != n for layer in (*left.values(), *right.values())):
            raise ValueError("the layers of a minibatch are those of the same images")
        if n < FEWEST:
            continue
        names = tuple(left), tuple(right)
        a, b = [_gram(layer) for layer in left.values()], [_gram(layer) for layer in right.values()]
        weight = n * (n - 3)
        found = weight * torch.stack([torch.stack([hsic(x, y) for y in b]) for x in a])
        own, other = (weight * torch.stack([hsic(x, x) for x in side]) for side in (a, b))
        cross = found if cross is None else cross + found
        ours = own if ours is None else ours + own
        theirs = other if theirs is None else theirs + other
    if cross is None or ours is None or theirs is None:
        raise ValueError(f"CKA takes minibatches of {FEWEST} images or more, and there is none")
    checked.finite(cross, "its maps")
    scale = (ours.clamp(min=0)[:, None] * theirs.clamp(min=0)[None]).sqrt()
    values = [
        [float(value / by) if float(by) > 0 else None for value, by in zip(row, bys, strict=True)]
        for row, bys in zip(cross, scale, strict=True)
    ]
    return Matrix(rows=names[0], columns=names[1], values=tuple(map(tuple, values)))


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased HSIC of two (B, B) Gram matrices with zeros on their diagonals, ()."""
    n = len(a)
    sums_a, sums_b = a.sum(dim=1), b.sum(dim=1)
    trace = (a * b).sum()
    means = sums_a.sum() * sums_b.sum() / ((n - 1) * (n - 2))
    return (trace + means - 2 / (n - 2) * (sums_a @ sums_b)) / (n * (n - 3))


def _gram(layer: Tensor) -> Tensor:
    """(B, ...) -> (B, B) in double with a zero diagonal.

    Centred first, which the estimate does not see and rounding does. What rounding alone leaves of a channel that is
    the same for all images is nothing.
    """
    flat = layer.flatten(1).float()
    largest = flat.abs().amax(dim=0)
    flat = flat - flat.mean(dim=0)
    flat = torch.where(flat.abs().amax(dim=0) <= ROUNDING * largest, 0.0, flat)
    gram = (flat @ flat.T).double()
    return gram - gram.diagonal().diag_embed()


def correlation_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """|corr of the student's logits - corr of the teacher's|, (N, K) each -> (K, K); 0 where a class is constant.

    >>> logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]])
    >>> correlation_difference(logits, logits.abs()).round(decimals=3).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    ours, theirs = (logits.double().T.corrcoef().nan_to_num() for logits in (student, teacher))
    return (ours - theirs).abs()


def logit_difference(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """|mean standardised logits of the student - those of the teacher| for the images of each class, (K, K).

    Each image's logits have mean 0 and deviation 1; the diagonal is 0. Classes without images are 0.
    """
    sides = []
    for logits in (student, teacher):
        wide = logits.double()
        wide = (wide - wide.mean(dim=1, keepdim=True)) / wide.std(dim=1, keepdim=True).clamp(min=1e-12)
        k = wide.shape[1]
        counts = torch.bincount(labels, minlength=k).clamp(min=1)
        sides.append(torch.zeros(k, k, dtype=wide.dtype).index_add_(0, labels, wide) / counts[:, None])
    return (sides[0] - sides[1]).abs().fill_diagonal_(0)


def _measure(subject: Subject, settings: SimilaritySettings, context: Context) -> Found:
    batches = subject.batches()
    batches.batch_size = settings.batch

    def both() -> Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        for (seen, logits, _, _), taught in zip(subject.look(batches), subject.taught(batches), strict=True):
            # Of a network that the method has changed, the logits are those that count.
            yield layers(seen._replace(logits=logits)), layers(taught)

    cka = similarity(both())
    correlations = correlation_difference(subject.logits, subject.teacher_logits)
    means = logit_difference(subject.logits, subject.teacher_logits, subject.labels)
    rows: list[dict[str, bool | int | float | str | None]] = [
        {"measure": "cka", "student layer": ours, "teacher layer": theirs, "value": value}
        for ours, row in zip(cka.rows, cka.values, strict=True)
        for theirs, value in zip(cka.columns, row, strict=True)
    ]
    summary = {
        "CKA of pooled": cka.values[-2][-2],
        "CKA of logits": cka.values[-1][-1],
        "mean of best CKA": _mean([max((v for v in row if v is not None), default=None) for row in cka.values]),
        "correlation difference": float(correlations.mean()),
        "logit difference": float(means.mean()),
    }
    rows += [{"measure": name, "value": summary[name]} for name in ("correlation difference", "logit difference")]
    classes = subject.images.classes
    table = tuple(tuple(map(float, row)) for row in correlations)
    matrices = {"cka": cka, "correlation difference": Matrix(rows=classes, columns=classes, values=table)}
    return Found(summary, rows, matrices)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


PROBE = Probe("similarity", SimilaritySettings, _measure, needs_teacher=True, version=2)
