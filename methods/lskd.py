"""LSKD: standardise both logit vectors first, so that KD need not match their scale.

Sun, Ren, Li, Wang, Cao. Logit Standardization in Knowledge Distillation.
CVPR 2024. https://arxiv.org/abs/2403.01427
"""

from typing import ClassVar

from torch import Tensor

from kdbench import Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision

_LABELS = "what it makes of the labels is of the logits as they are, and would be of standardised ones"
_OTHERS = "it has logits of its own, which would stay as they are where the teacher's are standardised"


@full_precision
def standardise(z: Tensor) -> Tensor:
    """(B, K) logits -> (B, K) of mean 0 and standard deviation 1 by rows (n - 1 in the variance)."""
    return (z - z.mean(dim=1, keepdim=True)) / (1e-7 + z.std(dim=1, keepdim=True))


@register
class LSKD(Distiller):
    """loss = ce_weight * CE(z_S, y) + kd_weight * KL_tau(standardised z_S, standardised z_T).

    It has no term of its own: in ``lskd+x`` the terms of x see the standardised logits too. Methods that learn labels
    from those logits, or compare the teacher's with logits that are not the student's own, are refused beside it.
    """

    reference = (
        "Sun et al. Logit Standardization in Knowledge Distillation. CVPR 2024. https://arxiv.org/abs/2403.01427"
    )
    provenance = "authors' code"
    deviations = ("The authors choose the KD weight per pair (1 to 18); the default is that of their README.",)
    family = "logit"
    reads = "logits"
    main_weight = "kd_weight"
    apart: ClassVar = dict.fromkeys(("confidence_penalty", "deit", "label_smoothing", "tfkd"), _LABELS) | dict.fromkeys(
        ("dskd", "mas", "ofa", "srrl"), _OTHERS
    )

    def __init__(self, pair: Pair, *, ce_weight: float = 0.1, kd_weight: float = 9.0, tau: float = 2.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)

    def transform(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        return (
            student._replace(logits=standardise(student.logits)),
            teacher._replace(logits=standardise(teacher.logits)),
        )
