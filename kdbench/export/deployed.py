"""A kept student as it is deployed: images in, logits out, the parts of its method included that prediction needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from kdbench import models
from kdbench.distiller import Distiller, Outputs
from kdbench.engine.checkpoint import state_sha256
from kdbench.export.cells import student_file, title
from kdbench.models import Tapped
from kdbench.models.tapped import measure
from kdbench.probes import kept
from kdbench.record import Record
from kdbench.utils.files import content


class Deployed(nn.Module):
    """Normalised images (B, C, H, W) -> logits (B, K), as the record's accuracy was measured.

    Attributes:
        student: the network.
        method: the method's modules, where they are a part of the network that is evaluated; None elsewhere.
        record: the run.
        classes: names, in the order of the logits.
        image_shape: (C, H, W).
        mean: of the normalisation, one number per channel.
        std: of the normalisation.

    >>> from types import SimpleNamespace as Facts
    >>> one = Facts(settings=Facts(recipe={"mean": [0.5] * 3, "std": [0.25] * 3}))
    >>> net = Deployed(models.create("resnet8", 10), None, one, tuple("0123456789"), (3, 8, 8))
    >>> net(net.example()).shape
    torch.Size([8, 10])
    """

    def __init__(
        self,
        student: Tapped,
        method: Distiller | None,
        record: Record,
        classes: tuple[str, ...],
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.student, self.method = student, method
        self.record, self.classes, self.image_shape = record, classes, image_shape
        self.mean, self.std = tuple(record.settings.recipe["mean"]), tuple(record.settings.recipe["std"])
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, K)."""
        if self.method is None:
            logits: Tensor = self.student.net(images)
            return logits
        shown: Outputs = self.student(images)
        return self.method.predict(shown)

    def example(self, images: int = 8) -> Tensor:
        """So many images that are always the same, (B, C, H, W): uniform over what a normalised pixel can be."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.rand(images, *self.image_shape, generator=generator)
        mean, std = (torch.tensor(one)[:, None, None] for one in (self.mean, self.std))
        return (pixels - mean) / std


def load(one: Record, out: Path, data_dir: Path | None = None) -> Deployed:
    """The kept student of a record.

    ``data_dir`` is where data sets lie; they are read for old records, which do not say their classes, and for
    methods that change the network, which are built anew.

    Raises:
        ValueError: it was not kept, is damaged, or has other weights than the record was measured with.

    >>> import kdbench, tempfile
    >>> small = dict(pairs="resnet14:resnet8", epochs=1, limit_train=64, seeds=1, suite="digits")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (one,) = kdbench.run("student", **small, out=folder)
    ...     load(one, Path(folder)).classes[:3]
    ('0', '1', '2')
    """
    path = student_file(one, out)
    try:
        state = from_bytes(content(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    kept.check(one, state, str(path))
    images = None
    if one.modified_student or not {"classes", "image_shape"} <= one.data.keys():
        images = kept.images(one.dataset, data_dir, one.settings.limit_train, one.settings.recipe.get("image_size"))
        if not images.known_as(one.data.get("fingerprint", "")):
            raise ValueError(f"the data {one.dataset} here are not those that {title(one)} was trained on")
    classes = tuple(map(str, one.data["classes"] if images is None else images.classes))
    c, h, w = one.data["image_shape"] if images is None else images.image_shape
    with torch.random.fork_rng(devices=[]):  # first weights, which are overwritten
        student = models.create(one.student, len(classes), image_size=w, pretrained=False)
        kept.filled(student, kept.part(state, "student.", path), path.name)
        if state_sha256(student.state_dict()) != one.weights_sha256:
            raise ValueError(f"{path} does not hold the weights that the record was measured with")
        method = None
        if one.modified_student:
            assert images is not None
            method = kept.method(one, student, images, out, kept.part(state, "method.", path))
    return Deployed(student, method, one, classes, (c, h, w))


def borrowed(deployed: Deployed, out: Path) -> dict[str, Tensor]:
    """What a method that changes the network takes of the teacher to predict with: parameters of its head, by name.

    Raises:
        ValueError: the teacher is not there.
    """
    if deployed.method is None:
        return {}
    mentor = kept.teacher(deployed.record, out / "teachers", deployed.image_shape[-1]).requires_grad_(True)
    last = measure(mentor, deployed.image_shape).last
    with torch.enable_grad():
        named = dict(mentor.net.named_parameters())
        grads = torch.autograd.grad(mentor.head(last).sum(), list(named.values()), allow_unused=True)
    return {name: p.detach() for (name, p), grad in zip(named.items(), grads, strict=True) if grad is not None}


def difference(made: Callable[[Tensor], Tensor], deployed: Deployed) -> float:
    """Largest distance between the logits of a file, loaded again, and those of the student, on its example images.

    Raises:
        ValueError: they are not finite.
    """
    example = deployed.example()
    with torch.no_grad():
        off = float((made(example) - deployed(example)).abs().max())
    if not math.isfinite(off):
        raise ValueError(f"the logits of {title(deployed.record)} are not finite on plain images; it is of no use")
    return off
