"""The card of a method, for `kdbench info`: what a reader of a table wants to know of a row."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence

from kdbench import registry, suites
from kdbench.distiller import Distiller
from kdbench.terminal import literature
from kdbench.utils.wording import quoted

_EVIDENCE = {
    "authors' code": "loss and every gradient equal the authors' released code on stored cases",
    "port": "loss and every gradient equal a re-implementation's released code, not the authors' own",
    "formula": "value and gradient equal the paper's formula, retyped in the test",
    "reading": "no public code exists: this is our reading of the paper, never quote it as the authors' method",
}

Section = tuple[str, list[str]]


def card(label: str, pair: str | None = None) -> list[Section]:
    """(heading, lines) of one method; with ``pair`` (``teacher:student``) also its parameters there.

    Args:
        label: the method, a combination, or either with values of its own: ``semckd[beta=4]``.
        pair: the pair, if any.

    Raises:
        ValueError: there is no such method, hyper-parameter or model; several methods are meant.
    """
    spec, *more = registry.parse(label)
    if more:
        raise ValueError(f"{quoted(label)} means {1 + len(more)} methods; a card is of one")
    name, hyper = spec.name, dict(spec.hyper)
    cls = registry.get(name)
    parts = cls.components()
    apart = ", ranked apart: the evaluated network is not the plain student" if cls.modifies_student() else ""
    evidence = _EVIDENCE[cls.provenance] if len(parts) == 1 else "the weakest of its parts"
    sections: list[Section] = [
        (str(spec), [registry.idea(part) for part in parts]),
        ("formula", _formula(parts)),
        ("citation", [part.reference for part in parts]),
        ("family", [cls.family + apart]),
        ("provenance", [f"{cls.provenance}: {evidence}"]),
    ]
    if cls.deviations:
        sections.append(("deviations", [f"- {sentence}" for sentence in cls.deviations]))
    sections.append(("hyper-parameters", _hyper(name, hyper)))
    if cls.pretrain_epochs:
        trained = "student and method" if cls.pretrain_student else "the method's own modules"
        stage = f"{cls.pretrain_epochs} of 240 epochs (scaled with the run), trains {trained}"
        sections.append(("pre-training stage", [stage]))
    if cls.assistant:
        by, _ = cls.assistant
        sections.append(
            (
                "teacher assistant",
                [
                    f"learns from the student's network at twice its width, distilled from the teacher by {by} (with"
                    f" the suite's weights for {by}); trained once per teacher, student and seed and shared by all"
                    " that want it"
                ],
            )
        )
    if cost := _cost(name, pair, hyper):
        sections.append(("cost", cost))
    if published := _published(name):
        sections.append(("published", published))
    if elsewhere := literature.elsewhere(name):
        sections.append(("published elsewhere", elsewhere))
    return sections


def idea(name: str) -> str:
    """The idea of a method in one sentence."""
    return registry.idea(registry.get(name))


def _formula(parts: Sequence[type[Distiller]]) -> list[str]:
    docs = [(inspect.getdoc(part) or "").split("\n\n")[0].replace("``", "") for part in parts]
    said = [" ".join(doc.split()) for doc in docs]
    if len(parts) == 1:
        return said
    together = ["the terms of all parts, added; cross-entropy and KD count once, at the weights below"]
    names = [registry.name_of(part) for part in parts]
    for name, part in zip(names, parts, strict=True):
        taken = [other for other in part.absorbs if other in names]
        together += [f"{name} changes the loss of {other}, which is not added again" for other in taken]
    return together + [f"{registry.name_of(part)}: {formula}" for part, formula in zip(parts, said, strict=True)]


def _hyper(name: str, given: Mapping[str, object]) -> list[str]:
    known = registry.get(name).hyperparameters()
    lines = []
    for key, hyper in known.items():
        value = given.get(key, hyper.default)
        others = [f"or {_shown(other)}" for other in hyper.choices if other != value]
        others += [] if key not in given else [f"{_shown(hyper.default)} by default"]
        told = {one: suites.convention(one).hyper(name, "", known).get(key) for one in suites.convention_names()}
        if len({*told.values()}) == 1 and hyper.default not in (only := {*told.values()} - {None}):
            others += [f"{_shown(one)} in every convention" for one in only]
        else:
            others += [f"{_shown(v)} in convention {c}" for c, v in told.items() if v not in (None, hyper.default)]
        if key == "kd_weight" and (reason := _instead_of_kd(name, {c for c, v in told.items() if v == 0})):
            others.append(reason)
        lines.append(f"{key} = {_shown(value)}" + (f" ({', '.join(others)})" if others else ""))
    return lines or ["none"]


def _shown(value: object) -> str:
    return str(value) if value != "" else '""'


def _instead_of_kd(name: str, without: Collection[str]) -> str:
    """Why a combination has no KD in a convention that gives it to every method that does not replace it."""
    parts = name.split("+")
    given = [one for one in map(suites.convention, sorted(without)) if one.kd_weight]
    found = [part for part in parts if any(not one.hyper(part, "", ["kd_weight"])["kd_weight"] for one in given)]
    stands = "stands" if len(found) == 1 else "stand"
    return f"no convention adds KD: {' and '.join(found)} {stands} in its place" if found and len(parts) > 1 else ""


def _cost(name: str, pair: str | None, hyper: Mapping[str, object]) -> list[str]:
    """Parameters on the pair that was asked for, and what was measured once for every method."""
    from kdbench.suites import costs

    lines = []
    if pair is not None:
        train, infer = _parameters(name, pair, hyper)
        lines.append(f"{pair} at 32 px, 100 classes: {train:,} extra parameters at training, {infer:,} at inference")
    one = costs.load().get(name) if costs.TABLE.is_file() else None
    if one is not None:
        lines += [
            f"measured on {one.pair}{' with the values by default' if hyper else ''}: {one.condition}; all beside the"
            " plain student",
            f"time: {one.extra_ms:.1f} ms beside the student's step of {one.student_step_ms:.1f} ms ({one.share:.0%})",
            f"memory: {one.extra_memory_mb:.1f} MB beside {one.student_memory_mb:.1f} MB; of them"
            f" {one.extra_standing_mb:.1f} MB stay between steps",
            f"arithmetic: {one.extra_macs / 1e6:,.1f} million MACs for an image beside {one.student_macs / 1e6:,.1f}"
            " million, forward",
            f"parameters: {one.extra_train_params:,} at training, {one.extra_infer_params:,} at inference",
            f"latency of the evaluated network: {one.latency_1_ms:.1f} ms for one image, {one.latency_batch_ms:.1f} ms"
            f" for {one.batch}",
        ]
    if name in costs.EXPENSIVE:
        lines.append(f"more than a quarter of the student's step: {costs.EXPENSIVE[name]}")
    return lines


def _parameters(name: str, pair: str, hyper: Mapping[str, object]) -> tuple[int, int]:
    """Extra parameters at training and at inference.

    Raises:
        ValueError: no such model, or the method refuses the pair.
    """
    from kdbench.bench.prepared import prepare
    from kdbench.run import choices

    (teacher, student), *more = choices.choose_pairs(pair, suites.load("semckd"))
    if more:
        raise ValueError(f"--pair takes one pair, not {1 + len(more)}")
    steps = prepare(name, f"{teacher}:{student}", overrides=hyper)
    return steps.train_params, steps.infer_params


def _of(one: suites.Standing) -> str:
    """Its method and its source, which often begins with the method's name."""
    source = one.number.source
    return source if source.startswith(one.method) else f"{one.method}, {source}"


def _published(name: str) -> list[str]:
    """The method's own numbers, and the highest of any method where the recipe is the same."""
    lines = []
    for suite in map(suites.load, suites.names()):
        bars = suites.records_to_beat(suite)
        for (teacher, student, method), number in suites.published(suite).items():
            if method == name:
                spread = f" +- {number.std:.2f}" if number.std is not None else ""
                best = suites.best_comparable(bars.get((teacher, student), ()))
                bar = f" (to beat: {best.number.mean:.2f} {_of(best)})" if best else ""
                lines.append(f"{suite.name}: {teacher}:{student} {number.mean:.2f}{spread}{bar}")
    return lines
