"""`kdbench run` and `tune` before and after the work: the estimate, the question, the budget, what it took."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdbench import registry
from kdbench.cli import main
from kdbench.run import clock, estimate
from kdbench.run.estimate import Estimate, Part
from kdbench.run.estimate_words import sentences
from kdbench.terminal import ahead

SMALL = ["--suite", "digits", "--pairs", "resnet8:resnet8", "--limit-train", "64", "--seeds", "1", "--epochs", "1"]


@pytest.fixture(autouse=True)
def _unhurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clock.Clock, "busy", lambda self: 1.0)


def asked(*words: Any, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=answer)


def takes(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every estimate says so many seconds for each cell."""

    def of(self: Any, job: Any, todo: Any) -> Estimate:
        return Estimate(len(todo), tuple(Part("students", c.pair, c.label, seconds) for c in todo), job.device)

    monkeypatch.setattr(estimate.Estimator, "of", of)


def test_an_estimate_says_what_workers_share_and_nothing_is_about_less() -> None:
    part = Part("students", "resnet20:resnet8", "kd", 60.0)
    assert sentences(Estimate(1, (part,), "cpu"))[1] == "  of it: students 1 min"
    assert sentences(Estimate(1, (part,), "cpu", workers=2))[1] == "  work that they share: students 1 min"
    assert sentences(Estimate(1, (part._replace(seconds=0.2),), "cpu"))[0].startswith("less than a second on")


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_asks", lambda screen: True)


def test_a_run_says_what_it_may_take_and_what_it_took(tmp_path: Path) -> None:
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    said = next(number for number, line in enumerate(lines) if " on cpu for 1 cell" in line)
    assert lines[said].startswith(("about ", "less than a second "))
    assert said < next(number for number, line in enumerate(lines) if line.startswith("data digits"))
    assert lines[-1].startswith("estimated ")
    assert ", taken " in lines[-1]
    (row,) = csv.DictReader((tmp_path / "estimates.csv").read_text().splitlines())
    assert (row["verb"], row["suite"], row["cells"]) == ("run", "digits", "1")
    again = asked("run", *SMALL, "--methods", "student", "--out", tmp_path)
    assert "about" not in again.output  # nothing is left to do
    assert len((tmp_path / "estimates.csv").read_text().splitlines()) == 2


def test_tuning_says_so_too(tmp_path: Path) -> None:
    words = ["--suite", "digits", "--pairs", "resnet8:resnet8", "--limit-train", "64", "--epochs", "1", "--trials", "2"]
    done = asked("tune", *words, "--methods", "sp", "--set", "teacher.epochs=1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "on cpu for 2 cells" in done.output
    assert done.output.splitlines()[-1].startswith("estimated ")
    (row,) = csv.DictReader((tmp_path / "estimates.csv").read_text().splitlines())
    assert row["verb"] == "tune"


def test_a_run_with_a_failure_corrects_nothing(tmp_path: Path) -> None:
    words = ["--methods", "student", "--set", "recipe.lr=1e30"]
    done = asked("run", *SMALL, *words, "--out", tmp_path)
    assert done.exit_code == 1, done.output
    assert done.output.splitlines()[-1].startswith("estimated ")
    assert not (tmp_path / "estimates.csv").exists()


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, ZeroDivisionError])
def test_an_estimate_that_cannot_be_made_stands_in_nobodys_way(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*_: Any) -> Any:
        raise kind("too large\nto try")

    monkeypatch.setattr(estimate.Estimator, "of", of)
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path)
    assert "no estimate: too large to try" in done.output
    assert done.exit_code == 0


@pytest.mark.parametrize(("answer", "trained"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_long_run_on_a_cpu_asks(answer: str, trained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, ahead.LONG + 1)
    at_a_terminal(monkeypatch)
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path, answer=answer)
    assert "More than 2 h 0 min on a CPU. Go on?" in done.output
    assert (tmp_path / "runs").exists() == trained
    assert ("nothing was trained" in done.output) != trained
    assert done.exit_code == (0 if trained else 1)


@pytest.mark.slow
def test_yes_answers_and_without_a_terminal_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, ahead.LONG + 1)
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path / "pipe")
    assert "going on, because nobody is there to be asked" in done.output
    assert done.exit_code == 0
    at_a_terminal(monkeypatch)
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path / "yes", "--yes")
    assert "Go on?" not in done.output
    assert done.exit_code == 0
    takes(monkeypatch, ahead.LONG - 1)
    done = asked("run", *SMALL, "--methods", "student", "--out", tmp_path / "short", answer="n\n")
    assert "Go on?" not in done.output
    assert done.exit_code == 0


@pytest.mark.parametrize("verb", ["run", "tune"])
def test_a_budget_that_is_none_is_one_sentence(verb: str, tmp_path: Path) -> None:
    done = asked(verb, "--suite", "digits", "--budget", "4x", "--out", tmp_path)
    assert done.exit_code == 2
    assert done.output.startswith("Error: --budget takes a number and a unit of s, m, h or d")
    assert len(done.output.splitlines()) == 1


WIDE = ["--suite", "digits", "--pairs", "resnet8:resnet8,resnet14:resnet8", "--limit-train", "64", "--epochs", "1"]


def test_a_budget_proposes_and_trains_only_with_a_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, 10.0)
    words = ["run", *WIDE, "--seeds", "2", "--methods", "label_smoothing,student", "--table", "off", "--out", tmp_path]
    done = asked(*words, "--budget", "15s")
    assert done.exit_code == 1
    assert "about 10 s of it fit into 15 s" in done.output
    assert "1 of 2 seeds" in done.output
    assert "nothing was trained; --yes runs it" in done.output
    assert not (tmp_path / "runs").exists()
    line = next(line for line in done.output.splitlines() if line.startswith("kdbench run "))
    assert "--table off" in line
    assert "--limit-train 64" in line
    assert "--seeds 1" in line
    assert "compile" not in line, "nobody asked for it"
    done = asked(*words, "--budget", "15s", "--yes")
    assert done.exit_code == 0
    ended = {path.stem.split("-s0")[0] for path in (tmp_path / "runs").rglob("*.json")}
    assert ended == {"student"}
    done = asked(*line.split()[1:])  # the command line does the same: all is there
    assert "1 of 1 cell is there" in done.output
    at_a_terminal(monkeypatch)
    done = asked(*words, "--budget", "15s", "--force", answer="n\n")
    assert "Run this?" in done.output
    assert done.exit_code == 1


def test_a_budget_that_holds_everything_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, 10.0)
    done = asked("run", *SMALL, "--methods", "student", "--budget", "1h", "--out", tmp_path)
    assert "that fits into 1 h 0 min as it is" in done.output
    assert done.exit_code == 0


def test_a_dry_run_with_a_budget_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, 10.0)
    done = asked("run", *WIDE, "--methods", "student,kd", "--budget", "15s", "--dry-run", "--yes", "--out", tmp_path)
    assert "kdbench run --methods" in done.output
    assert done.exit_code == 0
    assert not (tmp_path / "runs").exists()


def test_tuning_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, 10.0)
    done = asked("tune", *WIDE, "--methods", "sp,at", "--trials", "2", "--budget", "25s", "--out", tmp_path)
    assert "1 of 2 pairs, without resnet14:resnet8" in done.output
    assert "1 of 2 methods" in done.output
    line = next(line for line in done.output.splitlines() if line.startswith("kdbench tune "))
    assert "--trials 2" in line
    assert "--pairs resnet8:resnet8" in line
    assert done.exit_code == 1
    assert not (tmp_path / "tuned").exists()


def test_a_command_line_can_be_pasted(tmp_path: Path) -> None:
    import shlex

    from kdbench.run.budget import Choice
    from kdbench.run.session import Request

    request = Request(out=tmp_path / "a b", overrides=("recipe.lr=0.1", "recipe.mean=0,0,0"), force=True, lanes=3)
    line = ahead.command("run", request, Choice(("crd[beta=1.0]",), (("a", "b"),), (4,), 5), {"plugin": ("x y.py",)}, 9)
    assert shlex.split(line) == [
        *("kdbench", "run", "--methods", "crd[beta=1.0]", "--pairs", "a:b"),
        *("--set", "recipe.lr=0.1", "--set", "recipe.mean=0,0,0", "--out", str(tmp_path / "a b")),
        *("--lanes", "3", "--force", "--epochs", "5", "--plugin", "x y.py"),
    ]


@pytest.mark.parametrize("mended", [False, True])
def test_what_was_refused_is_estimated_where_a_plugin_may_have_been_mended(
    mended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked("run", *SMALL, "--methods", "fitnet[tap=9]", "--out", tmp_path).exit_code == 1
    takes(monkeypatch, 60.0)
    monkeypatch.setattr(registry, "source_sha256", lambda name: "0" * 64 if mended else "")
    said = asked("run", *SMALL, "--methods", "fitnet[tap=9]", "--out", tmp_path, "--dry-run").output
    assert ("for 1 cell" in said) == mended
