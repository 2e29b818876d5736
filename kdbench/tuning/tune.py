"""Answers a plan: trains the trials that are missing as ordinary cells, and writes down each choice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from kdbench import record, registry
from kdbench.record import Record
from kdbench.run import grid, runner, tuned
from kdbench.run.grid import Cell
from kdbench.run.group import disk_trouble
from kdbench.run.outcome import Stop, Watcher
from kdbench.run.tuned import Budget, Score, Trial, Tuned
from kdbench.tuning.choose import best, margins
from kdbench.tuning.plan import Plan, Question
from kdbench.utils import environment


@dataclass
class Answers:
    """What is known when the trials have ended.

    >>> answers = Answers()
    >>> answers.found, answers.missing
    ([], [])
    """

    found: list[Tuned] = field(default_factory=list)  # written now or kept, in the order of the questions
    missing: list[str] = field(default_factory=list)  # a sentence for each question that this part left open
    elsewhere: list[Question] = field(default_factory=list)  # those that wait for trials of other parts alone


def tune(plan: Plan, watch: Watcher) -> Answers:
    """Train what is missing and write every choice that can be made.

    Raises:
        ValueError: the data are not there.
        Stop: the disk is full, say.
        KeyboardInterrupt: what has ended is on disk, choices included.

    >>> from kdbench.run.session import Request
    >>> from kdbench.tuning.plan import resolve
    >>> class Quiet(Watcher):
    ...     "Hears everything and says nothing."
    >>> words = {"suite": "digits", "epochs": 1, "limit_train": 64, "device": "cpu"}
    >>> plan = resolve(Request("label_smoothing", "resnet20:resnet8", **words), trials=2)
    >>> [(one.method, len(one.trials)) for one in tune(plan, Quiet()).found]
    [('label_smoothing', 2)]
    """
    there = kept(plan, watch)
    asked = [question for question in plan.questions if question.file not in there]
    wanted = {cell for question in asked for cell in question.all}
    cells = [cell for cell in plan.job.cells if cell in wanted]
    answers, ours = Answers(), set(plan.job.cells)
    try:
        if cells:
            runner.run(replace(plan.job, cells=cells), watch)
    except BaseException:
        with suppress(OSError):
            for question in asked:
                answer(plan, question)
        raise
    try:
        for question in plan.questions:
            one = there.get(question.file) or answer(plan, question)
            if one is not None:
                answers.found.append(one)
            elif all(_ended(grid.files(plan.job.request.out, cell)) for cell in ours.intersection(question.all)):
                answers.elsewhere.append(question)
            else:
                answers.missing.append(f"{question}: not every trial has ended; repeat the command")
    except OSError as error:
        raise Stop(disk_trouble(plan.out, error)) from error
    return answers


def kept(plan: Plan, watch: Watcher) -> dict[Path, Tuned]:
    """The choices of a plan that are there, by their files; ``watch`` is told why one is to be made anew.

    >>> from kdbench.run.session import Request
    >>> from kdbench.tuning.plan import resolve
    >>> plan = resolve(Request("at", "resnet20:resnet8", "digits", out=Path("nowhere"), device="cpu"))
    >>> class Quiet(Watcher):
    ...     "Hears everything and says nothing."
    >>> kept(plan, Quiet())
    {}
    """
    if plan.job.request.force:
        return {}
    again = plan.job.request.retry_failed
    return {question.file: one for question in plan.questions if (one := answered(question, again, watch.note))}


def answered(question: Question, retry_failed: bool, note: Callable[[str], object]) -> Tuned | None:
    """The choice that is there, if it is of these very trials; None: it is to be made."""
    try:
        one = tuned.read(question.file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        note(f"{error}; the choice is made anew")
        return None
    scores = [score for trial in one.trials for score in trial.scores]
    same = [score.settings for score in scores] == [cell.hash for cell in question.all]
    if not same or one.plugin_sha256 != registry.source_sha256(tuned.bare(question.method)):
        note(f"{question} was tuned otherwise before ({one.budget}); {question.file} will hold the new choice")
        return None
    return None if retry_failed and any(score.val_top1 is None for score in scores) else one


def standing(plan: Plan) -> dict[Path, str]:
    """How each choice of a plan stands by its file: ``done``, or ``open`` where it is not of these trials or not there.

    >>> from kdbench.run.session import Request
    >>> from kdbench.tuning.plan import resolve
    >>> plan = resolve(Request("at", "resnet20:resnet8", "digits", out=Path("nowhere"), device="cpu"))
    >>> list(standing(plan).values())
    ['open']
    """
    return {
        question.file: "done" if answered(question, False, _unsaid) is not None else "open"
        for question in plan.questions
    }


def _unsaid(sentence: str) -> None:
    """Why a choice is to be made anew, where nobody asked."""


def answer(plan: Plan, question: Question) -> Tuned | None:
    """Write the choice of a method on a pair; None: trials are missing.

    Raises:
        OSError: it cannot be written.
    """
    home = plan.job.request.out
    ended = {cell: _ended(grid.files(home, cell)) for cell in question.all}
    records = [one for one in ended.values() if one is not None]
    if len(records) < len(ended):
        return None
    trials = tuple(
        Trial(
            values=values,
            published=all(question.published[name] == value for name, value in values.items()),
            scores=tuple(_score(cell, ended[cell]) for cell in cells),
        )
        for values, cells in question.cells
    )
    chosen = best(trials)
    over_published, over_second = (None, None) if chosen is None else margins(chosen, trials)
    first, count = question.all[0], question.budget
    made = Tuned(
        suite=first.suite,
        dataset=first.settings.dataset,
        convention=first.settings.convention,
        teacher=first.teacher,
        student=first.student,
        method=question.method,
        published=question.published,
        trials=trials,
        choice={} if chosen is None else chosen.values,
        reason="" if chosen is not None else f"no trial came to its end: {trials[0].scores[0].reason}",
        over_published=over_published,
        over_second=over_second,
        budget=Budget(trials=count[0], epochs=count[1], seeds=count[2], validation=count[3]),
        recipe=first.recipe,
        limit_train=first.settings.limit_train,
        precision=first.settings.precision,
        data=records[0].data,
        teacher_sha256=next((one.teacher_sha256 for one in records if one.teacher_sha256), ""),
        plugin_sha256=registry.source_sha256(tuned.bare(question.method)),
        code=environment.code(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return tuned.write(made, question.file)


def _ended(where: grid.Files) -> Record | None:
    for path in (where.record, where.failed):
        with suppress(FileNotFoundError, record.RecordDamaged):
            return record.read(path)
    return None


def _score(cell: Cell, one: Record | None) -> Score:
    """Validation accuracy alone is read: what the test images say of a trial is nobody's business here."""
    assert one is not None
    found = one.curve[-1].val_top1 if one.status == "done" and one.curve else None
    return Score(seed=cell.seed, settings=cell.hash, val_top1=found, reason=one.reason)
