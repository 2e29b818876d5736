"""The teacher as a table: the live outputs to the bit, or not used; whatever is killed, torn, full or tampered with."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import fine, measured, refused, small
from forking import forked
from narrow import there
from tabled import (
    BELOW_MAPS,
    FEW,
    IMAGES,
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
from training import BATCH, assert_same, result, teacher

from kdbench import Outputs, models
from kdbench.engine import fit as engine
from kdbench.engine.teacher_cache.place import Unfit
from kdbench.engine.teacher_cache.reader import Lesson, widest
from kdbench.engine.teacher_cache.rows import Rows


def equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)


# -- the same numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("flip", [True, False])
def test_an_entry_is_the_view_that_the_loader_shows(flip: bool, tmp_path: Path) -> None:
    shared = setting(loader(flip=flip))
    table = there(open_table(tmp_path, shared))
    rows = table.rows(2)
    assert 0 <= rows.min() < rows.max() < IMAGES * table.views
    shown = torch.cat([image for image, _, _ in shared.train.epoch(2)])
    assert equal(table._image(rows), shown.contiguous(memory_format=torch.channels_last))
    table.close()


@pytest.mark.parametrize("precision", ["fp32", "amp"])
def test_kept_outputs_are_the_live_ones_to_the_bit(precision: str, tmp_path: Path) -> None:
    shared = setting(loader(), precision=precision)
    table = there(open_table(tmp_path, shared))
    for epoch in range(4):
        for reads in ("pooled", "logits"):
            lesson = Lesson(table, epoch, reads)
            for number, (image, _, _) in enumerate(shared.train.epoch(epoch)):
                live, kept = engine.look(shared, image), lesson(number, image)
                assert equal(kept.logits, live.logits)
                assert reads == "logits" or equal(kept.pooled, live.pooled)
                assert kept.classifier is not None
                assert live.classifier is not None
                assert kept.classifier[0] is live.classifier[0]
    wanted = "bfloat16" if precision == "amp" else "float32"
    assert {part._dtype for part in table.parts.values()} == {getattr(torch, wanted)}
    table.close()


def test_an_epoch_asks_for_what_is_missing_only_and_in_whole_batches(tmp_path: Path) -> None:
    shared = setting(loader(count=48))
    table = there(open_table(tmp_path, shared))
    known: set[int] = set()
    for epoch in range(6):
        rows, before, lesson = set(table.rows(epoch).tolist()), passes(shared), Lesson(table, epoch, "pooled")
        for number, (image, _, _) in enumerate(shared.train.epoch(epoch)):
            lesson(number, image)
        assert passes(shared) - before == -(-len(rows - known) // BATCH)
        known |= rows
    assert sorted(known) == table.parts["logits"].filled().tolist() == table.parts["pooled"].filled().tolist()
    table.close()


@pytest.mark.parametrize("name", fast([*BELOW_MAPS, "crd+mag"]))
def test_a_method_ends_the_same_with_a_table_and_without(name: str, tmp_path: Path) -> None:
    feed = loader(FEW)
    kept, again = (supported(name, tmp_path / which, feed) for which in ("kept", "again"))
    for one in (kept, again):  # the first fills it, the second reads it
        shared = setting(feed)
        table = there(open_table(tmp_path, shared))
        train(replace(shared, table=table), one)
        table.close()
    assert_same(result(kept), live_result(name))
    assert_same(result(again), live_result(name))


def test_alone_on_a_table_is_as_in_the_company_of_a_method_that_needs_maps(tmp_path: Path) -> None:
    feed, shared = loader(), setting(loader())
    alone, one, mate = (
        lane("rkd", tmp_path / "a", feed),
        lane("rkd", tmp_path / "b", feed),
        lane("fitnet", tmp_path, feed),
    )
    table = there(open_table(tmp_path, shared))
    train(replace(shared, table=table), alone)
    train(replace(shared, table=table), one, mate)
    table.close()
    assert_same(result(alone), result(one))


def test_a_method_that_joins_a_finished_grid_needs_no_teacher(tmp_path: Path) -> None:
    feed = loader(count=48)
    shared = setting(feed)
    table = there(open_table(tmp_path, shared))
    train(replace(shared, table=table), lane("fitnet", tmp_path, feed), lane("at", tmp_path, feed))  # both need maps
    table.close()
    for name in ("dkd", "crd"):
        shared = setting(feed)
        table = there(open_table(tmp_path, shared))
        before = passes(shared)
        train(replace(shared, table=table, judge=teacher()), lane(name, tmp_path, feed))
        assert passes(shared) == before
        table.close()


def test_a_short_last_batch_is_live_where_its_bits_are_others(tmp_path: Path) -> None:
    shared = setting(loader(), Sized())
    table = there(open_table(tmp_path, shared))
    assert not table.tail_alike
    for epoch in range(12):
        lesson = Lesson(table, epoch, "logits")
        for number, (image, _, _) in enumerate(shared.train.epoch(epoch)):
            assert equal(lesson(number, image).logits, engine.look(shared, image).logits)
    table.close()


def test_what_a_method_did_not_declare_is_no_number(tmp_path: Path) -> None:
    feed, shared = loader(count=48), setting(loader(count=48))
    table = there(open_table(tmp_path, shared))
    for level in ("logits", "pooled"):
        seen = Lesson(table, 0, level)(0, next(feed.epoch(0))[0])
        live = engine.look(shared, next(feed.epoch(0))[0])
        told = ("logits", "classifier[0]", "classifier[1]", "pooled")[: 3 + (level == "pooled")]
        assert {path for path, tensor in seen.tensors().items() if not torch.isnan(tensor).all()} == set(told)
        assert [f.shape for f in seen.feats] == [f.shape for f in live.feats]
        assert seen.pooled.shape == live.pooled.shape
    liar = lane("at", tmp_path, feed)
    liar.method.reads = "logits"
    train(replace(shared, table=table), liar)
    assert liar.failure is not None
    assert "nan" in liar.failure
    table.close()


def test_the_widest_of_the_lanes_that_read_the_teacher(tmp_path: Path) -> None:
    feed = loader()
    kd, rkd, at, student = (lane(name, tmp_path, feed) for name in ("kd", "rkd", "at", "student"))
    assert [widest(group) for group in ([kd], [kd, rkd], [kd, at, rkd], [student, kd])] == [
        "logits",
        "pooled",
        "maps",
        "logits",
    ]
    student.method.reads = "maps"
    kd.method.reads = "nonsense"
    assert widest([student, rkd]) == "pooled"
    assert widest([kd]) == "maps"


# -- what it refuses ----------------------------------------------------------------------


def test_other_augmentation_is_refused(tmp_path: Path) -> None:
    for views in (("rot90", "rot180"), ("randaugment",)):
        with pytest.raises(Unfit, match="crops and flips only"):
            open_table(tmp_path, setting(loader(views=views)))
    assert not (tmp_path / "tables").exists()


def test_a_teacher_whose_answers_depend_on_the_company_is_refused(tmp_path: Path) -> None:
    class Sociable(nn.Module):
        def forward(self, image: Tensor) -> Outputs:
            seen: Outputs = models.fold(teacher())(image)
            return seen._replace(logits=seen.logits + 1e-6 * seen.logits.mean(dim=0))

    with pytest.raises(Unfit, match="logits for an image change with the other images"):
        open_table(tmp_path, setting(loader(), Sociable()))
    assert not list((tmp_path / "tables").glob("*/table.json"))


def test_a_table_takes_at_most_half_of_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50_000))
    with pytest.raises(Unfit, match=r"takes up to 1 MB, and only 1 MB are free"):
        open_table(tmp_path, setting(loader()))


def test_other_facts_are_another_table(tmp_path: Path) -> None:
    folders = {place(tmp_path, **facts).folder for facts in ({}, {"a": 1}, {"a": 2}, {"a": 2, "b": [1.0]})}
    assert len(folders) == 4
    assert place(tmp_path, a=1, b=2).folder == place(tmp_path, b=2, a=1).folder


def test_none_is_begun_unless_asked_for(tmp_path: Path) -> None:
    assert open_table(tmp_path, setting(loader()), create=None) is None
    assert not (tmp_path / "tables").exists()


# -- what can happen to its files ---------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """The folder of a table with every entry."""
    table = there(open_table(tmp_path, setting(loader())))
    assert sum(table.fill_all("pooled")) == IMAGES * VIEWS
    assert not len(table.missing(None, "pooled"))
    table.close()
    return place(tmp_path).folder


def test_a_damaged_entry_is_made_anew(full: Path, tmp_path: Path) -> None:
    whole = {path.name: path.read_bytes() for path in full.iterdir()}
    spoiled = bytearray(whole["logits.rows"])
    spoiled[::40] = bytes(b ^ 1 for b in spoiled[::40])  # a bit in every row
    (full / "logits.rows").write_bytes(spoiled)
    shared = setting(loader())
    table = there(open_table(tmp_path, shared))
    for epoch in range(40):
        lesson = Lesson(table, epoch, "logits")
        for number, (image, _, _) in enumerate(shared.train.epoch(epoch)):
            assert equal(lesson(number, image).logits, engine.look(shared, image).logits)
    seen = np.unique(np.concatenate([table.rows(epoch) for epoch in range(40)]))
    table.close()
    width = len(whole["logits.rows"]) // (IMAGES * VIEWS)
    now = (full / "logits.rows").read_bytes()
    assert len(seen) > 800
    assert all(
        now[r * width : (r + 1) * width] == whole["logits.rows"][r * width : (r + 1) * width] for r in seen.tolist()
    )


def test_a_row_in_the_place_of_another_is_none(tmp_path: Path) -> None:
    like = torch.zeros(1, 4)
    Rows.make(tmp_path, "x", 8, like)
    rows = Rows(tmp_path, "x", 8, like)
    rows.write(np.array([2, 5]), torch.arange(8.0).view(2, 4))
    values, good = rows.read(np.array([5, 2, 3]))
    assert values[:2].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert good.tolist() == [True, True, False]
    data_, sums = (bytearray((tmp_path / name).read_bytes()) for name in ("x.rows", "x.sums"))
    data_[48:64], sums[12:16] = data_[80:96], sums[20:24]  # row 5 and its checksum, copied to row 3
    (tmp_path / "x.rows").write_bytes(data_)
    (tmp_path / "x.sums").write_bytes(sums)
    assert Rows(tmp_path, "x", 8, like).read(np.array([2, 3, 5]))[1].tolist() == [True, False, True]
    rows.close()


def test_scattered_rows_are_written_with_few_calls_and_leave_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU's table hands over is scattered: a call for each row's values, and few for all checksums."""
    like, many = torch.zeros(1, 4), 9000
    Rows.make(tmp_path, "x", many, like)
    rows, calls = Rows(tmp_path, "x", many, like), list[int]()
    real = os.pwrite

    def counted(file: int, data: bytes, at: int) -> int:
        calls.append(at)
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", counted)
    odd, even = np.arange(1, many, 2), np.arange(0, many, 6)
    for some in (odd, np.random.default_rng(0).permutation(even)):
        rows.write(some, torch.from_numpy(some)[:, None].expand(-1, 4).float())
    assert len(calls) < len(odd) + len(even) + 20 + len(even)
    calls.clear()
    rows.write(odd, torch.from_numpy(odd)[:, None].expand(-1, 4).float())
    assert len(calls) <= len(odd) + 3
    rows.close()
    values, good = Rows(tmp_path, "x", many, like).read(np.arange(many))
    wanted = np.isin(np.arange(many), np.concatenate([odd, even]))
    assert good.numpy().tolist() == wanted.tolist()
    assert all((values[good] == torch.arange(many)[good][:, None]).flatten().tolist())


def test_rows_that_were_never_written_are_not_read_before_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = there(open_table(tmp_path, setting(loader()), told=[]))
    part, looked = table.parts["logits"], list[int]()
    real = part.read
    monkeypatch.setattr(part, "read", lambda rows: looked.append(len(rows)) or real(rows))  # type: ignore[func-returns-value]
    rows, values = np.array([3, 5, 9]), torch.randn(3, table.parts["logits"]._bytes // 4)
    table.keep(rows, {"logits": values})
    assert looked == []
    table.keep(np.array([3, 7]), {"logits": torch.stack([values[0], values[1]])})
    assert looked == [1]
    assert part.read(np.array([3, 5, 7, 9]))[1].all()
    table.close()


def test_a_table_that_says_something_else_is_set_aside(full: Path, tmp_path: Path) -> None:
    like = torch.zeros(1, 10)
    part = Rows(full, "logits", IMAGES * VIEWS, like)
    every = np.arange(IMAGES * VIEWS)
    part.write(every, part.read(every)[0] + 1e-3)  # with right checksums
    part.close()
    told: list[str] = []
    table = there(open_table(tmp_path, setting(loader()), told=told))
    assert not len(table.parts["logits"].filled())
    table.close()
    assert "does not say what the teacher says; set aside as" in told[0]
    assert full.with_name(f"{full.name}.aside-1").is_dir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "table.json").write_text("{"),
        lambda folder: (folder / "table.json").write_text('{"format": 1}'),
        lambda folder: (folder / "pooled.rows").unlink(),
        lambda folder: os.truncate(folder / "logits.rows", 1000),
        lambda folder: os.truncate(folder / "pooled.sums", 0),
    ],
)
def test_files_that_are_not_whole_are_set_aside(damage: Callable[[Path], None], full: Path, tmp_path: Path) -> None:
    damage(full)
    told: list[str] = []
    table = there(open_table(tmp_path, setting(loader()), told=told))
    assert "is damaged; set aside as" in told[0]
    assert not len(table.parts["logits"].filled())
    table.close()


def test_a_second_process_reads_and_does_not_write(full: Path, tmp_path: Path) -> None:
    first = there(open_table(tmp_path, setting(loader())))
    first.parts["logits"].write(np.arange(90), torch.zeros(90, 10))
    os.truncate(full / "logits.sums", 0)
    os.truncate(full / "logits.sums", IMAGES * VIEWS * 4)  # nothing is filled
    shared = setting(loader())
    second = there(open_table(tmp_path, shared))
    assert first.fills
    assert not second.fills
    for number, (image, _, _) in enumerate(shared.train.epoch(0)):
        assert equal(Lesson(second, 0, "pooled")(number, image).logits, engine.look(shared, image).logits)
    assert not len(second.parts["logits"].filled())
    first.fill(first.rows(0)[:BATCH])  # at once seen by the other
    before = passes(shared)
    Lesson(second, 0, "pooled")(0, next(shared.train.epoch(0))[0])
    assert passes(shared) == before
    second.close()
    first.close()
    third = there(open_table(tmp_path, shared))
    assert third.fills
    third.close()


def test_a_wrong_table_of_another_process_is_left_alone(full: Path, tmp_path: Path) -> None:
    first = there(open_table(tmp_path, setting(loader())))
    every = np.arange(IMAGES * VIEWS)
    first.parts["logits"].write(every, torch.zeros(len(every), 10))
    told: list[str] = []
    assert open_table(tmp_path, setting(loader()), told=told) is None
    assert "another process has it" in told[0]
    assert full.is_dir()
    first.close()


def test_a_full_disk_stops_the_filling_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = loader()
    live, kept = lane("crd", tmp_path / "live", feed), lane("crd", tmp_path / "kept", feed)
    train(setting(feed), live)
    real, left = os.pwrite, 70

    def pwrite(*args: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    told: list[str] = []
    shared = setting(feed)
    table = there(open_table(tmp_path, shared, told=told))
    train(replace(shared, table=table), kept)
    assert "cannot grow (No space left on device)" in told[-1]
    assert sum("cannot grow" in sentence for sentence in told) == 1
    assert_same(result(kept), result(live))
    table.close()


def killed(folder: Path, prepare: Callable[[], None], after: float | None) -> int:
    """Fill a table in a forked child that dies by SIGKILL; returns its wait status."""

    def work() -> int:
        prepare()
        table = open_table(folder, setting(loader()))
        if table is not None:
            for _ in table.fill_all("pooled"):
                pass
        return 0

    pid = forked(work)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def torn_at(call: int) -> Callable[[], None]:
    """The ``call``-th write is cut in half, and the process dies."""

    def prepare() -> None:
        real, left = os.pwrite, call

        def pwrite(file: int, what: bytes, at: int) -> int:
            nonlocal left
            left -= 1
            if left == 0:
                real(file, what[: len(what) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(file, what, at)

        os.pwrite = pwrite  # type: ignore[assignment]

    return prepare


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system has not")
def test_a_kill_while_filling_leaves_a_usable_table(tmp_path: Path) -> None:
    rng = random.Random(0)
    plans: Iterator[tuple[Callable[[], None], float | None]] = iter(
        [(torn_at(rng.randrange(1, 30)), None) for _ in range(6)]
        + [(lambda: None, rng.uniform(0.02, 0.3)) for _ in range(4)]
    )
    shared = setting(loader())
    deaths = 0
    for prepare, after in plans:
        deaths += os.WIFSIGNALED(killed(tmp_path, prepare, after))
        told: list[str] = []
        table = open_table(tmp_path, shared, told=told)  # the dead have no lock
        assert table is not None
        assert table.fills
        assert not any("aside" in sentence for sentence in told)
        for name, part in table.parts.items():
            every = np.arange(IMAGES * VIEWS)
            values, good = part.read(every)
            for some in np.array_split(every[good.numpy()], -(-max(1, int(good.sum())) // BATCH)):
                if len(some):
                    assert torch.equal(values[some], table._ask(some)[name])
        table.close()
    assert deaths >= 6
    assert killed(tmp_path, lambda: None, None) == 0
    table = there(open_table(tmp_path, shared))
    assert not len(table.missing(None, "pooled"))
    table.close()


# -- the commands -------------------------------------------------------------------------

SMALL = small(epochs=5)


def test_records_are_the_same_with_a_table_and_without(tmp_path: Path) -> None:
    kept, live = tmp_path / "kept", tmp_path / "live"
    for methods in ("fitnet,kd", "rkd,dist"):  # the latter join a finished grid
        fine("run", *SMALL, "--methods", methods, "--out", kept)
    assert list((kept / "tables").glob("digits-resnet14-*/table.json"))
    fine("run", *SMALL, "--methods", "fitnet,kd,rkd,dist", "--out", live, "--table", "off")
    assert not (live / "tables").exists()
    assert len(measured(kept)) == 4
    assert measured(kept) == measured(live)


def test_a_run_that_sees_few_views_begins_no_table(tmp_path: Path) -> None:
    fine("run", *small(epochs=4), "--methods", "kd", "--out", tmp_path)  # of 9 views
    assert not (tmp_path / "tables").exists()


def test_table_takes_auto_or_off(tmp_path: Path) -> None:
    told = refused("run", *SMALL, "--out", tmp_path, "--table", "maybe")
    assert "--table takes auto or off, not 'maybe'" in told


def test_a_table_is_filled_ahead(tmp_path: Path) -> None:
    fine("teacher", "train", "resnet14", "--suite", "digits", "--epochs", "1", "--out", tmp_path)
    for made in ("9,000", "0"):
        told = fine("teacher", "table", "resnet14", "--suite", "digits", "--out", tmp_path)
        assert f"{made} answers made, 9,000 are there" in told
    assert "no teacher resnet8" in refused("teacher", "table", "resnet8", "--suite", "digits", "--out", tmp_path)
