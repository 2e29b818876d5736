"""The card of a method, for `kdbench info`: what a reader of a table wants to know of a row."""

from __future__ import annotations

import inspect

from kdbench import registry, suites


def card(name: str) -> list[tuple[str, list[str]]]:
    """(heading, lines) of one method.

    Raises:
        ValueError: there is no such method.
    """
    cls = registry.get(name)
    doc = (inspect.getdoc(cls) or "").split("\n\n")
    evidence = {
        "authors' code": "loss and every gradient equal the authors' released code on stored cases",
        "port": "loss and every gradient equal a re-implementation's released code, not the authors' own",
        "formula": "value and gradient equal the paper's formula, retyped in the test",
        "reading": "no public code exists: this is our reading of the paper, never quote it as the authors' method",
    }
    sections = [
        (name, [registry.idea(cls)]),
        ("formula", " ".join(doc[0].split()).splitlines()),
        ("citation", [cls.reference]),
        ("family", [cls.family + (", ranked apart: the evaluated network is not the plain student" if cls.modifies_student() else "")]),
        ("provenance", [f"{cls.provenance}: {evidence.get(cls.provenance, '')}"]),
    ]
    if cls.departures:
        sections.append(("departures", [f"- {sentence}" for sentence in cls.departures]))
    sections.append(("hyper-parameters", _hyper(name)))
    if cls.pretrain_epochs:
        trained = "student and method" if cls.pretrain_student else "the method's own modules"
        sections.append(("first stage", [f"{cls.pretrain_epochs} of 240 epochs (scaled with the run), trains {trained}"]))
    published = _published(name)
    if published:
        sections.append(("published", published))
    return sections


def _hyper(name: str) -> list[str]:
    known = registry.hyperparameters(registry.get(name))
    lines = []
    for key, hyper in known.items():
        others = []
        for convention in suites.convention_names():
            value = suites.convention(convention).hyper(name, "", known).get(key, hyper.default)
            if value != hyper.default:
                others.append(f"{value} in convention {convention}")
        lines.append(f"{key} = {hyper.default}" + (f" ({', '.join(others)})" if others else ""))
    return lines or ["none"]


def _published(name: str) -> list[str]:
    lines = []
    for suite in suites.names():
        for (teacher, student, method), number in suites.published(suites.load(suite)).items():
            if method == name:
                spread = f" +- {number.std:.2f}" if number.std is not None else ""
                lines.append(f"{suite}: {teacher}:{student} {number.mean:.2f}{spread}")
    return lines
