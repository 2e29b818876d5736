"""All that kdbench takes from torch without torch's promise to keep it; ``tests/test_torch_private.py`` tries each.

Nothing else in ``kdbench`` or ``methods`` names what torch marks as private or experimental. Whatever stands here
says why, and what the public way lacks; once torch has one, the entry goes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

# To see every operator, those of backward passes too. torch documents the class and has no public module for it;
# the public TorchFunctionMode sees what Python calls, and nothing of a backward pass.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

#: What torch itself keeps in a module beside what its author put there. There is no public list; the names that a
#: class documents leave out the hooks and the dicts of parameters and buffers.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


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
    """
    return bool(free_unbacked_symbols(node.meta.get("example_value")))


def onednn_has_bf16() -> bool:
    """Whether oneDNN, which does the CPU's convolutions, finds instructions for bf16.

    ``torch.cpu.get_capabilities`` came after 2.9 and names instruction sets, not which of them oneDNN uses;
    ``torch.backends.cpu.get_cpu_capability`` knows AVX2 from AVX-512 and nothing of bf16.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
