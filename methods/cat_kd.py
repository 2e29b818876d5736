"""CAT-KD: transfer the class activation maps, one map per class.

Guo, Yan, Li, Lin. Class Attention Transfer Based Knowledge Distillation. CVPR 2023.
https://arxiv.org/abs/2304.12777
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._pairs import must_average


def class_maps(outputs: Outputs) -> Tensor:
    """(B, K, H, W): the classifier applied at every position, without its bias; gradients reach it."""
    if outputs.classifier is None:
        raise ValueError("cat_kd: this model shows no linear classifier, so it has no class activation maps")
    return F.conv2d(outputs.last, outputs.classifier[0][:, :, None, None])


@register
class CATKD(Distiller):
    """loss = CE + KD + beta * mean (n(pool(M_S)) - n(pool(M_T)))^2, M the class activation maps.

    Maps are average-pooled to ``resolution`` squared; n is the identity or, with ``normalise``,
    scales each to unit length (CAT). ``binarise`` first turns a teacher map to 1 where it exceeds the
    mean of its absolute values and 0 elsewhere; ``top`` compares the maps of that many classes of the
    highest teacher logits only, ``bottom`` of the lowest (0: all). CAT, transfer without labels:
    ``normalise``, ``beta=300``, ``ce_weight=0``.

    Raises:
        ValueError: a head is not a linear layer on the pooled last map; ``top`` or ``bottom`` is no number of classes,
            or both are given.
    """

    reference = (
        "Guo et al. Class Attention Transfer Based Knowledge Distillation. CVPR 2023. https://arxiv.org/abs/2304.12777"
    )
    provenance = "authors' code"
    deviations = (
        "The student keeps its linear head, with bias and its own initialisation; the release replaces it by a 1x1"
        " convolution without bias. Maps are formed without bias either way.",
        "top=k and bottom=k compare k classes in every image; asked for k, the release compares the k - 1 highest or"
        " (of 100 classes) the k + 1 lowest, and all where logits tie.",
        "beta=15 is the release's for ResNet32x4 -> ResNet8x4; it tunes beta, resolution and normalise per pair.",
    )

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 15.0,
        resolution: int = 2,
        normalise: bool = False,
        binarise: bool = False,
        top: int = 0,
        bottom: int = 0,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        must_average(pair, "cat_kd", "so it has no class activation maps")
        for name, count in (("top", top), ("bottom", bottom)):
            if not 0 <= count <= pair.num_classes:
                raise ValueError(f"cat_kd: {name}={count} is no number of classes; take 0 (all) to {pair.num_classes}")
        if top and bottom:
            raise ValueError(f"cat_kd: top={top} and bottom={bottom} ask for both ends; take one of them")
        self.beta, self.resolution, self.classes, self.highest = beta, resolution, top or bottom, not bottom
        self.normalise, self.binarise = normalise, binarise

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        maps = class_maps(teacher)
        if self.binarise:
            maps = (maps > maps.abs().mean(dim=(2, 3), keepdim=True)).to(maps.dtype)
        ours, theirs = (F.adaptive_avg_pool2d(m, self.resolution).flatten(2) for m in (class_maps(student), maps))
        if self.classes:
            some = teacher.logits.topk(self.classes, dim=1, largest=self.highest).indices  # (B, classes)
            index = some[:, :, None].expand(-1, -1, ours.shape[2])
            ours, theirs = ours.gather(1, index), theirs.gather(1, index)
        if self.normalise:
            ours, theirs = F.normalize(ours, dim=2), F.normalize(theirs, dim=2)
        return {"cat": self.beta * F.mse_loss(ours, theirs)}
