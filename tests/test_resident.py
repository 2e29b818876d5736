"""The teacher's table on the device: captured steps that read it end as the loop does; no pass too many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from narrow import there
from tabled import (
    BELOW_MAPS,
    FEW,
    VIEWS,
    Sized,
    lane,
    live_result,
    loader,
    open_table,
    passes,
    place,
    setting,
    supported,
    train,
)
from telling import fast
from torch import Tensor, nn
from training import BATCH, EPOCHS, assert_same, images, nothing, result, teacher

from kdbench import models
from kdbench.data import Loader
from kdbench.distiller import Outputs
from kdbench.engine import fit as engine
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.graph import cached_teacher as module
from kdbench.engine.graph.backend import Eager
from kdbench.engine.graph.cached_teacher import Resident, resident
from kdbench.engine.lane import Lane
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import Unfit
from kdbench.run import teacher_cache as tables
from kdbench.suites import load as load_suite

pytestmark = pytest.mark.core


class Recorder(Eager):
    """Repeats a step by calling it, and says so, as a graph would."""

    captures = True

    def __init__(self) -> None:
        self.records, self.replays, self.shared = 0, 0, True

    def apart(self) -> Recorder:
        self.shared = False
        return self

    def record(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        self.records += 1
        first = step()

        def again() -> None:
            self.replays += 1
            step()

        return again, first


def captured(folder: Path, shared: engine.Setting, *lanes: Lane, reads: str = "pooled") -> None:
    """Train by captured steps on a table in ``folder``."""
    table = there(open_table(folder, shared))
    try:
        with resident(table, reads, Eager(), 1e9) as kept:
            train(replace(shared, machine=Eager(), table=table, resident=kept), *lanes)
    finally:
        table.close()


@pytest.mark.parametrize("name", fast([*BELOW_MAPS, "crd+mag"]))
def test_a_captured_step_on_the_table_gives_the_bits_of_the_live_teacher(name: str, tmp_path: Path) -> None:
    feed = loader(FEW)
    filling, reading = (supported(name, tmp_path / which, feed) for which in ("filling", "reading"))
    captured(tmp_path, setting(feed), filling)
    captured(tmp_path, setting(feed), reading)
    assert_same(result(filling), live_result(name))
    assert_same(result(reading), live_result(name))


def test_the_loop_reads_what_a_captured_run_kept_and_the_other_way_round(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    captured(tmp_path, shared, lane("kd", tmp_path / "a", feed))
    table = there(open_table(tmp_path, shared))
    before = passes(shared)
    train(replace(shared, table=table, judge=teacher()), lane("dkd", tmp_path / "b", feed))
    assert passes(shared) == before  # every view of the seed had been kept
    table.close()

    asked = setting(feed)
    assert asked.teacher is not None
    table = there(open_table(tmp_path, asked))
    before = passes(asked)
    with resident(table, "logits", Eager(), 1e9) as kept:
        for epoch in range(EPOCHS):
            kept.ready(feed.plan(epoch))
    assert passes(asked) == before
    table.close()


def test_an_epoch_is_made_ready_in_whole_batches_and_once(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    table = there(open_table(tmp_path, shared))
    with resident(table, "logits", Eager(), 1e9) as kept:
        plan = feed.plan(0)
        before = passes(shared)
        kept.ready(plan)
        assert passes(shared) == before + module.REHEARSALS + 48 // BATCH
        kept.ready(plan)
        assert passes(shared) == before + module.REHEARSALS + 48 // BATCH
        part = plan.part(0, BATCH)
        live = engine.look(shared, feed.gather(part))
        seen = kept.outputs(part)
        assert torch.equal(seen.logits, live.logits)
        assert torch.isnan(seen.pooled).all()
    table.close()


def test_filling_is_recorded_once_and_repeated(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    table = there(open_table(tmp_path, shared))
    machine = Recorder()
    with resident(table, "pooled", machine, 1e9) as kept:
        for epoch in range(2):
            kept.ready(feed.plan(epoch))
        assert machine.records == 1
        assert not machine.shared  # a refused capture would spoil the random numbers of the lanes' graphs
        assert machine.replays >= 3
    assert len(table.parts["pooled"].filled()) == int(kept._there.sum()) > 48
    table.close()


def test_a_teacher_that_cannot_be_captured_is_called(tmp_path: Path) -> None:
    class Refusing(Recorder):
        def record(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
            raise RuntimeError("operation not permitted when stream is capturing")

    feed, shared = loader(), setting(loader())
    table = there(open_table(tmp_path, shared))
    with resident(table, "logits", Refusing(), 1e9) as kept:
        part = feed.plan(0).part(0, BATCH)
        kept.ready(part)
        live = engine.look(shared, feed.gather(part))
        assert torch.equal(kept.outputs(part).logits, live.logits)
    table.close()


def test_a_short_last_batch_is_live_where_its_answers_are_others(tmp_path: Path) -> None:
    feed = loader()
    live, kept = lane("kd", tmp_path / "live", feed), lane("kd", tmp_path / "kept", feed)
    train(setting(feed, Sized()), live)
    captured(tmp_path, setting(feed, Sized()), kept)
    assert_same(result(kept), result(live))


def test_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    table = there(open_table(tmp_path, shared))
    with resident(table, "logits", Eager(), 1e9) as kept:
        kept.ready(feed.plan(0))
    table.close()
    row = int(table.rows(0)[0])
    with open(table.place.folder / "logits.rows", "r+b") as file:
        file.seek(row * 40)
        file.write(b"\x7f" * 8)
    table = there(open_table(tmp_path, shared))
    with resident(table, "logits", Eager(), 1e9) as kept:
        assert not kept._there[row]
        assert int(kept._there.sum()) == 47
        kept.ready(feed.plan(0))
    values, good = table.parts["logits"].read(np.array([row]))
    assert good.all()
    assert not (values.abs() > 1e30).any()
    table.close()


def test_new_answers_reach_the_files_every_few_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 2)
    feed = loader(count=48)
    shared = setting(feed)
    table = there(open_table(tmp_path, shared))
    kept = Resident(table, "logits", Eager(), 1e9)
    filled = []
    for epoch in range(3):
        kept.ready(feed.plan(epoch))
        filled.append(len(table.parts["logits"].filled()))
    assert filled[0] == 0
    assert filled[1] == filled[2] > 48
    table.close()


def test_a_second_process_keeps_its_answers_to_itself(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    first = there(open_table(tmp_path, shared))
    second = there(open_table(tmp_path, shared, create=None))
    assert not second.fills
    with resident(second, "logits", Eager(), 1e9) as kept:
        kept.ready(feed.plan(0))
        assert int(kept._there.sum()) == 48
    assert len(first.parts["logits"].filled()) == 0
    first.close()


def test_it_takes_no_more_room_than_it_may(tmp_path: Path) -> None:
    table = there(open_table(tmp_path, setting(loader())))
    with pytest.raises(Unfit, match=r"the teacher's logits and pooled take 0\.0 GB in the memory of cpu"):
        Resident(table, "pooled", Eager(), 1000)
    table.close()


def test_a_teacher_without_memory_is_told_of_as_lanes_are(tmp_path: Path) -> None:
    class Huge(nn.Module):
        def forward(self, image: Tensor) -> Outputs:
            raise torch.OutOfMemoryError("CUDA out of memory")

    feed = loader()
    shared = replace(setting(feed, Huge()), judge=teacher())
    with pytest.raises(OutOfMemory, match="the teacher does not fit into the memory of cpu"):
        train(shared, lane("kd", tmp_path, feed))


# -- answers that may differ by rounding ----------------------------------------------------


class Noisy(nn.Module):
    """Differs from itself by a share of the largest answer, as kernels chosen anew do."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.net = share, models.fold(teacher())

    def forward(self, image: Tensor) -> Outputs:
        seen: Outputs = self.net(image)
        wrong = self.share * seen.logits.abs().max() * torch.rand(())
        return seen._replace(logits=seen.logits + wrong)


@pytest.mark.parametrize(
    ("share", "tolerance", "fits"), [(0.0, 0.0, True), (1e-5, 1e-4, True), (1e-5, 0.0, False), (0.5, 1e-2, False)]
)
def test_answers_are_compared_within_the_tolerance(share: float, tolerance: float, fits: bool, tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed, Noisy(share))
    assert shared.teacher is not None

    def opened() -> TeacherTable | None:
        return TeacherTable.opened(
            replace(place(tmp_path), tolerance=tolerance),
            feed,
            lambda image: engine.look(shared, image),
            told.append,
            create="logits",
        )

    told: list[str] = []
    with nullcontext() if fits else pytest.raises(Unfit, match="change with the other images"):
        table = there(opened())
        table.fill(np.arange(BATCH))
        table.close()
        there(opened()).close()
        assert not any("set aside" in sentence for sentence in told)


# -- which groups have one ------------------------------------------------------------------


def lent(
    folder: Path,
    feed: Loader,
    shared: engine.Setting,
    lanes: list[Lane],
    *,
    visits: int = VIEWS,
    note: Callable[[str], None] = nothing,
    switch: str = "auto",
) -> AbstractContextManager[engine.Setting]:
    """The setting of a group of lanes of digits, with what a run lends it."""
    recipe = load_suite("digits").recipe.model_dump() | {"crop_padding": 1, "flip": True, "batch_size": BATCH}
    return tables.taught(
        folder, "resnet14", images(), recipe, shared, feed, lanes, visits=visits, note=note, switch=switch
    )


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["kd"], "logits"),
        (["kd", "rkd"], "pooled"),
        (["kd", "at"], ""),
        (["student"], ""),
        (["kd", "student"], "logits"),
    ],
)
def test_a_captured_group_has_one_where_no_lane_reads_maps(names: list[str], wanted: str, tmp_path: Path) -> None:
    feed = loader()
    shared = replace(setting(feed), machine=Eager())
    lanes = [lane(name, tmp_path, feed) for name in names]
    with lent(tmp_path, feed, shared, lanes) as its:
        assert ("" if its.resident is None else its.resident._names[-1]) == wanted
        assert (its.table is None) == (not wanted)
    with lent(tmp_path / "few", feed, shared, lanes, visits=1) as few:
        assert few.resident is None
    with lent(tmp_path, feed, shared, lanes, switch="off") as none:
        assert none is shared


def test_where_it_does_not_fit_the_teacher_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.utils.environment.free_memory", lambda: 10_000)
    feed = loader()
    shared = replace(setting(feed), machine=Eager())
    told: list[str] = []
    with lent(tmp_path, feed, shared, [lane("kd", tmp_path, feed)], note=told.append) as its:
        assert its.resident is None
        assert its.table is None
    assert any(sentence.startswith("no table of teacher resnet14: the teacher's logits take") for sentence in told)
