"""The card of a method, for `kdbench info`: what a reader of a table wants to know of a row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import takewhile

from kdbench import registry, suites
from kdbench.distiller import Distiller
from kdbench.terminal import literature, parameters
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
        *(("in words", words) for words in [_words(parts)] if words),
        ("citation", [part.reference for part in parts]),
        ("family", [cls.family + apart]),
        ("provenance", [f"{cls.provenance}: {evidence}"]),
    ]
    if cls.deviations:
        sections.append(("deviations", [f"- {sentence}" for sentence in cls.deviations]))
    sections.append(("hyper-parameters", parameters.lines(name, hyper)))
    if of_pairs := parameters.by_pair(name):
        sections.append(("hyper-parameters on pairs", of_pairs))
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


def _paragraphs(part: type[Distiller]) -> list[str]:
    """What a docstring says before it comes to its parameters; a formula first."""
    told = [" ".join(one.replace("``", "").split()) for one in (inspect.getdoc(part) or "").split("\n\n")]
    return [*takewhile(lambda one: not one.startswith(("Args:", "Raises:", ">>>")), filter(None, told))]


def _words(parts: Sequence[type[Distiller]]) -> list[str]:
    return [paragraph for part in parts for paragraph in _paragraphs(part)[1:]]


def _formula(parts: Sequence[type[Distiller]]) -> list[str]:
    said = [next(iter(_paragraphs(part)), "") for part in parts]
    if len(parts) == 1:
        return said
    together = ["the terms of all parts, added; cross-entropy and KD count once, at the weights below"]
    names = [registry.name_of(part) for part in parts]
    for name, part in zip(names, parts, strict=True):
        taken = [other for other in part.absorbs if other in names]
        together += [f"{name} changes the loss of {other}, which is not added again" for other in taken]
    return together + [f"{registry.name_of(part)}: {formula}" for part, formula in zip(parts, said, strict=True)]


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
        for (teacher, student, method), one in suites.table(suite).items():
            if method == name:
                number = one.number
                spread = f" +- {number.std:.2f}" if number.std is not None else ""
                best = suites.best_comparable(bars.get((teacher, student), ()))
                bar = f" (to beat: {best.number.mean:.2f} {_of(best)})" if best else ""
                own = one.convention != suite.convention and f"convention {one.convention or 'its own, or not told'}"
                said = "; ".join(word for word in (own, one.departs) if word)
                given = f"{number.mean:.2f}{spread}" + (f" [{said}]" if said else "")
                lines.append(f"{suite.name}: {teacher}:{student} {given}{bar}")
    return lines
