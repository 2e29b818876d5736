"""The command line as tests call it, in their own process: small grids of ``digits``, and what they leave."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdbench import record
from kdbench.cli import main
from kdbench.engine.lane import Lane


def small(epochs: int = 2) -> list[str]:
    """The words of a grid of one pair and one seed."""
    words = f"--suite digits --epochs {epochs} --limit-train 96 --seeds 1 --pairs resnet14:resnet8"
    return words.split()


SMALL = small()


def kdbench(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def fine(*words: object) -> str:
    """Output of a command that must end with 0."""
    result = kdbench(*words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object, code: int = 2) -> str:
    """The one line of a command that must end in a sentence."""
    result = kdbench(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return flat(result.output)


def flat(text: str) -> str:
    """In one line, without borders."""
    return " ".join(text.replace("│", " ").split())


def run(out: Path, *words: object, methods: str = "kd,fitnet") -> Result:
    """Train a small grid."""
    return kdbench("run", *SMALL, "--methods", methods, "--out", out, *words)


def records(out: Path) -> dict[str, record.Record]:
    """All that lie in an output folder, by "teacher:student method seed"."""
    found, problems = record.read_all(out / "runs")
    assert problems == []
    return {f"{one.teacher}:{one.student} {one.method} {one.seed}": one for one in found}


def measured(out: Path) -> dict[str, object]:
    """What the records say without times and places."""
    return {name: one.measured() for name, one in records(out).items()}


def stop_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second epoch of every group of students."""
    start = Lane.start_epoch

    def interrupted(lane: Lane) -> None:
        if lane.epoch and not lane.key.startswith("teacher"):
            signal.raise_signal(signal.SIGINT)
        start(lane)

    monkeypatch.setattr(Lane, "start_epoch", interrupted)
