"""All that kdbench takes from torch without torch's promise to keep it; ``tests/test_torch_private.py`` tries each.

Nothing else in ``kdbench`` or ``methods`` names what torch marks as private or experimental. Whatever stands here
says why, and what the public way lacks; once torch has one, the entry goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

# To see every operator, those of backward passes too. torch documents the class and has no public module for it;
# the public TorchFunctionMode sees what Python calls, and nothing of a backward pass.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _pop_mode

#: What torch itself keeps in a module beside what its author put there. There is no public list; the names that a
#: class documents leave out the hooks and the dicts of parameters and buffers.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor, or an alias of it, has been written to in place.

    torch's notes on autograd describe the counter; what they call public is only the error that a backward pass
    raises where it has moved.

    >>> tensor = torch.zeros(2)
    >>> before = versions([tensor])
    >>> _ = tensor.add_(1)
    >>> versions([tensor]) == [before[0] + 1]
    True
    """
    return [tensor._version for tensor in tensors]


def compiled(module: Any) -> bool:
    """Whether ``module.compile()`` was called: its forward pass is then torch's, and what is inside is not called.

    >>> net = torch.nn.Linear(2, 2)
    >>> before = compiled(net)
    >>> net.compile(backend="eager")
    >>> before, compiled(net)
    (False, True)
    """
    return getattr(module, "_compiled_call_impl", None) is not None


def forward_hooks(module: nn.Module) -> dict[int, Any]:
    """A module's forward hooks by key, as the module keeps them.

    A hook is removed in public by the handle that whoever registered it was given; what a stranger's network
    registers while it is tried gives its handles to nobody else.

    >>> module = nn.Linear(2, 2)
    >>> _ = module.register_forward_hook(print)
    >>> list(forward_hooks(module).values()) == [print]
    True
    """
    return module._forward_hooks


class Modes(NamedTuple):
    """What is between a call of torch and torch: modes that were entered, and the default device."""

    device: torch.device | None  # None: it was never set
    dispatch: int  # how many
    functions: tuple[Any, ...]


def modes() -> Modes:
    """Those of now. torch has no public way to know; ``get_default_device`` gives "cpu" where nothing was set."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    functions = (torch._C._get_function_stack_at(at) for at in range(torch._C._len_torch_function_stack()))
    return Modes(None if context is None else context.device, torch._C._len_torch_dispatch_stack(), tuple(functions))


def put_modes(before: Modes) -> None:
    """Leave what was entered since ``modes`` gave this, and enter what was left."""
    while (count := torch._C._len_torch_dispatch_stack()) > before.dispatch:
        mode = torch._C._get_dispatch_stack_at(count - 1)  # torch 2.9 frees a popped mode twice that nobody holds
        _pop_mode()
        del mode
    _leave_functions()
    if modes().device != before.device:
        torch.set_default_device(before.device)  # torch 2.9 stops at a second device among the modes
    _leave_functions()  # that of the device, which is among those of before
    for mode in before.functions:
        torch._C._push_on_torch_function_stack(mode)


def _leave_functions() -> None:
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()


def saved_tensor_hooks() -> tuple[Any, ...]:
    """The hooks on tensors saved for backward passes that were entered last. torch has only the way in and out."""
    return tuple(torch._C._autograd._top_saved_tensors_default_hooks(True) or ())


def pop_saved_tensor_hooks() -> None:
    """Leave them. The public way is the context that entered them, which others have."""
    torch._C._autograd._pop_saved_tensors_default_hooks()


#: Hooks on every module and every optimizer. They are registered by public functions; who has registered one can
#: remove it, and nobody else can see that there is one.
GLOBAL_HOOKS: tuple[dict[Any, Any], ...] = tuple(
    value
    for owner in ("torch.nn.modules.module", "torch.optim.optimizer")
    for name, value in vars(import_module(owner)).items()
    if name.startswith("_global_") and isinstance(value, dict)
)


def own_tensors(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dicts in which a module keeps its own parameters and its own buffers, to be changed in place.

    The public ways leave out what was registered as None, and cannot put it back: ``delattr`` takes the name away,
    and ``setattr`` of another object goes through the author's ``__setattr__``.
    """
    return module._parameters, module._buffers


def depends_on_values(node: torch.fx.Node) -> bool:
    """Whether a node of a graph that torch.compile made gives a number, or a size, that only the values decide.

    torch names such sizes by symbols that nothing backs. Public is only that compiling fails where it cannot go on
    without the number: torch 2.9 cannot, later ones often can.

    >>> traced = torch.fx.symbolic_trace(lambda x: x + 1)
    >>> any(depends_on_values(node) for node in traced.graph.nodes)
    False
    """
    return bool(free_unbacked_symbols(node.meta.get("example_value")))


def without_values() -> FakeTensorMode:
    """A mode in which operators are not computed, only shapes, dtypes and strides; real tensors may be given.

    torch documents it under the name and promises nothing. "meta" tensors are public, and autocast refuses them.

    >>> with without_values():
    ...     product = torch.ones(3, 4) @ torch.ones(4, 5)
    >>> product.shape
    torch.Size([3, 5])
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


def onednn_has_bf16() -> bool:
    """Whether oneDNN, which does the CPU's convolutions, finds instructions for bf16.

    ``torch.cpu.get_capabilities`` came after 2.9 and names instruction sets, not which of them oneDNN uses;
    ``torch.backends.cpu.get_cpu_capability`` knows AVX2 from AVX-512 and nothing of bf16.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def failed_captures_stay_open() -> bool:
    """Whether the allocator of this torch goes on with a capture that failed, as releases before 2.13 do.

    >>> from unittest.mock import patch
    >>> with patch.object(torch, "__version__", "2.12.1+cu130"):
    ...     failed_captures_stay_open()
    True
    """
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) < (2, 13)


def end_capture_of_pool(index: int, pool: Any) -> None:
    """Make the allocator of CUDA device ``index`` end a capture into ``pool`` that failed, and let the pool go.

    torch.cuda.CUDAGraph does both in ``capture_end``, which before 2.13 raises before it comes to that. Read in
    torch's source; nobody has seen on hardware that it suffices, so ``graph.capture`` tries a capture afterwards.

    Raises:
        RuntimeError: there was no such capture.
    """
    torch._C._cuda_endAllocateToPool(index, pool)
    torch._C._cuda_releasePool(index, pool)
