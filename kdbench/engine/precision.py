"""Number formats of a run: ``exact``, ``tf32`` and ``fast``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

#: Keeps small fp16 gradients above the underflow; a power of two, so that it costs no rounding.
LOSS_SCALE = 1024.0


@dataclass(frozen=True)
class Precision:
    """How a run computes. ``exact`` is fp32 and bit-reproducible on the CPU.

    ``tf32`` (CUDA) rounds the inputs of convolutions and products to 10 bits; ``fast`` computes
    them in bf16 on the CPU and in fp16 with a fixed loss scale on CUDA. Weights, batch-norm
    statistics and losses are fp32 throughout.
    """

    name: str = "exact"

    def check(self, device: torch.device) -> None:
        """Refuse what the device cannot do.

        Raises:
            ValueError: unknown name, or tf32 without CUDA.
        """
        if self.name not in ("exact", "tf32", "fast"):
            raise ValueError(f"no precision {self.name!r}; there are exact, tf32 and fast")
        if self.name == "tf32" and device.type != "cuda":
            raise ValueError("precision tf32 needs a CUDA device; on the CPU there are exact and fast")

    def prepare(self, device: torch.device) -> None:
        """Set the process-wide switches."""
        if device.type == "cuda":
            reduced = self.name != "exact"
            torch.backends.cuda.matmul.allow_tf32 = reduced
            torch.backends.cudnn.allow_tf32 = reduced

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context for forward passes and losses."""
        if self.name != "fast":
            return nullcontext()
        return torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Gradients of ``loss`` (a scalar), unscaled, in the parameters' ``.grad``."""
        if self.name != "fast" or loss.device.type != "cuda":
            loss.backward()
            return
        (loss * LOSS_SCALE).backward()
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(grads, 1.0 / LOSS_SCALE)
