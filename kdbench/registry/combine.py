"""``a+b``: several methods on one student, their terms added, CE and KD counted once."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from kdbench.distiller import READS, Batch, Distiller, Outputs, Pair
from kdbench.registry.hyper import Hyper, hyperparameters


class Combined(Distiller):
    """loss = CE + KD + the terms of every part; made by ``combined``, never by hand."""

    part_names: tuple[str, ...]
    part_classes: tuple[type[Distiller], ...]

    def __init__(self, pair: Pair, *, parts: dict[str, dict[str, Any]], **common: float) -> None:
        super().__init__(pair, **common)
        shared = {"ce_weight": self.ce_weight, "kd_weight": self.kd_weight, "tau": self.tau}
        built = (
            # A method whose own term stands in for KD has no kd_weight.
            cls(pair, **{k: v for k, v in shared.items() if k in hyperparameters(cls)}, **parts.get(name, {}))
            for name, cls in zip(self.part_names, self.part_classes, strict=True)
        )
        self.parts = nn.ModuleList(built)
        self.reads = max((part.reads for _, part in self._named()), key=READS.index)

    @classmethod
    def combined_hyperparameters(cls) -> dict[str, Hyper]:
        """Those of all parts: ``crd.nce_k`` when two parts share a name, else ``nce_k``."""
        own = [(name, hyperparameters(part)) for name, part in zip(cls.part_names, cls.part_classes, strict=True)]
        every = [key for _, found in own for key, hyper in found.items() if not hyper.common]
        merged: dict[str, Hyper] = {}
        for name, found in own:
            for key, hyper in found.items():
                if not hyper.common:
                    merged[f"{name}.{key}" if every.count(key) > 1 else key] = hyper
        return merged | hyperparameters(Distiller)

    @classmethod
    def build(cls, pair: Pair, **hyper: Any) -> Combined:
        """From flat hyper-parameters, as ``combined_hyperparameters`` names them.

        Raises:
            ValueError: a name that no part has, or that several have.
        """
        common = {key: hyper.pop(key) for key in hyperparameters(Distiller) if key in hyper}
        parts: dict[str, dict[str, Any]] = {name: {} for name in cls.part_names}
        for key, value in hyper.items():
            name, _, short = key.rpartition(".")
            named = zip(cls.part_names, cls.part_classes, strict=True)
            own = {part: hyperparameters(its) for part, its in named if name in ("", part)}
            owners = [part for part, known in own.items() if short in known and not known[short].common]
            if len(owners) != 1:
                there = ", ".join(cls.combined_hyperparameters())
                raise ValueError(f"{cls.__name__} has no hyper-parameter {key!r}; it has {there}")
            parts[owners[0]][short] = value
        return cls(pair, parts=parts, **common)

    def _named(self) -> list[tuple[str, Distiller]]:
        return list(zip(self.part_names, self.parts, strict=True))  # type: ignore[arg-type]

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, part in self._named():
            for key, value in part.terms(student, teacher, batch).items():
                taken = key in found or key in ("ce", "kd")  # those are the combination's own
                found[f"{name}.{key}" if taken else key] = value
        return found

    def transform(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        for _, part in self._named():
            student, teacher = part.transform(student, teacher)
        return student, teacher

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        for _, part in self._named():
            if part.pretrain_epochs:
                return part.pretrain_terms(student, teacher, batch)
        raise NotImplementedError

    def on_stage(self, stage: str) -> None:
        for _, part in self._named():
            part.on_stage(stage)

    def predict(self, student: Outputs) -> Tensor:
        for _, part in self._named():
            if part.modifies_student():
                return part.predict(student)
        return student.logits

    @classmethod
    def modifies_student(cls) -> bool:
        return any(part.modifies_student() for part in cls.part_classes)


@cache
def combined(part_names: tuple[str, ...], part_classes: tuple[type[Distiller], ...]) -> type[Combined]:
    """The class of one combination.

    Raises:
        ValueError: two parts that each have a stage of their own, change the network, want other
            views of the images or another teacher; a part that does not build on CE and KD.
    """
    name = "+".join(part_names)
    pairs = list(zip(part_names, part_classes, strict=True))
    staged = [part for part, cls in pairs if cls.pretrain_epochs]
    changed = [part for part, cls in pairs if cls.modifies_student()]
    whole = [part for part, cls in pairs if cls.loss is not Distiller.loss]
    if whole:
        raise ValueError(f"{name}: {' and '.join(whole)} writes its whole loss itself, CE included; it stands alone")
    views = {cls.views for cls in part_classes}
    assistants = {cls.assistant for cls in part_classes}
    for clash, why in (
        (staged, "each train a stage of their own first"),
        (changed, "each change the student's network"),
        (list(part_names) if len(views) > 1 else [], "look at different views of an image"),
        (list(part_names) if len(assistants) > 1 else [], "learn from different teachers"),
    ):
        if len(clash) > 1:
            raise ValueError(f"{name}: {' and '.join(clash)} {why}; that cannot be combined")
    leader = next((cls for cls in part_classes if cls.pretrain_epochs), Distiller)
    ranks = ("reading", "formula", "port", "authors' code")  # a combination is as proven as its weakest part
    body = {
        "part_names": part_names,
        "part_classes": part_classes,
        "views": views.pop(),
        "assistant": assistants.pop(),
        "reference": " + ".join(cls.reference for cls in part_classes),
        "provenance": min((cls.provenance for cls in part_classes), key=lambda p: ranks.index(p) if p in ranks else 0),
        "deviations": tuple(d for cls in part_classes for d in cls.deviations),
        "needs_teacher": any(cls.needs_teacher for cls in part_classes),
        "reads": max((cls.reads for cls in part_classes), key=lambda s: READS.index(s) if s in READS else len(READS)),
        "pretrain_epochs": leader.pretrain_epochs,
        "pretrain_student": leader.pretrain_student,
        "pretrain_lr": leader.pretrain_lr,
        "pretrain_drops": leader.pretrain_drops,
        "family": part_classes[0].family,
        "__doc__": f"{name}: the terms of all parts, CE and KD once.",
    }
    return type(name, (Combined,), body)
