"""One face for every model: what the distillation methods see of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from kdbench.distiller import Outputs, Shapes
from kdbench.models.layout import keeps_nchw
from kdbench.models.renormalise import Normalisation, Renormalise

Norms = tuple[tuple[Tensor, Tensor], ...]


class Reader(Protocol):
    """How to look into one kind of model."""

    def tap(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""


class Tapped(nn.Module):
    """A model whose forward pass gives ``Outputs`` instead of bare logits.

    Attributes:
        name: canonical name, such as "resnet32x4" or "timm/resnet18".
        net: the model itself; its ``state_dict()`` has the published keys.
        pretrained: SHA-256 of the weights that it started from, or of the code of a network of the user's; "": it is
            the zoo's and began at random.
        renormalise: turns the images given into the model's own terms; None: they are.

    Args:
        net: a network of the zoo, or any model with a ``reader``.
        name: what to call it in errors and records.
        reader: how to tap ``net``; a network of the zoo taps itself.
        norms: what ``norms()`` answers in place of asking ``net`` (whose norms may be folded).

    >>> from kdbench.models import create
    >>> net = create("resnet8x4", num_classes=100)
    >>> seen = net(torch.zeros(2, 3, 32, 32))
    >>> net.name, [tuple(feat.shape[1:]) for feat in seen.feats]
    ('resnet8x4', [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)])
    """

    def __init__(self, net: nn.Module, name: str, *, reader: Reader | None = None, norms: Norms | None = None) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self._reader = reader
        self._norms = norms
        self._nchw = False  # whatever it is given
        self.pretrained = ""
        self.folds = True  # whether batch norms may be folded away in copies
        self.renormalise: Renormalise | None = None

    @property
    def reader(self) -> Reader:
        """The zoo network itself, or the reader given."""
        return self._reader or cast(Reader, self.net)

    def forward(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) normalised images -> taps and logits, of one forward pass."""
        if self._nchw:
            image = image.contiguous()
        if self.renormalise is not None:
            image = self.renormalise(image)
        return self.reader.tap(image)

    def show_in_own_terms(self, given: Normalisation, own: Normalisation) -> None:
        """From now on images come normalised as ``given``, and the model, trained with ``own``, sees them so."""
        self.renormalise = None if given == own else Renormalise(given, own).to(next(self.parameters()).device)

    def to(self, *args: Any, **words: Any) -> Self:
        """As torch's; a model that cannot be kept channels last stays, and sees every image, in NCHW."""
        if words.get("memory_format") is torch.channels_last and keeps_nchw(self.net):
            self._nchw = True
            del words["memory_format"]
            if not args and not words:
                return self
        return super().to(*args, **words)

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) as ``Outputs.last`` -> (B, K) logits."""
        return self.reader.head(last)

    def norms(self) -> Norms | None:
        """For each stage from the first on, weight and bias (C,) of the batch norm that made its preact.

        Copies without gradient. None where the model has none (a timm model) or where the
        published network names none (both ShuffleNets).
        """
        if self._norms is not None or self._reader is not None:
            return self._norms
        modules = self.net.norms()  # type: ignore[operator]
        return modules and tuple((m.weight.detach().clone(), m.bias.detach().clone()) for m in modules)

    def shapes(self, image_shape: tuple[int, int, int]) -> Shapes:
        """Sizes of the outputs for images (C, H, W), measured on one forward pass in eval mode."""
        return measure(self, image_shape).shapes()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every submodule's own mode is put back after.

    >>> net = nn.Dropout()
    >>> with evaluating(net):
    ...     net.training, torch.is_grad_enabled()
    (False, False)
    >>> net.training
    True
    """
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes.items():
            m.training = training


def measure(tapped: Tapped, image_shape: tuple[int, int, int]) -> Outputs:
    """Outputs for ``picture``: no statistics change, no random number is drawn.

    >>> from kdbench.models import create
    >>> measure(create("resnet8", 10), (3, 32, 32)).shapes().last
    (64, 8, 8)
    """
    like = next(tapped.parameters())
    with evaluating(tapped):
        return cast(Outputs, tapped(picture(image_shape).to(like)))


def picture(image_shape: tuple[int, int, int]) -> Tensor:
    """(1, C, H, W), always the same values, in [-1, 1].

    >>> picture((3, 32, 32)).shape
    torch.Size([1, 3, 32, 32])
    """
    return torch.arange(math.prod(image_shape), dtype=torch.float64).sin().reshape(1, *image_shape)
