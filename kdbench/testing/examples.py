"""What the examples in docstrings train: toy lanes, and all that a group of them shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench import registry
from kdbench.engine.fit import Setting
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.testing.toys import LR, TWIN, Problem, seeded

CPU = torch.device("cpu")
FP32 = Precision()


class Images:
    """The images of a toy problem, as the engine's loop takes them.

    >>> images = Images(Problem(TWIN))
    >>> len(images), [len(label) for _, label, _ in images.epoch(0)]
    (4, [8, 8, 8, 3])
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.labels = problem, problem.label

    def __len__(self) -> int:
        return sum(1 for _ in self.epoch(0))

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(image, label, idx) batches; the same ones whenever the same epoch is asked for."""
        for batch in self.problem.batches(epoch, 1, views=1):
            yield batch.image, batch.label, batch.idx


def lanes(*methods: str, epochs: int = 1) -> list[Lane]:
    """Toy students ready to train with these methods; their checkpoints lie in the current folder.

    >>> [lane.key for lane in lanes("kd", "fitnet")]
    ['kd', 'fitnet']
    """
    made, problem = [], Problem(TWIN)
    for name in methods:
        with seeded(0):
            student, method = problem.student(), registry.get(name).build(problem.pair, kd_weight=1.0)
        path, plan = Path(f"{name}.ckpt"), Plan(epochs, LR)
        made.append(
            Lane(name, student, method, plan, seed=0, path=path, settings="", teacher="", device=CPU, precision=FP32)
        )
    return made


def setting() -> Setting:
    """What toy lanes share: teacher, batches and test images.

    >>> len(setting().train)
    4
    """
    problem = Problem(TWIN)
    return Setting(problem.teacher, Images(problem), lambda: [(problem.image, problem.label)], CPU, FP32)


def finding(**more: object) -> dict[str, Any]:
    """Facts of what a probe found, all that ``kdbench.utils.findings.Finding`` asks for; ``more`` takes their place.

    >>> finding(seed=3)["probe"], finding(seed=3)["seed"]
    ('calibration', 3)
    """
    network = {"teacher": "T", "student": "S", "method": "kd", "seed": 0, "quick": False}
    found = {"settings": {}, "identity": {"network": "ab12"}, "summary": {}}
    made = {"code": {}, "environment": {}, "finished": "2026-01-01T00:00:00+00:00"}
    return {"probe": "calibration", "suite": "digits", "dataset": "digits", **network, **found, **made} | more
