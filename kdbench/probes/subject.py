"""A kept student or a teacher with all that probes look at: network, data, teacher, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from kdbench import models
from kdbench.data import Dataset
from kdbench.data.loader import Plain
from kdbench.distiller import Distiller, Outputs
from kdbench.engine.checkpoint import state_sha256
from kdbench.engine.precision import Precision
from kdbench.models import Tapped
from kdbench.models.renormalise import Normalisation
from kdbench.models.teachers import TeacherCard
from kdbench.probes import checked, kept
from kdbench.probes.choose import Target
from kdbench.record import Record
from kdbench.run.batches import plain_batches
from kdbench.utils.files import content


@dataclass
class Subject:
    """One network under the probes.

    Attributes:
        net: as it was trained; eval mode, on the device.
        images: the data set of its record, labels and all.
        recipe: mean and std that its images are normalised with, and the rest of the recipe.
        method: the modules that a modified student predicts with; None: it predicts by itself.
        teacher: folded, for images as the student sees them; None: none is needed or there is none.
        state: what was kept beside the student, by its name.
        record: None: it is a teacher.
    """

    target: Target
    net: Tapped
    images: Dataset
    recipe: Mapping[str, Any]
    device: torch.device
    precision: Precision
    record: Record | None = None
    method: Distiller | None = None
    teacher: Tapped | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def folded(self) -> Tapped:
        """The network as runs evaluate it."""
        return models.fold(self.net)

    def batches(self, images: Tensor | None = None, labels: Tensor | None = None) -> Plain:
        """Normalised batches of (N, 3, H, W) uint8 images in order; None: the test images."""
        images = self.images.test_images if images is None else images
        labels = self.images.test_labels if labels is None else labels
        return plain_batches(images, labels, dict(self.recipe), self.device, side=self.images.side)

    @torch.no_grad()
    def look(self, batches: Plain) -> Iterator[tuple[Outputs, Tensor, Tensor, Tensor]]:
        """Batch by batch: outputs, the (B, K) logits that count, images (B, 3, H, W) as shown, labels (B,)."""
        for image, label in batches:
            with self.precision.autocast(self.device):
                seen: Outputs = self.folded(image)
                logits = seen.logits if self.method is None else self.method.predict(seen)
            yield seen.map(Tensor.float), logits.float(), image, label

    def answers(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, K) logits on the CPU of (N, 3, H, W) uint8 images."""
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
        return torch.cat([logits.cpu() for _, logits, _, _ in self.look(self.batches(images, labels))])

    @cached_property
    def logits(self) -> Tensor:
        """(N, K) logits of the test images, on the CPU.

        Raises:
            ValueError: some are not finite.
        """
        return checked.finite(self.answers(self.images.test_images), "its logits on the test images")

    @property
    def labels(self) -> Tensor:
        """(N,) labels of the test images, on the CPU."""
        return self.images.test_labels

    @cached_property
    def teacher_logits(self) -> Tensor:
        """(N, K) logits of the teacher on the test images, on the CPU."""
        found = torch.cat([seen.logits.cpu() for seen in self.taught(self.batches())])
        return checked.finite(found, "its teacher's logits on the test images")

    @torch.no_grad()
    def taught(self, batches: Plain) -> Iterator[Outputs]:
        """The teacher's outputs, batch by batch."""
        assert self.teacher is not None
        for image, _ in batches:
            with self.precision.autocast(self.device):
                seen: Outputs = self.teacher(image)
            yield seen.map(Tensor.float)

    @property
    def sha256(self) -> str:
        """Of the network's weights, as its record or card has it."""
        return self.target.record.weights_sha256 if self.record else self.target.teacher_sha256


def load(target: Target, out: Path, data_dir: Path | None, device: torch.device, *, taught: bool) -> Subject:
    """Load what a target names; ``taught``: with its teacher.

    Raises:
        ValueError: data, weights or teacher are not there, or not what the record rests on.
        FileNotFoundError: the same, of a file.
    """
    one = target.record
    images = kept.images(one.dataset, data_dir, one.settings.limit_train, one.settings.recipe.get("image_size"))
    if not images.known_as(one.data.get("fingerprint", "")):
        raise ValueError(f"the data {one.dataset} here are not those it was measured on")
    precision = Precision(one.settings.precision)
    try:
        precision.check(device)
    except ValueError:  # trained on another kind of device
        precision = Precision()
    precision.prepare(device)
    recipe = one.settings.recipe
    given = (recipe["mean"], recipe["std"])
    if target.of_teacher:
        net, card = _teacher(target, out, images, None)
        own = card.normalisation or Normalisation.of(*given)
        return Subject(target, _placed(net, device), images, recipe | own._asdict(), device, precision)
    state = kept_state(target.student_file)
    kept.check(one, state, target.student_file.name)
    net = models.create(one.student, images.num_classes, image_size=images.image_shape[-1], pretrained=False)
    kept.filled(net, kept.part(state, "student.", target.student_file), target.student_file.name)
    if state_sha256(net.state_dict()) != one.weights_sha256:
        raise ValueError(f"{target.student_file.name} does not hold the weights that the record was measured with")
    method = None
    if one.modified_student:
        method = kept.method(one, net, images, out, kept.part(state, "method.", target.student_file))
        method = method.eval().requires_grad_(False).to(device)
    teacher = None
    if taught:
        teacher = models.fold(_placed(_teacher(target, out, images, given)[0], device))
    return Subject(target, _placed(net, device), images, recipe, device, precision, one, method, teacher, state)


def kept_state(path: Path) -> dict[str, Tensor]:
    """Everything in the file of a kept student.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    try:
        return from_bytes(content(path))
    except FileNotFoundError:
        raise ValueError(f"its student was not kept: there is no {path}") from None
    except (SafetensorError, OSError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path} is damaged: {why}") from error


def _teacher(target: Target, out: Path, images: Dataset, given: Any) -> tuple[Tapped, TeacherCard]:
    return kept.named_teacher(
        out / "teachers",
        target.record.dataset,
        target.teacher,
        target.teacher_sha256,
        images.image_shape[-1],
        normalisation=given,
    )


def _placed(net: Tapped, device: torch.device) -> Tapped:
    return net.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
