"""``a+b``: several methods on one student, their terms added, CE and KD counted once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from kdbench.distiller import FACTORS, READS, Batch, Distiller, Hyper, Outputs, Pair


class Absorbed(NamedTuple):
    """A method whose loss a part takes over (see ``Distiller.absorbs``).

    >>> from kdbench import registry
    >>> registry.get("dkd+ea").absorbed["ea"].given
    {'base': 'dkd'}
    """

    name: str
    keys: frozenset[str]  # its hyper-parameters, by whose names the part's own go
    given: dict[str, Any]  # what the part must be given


class Combined(Distiller):
    """loss = CE + KD + the terms of every part; made by ``combined``, never by hand.

    >>> from kdbench import registry
    >>> cls = registry.get("crd+fitnet")
    >>> [part.__name__ for part in cls.components()]
    ['CRD', 'FitNet']
    >>> [name for name in cls.hyperparameters() if name.endswith(("beta", "tap"))]
    ['crd.beta', 'tap', 'fitnet.beta', 'teacher_tap']
    """

    part_names: tuple[str, ...]
    part_classes: tuple[type[Distiller], ...]
    whole: tuple[type[Distiller], ...]  # absorbed ones included
    absorbed: dict[str, Absorbed]  # by the part that absorbs

    def __init__(self, pair: Pair, *, parts: dict[str, dict[str, Any]], **common: float) -> None:
        super().__init__(pair, **common)
        shared = {"ce_weight": self.ce_weight, "kd_weight": self.kd_weight, "tau": self.tau}
        built = []
        for name, cls in self._parts():
            known = cls.hyperparameters()  # a method whose own term stands in for KD has no kd_weight
            given = self.absorbed[name].given if name in self.absorbed else {}
            own = {key: value for key, value in shared.items() if key in known}
            built.append(cls.build(pair, **own, **given, **parts.get(name, {})))
        self.parts = nn.ModuleList(built)
        self.reads = max((part.reads for _, part in self._named()), key=READS.index)

    @classmethod
    def components(cls) -> tuple[type[Distiller], ...]:
        return cls.whole

    @classmethod
    def _parts(cls) -> list[tuple[str, type[Distiller]]]:
        return list(zip(cls.part_names, cls.part_classes, strict=True))

    @classmethod
    def _own(cls) -> list[tuple[str, str, dict[str, Hyper]]]:
        """(name of a method, the part that serves it, its hyper-parameters), absorbed methods included."""
        found = []
        for name, part in cls._parts():
            own = {key: hyper for key, hyper in part.hyperparameters().items() if not hyper.common}
            if name in cls.absorbed:
                other, keys, given = cls.absorbed[name]
                own = {key: hyper for key, hyper in own.items() if key not in given}
                found.append((other, name, {key: own.pop(key) for key in list(own) if key in keys}))
            found.append((name, name, own))
        return found

    @classmethod
    def _full(cls) -> dict[tuple[str, str], str]:
        """(part, its hyper-parameter) -> its name in the combination."""
        every = [key for _, _, own in cls._own() for key in own]
        return {
            (part, key): f"{name}.{key}" if every.count(key) > 1 else key
            for name, part, own in cls._own()
            for key in own
        }

    @classmethod
    def hyperparameters(cls) -> dict[str, Hyper]:
        """Those of all parts: ``crd.nce_k`` when two parts share a name, else ``nce_k``."""
        full = cls._full()
        merged = {full[part, key]: hyper for _, part, own in cls._own() for key, hyper in own.items()}
        common = Distiller.hyperparameters()
        if cls.absorbed:
            del common["kd_weight"]  # KD is in the loss that was absorbed
        return merged | common

    @classmethod
    def build(cls, pair: Pair, **hyper: Any) -> Self:
        """From flat hyper-parameters, as ``hyperparameters`` names them.

        Raises:
            ValueError: a name that no part has, or that several have; a part cannot serve the pair.
        """
        known = cls.hyperparameters()
        common = {key: hyper.pop(key) for key in Distiller.hyperparameters() if key in hyper and key in known}
        parts: dict[str, dict[str, Any]] = {name: {} for name in cls.part_names}
        for key, value in hyper.items():
            name, _, short = key.rpartition(".")
            owners = [part for method, part, own in cls._own() if name in ("", method) and short in own]
            if len(owners) != 1:
                raise ValueError(f"{cls.__name__} has no hyper-parameter {key!r}; it has {', '.join(known)}")
            parts[owners[0]][short] = value
        return cls(pair, parts=parts, **common)

    @classmethod
    def search_space(cls, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As many as of any method, here of the main weights of all parts together.

        All as they are; all times 1/100, 1/10 and 3; and each of the first two parts (by name) alone times 1/10. In
        place of the factors stand a part's rows where it states ``search``. A part with nothing to tune is left as it
        is, and with one other alone its six are these. A weight that two parts share is scaled once.
        """
        known, names = cls.hyperparameters(), cls._full()
        present = {name: hyper.default for name, hyper in known.items()} | dict(defaults)
        tuned: list[list[dict[str, Any]]] = []
        for name, part in cls._parts():
            full = {key: names.get((name, key), key) for key in part.hyperparameters()}
            given = cls.absorbed[name].given if name in cls.absorbed else {}
            rows = part.search_space({key: present[full[key]] for key in full if full[key] in known} | given)
            rows = [{full[key]: value for key, value in row.items()} for row in rows]
            shared = any(key in earlier[0] for earlier in tuned for key in rows[0])
            if len(rows) > 1 and not shared and rows[0].keys() <= known.keys():
                tuned.append(rows)
        if len(tuned) < 2:
            return tuned[0] if tuned else [{}]
        now = [rows.index({key: present[key] for key in rows[0]}) for rows in tuned]
        alone = [[1 if at == which else place for at, place in enumerate(now)] for which in (0, 1)]
        together = [[place] * len(tuned) for place in (0, 1, 4, 2, 5, 3)]
        choice: list[dict[str, Any]] = []
        for places in (now, *together[:3], *alone, *together[3:]):  # the last three stand in where some are the same
            one = {key: value for rows, place in zip(tuned, places, strict=True) for key, value in rows[place].items()}
            if one not in choice:
                choice.append(one)
        return choice[: len(FACTORS)]

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


def _adds_nothing(cls: type[Distiller]) -> bool:
    """Whether a part is the plain student: no teacher, no term, no other target or network."""
    own = ("terms", "transform", "predict", "pretrain_terms", "on_stage")
    return not cls.needs_teacher and all(getattr(cls, name) is getattr(Distiller, name) for name in own)


def _absorbed(name: str, pairs: list[tuple[str, type[Distiller]]]) -> dict[str, Absorbed]:
    """Part -> the other part that it absorbs.

    Raises:
        ValueError: it would absorb two; a loss on the logits stands beside it that it cannot absorb.
    """
    found: dict[str, Absorbed] = {}
    for part, cls in pairs:
        taken = [(other, its) for other, its in pairs if other in cls.absorbs]
        beside = [
            other
            for other, its in pairs
            if other not in (part, *cls.absorbs) and its.family == "logit" and its.terms is not Distiller.terms
        ]
        if cls.absorbs and (len(taken) > 1 or beside):
            raise ValueError(
                f"{name}: {part} changes the loss of {' or '.join(cls.absorbs)}, not that of"
                f" {' and '.join(beside) or 'both'}; leave out one of them"
            )
        for other, its in taken:
            found[part] = Absorbed(other, frozenset(its.hyperparameters()), cls.absorbs[other])
    return found


@cache
def combined(part_names: tuple[str, ...], part_classes: tuple[type[Distiller], ...]) -> type[Combined]:
    """The class of one combination.

    Raises:
        ValueError: two parts that each have a stage of their own, change the network, want other
            views of the images or another teacher; a part that does not build on CE and KD; one that adds
            nothing; one whose loss another part would have to change and cannot; two of which one says so.

    >>> from kdbench import registry
    >>> combined(("ab", "ft"), (registry.get("ab"), registry.get("ft")))
    Traceback (most recent call last):
    ValueError: ab+ft: ab and ft each train a stage of their own first; that cannot be combined
    """
    name = "+".join(part_names)
    pairs = list(zip(part_names, part_classes, strict=True))
    staged = [part for part, cls in pairs if cls.pretrain_epochs]
    changed = [part for part, cls in pairs if cls.modifies_student()]
    whole = [part for part, cls in pairs if cls.loss is not Distiller.loss]
    if whole:
        raise ValueError(f"{name}: {' and '.join(whole)} writes its whole loss itself, CE included; it stands alone")
    if idle := [part for part, cls in pairs if _adds_nothing(cls)]:
        raise ValueError(f"{name}: {idle[0]} adds nothing to the other{'s' * (len(pairs) > 2)}; leave it out")
    for part, cls in pairs:
        if beside := [other for other in part_names if other in cls.apart]:
            raise ValueError(f"{name}: {part} cannot stand beside {beside[0]}: {cls.apart[beside[0]]}")
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
    absorbed = _absorbed(name, pairs)
    gone = {other.name for other in absorbed.values()}
    built = [(part, cls) for part, cls in pairs if part not in gone]
    leader = next((cls for cls in part_classes if cls.pretrain_epochs), Distiller)
    ranks = ("reading", "formula", "port", "authors' code")  # a combination is as proven as its weakest part
    body = {
        "part_names": tuple(part for part, _ in built),
        "part_classes": tuple(cls for _, cls in built),
        "whole": part_classes,
        "absorbed": absorbed,
        "views": views.pop(),
        "assistant": assistants.pop(),
        "reference": " + ".join(cls.reference for cls in part_classes),
        "provenance": min((cls.provenance for cls in part_classes), key=lambda p: ranks.index(p) if p in ranks else 0),
        "deviations": tuple(d for cls in part_classes for d in cls.deviations),
        "needs_teacher": any(cls.needs_teacher for cls in part_classes),
        "roles": {
            end: role for part, cls in built for key, role in cls.roles.items() for end in (key, f"{part}.{key}")
        },
        "needs_hard_labels": any(cls.needs_hard_labels for cls in part_classes),
        "own_cross_entropy": any(cls.own_cross_entropy for cls in part_classes),
        "reads": max((cls.reads for cls in part_classes), key=lambda s: READS.index(s) if s in READS else len(READS)),
        "pretrain_epochs": leader.pretrain_epochs,
        "pretrain_student": leader.pretrain_student,
        "pretrain_lr": leader.pretrain_lr,
        "pretrain_drops": leader.pretrain_drops,
        "family": part_classes[0].family,
        "__doc__": f"{name}: the terms of all parts, CE and KD once.",
    }
    made: type[Combined] = type(name, (Combined,), body)
    late = {part: cls.later for part, cls in built}
    made.later = tuple(full for (part, key), full in made._full().items() if key in late[part])
    return made
