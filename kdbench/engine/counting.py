"""What of a method the evaluated network uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.distiller import Distiller


def used_in_prediction(student: nn.Module, method: Distiller, image: Tensor) -> int:
    """Number of the method's parameters that its prediction on ``image``, (B, 3, H, W), depends on.

    Both are in eval mode afterwards.

    >>> from kdbench.testing.examples import lanes
    >>> (lane,) = lanes("fitnet")
    >>> used_in_prediction(lane.student, lane.method, torch.zeros(2, 3, 16, 16))
    0
    """
    student.eval()
    method.eval()
    frozen = [p for p in method.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        logits = method.predict(student(image))
        grads = torch.autograd.grad(logits.sum(), list(method.parameters()), allow_unused=True)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(p.numel() for p, grad in zip(method.parameters(), grads, strict=True) if grad is not None)
