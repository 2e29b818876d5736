"""`kdbench tune` on a terminal: the trials go by as cells do, then a line for each choice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from shlex import quote
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdbench.run import budget as budgets
from kdbench.run import choices
from kdbench.run.budget import Choice
from kdbench.run.devices import AUTO
from kdbench.run.notify import notifying
from kdbench.run.outcome import Stop
from kdbench.run.session import Job, Request
from kdbench.run.tuned import Tuned
from kdbench.terminal import ahead, screens
from kdbench.terminal.console import Progress, escape
from kdbench.terminal.guard import Ended
from kdbench.tuning import plan as planning
from kdbench.tuning.tune import Answers, standing
from kdbench.tuning.tune import tune as answer
from kdbench.utils.wording import count


def tune(
    words: dict[str, Any],
    plugins: tuple[str, ...],
    broken: list[str],
    screen: Console,
    *,
    dry: bool = False,
    budget: str | None = None,
    yes: bool = False,
) -> int:
    """Run the verb; returns the exit status.

    Raises:
        ValueError: what was asked for cannot be done.
        Ended: the disk is full, say.
    """
    trials, seeds = words.pop("trials"), words.pop("seeds")
    if budget is not None:
        budgets.seconds(budget)  # before anything is measured
    request = Request(**words)
    plan = planning.resolve(request, trials=trials, seeds=seeds)
    for sentence in [*plan.notes, *broken]:
        screen.print(sentence, markup=False)
    if not plan.questions:
        return 1 if broken else 0
    whole = len({cell for question in plan.questions for cell in question.all})
    mine = f", {len(plan.job.cells)} of them in part {request.shard}" if request.shard else ""
    screen.print(
        f"{count(len(plan.questions), 'choice')} among {trials} candidates of each,"
        f" {count(whole, 'trial')} in all{mine}; {plan.job.suite.recipe.validation:.0%} of the training images"
        " are held out to choose on",
        markup=False,
    )
    if not plan.job.cells:
        return 1 if broken else 0
    if dry:
        screens.show_plan(plan.job, screen)
    found = ahead.look(plan.job, screen, dry=dry)
    if budget is not None:

        def make(choice: Choice) -> Job:
            return _plan(request, choice, trials).job

        def line(choice: Choice) -> str:
            more: dict[str, Any] = {"suite": plan.job.suite.name if request.suite == AUTO else request.suite}
            more |= {"seeds": len(choice.seeds), "trials": trials} | ({"plugin": plugins} if plugins else {})
            return ahead.command("tune", request, choice, more, plan.job.suite.recipe.epochs)

        chosen: list[Choice] = []
        part = ahead.within(found, budget, _whole(plan), make, line, screen, yes=yes, dry=dry, chosen=chosen)
        if part is None:
            return 1
        if part is not plan.job and not dry:
            plan = _plan(request, chosen[0], trials)
            found = ahead.look(plan.job, screen)
    elif not dry and not ahead.agreed(found, screen, yes=yes):
        screen.print("nothing was trained", markup=False)
        return 1
    if dry:
        return 1 if broken else 0
    plan = replace(plan, job=found.decided)
    found.begin()
    say = partial(screen.print, markup=False)
    with notifying("tune", request.notify, request.out, say) as ending:
        ending.states = partial(standing, plan)
        with Progress(screen) as watch:
            try:
                answers = answer(plan, watch)
            except Stop as stop:
                raise Ended(str(stop)) from stop
        ending.chosen(len(plan.questions), len(answers.found), len(answers.missing))
        show(answers, screen)
        ended = [cell for cell, state in plan.job.states().items() if state == "done"]
        if answers.found:
            pairs, methods = (dict.fromkeys(getattr(one, name) for one in answers.found) for name in ("pair", "method"))
            given = plan.job.request.pairs
            taught = ",".join(pair for pair in pairs if ":" in pair) or ("" if given == "all" else given)
            where = f" --pairs {quote(taught)}" if taught else ""
            changed = "".join(f" --set {quote(setting)}" for setting in words["overrides"])
            rows = ",".join(dict.fromkeys(("student", *methods)))  # gains are over the plain student
            known = f"--suite {quote(plan.job.request.suite)} --methods {quote(rows)}"
            files = "".join(f" --plugin {quote(file)}" for file in plugins)
            asked = f"{known}{where}{changed}{files} --out {quote(str(plan.out))}"
            screen.print(f"Next: kdbench run --weights tuned {asked}", markup=False)
        found.end("tune", ended, screen)
    return 1 if answers.missing or broken else 0


def _plan(request: Request, choice: Choice, trials: int) -> planning.Plan:
    pairs = ",".join(map(":".join, choice.pairs))
    changed = replace(request, methods=",".join(choice.methods), pairs=pairs, epochs=choice.epochs)
    return planning.resolve(changed, trials=trials, seeds=len(choice.seeds))


def _whole(plan: planning.Plan) -> Choice:
    suite, cells = plan.job.suite, plan.job.cells
    return Choice(
        tuple(dict.fromkeys(question.method for question in plan.questions)),
        tuple(choices.choose_pairs(plan.job.request.pairs, suite)),
        tuple(sorted({cell.seed for cell in cells})),
        cells[0].epochs,
    )


def show(answers: Answers, screen: Console) -> None:
    """A table of the choices for each pair, and a sentence for each that could not be made."""
    for pair in dict.fromkeys(one.pair for one in answers.found):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(pair), title_justify="left")
        for head in ("method", "chosen"):
            table.add_column(head, overflow="fold")
        for head in ("validation\n%", "over\npublished", "over\nthe next"):
            table.add_column(head, justify="right")
        for one in answers.found:
            if one.pair == pair:
                table.add_row(*map(escape, _row(one)))
        screen.print(table)
    for one in answers.found:
        if one.reason:
            screen.print(f"{one.method} on {one.pair}: {one.reason}; the published values stay", markup=False)
    for sentence in answers.missing:
        screen.print(sentence, markup=False)
    if answers.elsewhere:
        waiting = len(answers.elsewhere)
        screen.print(
            f"{count(waiting, 'choice')} wait{'s' * (waiting == 1)} for trials of other parts; the part that ends last"
            " makes what is left",
            markup=False,
        )


def _row(one: Tuned) -> list[str]:
    chosen = next((trial for trial in one.trials if trial.values == one.choice), None)
    if chosen is None or chosen.mean is None:
        return [one.method, "-", "-", "-", "-"]
    values = ",\n".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in one.choice.items()
    )
    over = [f"{one.over_published:+.2f}" if one.over_published is not None else "it failed"]
    over += [f"{one.over_second:+.2f}" if one.over_second is not None else "-"]
    return [one.method, values + (" (published)" if chosen.published else ""), f"{chosen.mean:.2f}", *over]
