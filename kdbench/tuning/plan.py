"""From the words of `kdbench tune` to trials: the cells of every candidate, method by method and pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdbench import registry, suites
from kdbench.run import choices, session, tuned
from kdbench.run import words as checked
from kdbench.run.grid import Cell
from kdbench.run.session import Job
from kdbench.run.shards import shard
from kdbench.tuning.choose import candidates
from kdbench.utils.wording import count

#: Seeds that tune start here, those that measure at 0: no run chooses what it measures.
FIRST_SEED = 1000
#: Share of the training images that is held out where the suite holds out none.
VALIDATION = 0.1


@dataclass(frozen=True)
class Question:
    """Which values of one method are best on one pair."""

    method: str  # with [...] behind it where values are set that are not tuned
    published: dict[str, Any]  # every hyper-parameter in force
    cells: tuple[tuple[dict[str, Any], tuple[Cell, ...]], ...]  # candidate, its cells in the order of the seeds
    budget: tuple[int, int, tuple[int, ...], float]  # trials, epochs, seeds, validation
    file: Path

    @property
    def all(self) -> list[Cell]:
        """Every cell."""
        return [cell for _, cells in self.cells for cell in cells]

    def __str__(self) -> str:
        return f"{self.method} on {self.all[0].pair}"


@dataclass(frozen=True)
class Plan:
    """Everything that is asked, and the job that would answer it; its records lie in ``<out>/tuned``.

    Of a shard the job has a part of the trials, and the questions have all.

    >>> made = resolve(session.Request("at", "resnet20:resnet8", suite="digits", device="cpu"))
    >>> len(made.questions), len(made.job.cells)
    (1, 6)
    """

    out: Path
    job: Job
    questions: list[Question]
    notes: list[str] = field(default_factory=list)


def resolve(
    request: session.Request, *, trials: int = 6, seeds: int = 1, find: Callable[[str], str] | None = None
) -> Plan:
    """Check every word of a request; its ``out`` is that of the runs to come, its ``seeds`` are not looked at.

    ``find`` as for ``session.resolve``.

    Raises:
        ValueError: one sentence that names what was given and what would do.

    >>> plan = resolve(session.Request("fitnet,semckd", "resnet20:resnet8", "digits"), trials=3)
    >>> [str(question) for question in plan.questions], len(plan.job.cells)
    (['fitnet on resnet20:resnet8', 'semckd on resnet20:resnet8'], 6)
    """
    if not 2 <= trials <= 6:
        raise ValueError(f"--trials takes 2 to 6 candidates of every method, not {trials}")
    if not 1 <= seeds <= 1000:
        raise ValueError(f"--seeds takes a count of 1 to 1000 here, not {seeds}; tuning seeds start at {FIRST_SEED}")
    part = None if request.shard is None else checked.shard(request.shard)
    chosen = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    words = replace(
        request,
        seeds=",".join(map(str, chosen)) + ",",
        out=tuned.home(request.out),
        home=request.out,
        weights="published",
        shard=None,
    )
    job = session.resolve(words, find)
    if not job.suite.recipe.validation:
        words = replace(words, overrides=(*words.overrides, f"recipe.validation={VALIDATION}"))
        job = replace(session.resolve(words, find), notes=job.notes)
    suite = job.suite
    specs = registry.parse(words.methods or ",".join(suite.default_methods))
    convention, epochs = suites.convention(suite.convention), words.epochs or suite.recipe.epochs
    budget = (trials, epochs, chosen, suite.recipe.validation)
    questions: dict[Path, Question] = {}
    idle: dict[str, None] = {}  # what has nothing to tune, on a pair at least
    for teacher, student in choices.choose_pairs(words.pairs, suite):
        for spec in specs:
            name, method = spec.name, registry.get(spec.name)
            usual = session.published_hyper(convention, name, teacher, student)
            variant, fixed = session.variant_of(spec, usual)
            standing = session.in_force(name, usual)
            if len(fixed) < sum(value != standing[key] for key, value in spec.hyper):
                sought = dict.fromkeys(key for one in method.search_space(usual | fixed) for key in one)
                raise ValueError(
                    f"`kdbench tune` chooses the values of {name} itself ({', '.join(sought)}); leave them out of [...]"
                )
            usual |= fixed
            taught_by = teacher if method.needs_teacher else ""
            file = tuned.path(request.out, suite.name, taught_by, student, variant)
            if not tuned.tunable(name, usual):
                idle[variant] = None
                continue
            if file in questions:
                continue
            found = candidates(name, method.search_space(usual), usual, trials)
            cells = tuple(
                (
                    values,
                    tuple(
                        session.make_cell(
                            suite,
                            convention,
                            teacher,
                            student,
                            registry.Spec(name, tuple(sorted((fixed | values).items()))),
                            seed,
                            epochs,
                            words,
                        )
                        for seed in chosen
                    ),
                )
                for values in found
            )
            questions[file] = Question(variant, usual, cells, budget, file)
    asked = list(questions.values())
    still = {question.method for question in asked}
    notes = [
        f"{name} has nothing to tune; its row is the same with every --weights" for name in idle if name not in still
    ]
    if asked and epochs < suite.recipe.epochs:
        notes.append(
            f"trials of {count(epochs, 'epoch')} choose for runs of {suite.recipe.epochs}: what is best early need not"
            " be best late; without --epochs they are as long"
        )
    # A short trial is taught by whoever teaches the long runs: the length of a trial shortens no teacher.
    everything = list(dict.fromkeys(cell for question in asked for cell in question.all))
    ours = everything if part is None else shard(everything, *part)
    job = replace(job, request=replace(job.request, epochs=None), cells=ours)
    return Plan(request.out, job, asked, [*job.notes, *notes])
