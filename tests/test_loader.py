"""The loader's batches are torchvision's, bit for bit, and follow from (seed, stage, epoch) alone."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from kdbench.data.loader import Loader
from kdbench.data.views import VIEWS
from kdbench.utils.plan import BatchPlan

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def images(n: int = 70, side: int = 32) -> Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def loader(n: int = 70, **settings: Any) -> Loader:
    chosen: dict[str, Any] = {"batch_size": 16, "mean": MEAN, "std": STD, "crop_padding": 4, "flip": True}
    return Loader(images(n), torch.arange(n) % 7, **(chosen | settings))


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_views_are_torchvisions_bit_for_bit() -> None:
    crop, flip = T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()
    pipeline = T.Compose([crop, flip, T.ToTensor(), T.Normalize(MEAN, STD)])
    made = loader()
    seen = set()
    for seed in range(70):
        torch.manual_seed(seed)
        wanted = pipeline(picture(images()[seed]))
        torch.manual_seed(seed)  # the same draws once more, to learn what they were
        dy, dx, _, _ = crop.get_params(Image.new("RGB", (40, 40)), (32, 32))
        mirrored = torch.rand(1) < 0.5
        got = made.gather(BatchPlan(torch.tensor([seed]), torch.tensor([dy]), torch.tensor([dx]), mirrored))
        assert torch.equal(got[0], wanted)
        seen.add((dy, dx, bool(mirrored)))
    assert len(seen) > 50


def test_plain_is_to_tensor_and_normalize() -> None:
    pipeline = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
    batches = list(loader().plain(32))
    assert [len(image) for image, _ in batches] == [32, 32, 6]
    wanted = torch.stack([pipeline(picture(image)) for image in images()])
    assert torch.equal(torch.cat([image for image, _ in batches]), wanted)
    assert torch.equal(torch.cat([label for _, label in batches]), torch.arange(70) % 7)


def test_an_epoch_is_its_plan() -> None:
    made = loader()
    plan = made.plan(3)
    assert torch.equal(plan.order.sort().values, torch.arange(70))
    assert plan.row.min() == plan.column.min() == 0
    assert plan.row.max() == plan.column.max() == 8
    assert 20 < plan.flip.sum() < 50
    batches = list(made.epoch(3))
    assert len(batches) == len(made) == 5
    assert torch.equal(torch.cat([idx for *_, idx in batches]), plan.order)
    assert torch.equal(torch.cat([image for image, *_ in batches]), made.gather(plan))
    for image, label, idx in batches:
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert image.dtype == torch.float32
        assert torch.equal(label, idx % 7)


def test_draws_follow_from_seed_stage_and_epoch_alone() -> None:
    first = list(loader().epoch(2))
    torch.manual_seed(99)
    again = loader()
    list(again.epoch(0))
    state = torch.get_rng_state()
    for one, two in zip(first, again.epoch(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    orders = [
        loader(seed=seed).plan(epoch, stage).order.tolist()
        for seed in (0, 1)
        for epoch in (1, 2)
        for stage in ("train", "pretrain")
    ]
    assert len({tuple(order) for order in orders}) == 8


def test_draws_are_the_same_for_ever() -> None:
    """A resumed run, perhaps under a newer version, must see the batches it would have seen."""
    plan = loader(10).plan(1)
    assert plan.order.tolist() == [7, 1, 0, 4, 3, 8, 9, 2, 6, 5]
    assert plan.row.tolist() == [5, 5, 4, 4, 7, 4, 2, 6, 5, 1]


@pytest.mark.parametrize(("n", "sizes"), [(32, [16, 16]), (33, [16, 16]), (34, [16, 16, 2]), (9, [9])])
def test_the_tail_is_kept_unless_it_is_one_image(n: int, sizes: list[int]) -> None:
    made = loader(n)
    assert [len(idx) for *_, idx in made.epoch(0)] == sizes
    assert len(made) == len(sizes)


def test_without_crop_and_flip_an_epoch_is_shuffled_plain_images() -> None:
    made = loader(crop_padding=0, flip=False)
    ((plain, _),) = made.plain(70)
    for image, _, idx in made.epoch(0):
        assert torch.equal(image, plain[idx])


def test_rotations_follow_the_plain_view() -> None:
    made, alone = loader(views=("rot90", "rot180", "rot270")), loader()
    for (image, label, idx), (plain, *_) in zip(made.epoch(1), alone.epoch(1), strict=True):
        views = image.chunk(4)
        assert len(label) == len(idx) == len(plain)
        for quarters, view in enumerate(views):
            assert torch.equal(view, torch.rot90(plain, quarters, (2, 3)))
    assert made.num_views == 4


def test_randaugment_is_torchvisions_and_knows_epoch_and_image() -> None:
    views: dict[str, Any] = {"views": ("randaugment",), "crop_padding": 0, "flip": False}
    made = loader(**views)
    state = torch.get_rng_state()
    shown = {int(i): view for image, _, idx in made.epoch(1) for i, view in zip(idx, image.chunk(2)[1], strict=True)}
    assert torch.equal(state, torch.get_rng_state())
    other = {
        int(i): view
        for image, _, idx in loader(**views, batch_size=7).epoch(1)
        for i, view in zip(idx, image.chunk(2)[1], strict=True)
    }
    assert all(torch.equal(shown[i], other[i]) for i in shown)
    later = {int(i): view for image, _, idx in made.epoch(2) for i, view in zip(idx, image.chunk(2)[1], strict=True)}
    assert sum(torch.equal(shown[i], later[i]) for i in shown) < 20
    same = Loader(
        images(1).repeat(40, 1, 1, 1), torch.zeros(40), batch_size=40, mean=MEAN, std=STD, views=("randaugment",)
    )
    ((image, *_),) = same.epoch(0)
    assert len(image.chunk(2)[1].unique(dim=0)) > 20
    augment = T.RandAugment(2, 10)
    for seed, image in enumerate(images(20)):
        torch.manual_seed(seed)
        wanted = torch.from_numpy(np.array(augment(picture(image)))).permute(2, 0, 1)
        assert torch.equal(VIEWS["randaugment"](image[None], torch.tensor([seed]))[0], wanted)


def test_a_view_that_draws_needs_a_key() -> None:
    made = loader(views=("randaugment",))
    with pytest.raises(ValueError, match="key of the epoch"):
        made.gather(made.plan(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 1}, "batches of 1"),
        ({"mean": (0.5,)}, "3 channels"),
        ({"crop_padding": -1}, "negative"),
        ({"views": ("rot45",)}, "rot45"),
        ({"n": 1}, "1 images"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loader(**settings)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Loader(images().float(), torch.arange(70), batch_size=8, mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="squares"):
        Loader(images()[..., :20], torch.arange(70), batch_size=8, mean=MEAN, std=STD, views=("rot90",))


def test_oblong_images() -> None:
    tall = images()[..., :20]
    made = Loader(tall, torch.arange(70), batch_size=8, mean=MEAN, std=STD, crop_padding=2, flip=True)
    whole = made.gather(BatchPlan(torch.tensor([5]), torch.tensor([2]), torch.tensor([2]), torch.tensor([True])))
    ((plain, _),) = made.plain(70)
    assert torch.equal(whole[0], plain[5].flip(2))


@pytest.mark.gpu
def test_cuda_makes_the_same_batches() -> None:
    settings: dict[str, Any] = {"views": ("rot90", "randaugment")}
    for one, two in zip(loader(**settings).epoch(1), loader(**settings, device="cuda").epoch(1), strict=True):
        assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(one, two, strict=True))
