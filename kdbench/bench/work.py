"""What both sides of the benchmark do: the same pair, methods, images and first weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdbench import data, models, registry
from kdbench.data import Dataset, Loader
from kdbench.distiller import Distiller, Pair
from kdbench.engine.precision import Precision
from kdbench.models import Tapped
from kdbench.registry import Spec

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CROP_PADDING, FLIP = 4, True
#: Low, because labels and teacher are random: what is timed must stay finite.
RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


@dataclass(frozen=True)
class Pixels:
    """Images shaped as CIFAR's training set; (N, 3, H, W) uint8 and (N,) int64."""

    images: Tensor
    labels: Tensor
    num_classes: int
    source: str  # "cifar100" or "random"


def pixels(root: Path | None = None, *, n: int = 50_000, side: int = 32, num_classes: int = 100) -> Pixels:
    """CIFAR-100 where it lies in the data folder (for the usual sizes), else random pixels and labels."""
    if (n, side, num_classes) == (50_000, 32, 100):
        try:
            there = data.load("cifar100", root, download=False)
            assert isinstance(there.train_images, Tensor)
            return Pixels(there.train_images, there.train_labels, 100, "cifar100")
        except ValueError:
            pass
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=rng)
    return Pixels(images, torch.arange(n) % num_classes, num_classes, "random")


@dataclass(frozen=True)
class Work:
    """One pair with its methods.

    The weights are random, so that nothing need be trained first: they do not change the time.
    """

    teacher_name: str
    student_name: str
    specs: tuple[Spec, ...]
    pixels: Pixels
    batch_size: int
    device: torch.device
    precision: Precision

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.pixels.images.shape[1:]
        return c, h, w

    def check(self) -> None:
        """Refuse what one plain step cannot show.

        Raises:
            ValueError: a method cannot serve the pair or looks at further views.
        """
        teacher = self.teacher()
        for spec in self.specs:
            if registry.get(spec.name).views:
                raise ValueError(f"bench times methods on the plain view of an image; {spec.name} needs others")
            self.build(spec, teacher)

    def teacher(self) -> Tapped:
        """Eval mode, frozen, on the device; the same weights at every call."""
        torch.manual_seed(0)
        net = models.create(self.teacher_name, self.pixels.num_classes, image_size=self.image_shape[-1])
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        before = [m.momentum for m in norms]
        # Statistics of real activations: with those of a fresh net they grow with depth until losses overflow.
        for m in norms:
            m.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.randn(32, *self.image_shape))
        for m, momentum in zip(norms, before, strict=True):
            m.momentum = momentum
        return net.eval().requires_grad_(False).to(self.device)

    def build(self, spec: Spec, teacher: Tapped) -> tuple[Tapped, Distiller]:
        """Student and method, the same weights at every call, on the CPU."""
        torch.manual_seed(1)
        student = models.create(self.student_name, self.pixels.num_classes, image_size=self.image_shape[-1])
        pair: Pair = models.make_pair(
            student,
            teacher,
            image_shape=self.image_shape,
            num_classes=self.pixels.num_classes,
            train_labels=self.pixels.labels,
            batch_size=self.batch_size,
        )
        torch.manual_seed(2)
        return student, registry.get(spec.name).build(pair, **dict(spec.hyper))

    def loader(self) -> Loader:
        """The engine's batches."""
        return Loader(
            self.pixels.images,
            self.pixels.labels,
            batch_size=self.batch_size,
            mean=MEAN,
            std=STD,
            crop_padding=CROP_PADDING,
            flip=FLIP,
            device=self.device,
        )

    def batches(self, loader: Loader | None = None) -> Iterator[tuple[Tensor, ...]]:
        """Full batches (image, label, idx) of the engine's loader, without end."""
        loader, epoch = loader or self.loader(), 0
        while True:
            yield from (batch for batch in loader.epoch(epoch) if len(batch[1]) == self.batch_size)
            epoch += 1

    def dataset(self) -> Dataset:
        """The pixels as a data set without a test part."""
        images, labels = self.pixels.images, self.pixels.labels
        classes = tuple(map(str, range(self.pixels.num_classes)))
        return Dataset(self.pixels.source, images, labels, images[:0], labels[:0], classes)
