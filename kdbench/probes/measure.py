"""`kdbench probe`: every chosen network under every chosen probe, what is there already left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from kdbench.engine.checkpoint import beside_sha256
from kdbench.engine.errors import said, text
from kdbench.probes.choose import Choice, Target
from kdbench.probes.probe import Context, Found, NotApplicable, Probe, Settings
from kdbench.probes.subject import Subject, load
from kdbench.record import settings_hash
from kdbench.run import choices
from kdbench.utils import environment, findings
from kdbench.utils.files import check_writable
from kdbench.utils.findings import Finding


@dataclass(frozen=True)
class Verdict:
    """What became of one network under one probe.

    >>> one = Verdict("cka", "kd on resnet20:resnet8, seed 0", "n/a", "it has no teacher")
    >>> f"{one.probe} of {one.what}: {one.verdict}, {one.sentence}"
    'cka of kd on resnet20:resnet8, seed 0: n/a, it has no teacher'
    """

    probe: str
    what: str
    verdict: Literal["measured", "kept", "n/a", "failed", "note"]
    sentence: str
    finding: Finding | None = None


@dataclass(frozen=True)
class Work:
    """What a command asks for, resolved.

    >>> nothing = Choice(alone=[], beside=[], teachers=[], problems=[])
    >>> work = Work(Path("results"), probes=[], settings={}, choice=nothing, context=Context())
    >>> work.device, work.force
    ('auto', False)
    """

    out: Path
    probes: Sequence[Probe[Any]]
    settings: Mapping[str, Settings]
    choice: Choice
    context: Context
    device: str = "auto"
    force: bool = False


def measure(work: Work) -> Iterator[Verdict]:
    """Measure what is missing, network by network; whatever goes wrong with one, the others go on.

    Raises:
        ValueError: no such device, settings that do not go together, or the folder cannot be written to.
        OSError: a file cannot be written.

    >>> damaged = Choice(alone=[], beside=[], teachers=[], problems=["results/runs/a.json is not JSON"])
    >>> work = Work(Path("results"), probes=[], settings={}, choice=damaged, context=Context(), device="cpu")
    >>> [(one.verdict, one.sentence) for one in measure(work)]
    [('failed', 'results/runs/a.json is not JSON')]
    """
    where = torch.device(choices.choose_device(work.device))
    # Asked once for all, so that a setting that will not do is told before anything is measured.
    spread = {probe.name: probe.spread(work.settings[probe.name], work.context) for probe in work.probes}
    check_writable(work.out)
    torch.set_num_threads(environment.threads())
    for problem in work.choice.problems:
        yield Verdict("", "", "failed", problem)
    solo = [probe for probe in work.probes if not probe.needs_teacher]
    paired = [probe for probe in work.probes if probe.needs_teacher]
    # A student whose method has a teacher is loaded once for both kinds of probes.
    both = {(target.pair, str(target.student_file)): target for target in work.choice.beside}
    for target in [*work.choice.teachers, *work.choice.alone]:
        mine = list(solo)
        if not target.of_teacher and both.pop((target.pair, str(target.student_file)), None) is not None:
            mine += paired
        yield from _target(work, target, mine, spread, where)
    for target in both.values():
        yield from _target(work, target, paired, spread, where)


def _target(
    work: Work, target: Target, probes: Sequence[Probe[Any]], spread: Mapping[str, list[Settings]], where: torch.device
) -> Iterator[Verdict]:
    subject: Subject | None = None
    taught = any(probe.needs_teacher for probe in probes) and not target.of_teacher
    for probe in probes:
        for settings in spread[probe.name]:
            at = probe.variant(settings)
            what = f"{target}{f', {at}' if at else ''}"
            try:
                path = target.file(
                    probe.name, settings_hash({"suite": target.record.suite, **settings.model_dump(mode="json")})
                )
                kept, note = (None, "") if work.force else _kept(path)
                if note:
                    yield Verdict(probe.name, what, "note", f"{note}; it is measured anew")
                if subject is None:
                    subject = load(target, work.out, work.context.data_dir, where, taught=taught)
                identity = _identity(probe, settings, subject, work.context)
                if kept is not None and kept.identity == identity:
                    yield Verdict(probe.name, what, "kept", "", kept)
                    continue
                if kept is not None:
                    changed = ", ".join(
                        name for name in {**kept.identity, **identity} if kept.identity.get(name) != identity.get(name)
                    )
                    yield Verdict(probe.name, what, "note", f"measured before with another {changed}: measured anew")
                found = probe.measure(subject, settings, work.context)
                one = _finding(probe, settings, subject, identity, found, at)
            except NotApplicable as error:
                yield Verdict(probe.name, what, "n/a", text(error))
                continue
            except Exception as error:  # a file, a network or a method may hold anything; the others go on
                plain = isinstance(error, ValueError | FileNotFoundError | SafetensorError)
                yield Verdict(probe.name, what, "failed", text(error) if plain else said(error))
                continue
            yield Verdict(probe.name, what, "measured", "", findings.write(one, path))


def _kept(path: Path) -> tuple[Finding | None, str]:
    """What lies there; a sentence where it is damaged."""
    try:
        return findings.read(path), ""
    except FileNotFoundError:
        return None, ""
    except ValueError as error:
        return None, str(error)


def _identity(probe: Probe[Any], settings: Settings, subject: Subject, context: Context) -> dict[str, str]:
    """All that the numbers rest on."""
    one = subject.target.record
    found = {
        "version of the probe": str(probe.version),
        "network": subject.sha256,
        "data": subject.images.fingerprint,
        "normalisation": settings_hash({name: list(subject.recipe[name]) for name in ("mean", "std")}),
        "precision": subject.precision.name,
    }
    if one.modified_student and not subject.target.of_teacher:
        parts = beside_sha256(dict(subject.state))[:12]
        found["modules of the method"] = settings_hash(one.settings.hyper) + one.plugin_sha256 + parts
    if probe.needs_teacher:
        found["teacher"] = subject.target.teacher_sha256
    return found | probe.rests_on(settings, subject, context)


def _finding(
    probe: Probe[Any], settings: Settings, subject: Subject, identity: dict[str, str], found: Found, variant: str
) -> Finding:
    target = subject.target
    one = target.record
    return Finding(
        probe=probe.name,
        suite=one.suite,
        dataset=one.dataset,
        teacher=target.teacher,
        student="" if target.of_teacher else one.student,
        method=target.method,
        seed=None if target.of_teacher else one.seed,
        quick=one.quick,
        variant=variant,
        settings=settings.model_dump(mode="json"),
        identity=identity,
        summary=found.summary,
        rows=tuple(found.rows),
        matrices=found.matrices,
        notes=tuple(found.notes),
        code=environment.code(),
        environment=environment.describe(str(subject.device)),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
