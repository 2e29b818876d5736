"""The plain student: cross-entropy with the labels, no teacher. Every table's base line."""

from typing import ClassVar

from kdbench import Distiller, Pair, register


@register
class Student(Distiller):
    """loss = CE(z_S, y)."""

    reference = "none: ordinary supervised training"
    provenance = "formula"
    family = "control"
    needs_teacher = False
    reads = "logits"
    search: ClassVar = {}

    def __init__(self, pair: Pair, *, ce_weight: float = 1.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
