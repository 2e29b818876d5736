"""A trained network with a fresh head for another number of classes: where fine-tuning begins."""

from __future__ import annotations

from pathlib import Path

import torch

from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.pretrained import tag, weights_identity
from kdbench.models.tapped import Tapped
from kdbench.models.zoo import create, resolve


def start(name: str, num_classes: int, *, image_size: int, weights: Path | None) -> Tapped:
    """The network of a name with the weights of its tag or of a file, but for the head where that does not fit.

    It is called by its bare name, under which pairs know it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: nothing says which weights, or they are another network's.

    >>> start("resnet8", 10, image_size=32, weights=None)
    Traceback (most recent call last):
    ValueError: resnet8 has nothing to fine-tune: write a name with a tag, such as timm/resnet18.a1_in1k, or ...
    """
    name = resolve(name)
    bare = name.partition(".")[0] if name.startswith("timm/") else name
    if weights is None and not tag(name):
        raise ValueError(
            f"{name} has nothing to fine-tune: write a name with a tag, such as timm/resnet18.a1_in1k, or --weights"
            " FILE"
        )
    if name.startswith("timm/"):
        made = create(name, num_classes, image_size=image_size, weights=weights)
        made.name = bare
        return made
    assert weights is not None
    state = read_checkpoint(weights)
    heads = [value.shape[0] for value in state.values() if value.ndim == 2]
    if not heads:
        raise ValueError(f"{weights.name} holds no linear layer, so it is no network with a head")
    made = create(name, num_classes, image_size=image_size)
    before = create(name, heads[-1], image_size=image_size)
    before.net.load_state_dict(match(state, before))
    with torch.no_grad():
        for key, value in made.net.state_dict().items():
            trained = before.net.state_dict()[key]
            if trained.shape == value.shape:
                value.copy_(trained)
    made.pretrained = weights_identity(name, weights)
    return made
