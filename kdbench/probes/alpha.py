"""Attention: which of the teacher's stages guided which of the student's, as SemCKD learned it.

Chen et al. Cross-Layer Distillation with Semantic Calibration. AAAI 2021. https://arxiv.org/abs/2012.03236 (figure 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdbench import models, registry
from kdbench.data import trained_on
from kdbench.distiller import Distiller, Outputs
from kdbench.engine.attending import attending, attention_state
from kdbench.engine.checkpoint import beside_sha256
from kdbench.probes.kept import method_changed
from kdbench.probes.probe import Context, Found, NotApplicable, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.utils.findings import Matrix
from kdbench.utils.seeding import stable_seed


class AttentionSettings(Settings):
    """``seed`` of the order in which the test images come: who is in a batch with whom has a say in the attention."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@dataclass(frozen=True)
class Attention:
    """Means over images. ``entropy``: of each student stage's weights, as a share of the most it can be."""

    mean: Tensor  # (S, T), rows sum to 1
    entropy: Tensor  # (S,), 0: one stage of the teacher, 1: all alike
    classes: Tensor  # (K, S, T), NaN for a class without images


def attention(alpha: Tensor, labels: Tensor, num_classes: int) -> Attention:
    """Sum up an attention.

    Args:
        alpha: (N, S, T), of each image; sums to 1 over T.
        labels: (N,) int64.
        num_classes: K.

    Raises:
        ValueError: no images, or weights that do not sum to 1.

    >>> one, other = torch.eye(2), torch.full((2, 2), 0.5)
    >>> found = attention(torch.stack([one, one, other, other]), torch.tensor([0, 0, 1, 1]), 2)
    >>> found.mean.tolist(), found.entropy.tolist()
    ([[0.75, 0.25], [0.25, 0.75]], [0.5, 0.5])
    """
    if not len(alpha) or len(alpha) != len(labels):
        raise ValueError(f"{len(alpha)} attentions and {len(labels)} labels: one of each for every image is needed")
    wide = alpha.double()
    if not torch.allclose(wide.sum(dim=2), torch.ones((), dtype=wide.dtype), atol=1e-4):
        raise ValueError("its attention does not sum to 1 over the teacher's stages")
    stages = wide.shape[2]
    entropy = -(wide * wide.clamp(min=1e-30).log()).sum(dim=2).mean(dim=0)
    of_classes = torch.stack([wide[labels == label].mean(dim=0) for label in range(num_classes)])
    return Attention(wide.mean(dim=0), entropy / math.log(stages) if stages > 1 else entropy, of_classes)


def _measure(subject: Subject, settings: AttentionSettings, context: Context) -> Found:
    method = _method(subject)
    width = int(subject.recipe["batch_size"])
    n = len(subject.labels)
    if n < width:
        raise NotApplicable(f"its attention reads batches of {width} images, and there are {n} test images")
    generator = torch.Generator().manual_seed(stable_seed(settings.seed, "attention"))
    order = torch.randperm(n, generator=generator)
    whole = torch.cat([order, order[: -n % width]])  # the last batch is filled up with images that have been counted
    batches = subject.batches(subject.images.test_images[whole], subject.labels[whole])
    batches.batch_size = width
    found = []
    with torch.no_grad():
        for (seen, _, _, _), taught in zip(subject.look(batches), subject.taught(batches), strict=True):
            found.append(_weights(method, seen, taught).float().cpu())
    result = attention(torch.cat(found)[:n], subject.labels[order], subject.images.num_classes)
    ours, theirs = (tuple(f"stage {at + 1}" for at in range(size)) for size in result.mean.shape)
    rows: list[dict[str, bool | int | float | str | None]] = []
    named: Sequence[tuple[str, Tensor]] = [
        ("all", result.mean),
        *zip(subject.images.classes, result.classes, strict=True),
    ]
    for name, alpha in named:
        rows += [
            {"class": name, "student layer": s, "teacher layer": t, "value": None if math.isnan(value) else value}
            for s, row in zip(ours, alpha.tolist(), strict=True)
            for t, value in zip(theirs, row, strict=True)
        ]
    entropies = result.entropy.tolist()
    summary: dict[str, float | None] = {"mean entropy": sum(entropies) / len(entropies)}
    summary |= {f"entropy of {name}": value for name, value in zip(ours, entropies, strict=True)}
    table = tuple(map(tuple, result.mean.tolist()))
    return Found(summary, rows, {"alpha": Matrix(rows=ours, columns=theirs, values=table)})


def _weights(method: Distiller, student: Outputs, teacher: Outputs) -> Tensor:
    """(B, S, T)."""
    weights: Tensor = method.weights(student, teacher)  # type: ignore[operator]
    return weights


def _method(subject: Subject) -> Distiller:
    """The method's attention as it was when training ended.

    Raises:
        NotApplicable: it has none, or none was kept.
    """
    one = subject.record
    assert one is not None
    assert subject.teacher is not None
    try:
        registry.get(one.settings.method)
    except ValueError as error:
        raise NotApplicable(f"{error}; --plugin names its file") from error
    if changed := method_changed(one):
        raise ValueError(changed)
    pair = models.make_pair(
        subject.net,
        subject.teacher,
        image_shape=subject.images.image_shape,
        num_classes=subject.images.num_classes,
        train_labels=trained_on(subject.images, one.settings.recipe)[0].train_labels,
        batch_size=one.settings.recipe["batch_size"],
    )
    with torch.random.fork_rng(devices=[]):  # its first weights are overwritten
        built = registry.get(one.settings.method).build(pair, **one.settings.hyper)
    found = attending(built)
    if found is None:
        raise NotApplicable("its method has no attention over the teacher's stages")
    kept = {key.removeprefix("method."): value for key, value in subject.state.items() if key.startswith("method.")}
    if absent := attention_state(built).keys() - kept.keys():
        raise NotApplicable(
            f"its student was kept before kdbench kept the attention of {one.settings.method} beside it"
            f" ({', '.join(sorted(absent)[:2])} and others are not there); `kdbench run --force` trains it anew"
        )
    built.load_state_dict(kept, strict=False)
    return found[1].eval().to(subject.device)


def _rests_on(settings: AttentionSettings, subject: Subject, context: Context) -> dict[str, str]:
    return {"attention": beside_sha256(dict(subject.state))[:12]}


PROBE = Probe("attention", AttentionSettings, _measure, needs_teacher=True, rests_on=_rests_on)
