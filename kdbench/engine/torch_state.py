"""torch's switches and modes that change numbers, speed or gradients for everybody in the process."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state
from torch.utils._python_dispatch import _pop_mode

from kdbench import distiller
from kdbench.engine.fact import Fact, identical

_C: Any = torch._C

#: Switches with a getter and a setter in torch's core, by what they are called in a sentence.
_SWITCHES = {
    "cuDNN's switches": ("cudnn_enabled", "cudnn_benchmark", "cudnn_deterministic"),
    "the precision of matrix products": (
        "cublas_allow_fp16_reduced_precision_reduction",
        "cublas_allow_bf16_reduced_precision_reduction",
        "cublas_allow_fp16_accumulation",
        "cpu_allow_fp16_reduced_precision_reduction",
        "math_sdp_allow_fp16_bf16_reduction",
    ),
    "oneDNN's switches": ("mkldnn_enabled", "mkldnn_deterministic", "nnpack_enabled"),
}

#: Owners of what all code calls.
_OWNERS: tuple[Any, ...] = (
    torch,
    torch.nn.functional,
    Tensor,
    nn.Module,
    torch.optim.SGD,
    torch.optim.Optimizer,
    torch.autograd,
    builtins,
    distiller,
    distiller.Distiller,
)


def _fp32_formats() -> list[tuple[str, str]]:
    """What torch has a format of fp32 products for: (backend, operation)."""
    found = []
    for backend in ("generic", "cuda", "mkldnn"):
        for operation in ("all", "matmul", "conv", "rnn"):
            try:
                _C._get_fp32_precision_getter(backend, operation)
                found.append((backend, operation))
            except (AttributeError, RuntimeError):
                pass
    return found


_FORMATS = _fp32_formats()


def _formats() -> tuple[Any, ...]:
    try:
        common = torch.get_float32_matmul_precision()
    except RuntimeError:  # the old and the new way of setting it disagree
        common = ""
    return common, *(_C._get_fp32_precision_getter(*one) for one in _FORMATS)


def _put_formats(before: tuple[Any, ...]) -> None:
    if before[0]:
        torch.set_float32_matmul_precision(before[0])
    for one, value in zip(_FORMATS, before[1:], strict=True):
        if _C._get_fp32_precision_getter(*one) != value:
            _C._set_fp32_precision_setter(*one, value)


def _switches(names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(_C, f"_get_{name}")() for name in names)


def _put_switches(names: tuple[str, ...], before: tuple[Any, ...]) -> None:
    for name, value in zip(names, before, strict=True):
        getattr(_C, f"_set_{name}")(*(value if isinstance(value, tuple) else (value,)))


def _deterministic() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _C._get_deterministic_fill_uninitialized_memory(),
    )


def _put_deterministic(before: tuple[Any, ...]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    _C._set_deterministic_fill_uninitialized_memory(before[2])


def _gradients() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        _C._is_multithreading_enabled(),
        _C._autograd._saved_tensors_hooks_is_enabled(),
    )


_ended: list[object] = []  # modes that undo what a method left behind: they last as long as they are held


def _put_gradients(before: tuple[Any, ...]) -> None:
    grad, inference, anomaly, check, threads, saved = before
    if torch.is_inference_mode_enabled() != inference:
        _ended.append(_C._InferenceMode(inference))
    torch._C._set_grad_enabled(grad)
    torch.set_anomaly_enabled(anomaly, check)
    _C._set_multithreading_enabled(threads)
    if saved:
        _C._autograd._saved_tensors_hooks_enable()


def _saved_hooks() -> tuple[Any, ...]:
    return tuple(_C._autograd._top_saved_tensors_default_hooks(True) or ())


def _put_saved_hooks(before: tuple[Any, ...]) -> None:
    for _ in range(100):
        if identical(_saved_hooks(), before):
            return
        _C._autograd._pop_saved_tensors_default_hooks()


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


_DEVICE = vars(torch)["_GLOBAL_DEVICE_CONTEXT"]


def _modes() -> tuple[Any, ...]:
    device = getattr(_DEVICE, "device_context", None)
    functions = (_C._get_function_stack_at(at) for at in range(_C._len_torch_function_stack()))
    return device, _C._len_torch_dispatch_stack(), *functions


def _put_modes(before: tuple[Any, ...]) -> None:
    device, dispatched, *functions = before
    if _modes()[0] is not device:
        torch.set_default_device(None if device is None else device.device)
    while _C._len_torch_dispatch_stack() > dispatched:
        _pop_mode()
    if not identical(_modes()[2:], functions):
        while _C._len_torch_function_stack():
            _C._pop_torch_function_stack()
        for mode in functions:
            _C._push_on_torch_function_stack(mode)


def _hooks() -> list[Any]:
    owners = [module_state, importlib.import_module("torch.optim.optimizer")]
    named = (pair for owner in owners for pair in vars(owner).items())
    return [value for name, value in named if name.startswith("_global_") and isinstance(value, dict)]


_HOOKS = _hooks()


def _put_hooks(before: tuple[tuple[Any, ...], ...]) -> None:
    for hooks, items in zip(_HOOKS, before, strict=True):
        hooks.clear()
        hooks.update(items)


_TINY, _ONE = 5e-324, 1.0


def _tiny() -> bool:
    """Whether numbers below the normal ones are kept, not rounded to 0."""
    return _TINY * _ONE != 0


def _put_tiny(before: bool) -> None:
    torch.set_flush_denormal(not before)


def _attention() -> tuple[Any, ...]:
    return tuple(getattr(_C, f"_get_{kind}_sdp_enabled")() for kind in _ATTENTION)


_ATTENTION = [kind for kind in ("flash", "mem_efficient", "math", "cudnn") if hasattr(_C, f"_get_{kind}_sdp_enabled")]


def _put_attention(before: tuple[Any, ...]) -> None:
    for kind, value in zip(_ATTENTION, before, strict=True):
        getattr(_C, f"_set_sdp_use_{kind}")(value)


def _einsum() -> tuple[Any, ...]:
    return torch.backends.opt_einsum.enabled, torch.backends.opt_einsum.strategy


def _put_einsum(before: tuple[Any, ...]) -> None:
    torch.backends.opt_einsum.enabled, torch.backends.opt_einsum.strategy = before


def _cuda() -> tuple[Any, ...]:
    if not torch.cuda.is_initialized():
        return ()
    return torch.cuda.current_device(), torch.cuda.get_sync_debug_mode()


def _put_cuda(before: tuple[Any, ...]) -> None:
    if before:
        torch.cuda.set_device(before[0])
        torch.cuda.set_sync_debug_mode(before[1])


def cheap() -> list[Fact]:
    """What is looked at after every call."""
    found = [
        Fact("the number of threads", torch.get_num_threads, torch.set_num_threads),
        Fact("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Fact("the gradient mode", _gradients, _put_gradients),
        Fact("the hooks on saved tensors", _saved_hooks, _put_saved_hooks, identical),
        Fact("autocast", _autocast, _put_autocast),
        Fact("the choice of deterministic algorithms", _deterministic, _put_deterministic),
        Fact("the precision of fp32 products", _formats, _put_formats),
        Fact("torch's modes", _modes, _put_modes, identical),
        Fact("the hooks on all modules", lambda: tuple(tuple(one.items()) for one in _HOOKS), _put_hooks),
        Fact("the rounding of tiny numbers", _tiny, _put_tiny),
        Fact("the choice of attention kernels", _attention, _put_attention),
    ]
    for what, names in _SWITCHES.items():
        known = tuple(name for name in names if hasattr(_C, f"_get_{name}") and hasattr(_C, f"_set_{name}"))
        found.append(Fact(what, partial(_switches, known), partial(_put_switches, known)))
    if torch.cuda.is_available():
        found.append(Fact("the CUDA device in use", _cuda, _put_cuda))
    return found


def dear() -> list[Fact]:
    """What is looked at when an epoch begins."""
    return [
        Fact("the order of sums in einsum", _einsum, _put_einsum),
        Fact("what torch, Python or kdbench calls by a name", _names, _put_names, _same_names),
    ]


# torch wraps the step of an optimizer's class when the first one is made; that is nobody's doing.
torch.optim.SGD([torch.zeros(1)], lr=1.0)


class _Names(NamedTuple):
    modules: int  # loaded
    owners: list[dict[str, Any]]


def _names() -> _Names:
    return _Names(len(sys.modules), [dict(vars(owner)) for owner in _OWNERS])


def _same_names(before: _Names, now: _Names) -> bool:
    return not any(True for _ in _replaced(before, now))


def _replaced(before: _Names, now: _Names) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name and value of what was replaced, but for what torch replaces when it loads a part of itself."""
    loaded = before.modules != now.modules
    for owner, old, new in zip(_OWNERS, before.owners, now.owners, strict=True):
        for name, value in old.items():
            other = new.get(name, _GONE)
            if other is not value and not (loaded and _of_torch(other)):
                yield owner, name, value


_GONE = object()


def _of_torch(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "torch"


def _put_names(before: _Names) -> None:
    for owner, name, value in list(_replaced(before, _names())):
        setattr(owner, name, value)
