"""`kdbench probe` on a terminal: a line for each measurement, then a table for each probe, then the files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from kdbench.probes import catalogue, choose
from kdbench.probes.measure import Verdict, Work, measure
from kdbench.probes.probe import Context
from kdbench.report import probes as reporting
from kdbench.terminal.console import count, escape
from kdbench.terminal.report import print_files, print_table
from kdbench.utils.findings import Finding

_COLOURS = {"measured": "green", "kept": "dim", "n/a": "yellow", "failed": "red", "note": "yellow"}


def probe(words: dict[str, Any], screen: Console) -> int:
    """Run the verb; returns the exit status: 1 where something failed, or nothing could be measured.

    Raises:
        ValueError: what was asked for cannot be done.
    """
    out: Path = words["out"]
    probes = catalogue.choose(words["probes"])
    if words["cifar_c"] is not None and all(one.name != "robustness" for one in probes):
        raise ValueError("--cifar-c is of the probe robustness, which is not asked for")
    settings, asked = catalogue.settings(probes, words["overrides"])
    choice = choose.choose(out, words["chosen"], words["pairs"], words["methods"], words["seeds"])
    context = Context(words["data_dir"], words["cifar_c"], asked)
    work = Work(out, probes, settings, choice, context, words["device"], words["force"])
    found: list[Finding] = []
    verdicts: Counter[str] = Counter()
    unserved: list[Verdict] = []
    for one in measure(work):
        verdicts[one.verdict] += 1
        if one.finding is not None:
            found.append(one.finding)
        if one.verdict == "n/a":
            unserved.append(one)
        elif one.verdict != "kept":
            _say(one, screen)
    _say_once(unserved, screen)
    suites = sorted({one.suite for one in found})
    for table in reporting.tables(reporting.named(found, reporting.records_of(out, suites))):
        print_table(table, screen)
    if found:
        written, problems = reporting.write(out, suites, [one.name for one in probes])
        for problem in problems:
            screen.print(f"[red]left out[/] {escape(problem)}")
        print_files(written, screen)
    parts = [f"{verdicts[word]} {word}" for word in ("measured", "kept", "n/a", "failed") if verdicts[word]]
    screen.print(f"{', '.join(parts) or 'nothing to measure'} ({choose.home(out)})", markup=False)
    return 1 if verdicts["failed"] or not found else 0


def _say(one: Verdict, screen: Console) -> None:
    words = escape(f"{one.probe} of {one.what}" if one.probe else "")
    sentence = f"{': ' if words else ''}{escape(one.sentence)}" if one.sentence else _numbers(one.finding)
    screen.print(f"[{_COLOURS[one.verdict]}]{one.verdict:>8}[/] {words}{sentence}")


def _numbers(one: Finding | None) -> str:
    """The first two numbers of a finding."""
    known = [(name, value) for name, value in one.summary.items() if value is not None] if one else []
    return ": " + escape(", ".join(f"{name} {reporting.text(name, value)}" for name, value in known[:2]))


def _say_once(unserved: list[Verdict], screen: Console) -> None:
    """A line for each reason, not for each network."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in unserved:
        reasons.setdefault((one.probe, one.sentence), []).append(one.what)
    for (name, sentence), whats in reasons.items():
        whom = whats[0] if len(whats) == 1 else f"{count(len(whats), 'network')}, {whats[0]} the first"
        screen.print(f"[yellow]{'n/a':>8}[/] {escape(f'{name} of {whom}: {sentence}')}")
