"""MAG: match what the pooled vector says at two granularities, abstract and detailed.

Shao, Chen. Multi-granularity for knowledge distillation.
Image and Vision Computing 115, 2021. https://arxiv.org/abs/2108.06681

A pre-training stage trains two encoder-decoders ("tubes") on the frozen teacher's pooled vector: a narrow
one for the abstract view, a wide one for the detailed view. The main stage freezes them; the
student's own encoders, thrown away after training, must agree with the teacher's.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, kl, register


def perceptron(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    """(B, d_in) -> (B, d_out), one hidden layer."""
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_out))


class Tube(nn.Module):
    """Encoder (B, D) -> (B, dim) and decoder (B, dim) -> logits (B, K)."""

    def __init__(self, d: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = perceptron(d, d, dim)
        self.decoder = perceptron(dim, d, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits (B, K) from the pooled vector (B, D)."""
        logits: Tensor = self.decoder(self.encoder(pooled))
        return logits


@register
class MAG(Distiller):
    """loss = CE + KD + KL_low(E_a f_S, E_a' f_T) + KL_high(E_d f_S, E_d' f_T).

    f is the pooled vector; the softmax of the two KL terms runs over the dimensions of the
    encoding. Each tube is trained before with KL_low (KL_high) to the teacher's logits plus CE.
    """

    reference = "Shao, Chen. Multi-granularity for knowledge distillation. IVC 2021. https://arxiv.org/abs/2108.06681"
    provenance = "authors' code"
    deviations: ClassVar[tuple[str, ...]] = (
        "The release keeps each tube at its best accuracy on the test set; we keep it as the stage leaves it.",
        "The release trains the two tubes one after the other, each in a pass of its own; we train both on the same"
        " batch, which gives each the same gradients.",
        "The release gives the student decoders too, which no loss uses; they are left out.",
        "Weights of the release's scripts for all but plain KD: CE 1, KL 1 (its parser's default leaves the KL out).",
    )
    family = "two-stage"
    reads = "pooled"
    main_weight = "kd_weight"  # the terms of the encodings have none
    pretrain_epochs = 60
    pretrain_lr = 0.01
    pretrain_drops = (0.5, 0.75)

    def __init__(
        self,
        pair: Pair,
        *,
        low_dim: int = 64,
        high_dim: int = 256,
        low_tau: float = 2.0,
        high_tau: float = 8.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        self.low_tau, self.high_tau = low_tau, high_tau
        d_s, d_t = pair.student.pooled, pair.teacher.pooled
        self.low, self.high = (Tube(d_t, dim, pair.num_classes) for dim in (low_dim, high_dim))
        self.student_low, self.student_high = (perceptron(d_s, d_s, dim) for dim in (low_dim, high_dim))

    def on_stage(self, stage: str) -> None:
        tubes_learn = stage == "pretrain"
        for tube in (self.low, self.high):
            tube.requires_grad_(tubes_learn).train(tubes_learn)
        for encoder in (self.student_low, self.student_high):
            encoder.requires_grad_(not tubes_learn)

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        def taught(tube: Tube, tau: float) -> Tensor:
            logits = tube(teacher.pooled)
            return kl(logits, teacher.logits, tau) + F.cross_entropy(logits, batch.truth)

        return {"tube_low": taught(self.low, self.low_tau), "tube_high": taught(self.high, self.high_tau)}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {
            "kl_low": kl(self.student_low(student.pooled), self.low.encoder(teacher.pooled), self.low_tau),
            "kl_high": kl(self.student_high(student.pooled), self.high.encoder(teacher.pooled), self.high_tau),
        }
