"""Whether a device is in order: a small piece of training on it, compared with the same on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kdbench.engine.precision import put_switches, switches
from kdbench.run.outcome import one_line

#: Largest distance between gradients on the device and on the CPU, as a share of the largest.
CLOSE = 1e-3


def fault(device: str, sharing: int = 1) -> str:
    """A sentence where the device is not in order; empty where it is. A CPU is.

    Args:
        device: ``cpu`` or ``cuda:N``.
        sharing: processes that share its memory; this one may take its part.

    >>> fault("cpu")
    ''
    """
    if device == "cpu":
        return ""
    before = switches()
    try:
        where = torch.device(device)
        torch.cuda.set_device(where)
        if sharing > 1:
            torch.cuda.set_per_process_memory_fraction(1 / sharing, where)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        here, there = _gradients(torch.device("cpu")), [one.cpu() for one in _gradients(where)]
    except Exception as error:  # whatever a driver says
        return f"{device} does not work: {type(error).__name__}: {one_line(error)}"
    finally:
        put_switches(before)
    for one, other in zip(here, there, strict=True):
        apart = float((one - other).abs().max() / one.abs().max())
        if not apart <= CLOSE:
            return f"{device} does not compute what the CPU does: gradients are {apart:.1e} of the largest apart"
    return ""


def _gradients(device: torch.device) -> list[torch.Tensor]:
    """Of two convolutions and a linear layer, for images and labels that are the same everywhere."""
    rng = torch.Generator().manual_seed(0)
    sizes = (8, 3, 16, 16), (16, 3, 3, 3), (16, 16, 3, 3), (10, 16)
    image, *weights = (torch.randn(*size, generator=rng).to(device) for size in sizes)
    weights = [weight.requires_grad_() for weight in weights]
    seen = F.conv2d(F.relu(F.conv2d(image, weights[0], padding=1)), weights[1], padding=1).relu().mean(dim=(2, 3))
    loss = F.cross_entropy(F.linear(seen, weights[2]), torch.arange(8, device=device))
    return list(torch.autograd.grad(loss, weights))
