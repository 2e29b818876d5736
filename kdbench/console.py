"""What the verbs show, with rich: progress, plans, lists, cards, states."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

if TYPE_CHECKING:
    from kdbench.engine.lane import Lane
    from kdbench.grid import Cell
    from kdbench.runner import Outcome
    from kdbench.session import Job

#: Seconds between two lines where there is no terminal.
QUIET = 10.0
_COLOURS = {"done": "green", "failed": "red", "unsupported": "yellow", "running": "cyan", "missing": "dim", "elsewhere": "yellow"}


def out() -> Console:
    """Standard output; rich honours NO_COLOR and knows a terminal from a pipe."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


class Progress:
    """Bars with the time left on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.total, self.behind, self.resumed = 0, 0, 0
        self.title, self.started, self.last_line = "", time.monotonic(), 0.0
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[more]}"), console=console, transient=True,
        )
        self.whole: TaskID | None = None
        self.part: TaskID | None = None

    def __enter__(self) -> Progress:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def begin(self, lane_steps: int) -> None:
        """The whole run: so many (lanes x batches)."""
        self.total, self.started = lane_steps, time.monotonic()
        self.whole = self.bars.add_task("whole run", total=lane_steps, more="")

    def group(self, title: str, lane_steps: int) -> None:
        """A group of lanes begins."""
        self.title = title
        if self.part is not None:
            self.bars.remove_task(self.part)
        self.part = self.bars.add_task(title, total=lane_steps, more="")

    def skip(self, lane_steps: int) -> None:
        """So many were done in an earlier run, or will not be done."""
        self.resumed += lane_steps
        self._advance(lane_steps)

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""
        if self.part is not None:
            self.bars.advance(self.part, lanes)
        self._advance(lanes)

    def _advance(self, lane_steps: int) -> None:
        self.behind += lane_steps
        if self.whole is not None:
            self.bars.advance(self.whole, lane_steps)

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        """An epoch of these lanes is finished."""
        first = next((lane for lane in lanes if not lane.failure), lanes[0])
        at = f"epoch {first.epoch}/{first.total}" if first.epoch else "first stage finished"
        if stage == "pretrain":
            at = f"first stage, {at}"
        more = f"{at}, {len(lanes)} {'lane' if len(lanes) == 1 else 'lanes'}"
        if self.live and self.part is not None:
            self.bars.update(self.part, more=more)
        elif not self.live and (time.monotonic() - self.last_line > QUIET or first.done):
            self.last_line = time.monotonic()
            self.console.print(f"{self._share()}{self.title}: {more}")

    def _share(self) -> str:
        if not self.total:
            return ""
        now = self.behind - self.resumed
        left = (time.monotonic() - self.started) / now * (self.total - self.behind) if now else None
        ahead = "" if left is None or self.behind >= self.total else f", about {duration(left)} left"
        return f"[{min(100, 100 * self.behind // self.total)}%{ahead}] ".replace("[", "\\[", 1)

    def note(self, sentence: str) -> None:
        """Something worth a line."""
        self.console.print(sentence, markup=False)

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """A cell is done, failed or unsupported."""
        colour = _COLOURS[status]
        word = "n/a" if status == "unsupported" else status
        self.console.print(f"[{colour}]{word:>7}[/] {escape(str(cell))}: {escape(sentence)}")


def escape(text: str) -> str:
    """Brackets of hyper-parameters are not rich's markup."""
    return text.replace("[", "\\[")


def duration(seconds: float) -> str:
    """41 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_plan(job: Job, screen: Console) -> None:
    """The matrix of a dry run: methods down, pairs across, one letter per seed."""
    from kdbench import estimate

    states = job.states()
    letters = {"done": "D", "running": "r", "failed": "F", "unsupported": "n", "missing": "."}
    pairs = list(dict.fromkeys(cell.pair for cell in job.cells))
    table = Table(title=f"suite {job.suite.name}, {job.cells[0].epochs if job.cells else 0} epochs, device {job.device}")
    table.add_column("pair")
    labels = list(dict.fromkeys(cell.label for cell in job.cells))
    for label in labels:
        table.add_column(escape(label), justify="center")
    for pair in pairs:
        row = ["".join(letters[states[c]] for c in job.cells if (c.pair, c.label) == (pair, label)) for label in labels]
        table.add_row(pair, *row)
    screen.print(table)
    screen.print("one letter per seed: D done, r running (will go on), F failed, n not supported, . missing")
    counts = Counter(states.values())
    screen.print(", ".join(f"{counts[s]} {s}" for s in letters if counts[s]) + f" of {len(states)} cells")
    todo = [cell for cell, state in states.items() if state in ("missing", "running", "unsupported")]
    if todo:
        screen.print(estimate.sentence(job, todo), markup=False)


def show_outcome(job: Job, outcome: Outcome, screen: Console) -> None:
    """The closing lines of a run."""
    asked = len(job.cells)
    words = [f"{len(outcome.done)} of {asked} cells are there"]
    if outcome.unsupported:
        words.append(f"{len(outcome.unsupported)} refused by their method")
    if outcome.failed:
        words.append(f"{len(outcome.failed)} failed")
    if outcome.elsewhere:
        words.append(f"{len(outcome.elsewhere)} left to the other kdbench run on this folder")
    screen.print(", ".join(words) + f" ({job.request.out / 'runs' / job.suite.name}).")
    if outcome.done:
        flag = "" if str(job.request.out) == "results" else f" --out {job.request.out}"
        screen.print(f"Next: kdbench report{flag}")


def show_list(what: str, suite: str, broken: list[str], screen: Console) -> None:
    """Methods, pairs, suites or models."""
    from kdbench import session, suites

    if what == "methods":
        _list_methods(broken, screen)
    elif what == "suites":
        table = Table("suite", "data", "pairs", "epochs", "convention", "what for")
        for name in suites.names():
            one = suites.load(name)
            table.add_row(name, one.dataset, str(len(one.pairs)), str(one.recipe.epochs), one.convention, one.title)
        screen.print(table)
    elif what == "pairs":
        chosen, notes = session.choose_suite(suite, session.choose_device("auto"))
        for note in notes:
            screen.print(note)
        for teacher, student in chosen.pairs:
            screen.print(f"{teacher}:{student}")
    else:
        from kdbench import models

        for name in models.names():
            screen.print(name)
        screen.print("and any model of timm as timm/NAME, e.g. timm/resnet50")


def _list_methods(broken: list[str], screen: Console) -> None:
    from kdbench import registry

    table = Table("method", "family", "proven against", "idea")
    for name in registry.names():
        cls = registry.get(name)
        table.add_row(name, cls.family, cls.provenance, registry.idea(cls).partition(": ")[2] or registry.idea(cls))
    screen.print(table)
    sentences = [f"{name}: {why}" for name, why in registry.broken().items()] + broken
    for sentence in sentences:
        screen.print(f"[red]broken[/] {escape(sentence)}")


def show_card(name: str, screen: Console) -> None:
    """All that is worth knowing of one method."""
    from kdbench import cards

    for heading, lines in cards.card(name):
        screen.print(f"[bold]{heading}[/]")
        for line in lines:
            screen.print(f"  {line}", markup=False)


def show_status(folder: Path, screen: Console) -> int:
    """What lies in an output folder."""
    from kdbench import record

    runs = folder / "runs"
    if not runs.is_dir():
        screen.print(f"nothing in {folder} yet; `kdbench run` trains the first cells")
        return 0
    table = Table("suite", "pair", "done", "running", "failed", "n/a")
    problems: list[str] = []
    for pair in sorted(p for p in runs.glob("*/*") if p.is_dir()):
        records, bad = record.read_all(pair)
        problems += bad
        counts = Counter(one.status for one in records)
        running = len(list(pair.glob("*.ckpt")))
        table.add_row(pair.parent.name, pair.name, *(str(n) for n in (counts["done"], running, counts["failed"], counts["unsupported"])))
    screen.print(table)
    for card in sorted((folder / "teachers").glob("*/*.json")):
        screen.print(f"teacher {card.parent.name}/{card.stem}")
    for problem in problems:
        screen.print(f"[red]damaged[/] {escape(problem)}")
    return 1 if problems else 0


def show_check(names: list[str], verbose: bool, screen: Console) -> int:
    """Findings of the conformance kit, method by method."""
    from kdbench import registry, testing

    wrong = 0
    for name in names:
        findings = testing.check_distiller(registry.get(name))
        bad = [f for f in findings if not f.ok]
        wrong += bool(bad)
        skipped = sum(f.skipped for f in findings)
        verdict = "[red]fails[/]" if bad else "[green]keeps the contract[/]"
        more = f", {skipped} not applicable" if skipped else ""
        screen.print(f"{name}: {verdict} ({len(findings) - len(bad)} of {len(findings)} checks{more})")
        for finding in findings:
            if not finding.ok or verbose:
                mark = "[red]wrong[/]" if not finding.ok else "[dim]  n/a[/]" if finding.skipped else "[green]   ok[/]"
                screen.print(f"  {mark} {finding.check}: {escape(finding.sentence)}")
    return 1 if wrong else 0


def show_doctor(data_dir: Path | None, folder: Path, screen: Console) -> int:
    """Look at the installation; 1 when something stands in the way of a run."""
    from kdbench import doctor

    table = Table("what", "found", "verdict")
    findings = doctor.look(data_dir, folder)
    for finding in findings:
        colour = {"ok": "green", "note": "yellow", "wrong": "red"}[finding.verdict]
        table.add_row(finding.what, escape(finding.found), f"[{colour}]{finding.verdict}[/]")
    screen.print(table)
    return 1 if any(finding.verdict == "wrong" for finding in findings) else 0
