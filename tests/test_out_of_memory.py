"""A run that runs out of memory anywhere says so in a sentence, and it costs one cell at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import flat, measured, run

from kdbench.engine.lane import Lane


def test_one_lane_that_is_too_large_costs_its_cell_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lane.step

    def step(lane: Lane, *rest: Any) -> None:
        if lane.key.startswith("fitnet"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(lane, *rest)

    monkeypatch.setattr(Lane, "step", step)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "a step of 1 lane does not fit into the memory of cpu; one lane alone is too large" in flat(result.output)
    theirs = measured(finished)
    assert measured(tmp_path) == {name: one for name, one in theirs.items() if "fitnet" not in name}
    monkeypatch.undo()
    assert run(tmp_path).exit_code == 0  # it is tried again, without --retry-failed
    assert measured(tmp_path) == theirs


def test_it_is_told_wherever_it_happens(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        "kdbench.models.fold",
        "kdbench.run.batches.make_loader",
        "kdbench.engine.schedule.Plan.optimizer",
        "kdbench.engine.lane.Lane.state",
        "kdbench.engine.evaluate.scores",
        "kdbench.run.ledger.keep_student",
    ]
    (tmp_path / "teachers").symlink_to(finished / "teachers")

    def full(*_: object, **words: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    for where in places:
        with monkeypatch.context() as patched:
            patched.setattr(where, full)
            result = run(tmp_path)
        assert result.exit_code == 1, where
        assert "does not fit into the memory of cpu" in flat(result.output), where
        assert "Traceback" not in result.output, where
    assert run(tmp_path).exit_code == 0
    assert measured(tmp_path) == measured(finished)
