"""One fault in many costumes: a constant that the host hands to the device, in the middle of a loss.

``HOSTED`` show in the forward pass of any device, ``INSIDE`` where torch runs Python on its own account (backward
passes, hooks), ``RIGHT`` look alike and are right. All are functions of x (B, D) and the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, tensor
from torch.utils.checkpoint import checkpoint

from kdbench.distiller import Batch

Costume = Callable[[Tensor, Batch], Tensor]
ROWS = np.array([1, 0])
TWO = torch.full((), 2.0)
TORCH: Any = torch  # its types leave out lists for sparse tensors, and from_dlpack


@cache
def _two_on(device: torch.device) -> Tensor:
    return torch.tensor(2.0, device=device)


class _Forward(torch.autograd.Function):
    """A constant in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.tensor(2.0, device=x.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def backward(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The identity with ``change`` made to its gradient."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return change(grad.clone())

    identity: Callable[[Tensor], Tensor] = Backward.apply
    return identity


def _hooked(x: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    y = x * 1
    y.register_hook(hook)
    return y


def _put(x: Tensor, index: Any, value: Any) -> Tensor:
    y = x.clone()
    y[index] = value
    return y


def _scaled(x: Tensor) -> Tensor:
    return x * torch.tensor(2.0, device=x.device)


def _gradient(inside: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    return x + torch.autograd.grad(inside(y).sum(), y)[0]


def _within(x: Tensor) -> Tensor:
    with torch.device(x.device):
        return x * torch.tensor(2.0)


def _sparse(x: Tensor) -> Tensor:
    made: Tensor = TORCH.sparse_coo_tensor([[0], [0]], [2.0], x.shape, device=x.device, check_invariants=False)
    return made.to_dense()


HOSTED: dict[str, Costume] = {
    "tensor of a list": lambda x, b: x[:2] * torch.tensor([[1.0], [2.0]], device=x.device),
    "tensor of an array": lambda x, b: x[:2] * torch.tensor(ROWS, device=x.device)[:, None],
    "tensor of a list of tensors": lambda x, b: x * torch.tensor([x.mean(), x.sum()], device=x.device).sum(),
    "tensor by its own name": lambda x, b: x * tensor(2.0, device=x.device),
    "tensor by keyword": lambda x, b: x * torch.tensor(data=2.0, device=x.device),
    "tensor, then moved": lambda x, b: x * torch.tensor(2.0).to(x.device),
    "tensor in where": lambda x, b: torch.where(x > 0, torch.tensor(2.0, device=x.device), x),
    "tensor in clamp": lambda x, b: x.clamp(min=torch.tensor(0.0, device=x.device)),
    "tensor under a default device": lambda x, b: _within(x),
    "tensor, kept by device": lambda x, b: x * _two_on(x.device),
    "tensor in a Function": lambda x, b: _Forward.apply(x),
    "tensor in a checkpoint": lambda x, b: checkpoint(_scaled, x, use_reentrant=False),
    "tensor in vmap": lambda x, b: torch.vmap(_scaled)(x),
    "as_tensor": lambda x, b: x[:2] * torch.as_tensor([[1.0], [2.0]], device=x.device),
    "as_tensor of a number": lambda x, b: x * torch.as_tensor(2.0, device=x.device),
    "asarray": lambda x, b: x[:2] * torch.asarray([[1.0], [2.0]], device=x.device),
    "asarray by keyword": lambda x, b: x[:2] * torch.asarray(obj=ROWS, device=x.device)[:, None],
    "new_tensor": lambda x, b: x * x.new_tensor(2.0),
    "new": lambda x, b: x[:2] * x.new([[1.0], [2.0]]),
    "Tensor": lambda x, b: x[:2] * torch.Tensor([[1.0], [2.0]]).to(x.device),
    "FloatTensor": lambda x, b: x[:2] * torch.FloatTensor([[1.0], [2.0]]).to(x.device),
    "from_numpy": lambda x, b: x[torch.from_numpy(ROWS).to(x.device)],
    "frombuffer": lambda x, b: x[:2] * torch.frombuffer(bytearray(2), dtype=torch.int8)[:, None].to(x.device),
    "from_dlpack": lambda x, b: x[TORCH.from_dlpack(ROWS).to(x.device)],
    "sparse": lambda x, b: x + _sparse(x),
    "through numpy": lambda x, b: x + torch.from_numpy(2 * x.detach().numpy()).to(x.device),
    "full on no device": lambda x, b: x * torch.full((x.shape[1],), 2.0),
    "zeros on no device": lambda x, b: torch.cat([x, torch.zeros(1, x.shape[1])]),
    "eye on no device": lambda x, b: x @ torch.eye(x.shape[1]),
    "linspace on no device": lambda x, b: x * torch.linspace(0, 1, x.shape[1]),
    "scalar_tensor on no device": lambda x, b: x * torch.scalar_tensor(2.0),
    "rows by arange on no device": lambda x, b: x[torch.arange(2)],
    "a constant of the file": lambda x, b: x * TWO,
    "index by a list": lambda x, b: x[[1, 0]],
    "index by a tuple with a list": lambda x, b: x[:, [1, 0]],
    "index by a list in a list": lambda x, b: x[([[1, 0], [0, 1]],)],
    "index by a range": lambda x, b: x[range(2)],
    "index by an array": lambda x, b: x[ROWS],
    "index by a list of truths": lambda x, b: x[[True, False] * (len(x) // 2)],
    "index by a list in vmap": lambda x, b: torch.vmap(lambda row: row[[1, 0]])(x),
    "put at a list": lambda x, b: _put(x, [1, 0], 0.0),
    "put at a tuple with a list": lambda x, b: _put(x, (slice(None), [1, 0]), 0.0),
    "put a tensor": lambda x, b: _put(x, 0, torch.tensor(0.0, device=x.device)),
}

#: On "meta" nothing of these shows.
INSIDE: dict[str, Costume] = {
    "tensor in a backward pass": lambda x, b: backward(_scaled)(x),
    "as_tensor in a backward pass": lambda x, b: backward(lambda g: g * torch.as_tensor(2.0, device=g.device))(x),
    "index in a backward pass": lambda x, b: backward(lambda g: g + g[:, [0]])(x),
    "put at a list in a backward pass": lambda x, b: backward(lambda g: _put(g, [1, 0], 0.0))(x),
    "tensor in a hook": lambda x, b: _hooked(x, _scaled),
    "new_tensor in a hook": lambda x, b: _hooked(x, lambda g: g * g.new_tensor(2.0)),
    "tensor in a gradient": lambda x, b: _gradient(backward(_scaled), x),
    "number put at places": lambda x, b: _put(x, b.label % len(x), 0.0),
    "number put at places in a backward pass": lambda x, b: backward(lambda g: _put(g, b.label % len(g), 0.0))(x),
}

RIGHT: dict[str, Costume] = {
    "numbers": lambda x, b: torch.where(x > 0, 2.0, 0.5 * x).clamp(0, 1) ** 2.0 + np.float32(2),  # type: ignore[operator]
    "filled": lambda x, b: x * x.new_full((x.shape[1],), 2.0) + torch.full_like(x, 2.0) + x.new_ones(()),
    "on the device": lambda x, b: x * torch.linspace(0, 1, x.shape[1], device=x.device) + x.new_zeros(x.shape),
    "scalar_tensor": lambda x, b: x * torch.scalar_tensor(2.0, device=x.device),
    "as_tensor of a tensor": lambda x, b: torch.as_tensor(x) + torch.asarray(x.detach()),
    "new of a size": lambda x, b: x + 0 * x.new(x.shape).fill_(1.0),
    "indices": lambda x, b: x[0] + x[-1, 0] + x[:, None, ..., 0] + x[np.int64(1)],
    "indices on the device": lambda x, b: x[b.label % len(x)] + x[:, torch.arange(1, device=x.device)],
    "number put": lambda x, b: _put(x, 0, 1.0) + _put(x, (slice(None), 0), 1) + _put(x, ..., 0.0),
    "tensor put": lambda x, b: _put(x, 0, x[1]) + _put(x, b.label % len(x), x.new_zeros(())),
    "number put in a backward pass": lambda x, b: backward(lambda g: _put(g, 0, 0.0))(x),
    "number put in a gradient": lambda x, b: _gradient(backward(lambda g: _put(g, (slice(None), 0), 0.0)), x),
}
