"""OFA-KD: exits after every stage of the student learn in the space of logits, which all architectures share.

Hao, Guo, Han, Tang, Hu, Wang, Xu. One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation. NeurIPS 2023. https://arxiv.org/abs/2310.19444
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._exits import TokenExit, exit_head
from kdbench.methods._layers import at_class, full_precision


@full_precision
def adapted(z_s: Tensor, z_t: Tensor, target: Tensor, eps: float, tau: float) -> Tensor:
    """(B, K) logits, mask of the label -> (): -mean sum ((p_T + 1_y)^eps - 1_y) log p_S at temperature tau."""
    log_t = F.log_softmax(z_t / tau, dim=1)
    coefficient = torch.where(target, torch.expm1(eps * torch.log1p(log_t.exp())), torch.exp(eps * log_t))
    return -(coefficient * F.log_softmax(z_s / tau, dim=1)).sum(dim=1).mean()


def numbers(text: object, name: str) -> list[float]:
    """ "1/1.5" -> [1.0, 1.5], also of a bare number.

    Raises:
        ValueError: it does not read so.
    """
    try:
        return [float(part) for part in str(text).split("/")] if str(text) else []
    except ValueError:
        raise ValueError(f"ofa: cannot read {name}={text!r}; write numbers with / between them") from None


@register
class OFA(Distiller):
    """loss = CE + w_kd * ofa(z_S) + w_ofa * sum over stages of ofa(head(F_S)).

    ofa(z) = -mean sum ((p_T + 1_y)^eps - 1_y) log p(z), which at eps 1 is soft cross-entropy and above it leans
    to the label where the teacher is sure. It stands in for the KD term, which is therefore not offered. The
    heads are trained beside the student and then left: separable convolutions and a linear layer on the map of a
    stage, or, where asked for, transformer blocks and a linear layer on its tokens.

    Args:
        pair: shapes and facts of the pair.
        eps: one number, or one for every exit and one for the student's logits, as "1/1.1/1.2/1.4".
        w_ofa: weight of the exits; the authors take .1 for MobileNetV2.
        w_kd: weight of the student's own logits.
        temperature: of student and teacher; no tau^2 follows.
        stages: numbers of the stages with an exit, as "1/3"; empty: all.
        exits: "maps", or "tokens", the authors' for students that are transformers or MLPs.
        ce_weight: weight of the cross-entropy.

    Raises:
        ValueError: a stage that is not there; eps below 0 or of another number than exits; tokens of a student that
            has none, or that no exit can read.
    """

    reference = (
        "Hao et al. One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation."
        " NeurIPS 2023. https://arxiv.org/abs/2310.19444"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "A student with other than four stages has an exit after each, which halves its map once for every stage that"
        " follows; the release knows students of four stages.",
        "In log space; the release takes the logarithm of a softmax and gives NaN when one underflows.",
        "The release chooses eps per pair, from 1 to 1.5; its exits for transformers are those of"
        " exits=tokens alone, where a student of one shape has max(stages - k, 1) blocks after stage k.",
        "The convolution of the deepest exit begins with a bias of 0; the release leaves it as torch draws it.",
        "The release has no licence: this is written from its formulas and holds none of its text.",
    )
    family = "logit"
    reads = "logits"
    later: ClassVar = ("exits",)
    search: ClassVar = dict.fromkeys(("w_ofa", "w_kd"), (0.01, 0.1, 0.333, 1.0, 3.0, 10.0))  # both together

    def __init__(
        self,
        pair: Pair,
        *,
        eps: str = "1",
        w_ofa: float = 1.0,
        w_kd: float = 1.0,
        temperature: float = 1.0,
        stages: str = "",
        exits: Literal["maps", "tokens"] = "maps",
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        deepest = len(pair.student.feats) - 1
        found = numbers(stages, "stages") or list(range(1, deepest + 1))
        if not found or any(stage not in range(1, deepest + 1) for stage in found):
            raise ValueError(f"ofa: stages={stages!r} finds no exit; this student has {deepest} stages, from 1 on")
        if len(set(found)) < len(found):
            raise ValueError(f"ofa: stages={stages!r} names a stage twice; each has one exit")
        self.stages = [int(stage) for stage in found]
        self.eps = numbers(eps, "eps")
        self.eps *= len(self.stages) + 1 if len(self.eps) == 1 else 1
        if len(self.eps) != len(self.stages) + 1 or not all(0 <= one < math.inf for one in self.eps):
            raise ValueError(
                f"ofa: eps={eps!r} must be one number from 0 on, or {len(self.stages) + 1}: one for each of"
                f" {len(self.stages)} exits and one for the logits"
            )
        self.w_ofa, self.w_kd, self.temperature = w_ofa, w_kd, temperature
        if exits not in ("maps", "tokens"):
            raise ValueError(f"ofa: exits={exits!r}; there are exits on maps and on tokens")
        self.shown = exits
        width = max(pair.student.pooled, pair.teacher.pooled)
        ways = [(stage, deepest - stage) for stage in self.stages]
        if exits == "maps":
            feats = pair.student.feats
            self.heads = nn.ModuleList(exit_head(feats[at][0], left, width, pair.num_classes) for at, left in ways)
        else:
            self.heads = nn.ModuleList(TokenExit.of(pair.student, at, left, pair.num_classes) for at, left in ways)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        target = at_class(batch.label, student.logits)
        shown = student.feats if self.shown == "maps" else student.tokens or ()
        exits = [
            adapted(head(shown[stage]), teacher.logits, target, eps, self.temperature)
            for stage, head, eps in zip(self.stages, self.heads, self.eps[:-1], strict=True)
        ]
        own = adapted(student.logits, teacher.logits, target, self.eps[-1], self.temperature)
        return {"logits": self.w_kd * own, "heads": self.w_ofa * torch.stack(exits).sum()}
