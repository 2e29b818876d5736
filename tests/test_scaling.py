"""kdbench bench --scaling: every setting trains the same cells anew, and what is printed can be read again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import flat, refused
from pydantic import TypeAdapter
from rich.console import Console
from training import TINY

from kdbench.bench import scaling
from kdbench.bench.scaling import Row, Scaling
from kdbench.run import grid
from kdbench.run.outcome import Outcome
from kdbench.terminal import bench as show

SMALL = replace(TINY, side=32, num_classes=100, images=80, steps=3)


def test_settings_are_measured_in_turn_and_saved(tmp_path: Path) -> None:
    said: list[str] = []
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    (found,) = scaling.scaling(replace(SMALL, file=tmp_path / "s.json"), said.append, workers=[1])
    assert (torch.get_num_threads(), torch.equal(torch.get_rng_state(), rng)) == (threads, True)
    assert [(row.workers, row.lanes, len(row.seconds)) for row in found.rows] == [(1, 1, 2), (1, 2, 2)]
    assert all(speed > 0 for row in found.rows for speed in row.images_per_second)
    order = [line for line in said if " of 2" in line]
    assert order == [f"resnet14:resnet8: 1 worker, {n}, {t} of 2" for t in (1, 2) for n in ("1 lane", "2 lanes")]
    assert TypeAdapter(list[Scaling]).validate_json((tmp_path / "s.json").read_bytes()) == [found]


def test_a_random_teacher_throws_no_student_off(tmp_path: Path) -> None:
    """A loss so steep that the usual learning rate is infinite within ten steps; what is measured is time."""
    (found,) = scaling.scaling(replace(SMALL, methods="vid[beta=1e4]", steps=10, repeat=1), workers=[1])
    assert [len(row.seconds) for row in found.rows] == [1]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None, int]]:
    """Runs that train nothing: ten steps of a lane take a second, with two workers half of it. Says how each was asked
    for."""
    asked: list[tuple[int, int | None, int]] = []
    clock = [0.0]
    monkeypatch.setattr("kdbench.bench.scaling.time.perf_counter", lambda: clock[0])

    def run(job: Any, watch: Any, images: Any) -> Outcome:
        asked.append((job.hands.workers, job.request.lanes, len(images.train_labels)))
        assert {grid.state(job.request.out, cell) for cell in job.cells} == {"missing"}, "each run begins anew"
        clock[0] += 5.0
        for _ in range(11 * len(job.cells)):
            watch.step(1)
            clock[0] += 0.1 / job.hands.workers
        clock[0] += 7.0
        return Outcome(done=job.cells)

    monkeypatch.setattr("kdbench.run.runner.run", run)
    return asked


def test_speed_is_of_training_alone_and_gains_are_over_one(pretended: list[tuple[int, int | None, int]]) -> None:
    (found,) = scaling.scaling(replace(SMALL, repeat=9), workers=[1, 2])
    assert [(row.workers, row.lanes) for row in found.rows] == [(1, 1), (1, 2), (2, 2)]
    assert found.repeat == scaling.TURNS
    assert pretended == 3 * [(1, 1, 12), (1, 2, 12), (2, 2, 12)]
    assert [round(row.speed) for row in found.rows] == [40, 40, 80]  # of batches of 4
    assert [round(found.gain(row, "workers"), 6) for row in found.by_workers] == [1, 2]
    assert [round(found.gain(row), 6) for row in found.by_lanes] == [1, 1]
    assert found.rows[0].seconds[0] == pytest.approx(12 + 2.2)


def test_without_steps_a_first_run_says_how_many_fit(pretended: list[tuple[int, int | None, int]]) -> None:
    scaling.scaling(replace(SMALL, steps=None, images=50_000, repeat=1), workers=[1, 2])
    first, *others = pretended
    assert first == (1, 2, 4 * scaling.LEAST)
    fitting = int(scaling.BUDGET * 10 / 2 / 3)  # ten lane-steps a second, two cells, three settings
    assert {images for _, _, images in others} == {4 * min(fitting, scaling.MOST)}


def test_a_cell_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Any, watch: Any, images: Any) -> Outcome:
        return Outcome(failed={job.cells[0]: "it is ill"})

    monkeypatch.setattr("kdbench.run.runner.run", run)
    with pytest.raises(ValueError, match="the grid did not end: it is ill"):
        scaling.scaling(SMALL, workers=[1])


def test_the_tables_show_workers_and_lanes() -> None:
    speeds = {(1, 1): [100.0, 90.0, 110.0], (1, 6): [400.0], (2, 6): [600.0]}
    rows = [Row(workers=w, lanes=n, images_per_second=v, seconds=[9.5]) for (w, n), v in speeds.items()]
    methods = ["kd", "at", "sp", "vid", "crd", "semckd[beta=40]"]
    facts: dict[str, Any] = {"precision": "fp32", "device": "cpu", "repeat": 3, "code": {}, "finished": ""}
    facts["environment"] = {"cpu": "a CPU", "torch": "2"}
    found = Scaling(pair="a:b", methods=methods, steps=8, batch_size=64, rows=rows, **facts)
    screen = Console(file=io.StringIO(), width=100)
    show.show_scaling(found, screen)
    text = flat(screen.file.getvalue())  # type: ignore[attr-defined]
    assert "semckd[beta=40]: 8 steps of 64 images each, n = 3" in text
    workers, lanes = text.split("speed against lanes")
    assert "2 600 [600, 600] 1.50 9.5" in workers
    assert "1 100 [90, 110] 1.00 9.5" in lanes
    assert "6 400 [400, 400] 4.00 9.5" in lanes


@pytest.mark.parametrize("word", ["--lanes-fit", "--side-by-side", "--no-table"])
def test_it_stands_alone(word: str) -> None:
    assert refused("bench", "--scaling", word) == f"Error: --scaling measures nothing else; leave {word} out"


def test_what_bench_refuses_is_refused() -> None:
    assert "--repeat takes a number" in refused("bench", "--scaling", "--repeat", 0)
    assert "no method 'kdd'" in refused("bench", "--scaling", "-m", "kdd")
