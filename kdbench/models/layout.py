"""Which networks must stay in NCHW while the others are kept channels last."""

from __future__ import annotations

from itertools import chain

from torch import nn

#: A 1x1 convolution with a stride and fewer input channels than this writes outside of its memory in its backward
#: pass on the CPU, when its input is channels last (torch 2.14.1, images of 112 px and more): the process dies.
_FEW = 16


def keeps_nchw(net: nn.Module) -> bool:
    """Whether ``net``, where it lies now, cannot be trained channels last."""
    if any(value.dim() == 5 for value in chain(net.parameters(), net.buffers())):
        return True  # a 3-d convolution, as in the lambda networks: torch has another format for it
    return any(_dies(module) for module in net.modules() if isinstance(module, nn.Conv2d))


def _dies(conv: nn.Conv2d) -> bool:
    strided = conv.kernel_size == (1, 1) and max(conv.stride) > 1
    return strided and conv.groups == 1 and conv.in_channels < _FEW and conv.weight.device.type == "cpu"
