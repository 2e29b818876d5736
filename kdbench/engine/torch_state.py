"""torch's switches and modes that change numbers, speed or gradients for everybody in the process."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.backends import cuda, cudnn, mkldnn, opt_einsum

from kdbench.engine import called, torch_private
from kdbench.engine.fact import Fact, identical

_MATMUL = cuda.matmul
_FILLING: Any = importlib.import_module("torch.utils.deterministic")  # a module with a property

#: Attributes that are switches, by what they are called in a sentence; not every torch has each.
_SWITCHES: dict[str, list[tuple[Any, str]]] = {
    "cuDNN's switches": [(cudnn, name) for name in ("enabled", "benchmark", "deterministic")],
    "the precision of half products": [
        (_MATMUL, f"allow_{name}")
        for name in ("fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction", "fp16_accumulation")
    ],
    "oneDNN's switches": [(mkldnn, name) for name in ("enabled", "deterministic")],
}

#: Owners of ``fp32_precision``, the general before the special.
_FORMATS: list[Any] = [
    torch.backends,
    *(cudnn, _MATMUL, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)),
    *(mkldnn, *(getattr(mkldnn, name, None) for name in ("matmul", "conv", "rnn"))),
]


def _get(switches: Sequence[tuple[Any, str]]) -> list[Any]:
    return [getattr(owner, name) for owner, name in switches]


def _put(switches: Sequence[tuple[Any, str]], before: Sequence[Any]) -> None:
    for (owner, name), value in zip(switches, before, strict=True):
        if getattr(owner, name) != value:
            setattr(owner, name, value)


def _has(owner: Any, name: str) -> bool:
    try:
        getattr(owner, name)
    except (AttributeError, RuntimeError, AssertionError):
        return False
    return owner is not None


def _gradients() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
    )


_ended: list[object] = []  # modes that undo what a method left behind: they last as long as they are held


def _put_gradients(before: tuple[bool, ...]) -> None:
    grad, inference, anomaly, check = before
    if torch.is_inference_mode_enabled() != inference:
        mode = torch.inference_mode(inference)
        mode.__enter__()
        _ended.append(mode)
    torch.set_grad_enabled(grad)
    torch.autograd.set_detect_anomaly(anomaly, check_nan=check)


def _put_saved_hooks(before: tuple[Any, ...]) -> None:
    for _ in range(100):
        if identical(torch_private.saved_tensor_hooks(), before):
            return
        torch_private.pop_saved_tensor_hooks()


def _autocast() -> tuple[Any, ...]:
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    kinds = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return nesting, torch.is_autocast_cache_enabled(), *kinds


def _put_autocast(before: tuple[Any, ...]) -> None:
    nesting, cache, *kinds = before
    while _autocast()[0] > nesting:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(cache)
    for kind, (enabled, dtype) in zip(("cpu", "cuda"), kinds, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _deterministic() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _FILLING.fill_uninitialized_memory,
    )


def _put_deterministic(before: tuple[bool, ...]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    _FILLING.fill_uninitialized_memory = before[2]


def _same_modes(before: torch_private.Modes, now: torch_private.Modes) -> bool:
    return before[:2] == now[:2] and identical(before.functions, now.functions)


def _hooks() -> list[tuple[Any, ...]]:
    return [tuple(hooks.items()) for hooks in torch_private.GLOBAL_HOOKS]


def _put_hooks(before: list[tuple[Any, ...]]) -> None:
    for hooks, items in zip(torch_private.GLOBAL_HOOKS, before, strict=True):
        hooks.clear()
        hooks.update(items)


_TINY, _ONE = 5e-324, 1.0


def _tiny() -> bool:
    """Whether numbers below the normal ones are kept, not rounded to 0."""
    return _TINY * _ONE != 0


def _put_tiny(before: bool) -> None:
    torch.set_flush_denormal(not before)


_ATTENTION: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (getattr(cuda, f"{kind}_sdp_enabled"), getattr(cuda, f"enable_{kind}_sdp"))
    for kind in ("flash", "mem_efficient", "math", "cudnn")
]


def _attention() -> list[bool]:
    return [enabled() for enabled, _ in _ATTENTION]


def _put_attention(before: list[bool]) -> None:
    for (_, enable), value in zip(_ATTENTION, before, strict=True):
        enable(value)


def _cuda() -> tuple[Any, ...]:
    if not torch.cuda.is_initialized():
        return ()
    return torch.cuda.current_device(), torch.cuda.get_sync_debug_mode()


def _put_cuda(before: tuple[Any, ...]) -> None:
    if before:
        torch.cuda.set_device(before[0])
        with warnings.catch_warnings():  # torch says once that it is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(before[1])


def cheap() -> list[Fact]:
    """What is looked at after every call."""
    formats = [(owner, "fp32_precision") for owner in _FORMATS if _has(owner, "fp32_precision")]
    found = [
        Fact("the number of threads", torch.get_num_threads, torch.set_num_threads),
        Fact("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Fact("the gradient mode", _gradients, _put_gradients),
        Fact("the hooks on saved tensors", torch_private.saved_tensor_hooks, _put_saved_hooks, identical),
        Fact("autocast", _autocast, _put_autocast),
        Fact("the choice of deterministic algorithms", _deterministic, _put_deterministic),
        Fact("the precision of fp32 products", partial(_get, formats), partial(_put, formats)),
        Fact("torch's modes", torch_private.modes, torch_private.put_modes, _same_modes),
        Fact("the hooks on all modules", _hooks, _put_hooks),
        Fact("the rounding of tiny numbers", _tiny, _put_tiny),
        Fact("the choice of attention kernels", _attention, _put_attention),
    ]
    for what, switches in _SWITCHES.items():
        known = [(owner, name) for owner, name in switches if _has(owner, name)]
        found.append(Fact(what, partial(_get, known), partial(_put, known)))
    if torch.cuda.is_available():
        found.append(Fact("the CUDA device in use", _cuda, _put_cuda))
    return found


def dear() -> list[Fact]:
    """What is looked at when an epoch begins."""
    einsum = [(opt_einsum, "enabled"), (opt_einsum, "strategy")]
    return [
        Fact("the order of sums in einsum", partial(_get, einsum), partial(_put, einsum)),
        called.fact(),
    ]
