"""The reference: the training loop that a researcher writes today, one method after another.

PIL images through torchvision transforms in a DataLoader, eager fp32 in NCHW, a teacher pass for every
method, loss and accuracy read back at every step. The losses are those of the public classes; where a
class computes them in another form than the papers' code does (CRD, NST), the textbook form stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kdbench import registry
from kdbench.bench.work import CROP_PADDING, MEAN, MOMENTUM, RATE, STD, WEIGHT_DECAY, Pixels, Work
from kdbench.distiller import Batch, Distiller, Outputs, kl
from kdbench.models import Tapped
from kdbench.registry import Spec

Terms = dict[str, Tensor]


class Images(TorchDataset[tuple[Any, ...]]):
    """One image at a time: (image, label, index), and (1 + K,) positions to contrast with where K > 0."""

    def __init__(self, pixels: Pixels, negatives: int = 0) -> None:
        from torchvision import transforms

        self.arrays = pixels.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = pixels.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(pixels.images.shape[-1], padding=CROP_PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        self.k = negatives
        if negatives:
            labels = pixels.labels.numpy()
            self.others = [np.flatnonzero(labels != c) for c in range(pixels.num_classes)]
            self.rng = np.random.RandomState(0)  # the sampler behind np.random.choice

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        from PIL import Image

        image, label = self.transform(Image.fromarray(self.arrays[index])), self.labels[index]
        if not self.k:
            return image, label, index
        others = self.others[label]
        drawn = self.rng.choice(others, self.k, replace=self.k > len(others))
        return image, label, index, np.hstack((np.asarray([index]), drawn))


def batches(pixels: Pixels, batch_size: int, negatives: int = 0) -> Iterator[list[Tensor]]:
    """Full batches without end."""
    loader = DataLoader(Images(pixels, negatives), batch_size=batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


# -- textbook forms ---------------------------------------------------------------------------


def crd_terms(method: Any, student: Outputs, teacher: Outputs, batch: Batch, contrast: Tensor) -> Terms:
    """CRD by gathering the drawn vectors, (B, 1 + K, D) for each side; ``method`` is the public class."""
    v_s = F.normalize(method.embed_s(student.pooled), dim=1)
    v_t = F.normalize(method.embed_t(teacher.pooled), dim=1)

    def nce(v: Tensor, bank: Tensor, z: Tensor) -> Tensor:
        n, share = len(bank), (contrast.shape[1] - 1) / len(bank)
        rows = bank.index_select(0, contrast.flatten()).view(*contrast.shape, -1)
        x = torch.exp(torch.bmm(rows, v[:, :, None])[:, :, 0] / method.nce_t)
        if z < 0:
            z.copy_(x.detach().mean() * n)
        x = x / z
        matched = torch.log(x[:, 0] / (x[:, 0] + share + 1e-7)).sum()
        unmatched = torch.log(share / (x[:, 1:] + share + 1e-7)).sum()
        return -(matched + unmatched) / len(v)

    named = {
        "contrast_student": method.beta * nce(v_s, method.memory_teacher, method.z_student),
        "contrast_teacher": method.beta * nce(v_t, method.memory_student, method.z_teacher),
    }
    with torch.no_grad():
        for bank, v in ((method.memory_student, v_s), (method.memory_teacher, v_t)):
            moved = method.nce_m * bank.index_select(0, batch.idx) + (1 - method.nce_m) * v
            bank.index_copy_(0, batch.idx, moved / moved.norm(dim=1, keepdim=True))
    return named


def nst_terms(method: Any, student: Outputs, teacher: Outputs, batch: Batch, contrast: Tensor | None) -> Terms:
    """NST by broadcasting all pairs of channels, (B, C, C', HW)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, :, None] * y[:, None]).sum(dim=-1).square().mean()

    total = []
    for f_s, f_t in zip(student.feats[1:], teacher.feats[1:], strict=False):
        side = min(f_s.shape[2], f_t.shape[2])
        s, t = (F.normalize(F.adaptive_avg_pool2d(f, side).flatten(2), dim=2) for f in (f_s, f_t))
        total.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return {"mmd": method.beta * sum(total, torch.zeros((), device=batch.label.device))}


TEXTBOOK: dict[str, Callable[..., Terms]] = {"crd": crd_terms, "nst": nst_terms}


def loss(
    name: str, method: Distiller, student: Outputs, teacher: Outputs, batch: Batch, contrast: Tensor | None = None
) -> Tensor:
    """The sum that a script minimises; its KL term is computed whatever its weight."""
    ce = F.cross_entropy(student.logits, batch.label)
    student, teacher = method.transform(student, teacher)
    divergence = kl(student.logits, teacher.logits, method.tau)
    if name in TEXTBOOK:
        terms = TEXTBOOK[name](method, student, teacher, batch, contrast)
    else:
        terms = method.terms(student, teacher, batch)
    return method.ce_weight * ce + method.kd_weight * divergence + sum(terms.values())


# -- the loop ---------------------------------------------------------------------------------


class Script:
    """The training script of one method."""

    def __init__(self, work: Work, spec: Spec, teacher: Tapped) -> None:
        self.name, self.device, self.teacher = spec.name, work.device, teacher
        student, method = work.build(spec, teacher)
        self.student, self.method = student.to(work.device).train(), method.to(work.device).train()
        self.method.on_stage("train")
        trained = [p for part in (self.student, self.method) for p in part.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        negatives = method.nce_k if spec.name == "crd" else 0
        self.batches = batches(work.pixels, work.batch_size, int(negatives))  # type: ignore[arg-type]
        self.losses: list[float] = []

    def run(self, steps: int) -> None:
        """Train so many steps."""
        for _ in range(steps):
            image, label, idx, *contrast = (part.to(self.device) for part in next(self.batches))
            batch = Batch(image, label, idx, torch.tensor(0.0, device=self.device))
            shown = self.student(image)
            if registry.get(self.name).needs_teacher:
                with torch.no_grad():
                    target = self.teacher(image)
            else:
                target = shown.map(Tensor.detach)
            total = loss(self.name, self.method, shown, target, batch, *contrast)
            self.losses.append(total.item())
            self.accuracy = accuracy(shown.logits, label)
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()


def accuracy(logits: Tensor, label: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 of a batch in percent, read back at once."""
    with torch.no_grad():
        right = logits.topk(min(5, logits.shape[1]), dim=1).indices == label[:, None]
        return right[:, :1].float().sum().mul(100 / len(label)).item(), right.float().sum().mul(100 / len(label)).item()


class Reference:
    """All scripts of a piece of work; they share one teacher object to save memory, never a forward pass."""

    def __init__(self, work: Work) -> None:
        teacher = work.teacher()
        self.device = work.device
        self.scripts = [Script(work, spec, teacher) for spec in work.specs]

    def run(self, steps: int) -> None:
        """So many steps of every method, one method after another."""
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = True  # torch's default, which these scripts run with
        for script in self.scripts:
            script.run(steps)
