"""`kdbench doctor --gpu` as far as a CPU goes: every check that can be made here passes, and fails where it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from commands import flat
from replaying import skipped

from kdbench.cli import main
from kdbench.data import Loader
from kdbench.engine.precision import Scaler
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.probes.gpu import checks, failures, primitives, small, steps
from kdbench.probes.gpu.table import Check, NotHere, rows

CPU = torch.device("cpu")
NUMBERS = {check.number: check for check in checks.CHECKS}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method, one precision."""
    monkeypatch.setattr(small, "METHODS", ("kd",))
    monkeypatch.setattr(steps, "precisions", lambda device: ("fp32",))


def made(*numbers: int) -> list[tuple[str, str]]:
    return [(row.verdict, row.found) for row in rows([NUMBERS[number] for number in numbers], CPU)]


def test_there_are_sixteen_in_their_order() -> None:
    assert [check.number for check in checks.CHECKS] == list(range(1, 17))
    assert all(check.expected for check in checks.CHECKS)


@pytest.mark.parametrize(
    "number", [1, 6, 7, 8, 9, 10, *(pytest.param(dear, marks=pytest.mark.slow) for dear in (11, 12)), 13]
)
def test_what_needs_no_cuda_passes_on_the_cpu(number: int) -> None:
    [(verdict, found)] = made(number)
    assert verdict == "ok", found


@pytest.mark.parametrize("number", [2, 3, 4, 5, 14, 15, 16])
def test_what_needs_cuda_says_so(number: int) -> None:
    assert made(number)[0][0] == "needs CUDA"


def test_the_first_that_fails_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(device: torch.device) -> str:
        raise RuntimeError("CUDA error: no kernel image")

    def absent(device: torch.device) -> str:
        raise NotHere("not on this device")

    def warns(device: torch.device) -> str:
        import warnings

        warnings.warn("once", UserWarning, stacklevel=1)
        return "never"

    some = [Check(1, "a", "", absent), Check(2, "b", "", odd), Check(3, "c", "", absent)]
    assert [(row.verdict, row.found) for row in rows(some, CPU)] == [
        ("needs CUDA", "not on this device"),
        ("FAIL", "RuntimeError: CUDA error: no kernel image"),
        ("not tried", "an earlier check failed"),
    ]
    assert [row.verdict for row in rows([Check(1, "d", "", warns)], CPU)] == ["FAIL"]


def test_an_override_of_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    [(verdict, found)] = made(1)
    assert verdict == "FAIL"
    assert found.startswith("unset NVIDIA_TF32_OVERRIDE")


def spoilt_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        primitives, "set_rate", lambda made, rate: None if made.defaults["fused"] else rate_of(made, rate)
    )


def rate_of(made: torch.optim.Optimizer, rate: float) -> None:
    for group in made.param_groups:
        group["lr"] = rate


def spoilt_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaler, "step", lambda scaler, made: made.step())


def spoilt_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, calls = Loader.gather, list[int]()

    def gather(feed: Loader, plan: Any) -> Any:
        calls.append(1)
        return usual(feed, plan).flip(3) if len(calls) == 2 else usual(feed, plan)

    monkeypatch.setattr(Loader, "gather", gather)


def spoilt_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(machine: small.Called, step: Any) -> Any:
        captured = step.func.__self__

        def replay() -> None:
            with skipped(captured, captured.lanes[0].key):
                step()

        return replay, None

    monkeypatch.setattr(small.Called, "record", record)


def spoilt_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, calls = steps._terms, list[int]()

    def terms(*given: Any) -> dict[str, float]:
        calls.append(1)
        return {name: value * (1 + 1e-3 * (len(calls) == 1)) for name, value in usual(*given).items()}

    monkeypatch.setattr(steps, "_terms", terms)


def spoilt_table(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TeacherTable.outputs
    monkeypatch.setattr(
        TeacherTable, "outputs", lambda table, kept: usual(table, {name: 1.01 * value for name, value in kept.items()})
    )


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        (6, spoilt_rate),
        (7, spoilt_scale),
        (8, spoilt_batch),
        (9, spoilt_repeat),
        (10, spoilt_terms),
        pytest.param(11, spoilt_repeat, marks=pytest.mark.slow),
        (13, spoilt_table),
    ],
)
def test_what_is_wrong_fails(
    number: int, spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    assert made(number)[0][0] == "FAIL"


def test_a_process_that_dies_is_a_failure() -> None:
    check = Check(14, "captures that fail", "", failures.captures_that_fail)
    [row] = rows([check], CPU)  # there are no graphs of a CPU: its process says so
    assert row.verdict == "FAIL"
    assert row.found.startswith("its process ended with 1: ")


def test_the_verb_shows_a_table_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = tuple(NUMBERS[number] for number in (1, 2, 6))
    monkeypatch.setattr(checks, "CHECKS", some)
    file = tmp_path / "new" / "doctor.json"
    done = CliRunner().invoke(main, ["doctor", "--gpu", "--device", "cpu", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "1 of 3 checks need CUDA and were not made on cpu" in flat(done.output)
    saved = json.loads(file.read_text())
    assert saved["passed"] is False  # of a GPU nothing is known
    assert [one["verdict"] for one in saved["checks"]] == ["ok", "needs CUDA", "ok"]
    spoilt_rate(monkeypatch)
    done = CliRunner().invoke(main, ["doctor", "--gpu", "--device", "cpu"])
    assert done.exit_code == 1


def test_its_options_go_with_it() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json", "a.json"])
    assert done.exit_code == 2
    assert "--json goes with --gpu" in flat(done.output)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (
            'case "$*" in *compute-apps*) printf "$PPID\\n17\\n18\\n";; *GPU-1*) echo "570.86.15, Default";; esac',
            ["driver 570.86.15, compute mode Default, 2 other processes"],
        ),
        ("exit 9", []),
        ("echo something else", []),
        ("true", []),
    ],
)
def test_the_driver_is_asked_where_its_tool_is(
    script: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert primitives.driver("GPU-1") == wanted
