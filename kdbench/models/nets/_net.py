"""What every network of the 32-px zoo shares: taps, head, entry into timm's registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

from timm.models import register_model
from torch import Tensor, nn

from kdbench.distiller import Outputs

#: Every network by its name, in the order in which families are imported; each is followed by its double.
ZOO: dict[str, Callable[[int], Net]] = {}
#: Ending of the network whose channels are twice as many.
DOUBLE = "_double"


class Taps(NamedTuple):
    """The body of a network seen from outside; see ``Outputs`` for the fields."""

    feats: tuple[Tensor, ...]
    last: Tensor
    preacts: tuple[Tensor, ...] | None


class Net(nn.Module):
    """A network that shows its stages. A family writes ``taps``, ``get_classifier``, ``norms``.

    The classifier follows a global average pool, so any input size works; at 32 px the pool
    covers the same map as the published networks' fixed window.
    """

    #: Pairs (convolution, batch norm) of attributes where the second always follows the first.
    fusions: ClassVar[tuple[tuple[str, str], ...]] = ()

    num_classes: int

    def taps(self, image: Tensor) -> Taps:
        """(B, 3, H, W) -> feature maps."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Linear:
        """The final linear layer (timm's name for it)."""
        raise NotImplementedError

    def norms(self) -> tuple[nn.BatchNorm2d, ...] | None:
        """For each stage, the batch norm in front of its preact tap; None: not published."""
        return None

    def tap(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""
        feats, last, preacts = self.taps(image)
        pooled = last.mean(dim=(2, 3))
        linear = self.get_classifier()
        return Outputs(feats, last, pooled, linear(pooled), preacts, (linear.weight, linear.bias))

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""
        logits: Tensor = self.get_classifier()(last.mean(dim=(2, 3)))
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K) logits."""
        return self.head(self.taps(image).last)


class Block(nn.Module):
    """A building block; ``fusions`` as in ``Net``."""

    fusions: ClassVar[tuple[tuple[str, str], ...]] = ()


def conv(c_in: int, c_out: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution of the zoo: no bias, padded to keep the side at stride 1."""
    return nn.Conv2d(c_in, c_out, side, stride=stride, padding=side // 2, groups=groups, bias=False)


def init_kaiming(net: nn.Module) -> None:
    """He et al.'s normal, fan out, for every convolution; the rest stays at torch's default."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_normal(net: nn.Module, *, linear_std: float | None) -> None:
    """Normal with std sqrt(2 / (k * k * C_out)), groups not counted; biases 0.

    ``linear_std``: that of the classifier's normal; None keeps torch's default.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def timm_name(name: str) -> str:
    """The name in timm's registry; a dot there would begin a tag of weights.

    >>> timm_name("resnet8x4")
    'cifar_resnet8x4'
    """
    return "cifar_" + name.lower().replace(".", "_")


def enter(family: str, nets: Mapping[str, Callable[..., Net]]) -> None:
    """Put constructors into ``ZOO`` and into timm's registry, each as it is and at double width.

    A constructor takes ``num_classes`` and ``wide``, the factor of every number of channels (of a
    1x1 convolution before the head it is not). ``family`` is the ``__name__`` of the module that calls.
    """
    for name, build in nets.items():
        for entered, made in ((name, build), (name + DOUBLE, partial(build, wide=2))):
            ZOO[entered] = made
            register_model(_entry(family, entered, made))


def _entry(family: str, name: str, build: Callable[[int], Net]) -> Callable[..., Net]:
    def entry(pretrained: bool = False, num_classes: int = 100, **options: Any) -> Net:
        if pretrained:
            raise ValueError(f"{timm_name(name)} has no pretrained weights; train a teacher or import a checkpoint")
        # timm passes these three, empty, to every constructor.
        if unknown := [o for o, v in options.items() if v is not None or not o.startswith(("pretrained_", "cache_"))]:
            raise TypeError(f"{timm_name(name)} takes num_classes only, not {', '.join(unknown)}")
        return build(num_classes)

    entry.__name__ = entry.__qualname__ = timm_name(name)
    entry.__module__ = family
    return entry
