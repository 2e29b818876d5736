"""KD: match the teacher's temperature-softened class probabilities.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network.
NIPS workshop 2014. https://arxiv.org/abs/1503.02531
"""

from kdbench import Distiller, Pair, register


@register
class KD(Distiller):
    """loss = ce_weight * CE(z_S, y) + kd_weight * tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)).

    Defaults are those of the CRD suite, .1 and .9; the convention of a suite sets its own.
    """

    reference = "Hinton, Vinyals, Dean. NIPS workshop 2014. https://arxiv.org/abs/1503.02531"
    provenance = "port"
    family = "logit"
    reads = "logits"
    main_weight = "kd_weight"

    def __init__(self, pair: Pair, *, ce_weight: float = 0.1, kd_weight: float = 0.9, tau: float = 4.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
