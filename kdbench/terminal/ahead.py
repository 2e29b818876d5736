"""Before a run: its estimate, the question where it is long, and what of it fits into a budget."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import click
from rich.console import Console

from kdbench import registry
from kdbench.run import budget as budgets
from kdbench.run import taken
from kdbench.run.budget import Choice
from kdbench.run.estimate import Estimate, Estimator
from kdbench.run.estimate_words import sentences
from kdbench.run.grid import Cell
from kdbench.run.outcome import one_line
from kdbench.run.session import Job, Request
from kdbench.terminal.console import seen
from kdbench.utils.files import check_writable, trouble
from kdbench.utils.wording import duration

#: Seconds on a CPU from which on a run asks whether it is meant.
LONG = 2 * 3600
#: Seconds of measuring that a run itself may take, where they are no more than a hundredth of it.
GENEROUS = 15.0

Make = Callable[[Choice], Job]


@dataclass
class Ahead:
    """A job that is about to run, and what is known of its time; ``made`` is None where nothing can be said."""

    job: Job
    made: Estimate | None = None
    estimator: Estimator | None = None
    todo: tuple[Cell, ...] = ()
    started: tuple[float, float] = (0.0, 0.0)  # on the wall, and of work

    @property
    def decided(self) -> Job:
        """The job with as many workers as it is worth; where nothing is known of its time, one."""
        alone = 0.0 if self.made is None else self.made.alone
        return replace(self.job, hands=self.job.hands.after(alone, len(self.todo)))

    def begin(self) -> None:
        """The clocks run."""
        self.started = time.monotonic(), self._worked()

    def _worked(self) -> float:
        return 0.0 if self.estimator is None else self.estimator.clock.now()

    def end(self, verb: str, done: Sequence[Cell], screen: Console) -> None:
        """Say what it took; where every cell was trained that was to be, write that down for the next estimate.

        Where that cannot be written, a sentence says so: all that was computed is there.
        """
        seconds, worked = time.monotonic() - self.started[0], self._worked() - self.started[1]
        if self.made is None or self.estimator is None or not self.made.cells:
            return
        if self.job.hands.executor == "ray":  # other machines: their times say nothing of this one
            screen.print(taken.sentence(self.made, seconds, seconds), markup=False)
            return
        alone = self.made.workers == 1  # else work and time on the wall are not to be compared
        screen.print(taken.sentence(self.made, seconds, worked if alone else seconds), markup=False)
        if set(self.todo) <= set(done):
            out = self.job.request.home or self.job.request.out
            machine = self.estimator.speeds.machine
            try:
                taken.note(out, verb, self.job.suite.name, machine, self.made, seconds, worked)
            except OSError as error:
                screen.print(f"what it took is not written down for later estimates: {trouble(error)}", markup=False)


def todo(job: Job) -> list[Cell]:
    """Cells that a run of the job would train."""
    again = {"missing", "running", "unsupported"} | ({"failed"} if job.request.retry_failed else set())
    return [cell for cell, state in job.states().items() if state in again or job.request.force]


def look(job: Job, screen: Console, *, dry: bool = False) -> Ahead:
    """Show the estimate of what is still to be trained. It never stands in the way of the run.

    Raises:
        ValueError: there is something to train, and the output folder cannot be written.
    """
    # What a method of ours refused it will refuse again, in no time; a plug-in may have been mended.
    states = {} if job.request.force else job.states()
    cells = [cell for cell in todo(job) if states.get(cell) != "unsupported" or registry.source_sha256(cell.method)]
    found = Ahead(job, todo=tuple(cells))
    if not cells:
        return found
    if not dry:  # the estimate takes its time, and a person may be asked for consent after it
        check_writable(job.request.home or job.request.out, keep=False)
    try:
        found.estimator = Estimator(job, look=dry, generous=0.0 if dry else GENEROUS)
        found.made = found.estimator.of(job, cells)
    except Exception as error:  # a model that the suite's images do not fit, say; its cells will say so
        screen.print(f"no estimate: {one_line(error)}", markup=False)
        return found
    for sentence in sentences(found.made):
        screen.print(sentence, markup=False)
    return found


def agreed(found: Ahead, screen: Console, *, yes: bool) -> bool:
    """Whether a run that is long on a CPU may begin: asked on a terminal, taken for granted elsewhere."""
    if found.made is None or found.made.seconds <= LONG or not found.job.device.startswith("cpu") or yes:
        return True
    if not _asks(screen):
        screen.print(
            f"more than {duration(LONG)} on a CPU; going on, because nobody is there to be asked (--budget cuts it)",
            markup=False,
        )
        return True
    return _confirm(f"More than {duration(LONG)} on a CPU. Go on?")


def within(
    found: Ahead, text: str, whole: Choice, make: Make, line: Callable[[Choice], str], screen: Console, *, yes: bool,
    dry: bool = False, chosen: list[Choice] | None = None,
) -> Job | None:  # fmt: skip
    """The job, or the part of it that fits into a budget once it is agreed to; None: it is not to run.

    Args:
        found: the job with its estimate.
        text: of ``--budget``.
        whole: what the job is made of.
        make: the job of another choice.
        line: the command line of another choice.
        screen: where it is shown.
        yes: nobody is asked.
        dry: nothing will run.
        chosen: the choice is put in here.

    Raises:
        ValueError: the budget is none, or nothing fits into it.
    """
    limit = budgets.seconds(text)
    if found.made is None or found.estimator is None:
        if found.todo:
            raise ValueError("without an estimate nothing can be cut to a budget; leave --budget out")
        return found.job
    estimator = found.estimator
    estimator.watch.left = 0.0  # what is known by now has to do
    known: dict[Choice, float] = {}

    def cost(some: Choice) -> float:
        if some not in known:
            job = make(some)
            cells = todo(job)
            known[some] = estimator.of(job, cells).seconds if cells else 0.0
        return known[some]

    choice = budgets.propose(whole, limit, cost, found.job.suite.recipe.epochs)
    if chosen is not None:
        chosen.append(choice)
    if choice == whole:
        screen.print(f"that fits into {duration(limit)} as it is", markup=False)
        return found.job
    screen.print(f"about {duration(cost(choice))} of it fit into {duration(limit)}:", markup=False)
    for cut in budgets.cuts(whole, choice):
        screen.print(f"  {cut}", markup=False)
    screen.print(line(choice), markup=False, soft_wrap=True)
    job = make(choice)
    if dry or yes:
        return job
    if not _asks(screen):
        screen.print("nothing was trained; --yes runs it", markup=False)
        return None
    return job if _confirm("Run this?") else None


def _asks(screen: Console) -> bool:
    return seen(screen) and sys.stdin is not None and sys.stdin.isatty()


def _confirm(question: str) -> bool:
    return click.confirm(question, default=False)


#: Fields of a request that a choice sets, and one that is no word of a command line.
_CHOSEN = ("methods", "pairs", "seeds", "epochs", "home")


def command(verb: str, request: Request, choice: Choice, more: Mapping[str, Any], epochs: int) -> str:
    """The command line of a choice: what differs from the defaults, and what ``more`` says.

    ``epochs`` are the suite's, which need not be said.
    """
    words = ["kdbench", verb]
    plain = Request()
    said: dict[str, Any] = {one.name: getattr(request, one.name) for one in fields(Request) if one.name not in _CHOSEN}
    said = {name: value for name, value in said.items() if value != getattr(plain, name)}
    chosen = {"methods": ",".join(choice.methods), "pairs": ",".join(map(":".join, choice.pairs))}
    if choice.epochs != epochs:
        said["epochs"] = choice.epochs
    for name, value in (chosen | said | dict(more)).items():
        flag = "--set" if name == "overrides" else f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool):
                words.append(flag if one else flag.replace("--", "--no-", 1))
            else:
                words += [flag, shlex.quote(str(one))]
    return " ".join(words)


def listed(seeds: Sequence[int]) -> str:
    """Seeds as ``--seeds`` takes them: a count where they are 0, 1, 2 ...

    >>> listed([0, 1]), listed([4]), listed([1, 3])
    ('2', '4,', '1,3')
    """
    if list(seeds) == list(range(len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
