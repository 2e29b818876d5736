"""Training batches straight from resident tensors: crop, flip and normalise a batch at once.

A view of an image is bit-identical to torchvision's RandomCrop(padding) +
RandomHorizontalFlip + ToTensor + Normalize with the same offsets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.views import DRAWING, VIEWS
from kdbench.utils.plan import BatchPlan


class Loader:
    """Batches of one set of images; it has no state, so a resumed run needs none of it.

    Every draw of an epoch follows from (seed, stage, epoch) and is made on the CPU: the same
    batches on every device. The last, smaller batch of an epoch is kept, unless it is a
    single image, which batch norm cannot train on.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        batch_size: images per batch, B.
        mean: per channel, for pixels in [0, 1].
        std: per channel, for pixels in [0, 1].
        crop_padding: zero pixels around an image before the random crop; 0: no crop.
        flip: whether half of the images are mirrored left to right.
        seed: of all draws.
        device: where the images lie and the batches are made.
        views: names of ``kdbench.data.views.VIEWS`` that follow the plain view.

    Raises:
        ValueError: shapes or settings that do not go together.

    >>> images, labels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> loader = Loader(images, labels, batch_size=2, mean=[0.5] * 3, std=[0.25] * 3, flip=True)
    >>> [tuple(image.shape) for image, label, idx in loader.epoch(0)]
    [(2, 3, 8, 8), (2, 3, 8, 8)]
    """

    def __init__(
        self,
        images: Tensor,
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
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"a loader takes (N, C, H, W) uint8 images and N labels, not {tuple(images.shape)} "
                f"{images.dtype} and {len(labels)}"
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
        self._shape = (c, h, w)
        pixels = F.pad(images, (crop_padding,) * 4).permute(0, 2, 3, 1).contiguous()
        self._padded_width, self._padded_height = w + 2 * crop_padding, h + 2 * crop_padding
        self._pixels = pixels.to(self.device).view(-1, c)  # (N * padded H * padded W, C)
        # ToTensor and Normalize, for the 256 values a pixel can have: (C, 256), flat.
        values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
        table = (values - torch.tensor(mean, dtype=torch.float32)[:, None]) / torch.tensor(std)[:, None]
        self._table = table.flatten().to(self.device)
        self._channel = (256 * torch.arange(c, dtype=torch.int32)).repeat(h * w).to(self.device)
        self._rows, self._columns = (torch.arange(side, device=self.device) for side in (h, w))

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
        crops = self._crop(plan)  # (B, H, W, C) uint8
        if self.views:
            seeds = None
            if DRAWING & set(self.views):
                if key is None:
                    raise ValueError("views that draw, such as randaugment, need the key of the epoch")
                seeds = torch.tensor([_hash(key, "view", i) for i in plan.order.tolist()])
            plain = crops.permute(0, 3, 1, 2)
            shown = [plain, *(VIEWS[view](plain, seeds) for view in self.views)]
            crops = torch.cat([view.permute(0, 2, 3, 1) for view in shown])
        return self._normalise(crops)

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of one epoch: image (V * B, C, H, W), view-major; label (B,); idx (B,)."""
        plan, key = self.plan(epoch, stage), self.key(epoch, stage)
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            part = plan.part(first, first + self.batch_size)
            yield self.gather(part, key=key), self.labels[part.order], part.order

    def plain(self, batch_size: int = 256) -> Plain:
        """All images in order, only normalised."""
        return Plain(self, batch_size)

    def show(self, idx: Tensor) -> Tensor:
        """Images at (B,) positions, only normalised: (B, C, H, W) float32, channels last."""
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


def _hash(*parts: object) -> int:
    """Stable in [0, 2^63), whatever the process or machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
