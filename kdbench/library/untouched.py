"""To look at networks without leaving a trace, whatever switches of torch the caller has set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.engine.torch_private import versions


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, what is made is float32, on the CPU and can be trained, and nothing is cast by itself.

    >>> with torch.inference_mode(), plain_torch():
    ...     nn.Linear(2, 2)(torch.ones(2)).requires_grad
    True
    """
    default = torch.get_default_dtype()
    elsewhere = torch.empty(0).device.type != "cpu"
    kinds = [kind for kind in ("cpu", "cuda") if kind == "cpu" or torch.cuda.is_available()]
    casts = [torch.autocast(kind, enabled=False) for kind in kinds]
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu") if elsewhere else nullcontext():
            for cast in casts:
                cast.__enter__()
            try:
                yield
            finally:
                for cast in reversed(casts):
                    cast.__exit__(None, None, None)
    finally:
        torch.set_default_dtype(default)


@contextmanager
def untouched(nets: Sequence[nn.Module]) -> Iterator[None]:
    """Buffers of the networks and torch's random numbers are after it what they were before.

    >>> norm = nn.BatchNorm1d(2)
    >>> with untouched([norm]):
    ...     _ = norm(torch.rand(4, 2))
    >>> norm.num_batches_tracked
    tensor(0)
    """
    held = [
        (module, name, buffer, versions([buffer]), buffer.detach().clone())
        for net in nets
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not buffer.is_inference()
    ]
    device = next((p.device for net in nets for p in net.parameters()), torch.device("cpu"))
    before = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(before, device)
        for module, name, buffer, version, copy in held:
            _put_back(module, name, buffer, version, copy)


def _put_back(module: nn.Module, name: str, buffer: Tensor, version: list[int], copy: Tensor) -> None:
    if getattr(module, name) is not buffer:
        setattr(module, name, buffer)
    if versions([buffer]) != version:
        with torch.no_grad():
            buffer.copy_(copy)
