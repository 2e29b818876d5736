"""The acceptance run's judgement: on made-up records, and on a tiny run from its first step to its last record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from click.testing import CliRunner

from kdbench import registry, suites
from kdbench.bench import acceptance
from kdbench.bench.acceptance import Gate, Measured, accept, judge, measured
from kdbench.cli import main as kdbench
from kdbench.record import Record
from kdbench.run import session
from kdbench.terminal import console
from kdbench.terminal.acceptance import conclude, main

GPU = "NVIDIA H200"
PAIR = ("resnet32x4", "resnet8x4")


def records(**changes: Any) -> list[Record]:
    """Twelve finished runs of a GPU, of 90 s in the training loop and 5,000 MiB each."""
    made = synthetic.make("kd", PAIR, 0, group_seconds=1080.0, group_lanes=12, **changes)
    return [made.model_copy(update={"method": name}) for name in acceptance.METHODS.split(",")]


def found(runs: list[Record], seconds: float = 1199.0, reserved: float | None = 7.9e9, **missing: str) -> Measured:
    return measured(runs, seconds, missing, device="cuda:0", peak=5000.0 * 2**20, reserved=reserved)


def refused(made: Measured) -> list[str]:
    """The sentences that do not hold."""
    return [sentence for good, sentence in judge(made, Gate()) if not good]


def test_a_run_within_the_gate_is_accepted_and_its_figures_are_said(tmp_path: Path, capsys: Any) -> None:
    made = found(records())
    assert refused(made) == []
    assert conclude(made, Gate(), tmp_path) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        GPU,
        "12 of 12 methods",
        "240 of 240 epochs",
        "1199.0 s of 1200 s",
        "1080 s of it in the training loop",
        "5.24 GB allocated, 7.90 GB reserved, of 8 GB",
        "gate met",
    ):
        assert words in said
    saved = json.loads((tmp_path / "acceptance.json").read_text())
    assert (saved["met"], saved["measured"]["wall_seconds"], saved["gate"]["seconds"]) == (True, 1199.0, 1200.0)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (found(records(), seconds=1200.5), "1200.5 s of 1200 s"),
        (found(records(), reserved=8.1e9), "5.24 GB allocated, 8.10 GB reserved"),
        (replace(found(records()), peak_bytes=7700.0 * 2**20), "8.07 GB allocated"),
        (found(records()[:11], dkd="not finite"), "11 of 12 methods finished; dkd: not finite"),
        (found(records()[:11]), "11 of 12 methods finished"),
        (found(records(epochs=239)), "239 of 240 epochs"),
        (
            measured(records(environment={"device": "cpu"}), 1.0, {}, device="cpu", peak=0.0, reserved=None),
            "ran on cpu",
        ),
        (measured([], 1.0, {}, device="cpu", peak=0.0, reserved=None), "0 of 12 methods"),
    ],
)
def test_a_run_that_misses_one_of_them_is_not(made: Measured, sentence: str, tmp_path: Path, capsys: Any) -> None:
    assert any(sentence in line for line in refused(made)), refused(made)
    assert conclude(made, Gate(), tmp_path) == 1
    assert "gate NOT met" in capsys.readouterr().out


def test_its_methods_and_pair_are_there() -> None:
    specs = registry.parse(acceptance.METHODS)
    assert len(specs) == len(set(specs)) == Gate().methods
    suite = suites.load("semckd")
    assert acceptance.PAIR in [":".join(pair) for pair in suite.pairs]
    assert suite.recipe.epochs == Gate().epochs
    assert suite.recipe.batch_size == 64


def test_a_small_run_from_its_first_step_to_its_last_record(tmp_path: Path) -> None:
    request = session.Request(
        methods="kd,student",
        pairs="resnet14:resnet8",
        suite="digits",
        seeds="1",
        epochs=2,
        limit_train=96,
        out=tmp_path,
        device="cpu",
    )
    with console.Progress(console.out()) as watch:
        with pytest.raises(ValueError, match=r"there is no teacher resnet14 in .* its training is not to be timed"):
            accept(request, watch)
        words = [
            "teacher",
            "train",
            "resnet14",
            "--suite",
            "digits",
            "--epochs",
            "1",
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
        ]
        assert CliRunner().invoke(kdbench, words).exit_code == 0
        made = accept(request, watch)
        assert made.done == ["kd", "student"]
        assert (made.missing, made.epochs, made.device, made.reserved_bytes) == ({}, 2, "cpu", None)
        assert 0 < made.train_seconds < made.wall_seconds
        assert made.peak_bytes > 1e6
        with pytest.raises(ValueError, match=r"has begun or ended in .*acceptance times a whole run"):
            accept(request, watch)
        made = accept(replace(request, methods="fitnet[beta=1e40]"), watch)
        assert made.done == []
        assert "term 'hint' was inf" in made.missing["fitnet[beta=1e+40]"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "torch sees no CUDA device" in " ".join(done.output.split())
