"""Changes, in as many ways as there are, a tensor that other methods are shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair

#: By kind: what the failure names; empty where nothing of others is changed.
KINDS = {
    "image in place": "the images of the batch",
    "image through .data": "the images of the batch",
    "image through numpy": "the images of the batch",
    "image storage emptied": "RuntimeError in epoch 1: Trying to resize storage",
    "image permuted": "the images of the batch",
    "image as out=": "the images of the batch",
    "image by index": "the images of the batch",
    "image as a leaf": "",
    "image object set": "the images of the batch",
    "label in place": "the labels of the batch",
    "label through numpy": "the labels of the batch",
    "label through .data": "the labels of the batch",
    "idx in place": "the idx of the batch",
    "idx through numpy": "the idx of the batch",
    "progress in place": "",
    "feats in place": "the teacher's feats",
    "feats through .data": "the teacher's feats",
    "preacts in place": "the teacher's preacts",
    "last in place": "the teacher's last",
    "pooled in place": "the teacher's pooled",
    "logits in place": "the teacher's logits",
    "logits through .data": "the teacher's logits",
    "logits in backward": "the teacher's logits",
    "logits as a leaf": "",
    "classifier in place": "the teacher's weights",
    "classifier through .data": "the teacher's weights",
    "head's weights": "the teacher's weights",
    "head's statistics": "the teacher's weights",
    "training labels in place": "the training labels",
    "training labels through numpy": "the training labels",
    "training labels set anew": "the training labels",
    "in the second epoch": "the teacher's logits",
    "in the last batch": "the labels of the batch",
    "and raises": "ValueError in epoch 1: no",
    "everything": "the images of the batch",
}


class Tensors(Distiller):
    """Does what ``kind`` says, in the loss."""

    reference = "none"
    provenance = "formula"

    def __init__(self, pair: Pair, *, kind: str = "") -> None:
        super().__init__(pair, kd_weight=1.0)
        self.kind, self.pair, self.calls = kind, pair, 0

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        shown = {
            "image": batch.image,
            "label": batch.label,
            "idx": batch.idx,
            "progress": batch.progress,
            "feats": teacher.feats[1],
            "preacts": (teacher.preacts or teacher.feats)[1],
            "last": teacher.last,
            "pooled": teacher.pooled,
            "logits": teacher.logits,
            "classifier": teacher.classifier[0] if teacher.classifier else teacher.logits,
            "training": self.pair.train_labels,
        }
        words = self.kind.split()
        target = shown.get(words[0], teacher.logits)
        how = " ".join(words[1:]).removeprefix("labels ")
        extra = self._change(target, how, student, batch)
        if self.kind == "everything":
            for tensor in shown.values():
                tensor.zero_()
        return {"own": student.pooled.square().mean() + extra}

    def _change(self, target: Tensor, how: str, student: Outputs, batch: Batch) -> Any:
        if how == "in place":
            target.mul_(0)
        elif how == "through .data":
            target.data.mul_(0)
        elif how == "through numpy":
            target.numpy()[:] = 0
        elif how == "storage emptied":
            target.untyped_storage().resize_(0)
        elif how == "permuted":
            target.data.copy_(target.flip(0))
        elif how == "as out=":
            torch.neg(target.clone(), out=target)
        elif how == "by index":
            target[0] = 1
        elif how == "as a leaf":
            return 0 * target.requires_grad_().sum()
        elif how == "object set":
            into: Any = target  # its types know storages alone
            into.set_(torch.zeros(3))
        elif how == "set anew":
            into = target
            into.set_(torch.zeros(3, dtype=target.dtype))
        elif how == "in backward":
            student.logits.register_hook(lambda grad: (target.mul_(0), grad)[1])
        elif how in ("weights", "statistics"):
            module: Any = next(cell.cell_contents for cell in getattr(self.pair.head, "__closure__", ()))
            found = module.parameters() if how == "weights" else (b for b in module.buffers() if b.is_floating_point())
            with torch.no_grad():
                next(iter(found)).mul_(0)
        elif self.kind == "in the second epoch" and batch.progress > 0.4:
            target.mul_(0)
        elif self.kind == "in the last batch" and len(batch.label) < 16:
            batch.label.zero_()
        elif self.kind == "and raises":
            batch.image.zero_()
            raise ValueError("no")
        return 0
