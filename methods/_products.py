"""Products of fp32 matrices on the CPU by oneDNN, where it is faster than torch's usual library and as exact.

torch asks MKL, which takes twice oneDNN's time on processors that are not Intel's. Its switch for oneDNN is called
"bf16", since oneDNN may round then; without units for bf16 matrices (AMX) it does not, and answers in fp32. Whether
this process may believe that, it has tried once, with numbers that bf16 and tf32 cannot hold.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, K) and (..., K, M), as many dimensions each -> (..., N, M), as ``a @ b``; its gradients, too.

    >>> matmul(torch.ones(2, 3), torch.ones(3, 1)).tolist()
    [[3.0], [3.0]]
    """
    product: Tensor = _Product.apply(a, b)
    return product


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        with by_onednn(a):
            return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        return (
            matmul(grad, b.mT) if ctx.needs_input_grad[0] else None,
            matmul(a.mT, grad) if ctx.needs_input_grad[1] else None,
        )


@contextmanager
def by_onednn(like: Tensor) -> Iterator[None]:
    """Inside, products of fp32 tensors on the CPU are oneDNN's, where that is exact; after it the switch is as before.

    Nothing is switched for other tensors, nor where torch compiles, which could not follow.
    """
    if torch.compiler.is_compiling() or like.device.type != "cpu" or like.dtype is not torch.float32 or not EXACT:
        yield
        return
    switch: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def exact() -> bool:
    """Whether oneDNN is there, and products of several shapes are exact with it. Only x86 has been looked at.

    >>> exact() in (True, False)
    True
    """
    switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch.backends.mkldnn.is_available() or not hasattr(switch, "fp32_precision"):
        return False
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 and later
    if platform.machine() not in ("x86_64", "AMD64") or any(told.get(unit) for unit in ("amx_bf16", "amx_fp16")):
        return False
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        return all(_is_exact(*shape) for shape in ((64, 128, 2048), (64, 2048, 128), (64, 1024, 64), (32, 32, 32)))
    finally:
        switch.fp32_precision = before


def _is_exact(n: int, k: int, m: int) -> bool:
    """Whether products of (n, k) and (k, m) are right where every number and every sum of them has a place in fp32."""
    fine = 1 + torch.arange(k, dtype=torch.float32, device="cpu").remainder(8) * 2.0**-12  # bf16: 1, tf32: 1 or more
    ones = torch.ones(k, dtype=torch.float32, device="cpu")
    for left, right in ((fine, ones), (ones, fine)):
        a, b = left.expand(n, k).contiguous(), right.expand(m, k).contiguous()
        both = (a @ b.T, (a[None] @ b.T.contiguous()[None])[0])
        if not all(bool((found == fine.double().sum().float()).all()) for found in both):
            return False
    return True


with torch.no_grad():
    EXACT = exact()
