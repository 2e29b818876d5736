"""What a method learns about its two models before it is built."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.distiller import Outputs, Pair
from kdbench.models.tapped import Tapped, measure


def frozen_head(teacher: Tapped) -> Callable[[Tensor], Tensor]:
    """The teacher's head as a plain function: last map (B, C, H, W) -> logits (B, K).

    Gradients reach the map and stop before the weights. It reads the teacher's weights where
    they are when it is called, so it follows ``teacher.to(device)``; and as a function, not a
    module, it stays out of the ``state_dict()`` of the method that keeps it.
    """
    if not any(p.requires_grad for p in teacher.parameters()):
        return _Frozen(teacher)
    return _Detached(_Head(teacher))


class _Frozen:
    """A class and no lambda, so that a method which keeps it can be pickled."""

    def __init__(self, teacher: Tapped) -> None:
        self.teacher = teacher

    def __call__(self, last: Tensor) -> Tensor:
        return self.teacher.head(last)


class _Detached:
    """The same where the weights could be trained."""

    def __init__(self, called: _Head) -> None:
        self.called = called

    def __call__(self, last: Tensor) -> Tensor:
        detached = {name: p.detach() for name, p in self.called.named_parameters()}
        logits: Tensor = functional_call(self.called, detached, (last,))
        return logits


class _Head(nn.Module):
    """``Tapped.head`` as a forward pass, which is what ``functional_call`` can call."""

    def __init__(self, teacher: Tapped) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, last: Tensor) -> Tensor:
        return self.teacher.head(last)


def make_pair(
    student: Tapped,
    teacher: Tapped,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    train_labels: Tensor,
    batch_size: int,
) -> Pair:
    """Measure both models on images (C, H, W), in eval mode.

    ``train_labels`` is (N,) int64 on the CPU. ``teacher_norms`` stay None where the teacher has
    no preacts, because they describe those.

    Raises:
        ValueError: a model's logits are not ``num_classes`` wide.

    >>> import torch
    >>> from kdbench.models import create
    >>> student, teacher = create("resnet8x4", 10), create("wrn_16_2", 10)
    >>> facts = {"num_classes": 10, "train_labels": torch.arange(10), "batch_size": 4}
    >>> pair = make_pair(student, teacher, image_shape=(3, 32, 32), **facts)
    >>> pair.student.pooled, pair.teacher.last
    (256, (128, 8, 8))
    """
    shown = {"student": measure(student, image_shape), "teacher": measure(teacher, image_shape)}
    for side, model in (("student", student), ("teacher", teacher)):
        width = shown[side].logits.shape[1]
        if width != num_classes:
            raise ValueError(f"the {side} {model.name} has {width} classes, the data {num_classes}")
    return Pair(
        student=shown["student"].shapes(),
        teacher=shown["teacher"].shapes(),
        head=frozen_head(teacher),
        num_classes=num_classes,
        train_labels=train_labels,
        batch_size=batch_size,
        teacher_norms=None if shown["teacher"].preacts is None else teacher.norms(),
        averaged=(averaged(shown["student"]), averaged(shown["teacher"])),
    )


def averaged(shown: Outputs) -> bool:
    """Whether the classifier reads the mean of the last map, and not a class token, or what a norm makes of the mean.

    >>> last = torch.arange(8.0).reshape(1, 2, 2, 2)
    >>> averaged(Outputs((last,), last, torch.tensor([[1.5, 5.5]]), torch.zeros(1, 2)))
    True
    """
    mean, pooled = shown.last.float().mean(dim=(2, 3)), shown.pooled.float()
    near = 0.05 if shown.pooled.dtype in (torch.float16, torch.bfloat16) else 1e-3
    tiny = torch.finfo(shown.pooled.dtype).tiny  # below it half precision rounds to few digits
    return mean.shape == pooled.shape and not bool((mean - pooled).abs().max() > near * pooled.abs().max() + tiny)
