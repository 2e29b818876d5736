"""OFD: match pre-ReLU maps, each channel of the teacher cut off below its mean negative response.

Heo, Kim, Yun, Park, Kwak, Choi. A Comprehensive Overhaul of Feature Distillation.
ICCV 2019. https://arxiv.org/abs/1904.01866
"""

import math

import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, pool
from kdbench.methods._pairs import must_show_stages
from kdbench.methods.ab import signed


def margin(weight: Tensor, bias: Tensor) -> Tensor:
    """E[x | x < 0] of x ~ N(bias, weight^2), (C,): what a batch norm gives where it is negative.

    -3 |weight| for channels that are negative less than once in a thousand.
    """
    # A channel of no spread has its bias for a mean; the floor only keeps 0 / 0 out.
    sigma = weight.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
    z = bias.double() / sigma
    negative = torch.special.ndtr(-z)
    density = torch.exp(-z.pow(2) / 2) / math.sqrt(2 * math.pi)
    mean = bias.double() - sigma * density / negative.clamp_min(1e-3)
    return torch.where(negative > 1e-3, mean, -3 * sigma).to(weight.dtype)


@full_precision  # the sum over a map passes the largest number of half precision
def partial(student: Tensor, teacher: Tensor, floor: Tensor) -> Tensor:
    """Sum over (C, H, W), mean over B, of (s - max(t, m))^2, but 0 where s <= max(t, m) and t <= 0."""
    gap = student - torch.maximum(teacher, floor)
    wanted = (gap > 0) | (teacher > 0)
    return torch.where(wanted, gap, torch.zeros_like(gap)).pow(2).sum() / len(student)


@register
class OFD(Distiller):
    """loss = CE + KD + beta * sum over stages l = 1..L of 2^(l-L) * partial distance.

    The student's pre-ReLU map goes through a 1x1 convolution with batch norm; the teacher's is
    pooled to its side and cut off below the margins. With unequal numbers of stages the deepest L are paired.

    Raises:
        ValueError: the teacher has no pre-ReLU taps with a known batch norm; one of the models shows no stage.
    """

    reference = (
        "Heo et al. A Comprehensive Overhaul of Feature Distillation. ICCV 2019. https://arxiv.org/abs/1904.01866"
    )
    provenance = "port"
    deviations = (
        "The teacher's batch norms are in eval mode; the authors' CIFAR script and mdistiller leave them in training"
        " mode.",
        "With unequal numbers of stages features and margins are both paired from the deepest; mdistiller pairs the"
        " margins from the shallowest.",
        "A student without taps before its ReLUs is read after them.",
    )

    def __init__(self, pair: Pair, *, beta: float = 1e-3, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "ofd")
        if pair.teacher_norms is None:
            raise ValueError(
                "ofd: the teacher names no batch norms before its last ReLUs, from which the margins are taken;"
                " take a ResNet, WRN or VGG teacher of the zoo"
            )
        self.beta = beta
        self.depth = min(len(pair.student.feats) - 1, len(pair.teacher_norms))
        ours, theirs = (side.feats[-self.depth :] for side in (pair.student, pair.teacher))
        self.connector = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s[0], t[0], 1, bias=False), nn.BatchNorm2d(t[0]))
            for s, t in zip(ours, theirs, strict=True)
        )
        for stage, (weight, bias) in enumerate(pair.teacher_norms[-self.depth :]):
            self.register_buffer(f"margin{stage}", margin(weight.detach(), bias.detach()).reshape(-1, 1, 1))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        total = student.logits.new_zeros(())
        maps = zip(self.connector, signed(student)[-self.depth :], signed(teacher)[-self.depth :], strict=True)
        for stage, (connect, ours, theirs) in enumerate(maps):
            connected = connect(ours)
            target = pool(theirs, (connected.shape[2], connected.shape[3]))
            distance = partial(connected, target, getattr(self, f"margin{stage}"))
            total = total + 2.0 ** (stage + 1 - self.depth) * distance
        return {"overhaul": self.beta * total}
