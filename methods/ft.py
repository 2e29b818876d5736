"""FT: the student's factor must look where the factor of a pre-trained teacher autoencoder looks.

Kim, Park, Kwak. Paraphrasing Complex Network: Network Compression via Factor Transfer.
NeurIPS 2018. https://arxiv.org/abs/1802.04977

A pre-training stage trains the paraphraser, a convolutional autoencoder of the teacher's last map. The
main stage freezes it and trains the translator, an encoder of the student's last map, with the
student.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import mean_square, mse, pool

_SLOPE = 0.1  # of every leaky ReLU


def encoder(channels: int, factors: int, *, norm: bool) -> nn.Sequential:
    """Map (B, channels, H, W) -> factor (B, factors, H, W)."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((channels, channels), (channels, factors), (factors, factors)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1)]
        layers += [nn.BatchNorm2d(c_out), nn.LeakyReLU(_SLOPE)] if norm else [nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


def decoder(factors: int, channels: int) -> nn.Sequential:
    """Factor (B, factors, H, W) -> map (B, channels, H, W)."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((factors, factors), (factors, channels), (channels, channels)):
        layers += [nn.ConvTranspose2d(c_in, c_out, 3, padding=1), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


def attention(factor: Tensor) -> Tensor:
    """(B, M, H, W) -> (B, H W) of unit length: where the factor is large."""
    return F.normalize(mean_square(factor, (3,)).flatten(1))


@register
class FT(Distiller):
    """loss = CE + KD + beta * mean |n(T(F_S)) - n(P(F_T))|.

    T is the translator, P the paraphraser's encoder, both to ``k`` times the teacher's channels;
    n reduces a factor to one map of mean squares over channels, of unit length. The larger factor
    is average-pooled to the smaller side.

    Raises:
        ValueError: ``k`` leaves the factor without channels.
    """

    reference = "Kim, Park, Kwak. Paraphrasing Complex Network. NeurIPS 2018. https://arxiv.org/abs/1802.04977"
    provenance = "port"
    deviations = (
        "Paper: whole normalised factors are compared; here, as in RepDistiller, their attention maps.",
        "The pre-training stage always runs at learning rate .01; RepDistiller takes that for ResNet and WRN students"
        " and the student's own rate for the others.",
    )
    family = "two-stage"
    pretrain_epochs = 30
    pretrain_lr = 0.01

    def __init__(self, pair: Pair, *, beta: float = 200.0, k: float = 0.5, **common: float) -> None:
        super().__init__(pair, **common)
        (c_s, h_s, w_s), (c_t, h_t, w_t) = pair.student.feats[-1], pair.teacher.feats[-1]
        factors = int(c_t * k)
        if factors < 1:
            raise ValueError(f"ft: k={k} leaves nothing of {c_t} teacher channels; take at least {1 / c_t:.3g}")
        self.beta = beta
        self.side = (min(h_s, h_t), min(w_s, w_t))
        self.paraphraser = nn.ModuleDict(
            {
                "encoder": encoder(c_t, factors, norm=False),
                "decoder": decoder(factors, c_t),
            }
        )
        self.translator = encoder(c_s, factors, norm=True)

    def on_stage(self, stage: str) -> None:
        first = stage == "pretrain"
        self.paraphraser.requires_grad_(first).train(first)
        self.translator.requires_grad_(not first)

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        hint = teacher.feats[-1]
        rebuilt = self.paraphraser["decoder"](self.paraphraser["encoder"](hint))
        return {"reconstruction": mse(rebuilt, hint)}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        factors = (self.translator(student.feats[-1]), self.paraphraser["encoder"](teacher.feats[-1]))
        ours, theirs = (attention(pool(factor, self.side)) for factor in factors)
        return {"factor": self.beta * F.l1_loss(ours, theirs)}
