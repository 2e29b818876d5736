"""`kdbench run` on a terminal: what is asked for, how long it may take, the run, and what became of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console

from kdbench import registry
from kdbench.run import budget as budgets
from kdbench.run import choices, devices, session
from kdbench.run import device_memory as memory
from kdbench.run.budget import Choice
from kdbench.run.notify import notifying
from kdbench.run.session import Job, Request
from kdbench.run.words import seeds as read_seeds
from kdbench.terminal import ahead, screens
from kdbench.terminal.console import Progress
from kdbench.terminal.guard import Ended


def run(
    words: dict[str, Any],
    plugins: tuple[str, ...],
    broken: list[str],
    screen: Console,
    *,
    dry: bool,
    budget: str | None,
    yes: bool,
    device_memory: str | None = None,
) -> int:
    """Run the verb; returns the exit status.

    Raises:
        ValueError: what was asked for cannot be done.
        Ended: the disk is full, say.
    """
    if budget is not None:
        budgets.seconds(budget)  # before anything is measured
    asked = Request(**words)
    job = session.resolve(asked)
    for sentence in job.notes + broken:
        screen.print(sentence, markup=False)
    if dry:
        screens.show_plan(job, screen)
        if device_memory is not None:
            for sentence in memory.sentences(job, device_memory):
                screen.print(sentence, markup=False)
    found = ahead.look(job, screen, dry=dry)
    if budget is not None:
        line = partial(_line, asked, job, plugins)
        part = ahead.within(found, budget, _whole(job), partial(_make, job), line, screen, yes=yes, dry=dry)
        if part is None:
            return 1
        if part is not job and not dry:
            found = ahead.look(part, screen)
            job = part
    elif not dry and not ahead.agreed(found, screen, yes=yes):
        screen.print("nothing was trained", markup=False)
        return 1
    if dry:
        return 1 if broken else 0
    from kdbench.run import runner
    from kdbench.run.outcome import Stop

    found.begin()
    with notifying("run", job.request.notify, job.request.out, partial(screen.print, markup=False)) as ending:
        ending.states = job.states
        with Progress(screen) as watch:
            try:
                outcome = runner.run(found.decided, watch)
            except Stop as stop:
                raise Ended(str(stop)) from stop
        screens.show_outcome(job, outcome, screen, trained=bool(found.todo))
        ending.of(outcome, len(job.cells))
        found.end("run", outcome.done, screen)
    return outcome.exit_code or (1 if broken else 0)


def _whole(job: Job) -> Choice:
    request, suite = job.request, job.suite
    specs = registry.parse(request.methods or ",".join(suite.default_methods))
    return Choice(
        tuple(map(str, specs)),
        tuple(choices.choose_pairs(request.pairs, suite)),
        tuple(read_seeds(request.seeds, suite.default_seeds)),
        request.epochs or suite.recipe.epochs,
    )


def _make(job: Job, choice: Choice) -> Job:
    return session.resolve(
        replace(
            job.request,
            methods=",".join(choice.methods),
            pairs=",".join(map(":".join, choice.pairs)),
            seeds=ahead.listed(choice.seeds),
            epochs=choice.epochs,
        )
    )


def _line(asked: Request, job: Job, plugins: tuple[str, ...], choice: Choice) -> str:
    """The command of a part, in the words that were asked with: what follows from the device is left to the device."""
    more: dict[str, Any] = {"suite": job.suite.name if asked.suite == devices.AUTO else asked.suite}
    more |= {"seeds": ahead.listed(choice.seeds)} | ({"plugin": plugins} if plugins else {})
    return ahead.command("run", asked, choice, more, job.suite.recipe.epochs)
