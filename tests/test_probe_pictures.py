"""Transfer to real pictures: parts of Imagenette and Tiny ImageNet, where they lie beside the checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from kdbench import data, models
from kdbench.probes import linear, other_data
from kdbench.probes.probe import Context

UNPACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"


def unpacked(name: str, home: Path) -> Path:
    """An image folder with a part of a data set."""
    if not UNPACK.is_file():
        pytest.skip(f"the pictures of {name} (../shared/data) are not here")
    spec = importlib.util.spec_from_file_location("unpack", UNPACK)
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    unpack.folders(name, str(home))
    return home / name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit", "facts", "chance"),
    [("imagenette224", 0, (10, 600, 400), 10.0), ("tiny-imagenet", 2000, (200, 2_000, 2_000), 0.5)],
)
def test_random_features_tell_more_than_chance(
    name: str, limit: int, facts: tuple[int, int, int], chance: float, tmp_path: Path
) -> None:
    word = f"imagefolder:{unpacked(name, tmp_path)}@64"
    found = other_data.fetch(word, "transfer.data", 32, limit, Context(asked=frozenset({"transfer.data"})))
    assert (found.num_classes, len(found.train_labels), len(found.test_labels)) == facts
    assert found.image_shape == (3, 32, 32)
    torch.manual_seed(0)
    net = models.create("resnet8", 100).eval()

    def look(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([net(part.float() / 127.5 - 1).pooled for part in images.split(256)])

    train, test = look(found.train_images), look(found.test_images)
    protocol: linear.Protocol = "logistic" if facts[0] == 10 else "mag"
    one = linear.transfer(train, found.train_labels, test, found.test_labels, protocol=protocol)
    assert one.top1 > 1.5 * chance
    shuffled = found.train_labels[torch.randperm(facts[1], generator=torch.Generator().manual_seed(0))]
    assert linear.transfer(train, shuffled, test, found.test_labels, protocol=protocol).top1 < one.top1


def test_pictures_are_resized_with_antialiasing_and_a_part_is_taken() -> None:
    digits = data.load("digits")
    found = other_data.fetch("digits", "transfer.data", 4, 50, Context())
    assert found.image_shape == (3, 4, 4)
    assert len(found.train_labels) == 50
    whole = digits.test_images.float()
    # Half the size: every pixel is a mean around its place, so means stay.
    assert float(found.test_images.float().mean()) == pytest.approx(float(whole.mean()), rel=0.05)
    assert float((found.test_images.float() - whole[:, :, ::2, ::2]).abs().mean()) > 5, "no pixel is just left out"
    same = other_data.fetch("digits", "transfer.data", 8, 0, Context())
    assert torch.equal(same.test_images, digits.test_images)
