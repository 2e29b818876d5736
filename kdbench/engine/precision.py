"""Number formats of a run: ``fp32``, ``tf32``, ``bf16``, ``fp16`` and ``amp``; and the loss scale that fp16 needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.engine.torch_private import onednn_has_bf16
from kdbench.utils.precisions import NAMES, canonical

__all__ = ["FIRST_SCALE", "NAMES", "Precision", "Scaler", "canonical", "cpu_has_bf16"]

#: Where a loss scale starts; powers of two cost no rounding. Lower than torch's 65536, with which a run
#: begins by losing steps where a method's weights are large; without overflows it doubles every 2,000 steps.
FIRST_SCALE = 1024.0


class Scaler:
    """A lane's loss scale: torch's GradScaler; switched off, what it is asked to do is done plainly.

    Scaled up, small gradients stay above the underflow of fp16. A step with a gradient that
    overflowed is not taken: weights and momenta stay as they are (batch-norm statistics and a
    method's banks have seen the batch, as in any step), and the scale is halved.

    The scale, its clock and the decision are tensors on the device that a fused optimizer reads
    there, so nothing waits for the host. They are made at once: made inside a capture, every replay
    would set them anew. Shown on the CPU; that CUDA's fused kernels do the same inside a graph was
    seen on an H200 with torch 2.11 (check 7 of ``kdbench doctor --gpu``).

    >>> scaler = Scaler(torch.device("cpu"), enabled=True)
    >>> scaler.scale(torch.tensor(1.0)) == FIRST_SCALE
    tensor(True)
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self._torch = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=enabled)
        self._torch.scale(torch.zeros((), device=device))
        self.began = FIRST_SCALE  # the scale when the epoch began

    @property
    def enabled(self) -> bool:
        """Whether losses are scaled at all."""
        return self._torch.is_enabled()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss (a scalar), scaled."""
        return self._torch.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients as they are without the scale, before they are clipped; ``step`` then leaves them so."""
        if self.enabled:
            self._torch.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step with the gradients of a scaled loss, unless one of them overflowed; then the next scale.

        The optimizer must be fused and have its momenta: where a first step is skipped, torch leaves
        new ones as the memory was found.
        """
        try:
            self._torch.step(optimizer)
        finally:  # torch forgets to when the step raises, and multiplies the next scale by the old one
            for name in ("grad_scale", "found_inf"):
                vars(optimizer).pop(name, None)
        self._torch.update()

    def tensors(self) -> list[Tensor]:
        """Scale and clock on the device, none when switched off: a captured step knows where they lie."""
        return [value for value in vars(self._torch).values() if isinstance(value, Tensor)]

    def end_epoch(self, steps: int) -> float | None:
        """The scale, when all of the epoch's so many steps overflowed; else None. Waits for the device."""
        if not self.enabled or not steps:
            return None
        before, self.began = self.began, self._torch.get_scale()
        # Only an overflow lowers it; below the range of fp32 it is 0.
        return self.began if self.began <= before * self._torch.get_backoff_factor() ** steps else None

    def state_dict(self) -> dict[str, Any]:
        """Scale and clock; empty when switched off. Waits for the device."""
        return self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``, in the same memory; an empty one leaves the first scale."""
        if state and self.enabled:
            self._torch.load_state_dict(state)
            self.began = state["scale"]


@dataclass(frozen=True)
class Precision:
    """How a run computes. ``fp32`` is bit-reproducible on the CPU.

    ``tf32`` (CUDA) rounds the inputs of convolutions and products to 10 bits; ``bf16`` computes them
    in bf16, ``fp16`` (CUDA) in fp16 with a loss scale; ``amp`` is fp16 on CUDA and bf16 on the CPU.
    Weights, batch-norm statistics and losses are fp32 throughout; only ``tf32`` rounds the products in them.

    >>> Precision("amp").dtype(torch.device("cpu"))
    torch.bfloat16
    >>> Precision("fp16").check(torch.device("cpu"))
    Traceback (most recent call last):
    ValueError: precision fp16 needs a CUDA device; on the CPU there are fp32, bf16 and amp
    """

    name: str = "fp32"

    def check(self, device: torch.device) -> None:
        """Refuse what the device cannot do.

        Raises:
            ValueError: unknown name, or tf32 or fp16 without CUDA.
        """
        if self.name not in NAMES:
            raise ValueError(f"no precision {self.name!r}; there are {', '.join(NAMES[:-1])} and {NAMES[-1]}")
        if self.name in ("tf32", "fp16") and device.type != "cuda":
            raise ValueError(f"precision {self.name} needs a CUDA device; on the CPU there are fp32, bf16 and amp")

    def warning(self, device: torch.device) -> str:
        """A sentence for the user where this is slow on the device; empty where it is not."""
        if device.type != "cpu" or self.dtype(device) is not torch.bfloat16 or cpu_has_bf16():
            return ""
        return (
            f"precision {self.name} computes in bf16, for which this CPU ({torch.backends.cpu.get_cpu_capability()})"
            " has no instructions: expect it to be much slower than fp32, not faster"
        )

    def prepare(self, device: torch.device) -> None:
        """Set the process-wide switches: products of fp32 tensors stay fp32 unless the precision is ``tf32``.

        Losses under autocast take such products too: Gram matrices, scores against a bank.
        """
        if device.type == "cuda":
            for owner in (torch.backends.cuda.matmul, torch.backends.cudnn):
                _set(owner, "allow_tf32", self.name == "tf32")

    @contextmanager
    def switched(self, device: torch.device) -> Iterator[None]:
        """``prepare`` for what is done inside; after it the switches are as they were."""
        if device.type != "cuda":
            yield
            return
        before = switches()
        self.prepare(device)
        try:
            yield
        finally:
            put_switches(before)

    def dtype(self, device: torch.device) -> torch.dtype | None:
        """What convolutions and products are computed in; None: the format of their inputs."""
        if self.name == "amp":
            return torch.float16 if device.type == "cuda" else torch.bfloat16
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context for forward passes and losses."""
        dtype = self.dtype(device)
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def scaler(self, device: torch.device) -> Scaler:
        """A new lane's loss scale: switched on for fp16, whose range is small."""
        return Scaler(device, enabled=self.dtype(device) is torch.float16)


#: Switches of the process that decide which kernels a step has on CUDA.
_SWITCHES: tuple[tuple[Any, str], ...] = (
    (torch.backends.cuda.matmul, "allow_tf32"),
    *((torch.backends.cudnn, name) for name in ("allow_tf32", "enabled", "benchmark", "deterministic")),
)


Switch = bool | tuple[str, ...]


def switches() -> tuple[Switch, ...]:
    """The present ones; texts where torch's newer name, ``fp32_precision``, was used and the older cannot be read.

    >>> put_switches(switches())
    False
    """
    return tuple(_read(owner, name) for owner, name in _SWITCHES)


def _read(owner: Any, name: str) -> Switch:
    try:
        return bool(getattr(owner, name))
    except RuntimeError:
        return tuple(one.fp32_precision for one in _formats(owner))


def _set(owner: Any, name: str, value: bool) -> None:
    """Without the word that torch 2.9 and 2.10 have, once, on a newer name of it: where warnings are errors it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(owner, name, value)


def _formats(owner: Any) -> list[Any]:
    """Who has the newer name: the general before the special."""
    return [owner, *(getattr(owner, part) for part in ("conv", "rnn") if hasattr(owner, part))]


def put_switches(before: tuple[Switch, ...]) -> bool:
    """Make them what they were; whether they had been changed.

    >>> before = switches()
    >>> torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    >>> put_switches(before), switches() == before
    (True, True)
    """
    if switches() == before:
        return False
    for (owner, name), value in zip(_SWITCHES, before, strict=True):
        if isinstance(value, bool):
            _set(owner, name, value)
            continue
        for one, newer in zip(_formats(owner), value, strict=True):
            one.fp32_precision = newer
    return True


def cpu_has_bf16() -> bool:
    """Whether oneDNN, which does the CPU's convolutions, finds instructions for bf16; without it nothing is known.

    >>> cpu_has_bf16() in (True, False)
    True
    """
    return not torch.backends.mkldnn.is_available() or onednn_has_bf16()
