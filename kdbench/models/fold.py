"""Batch norms folded into the convolutions before them: a faster teacher with the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdbench.models.tapped import Tapped

Net = TypeVar("Net", bound=nn.Module)


def fold(tapped: Tapped, half: torch.dtype | None = None) -> Tapped:
    """A frozen copy for inference: eval mode, channels_last, batch norms folded where they can be.

    ``half`` is what autocast computes convolutions in: those of the zoo's networks then hold their weights so. Autocast
    keeps no casts of weights without a gradient and would round them, the same way, for every batch.

    Taps and logits keep their values up to rounding. A batch norm that follows a sum, as the
    first of a WRN block does, stays. Timm models are copied, not folded.

    >>> from kdbench.models import create
    >>> net, image = create("resnet8", 10).eval(), torch.randn(2, 3, 32, 32)
    >>> torch.allclose(fold(net)(image).logits, net(image).logits, atol=1e-4)
    True
    """
    folded = copied(tapped).eval().requires_grad_(False)
    folded._norms = tapped.norms()
    for module in list(folded.net.modules()) if tapped.folds else ():
        for conv_name, norm_name in _pairs(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            dtype = conv.weight.dtype
            # In double, or the rounding of 100 folds adds up.
            conv, norm = conv.double(), norm.double()
            kept = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *kept)
            conv.to(dtype)
            setattr(module, norm_name, nn.Identity())
    reader: object = tapped.reader
    if half is not None and reader is tapped.net:  # a stranger's network may use its weights otherwise, too
        for module in folded.net.modules():
            if type(module) is nn.Conv2d:
                module.to(half)
    return folded.to(memory_format=torch.channels_last)


def copied(net: Net) -> Net:
    """A deep copy of a module, also where it keeps what its last pass has made, as for Grad-CAM or a weight norm.

    Such tensors hang on a graph, which cannot be copied; the copy has their values.

    >>> net = nn.Linear(2, 2)
    >>> net.kept = net(torch.ones(1, 2))
    >>> copied(net).kept.requires_grad
    False
    """
    made = (value for module in net.modules() for value in vars(module).values() if isinstance(value, torch.Tensor))
    return copy.deepcopy(net, {id(value): value.detach().clone() for value in made if value.grad_fn is not None})


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of (convolution, batch norm) in ``module`` where the second takes all the first gives."""
    yield from getattr(module, "fusions", ())
    if isinstance(module, nn.Sequential):
        children = list(module.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                yield first, second
