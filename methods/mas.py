"""MAS: MAG, and the target of KD is the mean of three opinions of the teacher.

Shao, Chen. Multi-granularity for knowledge distillation.
Image and Vision Computing 115, 2021. https://arxiv.org/abs/2108.06681
"""

from kdbench import Outputs, register
from kdbench.methods.mag import MAG


@register
class MAS(MAG):
    """loss = MAG's, with z_T replaced by (z_T + D_a E_a f_T + D_d E_d f_T) / 3.

    Every term that reads the teacher's logits sees the mean, also those of a method that MAS is
    combined with. Where none does (``kd_weight=0``) MAS is MAG.
    """

    deviations = (
        *MAG.deviations,
        "In a combination the other method's logit terms see the mean too, save those of sdd, which are made from the"
        " map; the release replaces the KL target only.",
    )

    def transform(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        mean = (teacher.logits + self.low(teacher.pooled) + self.high(teacher.pooled)) / 3
        return student, teacher._replace(logits=mean)
