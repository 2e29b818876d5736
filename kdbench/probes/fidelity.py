"""Agreement: does the student say what its teacher says, where that is right and where it is wrong?

Stanton, Izmailov, Kirichenko, Alemi, Wilson. Does Knowledge Distillation Really Work? NeurIPS 2021.
https://arxiv.org/abs/2106.05945
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.probes import checked
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject


class AgreementSettings(Settings):
    """There is nothing to set."""


@dataclass(frozen=True)
class Agreement:
    """Shares in percent, KL in nats at temperature 1. None: there are no such images."""

    agreement: float  # of images on which both predict the same class
    kl: float  # mean of KL(teacher || student)
    on_teachers_errors: float | None  # agreement where the teacher is wrong
    on_teachers_hits: float | None  # agreement where it is right
    right_on_errors: float | None  # student's accuracy where the teacher is wrong
    classes: tuple[tuple[float | None, float | None], ...]  # agreement and mean KL on the images of each class


def agreement(student: Tensor, teacher: Tensor, labels: Tensor) -> Agreement:
    """Compare two networks on the same images.

    Args:
        student: (N, K) logits.
        teacher: (N, K) logits.
        labels: (N,) int64.

    Raises:
        ValueError: shapes or labels that do not go together, no images, or logits that are not finite.

    >>> teacher = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    >>> student = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0], [0.0, 9.0]])
    >>> found = agreement(student, teacher, torch.tensor([0, 0, 1, 0]))
    >>> found.agreement, found.on_teachers_errors, found.right_on_errors
    (75.0, 100.0, 0.0)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of one shape are compared, not the student's {tuple(student.shape)} with the teacher's"
            f" {tuple(teacher.shape)}"
        )
    labels = checked.answers(student, labels)
    checked.finite(teacher, "the teacher's logits")
    same = student.argmax(dim=1) == teacher.argmax(dim=1)
    wrong = teacher.argmax(dim=1) != labels
    divergence = F.kl_div(
        student.double().log_softmax(dim=1), teacher.double().log_softmax(dim=1), reduction="none", log_target=True
    ).sum(dim=1)
    of_classes = [(labels == label) for label in range(student.shape[1])]
    return Agreement(
        agreement=100 * float(same.double().mean()),
        kl=float(divergence.mean()),
        on_teachers_errors=_share(same, wrong),
        on_teachers_hits=_share(same, ~wrong),
        right_on_errors=_share(student.argmax(dim=1) == labels, wrong),
        classes=tuple((_share(same, of), float(divergence[of].mean()) if of.any() else None) for of in of_classes),
    )


def _share(what: Tensor, among: Tensor) -> float | None:
    """Percent of ``what``, (N,) bool, among others; None among none."""
    return 100 * float(what[among].to(torch.float64).mean()) if bool(among.any()) else None


def _measure(subject: Subject, settings: AgreementSettings, context: Context) -> Found:
    found = agreement(subject.logits, subject.teacher_logits, subject.labels)
    summary = {
        "agreement (%)": found.agreement,
        "KL": found.kl,
        "on teacher's errors (%)": found.on_teachers_errors,
        "on teacher's hits (%)": found.on_teachers_hits,
        "right where it errs (%)": found.right_on_errors,
    }
    rows = [
        {"class": name, "agreement": share, "kl": kl}
        for name, (share, kl) in zip(subject.images.classes, found.classes, strict=True)
    ]
    return Found(summary, [{"class": "all", "agreement": found.agreement, "kl": found.kl}, *rows])


PROBE = Probe("agreement", AgreementSettings, _measure, needs_teacher=True)
