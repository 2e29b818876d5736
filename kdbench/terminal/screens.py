"""What the verbs show: plans, outcomes, lists, cards, states, findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from kdbench.terminal.console import COLOURS, escape, head, seen
from kdbench.utils import sealed
from kdbench.utils.wording import count, without_orders

if TYPE_CHECKING:
    from kdbench.registry import Spec
    from kdbench.run.outcome import Outcome
    from kdbench.run.session import Job

#: Signs that the last column of a list has at least; else it is no table.
LAST = 30
_LETTERS = {"done": "D", "running": "r", "failed": "F", "unsupported": "n", "missing": "."}


def _table(screen: Console, *heads: str) -> Table:
    table = Table(box=head(screen), pad_edge=False)
    for name in heads:
        table.add_column(name, overflow="fold")
    return table


# -- run ----------------------------------------------------------------------------------


def show_plan(job: Job, screen: Console) -> None:
    """The matrix of a dry run: methods down, pairs across, one letter per seed."""
    from kdbench.terminal import recipe

    if not job.cells:
        screen.print("no cells: this shard of the grid is empty")
        return
    states = job.states()
    length = count(job.cells[0].epochs, "epoch")
    screen.print(f"suite {job.suite.name}, data {job.suite.dataset}, {length}, device {job.device}", markup=False)
    rates = [cell.recipe["lr"] for cell in job.cells]
    screen.print(f"recipe: {recipe.sentence(job.cells[0].recipe, rates)}", markup=False)
    labels = list(dict.fromkeys(cell.label for cell in job.cells))
    named = dict.fromkeys((cell.teacher, cell.student) for cell in job.cells if cell.teacher)
    taught = {student for _, student in named}
    alone = {("", cell.student): None for cell in job.cells if cell.student not in taught}
    pairs = [*named, *alone]
    marks: dict[tuple[str, str, str], str] = {}
    for cell, state in states.items():
        # A method without a teacher is one cell for all pairs of a student, and stands in each of their columns.
        for teacher, student in pairs:
            if student == cell.student and cell.teacher in ("", teacher):
                key = (cell.label, teacher, student)
                marks[key] = marks.get(key, "") + _LETTERS[state]
    widest = max(len("method"), *map(len, labels))
    for part in _abreast(pairs, screen.width - widest - 3, max(map(len, marks.values()))):
        table = _table(screen, "method")
        table.columns[0].no_wrap = True
        for teacher, student in part:
            table.add_column(f"{teacher or 'no teacher'}\n→ {student}", no_wrap=True)
        for label in labels:
            table.add_row(escape(label), *(marks.get((label, *pair), "") for pair in part))
        screen.print(table)
    screen.print("one letter per seed: D done, r running or stopped on its way, F failed, n not supported, . missing")
    counts = Counter(states.values())
    screen.print(", ".join(f"{counts[s]} {s}" for s in _LETTERS if counts[s]) + f" of {count(len(states), 'cell')}")


def _abreast(pairs: Sequence[tuple[str, str]], room: int, seeds: int) -> Iterator[list[tuple[str, str]]]:
    """As many pairs beside each other as the screen holds, one at least."""
    part: list[tuple[str, str]] = []
    used = 0
    for teacher, student in pairs:
        wide = max(len(teacher), len(student) + 2, seeds) + 3  # and what parts it from its neighbour
        if part and used + wide > room:
            yield part
            part, used = [], 0
        part.append((teacher, student))
        used += wide
    yield part


def show_outcome(job: Job, outcome: Outcome, screen: Console, *, trained: bool = True) -> None:
    """The closing lines of a run; ``trained``: whether there was anything left to train."""
    words = [f"{len(outcome.done)} of {count(len(job.cells), 'cell')} {'is' if len(job.cells) == 1 else 'are'} there"]
    if outcome.unsupported:
        words.append(f"{len(outcome.unsupported)} refused by their method")
    if outcome.failed:
        words.append(f"{len(outcome.failed)} failed")
    if outcome.elsewhere:
        words.append(f"{len(outcome.elsewhere)} left to the other kdbench run on this folder")
    screen.print(", ".join(words) + f" ({job.request.out / 'runs' / job.suite.name}).", markup=False)
    if not trained and not outcome.failed:
        screen.print("They were there before, so nothing was trained; --force trains them again.", markup=False)
    if outcome.done:
        flag = "" if str(job.request.out) == "results" else f" --out {quote(str(job.request.out))}"
        screen.print(f"Next: kdbench report{flag}", markup=False)


# -- list ---------------------------------------------------------------------------------


def show_list(what: str, suite: str, plain: bool, broken: list[str], screen: Console, aside: Console) -> None:
    """Methods, pairs, suites, models, teachers or published numbers: a table on a terminal, one line each elsewhere.

    Plain lines have their columns between tabs; what is no entry goes to ``aside``.

    Raises:
        ValueError: a suite is named for what is no part of one.
    """
    if suite != "auto" and what not in ("pairs", "published"):
        raise ValueError(f"--suite is for pairs and published numbers; {what} are the same for every suite")
    made = {"methods": _methods, "suites": _suites, "pairs": _pairs, "models": _models}
    made |= {"teachers": _teachers, "published": _papers}
    heads, rows, notes = made[what](suite)
    if plain or not seen(screen) or len(heads) == 1:
        for row in rows:
            print("\t".join(map(without_orders, row)), file=screen.file)
    elif rows and screen.width < LAST + sum(max(map(len, column)) + 3 for column in [*zip(*rows, strict=True)][:-1]):
        for row in rows:  # the last column, the long one, would be a thread: it has lines of its own
            facts = ", ".join(f"{name} {word}" for name, word in zip(heads[1:-1], row[1:-1], strict=True) if word)
            screen.print(f"[bold]{escape(row[0])}[/]  {escape(facts)}")
            screen.print(Padding(escape(row[-1]), (0, 0, 0, 4)))
    elif rows:
        table = _table(screen, *heads)
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(*map(escape, row))
        screen.print(table)
    for note in notes:
        aside.print(note, markup=False)
    for sentence in broken:
        aside.print(f"[red]broken[/] {escape(sentence)}")


_Rows = tuple[list[str], list[list[str]], list[str]]  # heads, rows, notes


def _methods(_: str) -> _Rows:
    from kdbench import registry
    from kdbench.terminal.cards import idea

    rows = []
    for name in registry.names():
        cls = registry.get(name)
        rows.append([name, cls.family, cls.provenance, idea(name).partition(": ")[2] or idea(name)])
    rows.sort(key=lambda row: (row[1], row[0]))
    notes = [f"broken {name}: {why}" for name, why in registry.broken().items()]
    notes += [f"left out {name}: {why}" for name, why in registry.ABSENT.items()]
    return ["method", "family", "proven against", "idea"], rows, notes


def _suites(_: str) -> _Rows:
    from kdbench import suites

    rows = []
    for name in suites.names():
        one = suites.load(name)
        rows.append([name, one.dataset, str(len(one.pairs)), str(one.recipe.epochs), one.convention, one.title])
    return ["suite", "data", "pairs", "epochs", "convention", "what for"], rows, []


def _pairs(suite: str) -> _Rows:
    from kdbench.run import choices

    chosen, notes = choices.choose_suite(suite, choices.choose_device("auto"))
    return ["pair"], [[f"{teacher}:{student}"] for teacher, student in chosen.pairs], notes


def _models(_: str) -> _Rows:
    from kdbench import models

    return ["model"], [[name] for name in models.names()], ["and any model of timm as timm/NAME, e.g. timm/resnet50"]


def _teachers(_: str) -> _Rows:
    from kdbench.terminal.fetch import rows

    return *rows(), ["kdbench teacher fetch NETWORK --suite SUITE brings one"]


def _papers(suite: str) -> _Rows:
    from kdbench.terminal import literature

    return literature.HEADS, *literature.listed(suite)


# -- info, status, eval -------------------------------------------------------------------


def show_card(name: str, pair: str | None, screen: Console) -> None:
    """All that is worth knowing of one method."""
    from kdbench.terminal import cards

    for heading, lines in cards.card(name, pair):
        screen.print(f"[bold]{escape(heading)}[/]")
        for line in lines:
            screen.print(f"  {line}", markup=False)


def show_status(folder: Path, screen: Console) -> int:
    """What lies in an output folder; 1 when a file in it is damaged."""
    from kdbench import record
    from kdbench.run import assistants

    runs, cards = folder / "runs", sorted((folder / "teachers").glob("*/*.json"))
    if not runs.is_dir() and not (folder / "teachers").is_dir():
        screen.print(f"nothing in {folder} yet; `kdbench run` trains the first cells", markup=False)
        return 0
    table = _table(screen, "suite", "pair", "done", "on their way", "failed", "not supported")
    problems: list[str] = []
    ways: list[str] = []
    pairs = [(path, "") for path in sorted(runs.glob("*/*"))]
    pairs += [(path, " (teacher assistant)") for path in sorted((assistants.folder(folder) / "runs").glob("*/*"))]
    for pair, what in pairs:
        if not pair.is_dir():
            continue
        records, bad = record.read_all(pair)
        problems += bad
        counts = Counter(one.status for one in records)
        found = [_way(path) for path in sorted(pair.glob("*.ckpt"))]
        ways += [f"{pair.parent.name} {pair.name} {line}" for line in found]
        numbers = (counts["done"], len(found), counts["failed"], counts["unsupported"])
        table.add_row(pair.parent.name, pair.name + what, *map(str, numbers))
    if table.row_count:
        screen.print(table)
    for way in ways:
        screen.print(f"[{COLOURS['running']}]on its way[/] {escape(way)}")
    for path in cards:
        try:
            known = _card(path)
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
            continue
        except ValueError as error:
            problems.append(str(error))
            continue
        screen.print(f"teacher {path.parent.name}/{path.stem}: {known}", markup=False)
    for way in map(_way, sorted((folder / "teachers").glob("*/*.ckpt"))):
        screen.print(f"[{COLOURS['running']}]on its way[/] teacher {escape(way)}")
    for problem in problems:
        screen.print(f"[red]damaged[/] {escape(problem)}")
    return 1 if problems else 0


def _card(path: Path) -> str:
    """The accuracy on a teacher's card, read without torch.

    Raises:
        OSError, ValueError: it is no card, or was edited.
    """
    values = sealed.fields(path)
    top1 = values.get("top1", "")
    if top1 is not None and type(top1) not in (int, float):
        raise ValueError(f"{path} is not a teacher's card: it does not say an accuracy")
    if values.get("checksum"):
        sealed.check(path, values)
    return "accuracy not measured" if top1 is None else f"{top1:.2f}%"


def _way(path: Path) -> str:
    """How far a checkpoint is. The run may be going on or have been stopped."""
    from kdbench.engine import checkpoint

    try:
        stage, epoch = checkpoint.progress(path)
    except checkpoint.CheckpointDamaged as error:
        return f"{path.stem}: {error}"
    except OSError as error:  # it was there a moment ago: a run beside this has finished the cell, or begun it anew
        return f"{path.stem}: cannot be read now ({error.strerror})"
    return f"{path.stem}: {count(epoch, 'epoch')}{'' if stage == 'train' else ' of the pre-training stage'} trained"


def show_eval(folder: Path, chosen: Sequence[str], data_dir: Path | None, device: str, screen: Console) -> int:
    """Kept students and teachers measured again, one line each; 1 when one is not what its record or card says."""
    from kdbench.probes import remeasure

    wrong = False
    for noun, whose, found in (
        ("kept student", "the record", remeasure.students(folder, chosen, data_dir, device)),
        ("teacher", "the card", remeasure.teachers(folder, data_dir, device)),
    ):
        verdicts: Counter[str] = Counter()
        for one in found:
            verdicts[one.verdict] += 1
            colour = {"equal": "green", "close": "yellow", "wrong": "red"}[one.verdict]
            screen.print(f"[{colour}]{one.verdict:>5}[/] {escape(one.what)}: {escape(one.sentence)}")
        if total := sum(verdicts.values()):
            screen.print(
                f"{verdicts['equal']} of {count(total, noun)} equal to {whose}"
                + "".join(f", {verdicts[word]} {word}" for word in ("close", "wrong") if verdicts[word])
            )
        wrong |= bool(verdicts["wrong"])
    if bare := remeasure.unkept(folder, chosen):
        screen.print(f"not measured: {count(bare, 'finished cell')} whose student is not kept here")
    return 1 if wrong else 0


# -- check, doctor ------------------------------------------------------------------------


def show_check(specs: Sequence[Spec], verbose: bool, screen: Console) -> int:
    """Findings of the conformance kit, method by method."""
    from kdbench import registry, testing

    wrong = 0
    for spec in specs:
        cls = registry.get(spec.name)
        findings = testing.check_distiller(testing.variant(cls, **dict(spec.hyper)) if spec.hyper else cls)
        bad = [f for f in findings if not f.ok]
        wrong += bool(bad)
        skipped = sum(f.skipped for f in findings)
        verdict = "[red]fails[/]" if bad else "[green]keeps the contract[/]"
        more = f", {skipped} not applicable" if skipped else ""
        screen.print(f"{escape(str(spec))}: {verdict} ({len(findings) - len(bad)} of {len(findings)} checks{more})")
        for finding in findings:
            if not finding.ok or verbose:
                mark = "[red]wrong[/]" if not finding.ok else "[dim]  n/a[/]" if finding.skipped else "[green]   ok[/]"
                screen.print(f"  {mark} {finding.check}: {escape(finding.sentence)}")
    return 1 if wrong else 0


def show_doctor(data_dir: Path | None, folder: Path, screen: Console) -> int:
    """Look at the installation; 1 when something stands in the way of a run."""
    from kdbench.terminal import doctor

    table = _table(screen, "what", "verdict", "found")
    findings = doctor.look(data_dir, folder)
    for finding in findings:
        colour = {"ok": "green", "note": "yellow", "wrong": "red"}[finding.verdict]
        table.add_row(finding.what, f"[{colour}]{finding.verdict}[/]", escape(finding.found))
    screen.print(table)
    return 1 if any(finding.verdict == "wrong" for finding in findings) else 0
