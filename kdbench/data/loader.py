"""Training batches: crop, flip and normalise. Resident tensors are handled a batch at once, on their device.

A view of an image is bit-identical to torchvision's RandomCrop(padding) +
RandomHorizontalFlip + ToTensor + Normalize with the same offsets. Other sources and augmentations take the way by
the host (``kdbench.data.host``), which gives the same bits where both can serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.augment import Augment
from kdbench.data.host import Ask, Feed, Host
from kdbench.data.mixing import erased, mixed
from kdbench.data.noise import gaussian, salt_and_pepper
from kdbench.data.source import DataSource, Memory
from kdbench.data.views import DRAWING, VIEWS
from kdbench.utils.draws import draw_seed as _hash
from kdbench.utils.plan import BatchPlan


class Loader:
    """Batches of one set of images; it has no state, so a resumed run needs none of it.

    Every draw of an epoch follows from (seed, stage, epoch) and is made on the CPU: the same
    batches on every device. The last, smaller batch of an epoch is kept, unless it is a
    single image, which batch norm cannot train on.

    Args:
        images: (N, C, H, W) uint8, or a source of such.
        labels: (N,) int64.
        batch_size: images per batch, B.
        mean: per channel, for pixels in [0, 1].
        std: per channel, for pixels in [0, 1].
        crop_padding: zero pixels around an image before the random crop; 0: no crop.
        flip: whether half of the images are mirrored left to right.
        seed: of all draws.
        device: where the images lie and the batches are made.
        views: names of ``kdbench.data.views.VIEWS`` that follow the plain view.
        size: side of the squares that come out; None: as the images are.
        augment: word of ``kdbench.data.augment``.
        mixup: alpha of mixup's Beta distribution; 0: none. Batches then have a fourth part, see ``epoch``.
        cutmix: the same of cutmix.
        random_erasing: probability that a part of an image becomes noise.
        input_noise: deviation of normal noise on all images, of pixels in [0, 1]; see ``kdbench.data.noise``.
        salt_and_pepper: share of their values that become 0 or 1, after that.
        noise_side: "both", or "student": batches then have a fifth part, the images that the teacher sees.
        num_classes: K, for mixup and cutmix; None: one more than the largest label.
        workers: processes that make batches on the host; 0: this one makes them.

    Raises:
        ValueError: shapes or settings that do not go together.

    >>> images, labels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> loader = Loader(images, labels, batch_size=2, mean=[0.5] * 3, std=[0.25] * 3, flip=True)
    >>> [tuple(image.shape) for image, label, idx in loader.epoch(0)]
    [(2, 3, 8, 8), (2, 3, 8, 8)]
    """

    def __init__(
        self,
        images: Tensor | DataSource,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_padding: int = 0,
        flip: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        views: Sequence[str] = (),
        size: int | None = None,
        augment: str = "crop",
        mixup: float = 0.0,
        cutmix: float = 0.0,
        random_erasing: float = 0.0,
        input_noise: float = 0.0,
        salt_and_pepper: float = 0.0,
        noise_side: str = "both",
        num_classes: int | None = None,
        workers: int = 0,
    ) -> None:
        kind = images.dtype if isinstance(images, Tensor) else torch.uint8
        if kind != torch.uint8 or len(images.shape) != 4 or len(images) != len(labels):
            raise ValueError(
                f"a loader takes (N, C, H, W) uint8 images and N labels, not {tuple(images.shape)} "
                f"{kind} and {len(labels)}"
            )
        n, c, h, w = images.shape
        if n < 2 or batch_size < 2:
            raise ValueError(f"{n} images in batches of {batch_size}: training takes 2 of each at least")
        if not len(mean) == len(std) == c:
            raise ValueError(f"mean and std have {len(mean)} and {len(std)} values, the images {c} channels")
        if crop_padding < 0:
            raise ValueError(f"crop_padding={crop_padding} is negative; 0 switches the random crop off")
        if unknown := [view for view in views if view not in VIEWS]:
            raise ValueError(f"no view {unknown[0]!r}; there are {', '.join(VIEWS)}")
        if h != w and set(views) & {"rot90", "rot270"}:
            raise ValueError(f"images of {h} x {w} cannot be turned by 90 degrees; rotations take squares")
        self.batch_size, self.crop_padding, self.flip = batch_size, crop_padding, flip
        self.seed, self.device, self.views = seed, torch.device(device), tuple(views)
        self.labels = labels.to(self.device)
        self.mixup, self.cutmix, self.random_erasing = mixup, cutmix, random_erasing
        self.num_classes = num_classes
        self.noise, self.noise_side = (input_noise, salt_and_pepper), noise_side
        if views and (mixup or cutmix or random_erasing):
            raise ValueError(f"views {', '.join(views)} are of whole images; take no mixup, cutmix or random_erasing")
        how = Augment.of(augment)
        self.feed: Feed | None = None
        if isinstance(images, DataSource) or not how.plain or (size is not None and (size, size) != (h, w)):
            h = w = self._by_host(images, size, how, workers)
        else:
            pixels = F.pad(images, (crop_padding,) * 4).permute(0, 2, 3, 1).contiguous()
            self._padded_width, self._padded_height = w + 2 * crop_padding, h + 2 * crop_padding
            self._pixels = pixels.to(self.device).view(-1, c)  # (N * padded H * padded W, C)
        self._shape = (c, h, w)
        # ToTensor and Normalize, for the 256 values a pixel can have: (C, 256), flat.
        values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
        table = (values - torch.tensor(mean, dtype=torch.float32)[:, None]) / torch.tensor(std)[:, None]
        self._table = table.flatten().to(self.device)
        self._channel = (256 * torch.arange(c, dtype=torch.int32)).repeat(h * w).to(self.device)
        self._rows, self._columns = (torch.arange(side, device=self.device) for side in (h, w))

    def _by_host(self, images: Tensor | DataSource, size: int | None, how: Augment, workers: int) -> int:
        """Have the host make the batches; the side of what comes out.

        Raises:
            ValueError: images that are not square, or too small for a crop.
        """
        side, width = images.shape[2:]
        if side != width:
            raise ValueError(f"images of {side} x {width} cannot be cut to squares here; the host takes squares")
        source = Memory(images) if isinstance(images, Tensor) else images
        host = Host(source, size or side, self.crop_padding, how)
        if host.steps < 1 and how.geometry == "crop":
            raise ValueError(
                f"pictures of {side} px cannot be cropped to {host.size}; take augment=rrc, which scales them, or"
                " another image_size"
            )
        self.feed = Feed(host, workers)
        return host.size

    @property
    def on_device(self) -> bool:
        """Whether a batch is made where the images lie, from the draws of ``plan`` alone."""
        return self.feed is None and not self._mixes

    @property
    def countable(self) -> bool:
        """Whether an image has so few views that what a teacher says to each can be kept."""
        return self.on_device or (self.feed is not None and self.feed.host.countable and not self._mixes)

    @property
    def _mixes(self) -> bool:
        return bool(self.mixup or self.cutmix or self.random_erasing or any(self.noise))

    def close(self) -> None:
        """Let workers end, where there are any."""
        if self.feed is not None:
            self.feed.close()

    def __len__(self) -> int:
        """Batches of an epoch."""
        n = len(self.labels)
        return n // self.batch_size + (n % self.batch_size > 1)

    @property
    def num_views(self) -> int:
        """V, the plain view counted."""
        return 1 + len(self.views)

    def key(self, epoch: int, stage: str = "train") -> int:
        """Seed of one epoch of one stage, below 2^63."""
        return _hash(self.seed, stage, epoch)

    def plan(self, epoch: int, stage: str = "train") -> BatchPlan:
        """All draws of one epoch, on the loader's device."""
        n, steps = len(self.labels), 2 * self.crop_padding + 1
        if self.feed is not None and self.feed.host.augment.geometry == "crop":
            steps = self.feed.host.steps
        generator = torch.Generator().manual_seed(self.key(epoch, stage))
        drawn = BatchPlan(
            torch.randperm(n, generator=generator),
            torch.randint(steps, (n,), generator=generator),
            torch.randint(steps, (n,), generator=generator),
            torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0),
        )
        return drawn.each(lambda part: part.to(self.device))

    def gather(self, plan: BatchPlan, *, key: int | None = None) -> Tensor:
        """Make a batch: part of a plan, (B,) -> (V * B, C, H, W) float32, channels last.

        ``key`` is ``self.key(epoch, stage)``, needed by views that draw.

        Raises:
            ValueError: such a view without a key.
        """
        if self.feed is None:
            return self._finish(self._crop(plan), plan, key)
        if key is None and not self.feed.host.countable:
            raise ValueError("an augmentation that draws for each image needs the key of the epoch")
        return self._finish(self._arrived(self.feed.host.make(Ask.of(plan, key or 0))), plan, key)

    def _arrived(self, made: Tensor) -> Tensor:
        """(B, C, H, W) from the host -> (B, H, W, C) on the device."""
        return made.to(self.device).permute(0, 2, 3, 1).contiguous()

    def _finish(self, crops: Tensor, plan: BatchPlan, key: int | None) -> Tensor:
        """(B, H, W, C) uint8 -> (V * B, C, H, W) float32, with further views and erased parts."""
        if self.views:
            seeds = None
            if DRAWING & set(self.views):
                if key is None:
                    raise ValueError("views that draw, such as randaugment, need the key of the epoch")
                seeds = torch.tensor([_hash(key, "view", i) for i in plan.order.tolist()])
            plain = crops.permute(0, 3, 1, 2)
            shown = [plain, *(VIEWS[view](plain, seeds) for view in self.views)]
            crops = torch.cat([view.permute(0, 2, 3, 1) for view in shown])
        image = self._normalise(crops)
        if self.random_erasing and key is not None:
            image = erased(image, plan.order, key, self.random_erasing)
        return image

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Any, ...]]:
        """Batches of one epoch: image (V * B, C, H, W), view-major; label (B,); idx (B,).

        With mixup or cutmix a fourth, the target (B, K) float32: the label is that of the image which has its idx,
        the target says how much of which class is in the picture. With noise on the student's side alone a fifth,
        the images without it; the fourth is None where nothing is mixed.
        """
        plan, key = self.plan(epoch, stage), self.key(epoch, stage)
        parts = [
            plan.part(first, first + self.batch_size)
            for first in range(0, len(self) * self.batch_size, self.batch_size)
        ]
        for number, (part, crops) in enumerate(zip(parts, self._crops(parts, key), strict=True)):
            label = self.labels[part.order]
            image, *target = self._mixed(self._seen(crops, part, key), label, key, number)
            if any(self.noise) and self.noise_side == "student":
                clean, *_ = self._mixed(self._finish(crops, part, key), label, key, number)
                yield image, label, part.order, (target[0] if target else None), clean
            else:
                yield image, label, part.order, *target

    def _mixed(self, image: Tensor, label: Tensor, key: int, number: int) -> tuple[Tensor, ...]:
        """Images, and their target where they are mixed."""
        if not (self.mixup or self.cutmix):
            return (image,)
        classes = self.num_classes or int(self.labels.max()) + 1
        seed = _hash(key, "mix", number)
        return mixed(image, label, seed, mixup=self.mixup, cutmix=self.cutmix, num_classes=classes)

    def _crops(self, parts: Sequence[BatchPlan], key: int) -> Iterator[Tensor]:
        """(B, H, W, C) uint8 each."""
        if self.feed is None:
            yield from map(self._crop, parts)
        else:
            yield from map(self._arrived, self.feed.batches([Ask.of(part, key) for part in parts]))

    def _seen(self, crops: Tensor, plan: BatchPlan, key: int) -> Tensor:
        """As ``_finish``, of pictures with the noise that each draws anew in every epoch."""
        if any(self.noise):
            deviation, share = self.noise
            pixels = crops.permute(0, 3, 1, 2).cpu()
            places = plan.order.tolist()
            if deviation:
                pixels = gaussian(pixels, deviation, [_hash(key, "noise", at) for at in places])
            if share:
                pixels = salt_and_pepper(pixels, share, [_hash(key, "salt", at) for at in places])
            crops = pixels.to(self.device).permute(0, 2, 3, 1).contiguous()
        return self._finish(crops, plan, key)

    def plain(self, batch_size: int = 256) -> Plain:
        """All images in order, only normalised."""
        return Plain(self, batch_size) if self.feed is None else Passed(self, batch_size)

    def show(self, idx: Tensor) -> Tensor:
        """Images at (B,) positions, only normalised: (B, C, H, W) float32, channels last."""
        if self.feed is not None:
            return self._normalise(self._arrived(self.feed.host.make(_plainly(idx))))
        middle = torch.full_like(idx, self.crop_padding)
        return self._normalise(self._crop(BatchPlan(idx, middle, middle, torch.zeros_like(idx, dtype=torch.bool))))

    def _crop(self, plan: BatchPlan) -> Tensor:
        idx, dy, dx, flip = plan
        c, h, w = self._shape
        rows = idx[:, None] * self._padded_height + dy[:, None] + self._rows  # (B, H)
        columns = torch.where(flip[:, None], w - 1 - self._columns, self._columns) + dx[:, None]  # (B, W)
        where = rows[:, :, None] * self._padded_width + columns[:, None, :]
        return self._pixels.index_select(0, where.flatten()).view(len(idx), h, w, c)

    def _normalise(self, crops: Tensor) -> Tensor:
        cells = crops.reshape(len(crops), -1).to(torch.int32) + self._channel
        return self._table.index_select(0, cells.flatten()).view(crops.shape).permute(0, 3, 1, 2)


class Plain:
    """A loader's images in order, only normalised; they can be gone through again and again.

    >>> images, labels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> loader = Loader(images, labels, batch_size=2, mean=[0.5] * 3, std=[0.25] * 3, flip=True)
    >>> [label.tolist() for image, label in Plain(loader, batch_size=3)]
    [[0, 1, 2], [3, 4]]
    """

    def __init__(self, loader: Loader, batch_size: int) -> None:
        self.labels, self.batch_size, self.images = loader.labels, batch_size, loader.show

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches: image (B, C, H, W), label (B,)."""
        for idx in torch.arange(len(self.labels), device=self.labels.device).split(self.batch_size):
            yield self.images(idx), self.labels[idx]


class Passed(Plain):
    """As ``Plain``, of images that the host makes, batch after batch: no batch can be had by its positions."""

    def __init__(self, loader: Loader, batch_size: int) -> None:
        self.labels, self.batch_size, self._loader = loader.labels, batch_size, loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches: image (B, C, H, W), label (B,)."""
        loader = self._loader
        assert loader.feed is not None
        parts = torch.arange(len(self.labels)).split(self.batch_size)
        for idx, made in zip(parts, loader.feed.batches([_plainly(idx) for idx in parts]), strict=True):
            yield loader._normalise(loader._arrived(made)), self.labels[idx.to(self.labels.device)]


def _plainly(idx: Tensor) -> Ask:
    """Images at (B,) positions, neither moved nor mirrored."""
    nothing = torch.zeros_like(idx)
    return Ask.of(BatchPlan(idx, nothing, nothing, nothing.bool()), None)
