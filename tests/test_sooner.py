"""How many times sooner several workers end, by an estimate: never by more than there is to work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kdbench.run import estimate, session
from kdbench.run.devices import Hands
from kdbench.run.estimate import Estimator
from kdbench.run.grid import Cell
from kdbench.run.session import Job, Request
from kdbench.run.sooner import sooner
from kdbench.utils import cores, environment


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two groups of five lanes."""
    out = tmp_path_factory.mktemp("out")
    return session.resolve(
        Request("kd,at,sp,vid,fitnet", "resnet14:resnet8", "digits", seeds="2", epochs=1, device="cpu", out=out)
    )


def seconds(cells: Sequence[Cell]) -> tuple[float, float]:
    """A teacher's pass is as long as a lane."""
    return 1.0, float(len(cells))


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 64])
def test_more_workers_than_there_is_room_for_gain_nothing(job: Job, workers: int) -> None:
    two = sooner(job.cells, {}, seconds, 2, 2)
    assert sooner(job.cells, {}, seconds, workers, 2) <= two == 2.0
    assert sooner(job.cells, {}, seconds, workers) >= two


def test_what_they_cut_is_counted_with_its_teacher_passes(job: Job) -> None:
    ten = sooner(job.cells, {}, seconds, 10, 1)  # ten parts of a lane and a pass each, in place of two with five lanes
    assert ten == pytest.approx(12 / 20)


def test_on_a_cpu_there_is_room_for_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 2)
    assert Hands("processes", 8, ("cpu",)).at_once == 2
    assert Hands("processes", 1, ("cpu",)).at_once == 1
    monkeypatch.setattr(environment, "threads", lambda: 2)
    assert Hands("processes", 8, ("cpu",)).at_once == 1
    assert Hands("processes", 8, ("cuda:0", "cuda:1")).at_once == 8
    assert Hands("ray", 8, ("cpu",)).at_once == 8  # of a cluster, whose machines are others


def test_an_estimate_knows_of_cores(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 2)
    monkeypatch.setattr(Estimator, "_shared", lambda self, job, cells: seconds(cells))
    monkeypatch.setattr(estimate, "_teachers", lambda job, cells: {})
    two, eight = (_of(job, Hands("processes", workers, ("cpu",))).sooner for workers in (2, 8))
    assert (two, eight < 2) == (2.0, True)


@pytest.mark.parametrize(
    ("hands", "said"),
    [
        (Hands("processes", 12, ("cuda:0",)), True),
        (Hands("processes", 2, ("cuda:0", "cuda:1")), False),
        (Hands("processes", 3, ("cuda:0", "cuda:1")), True),
        (Hands("processes", 3, ("cpu",)), False),
        (Hands(devices=("cuda:0",)), False),
    ],
)
def test_workers_that_share_a_gpu_are_told(job: Job, hands: Hands, said: bool) -> None:
    assert (estimate.SHARED in _of(job, hands).ahead) is said


def _of(job: Job, hands: Hands) -> estimate.Estimate:
    made = replace(job, hands=hands)  # it is measured on the CPU
    return Estimator(made, budget=0.0).of(made, made.cells)
