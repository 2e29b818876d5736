"""How long a run may take: what the estimate is made of, what corrects it, what a budget leaves out."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from kdbench import models, record, registry
from kdbench.engine.errors import OutOfMemory
from kdbench.run import budget, clock, estimate, estimate_words, grid, lanes, session, speeds, taken
from kdbench.run import teacher_cache as tables
from kdbench.run.session import Job, Request
from kdbench.run.speeds import Speeds
from kdbench.run.stopwatch import Item, Stopwatch, count_macs
from kdbench.utils import environment
from kdbench.utils.files import atomic_write


def job(out: Path, methods: str = "kd", **words: Any) -> Job:
    given: dict[str, Any] = {
        "suite": "digits",
        "pairs": "resnet14:resnet8",
        "seeds": "1",
        "epochs": 40,
        "out": out,
        "device": "cpu",
        "workers": "1",
    }
    return session.resolve(Request(methods=methods, **(given | words)))


def shares(made: Job) -> list[float]:
    kept: dict[str, float] = {}
    return [estimate._asked(made, group, kept) for group in grid.groups(made.cells)]


def table(
    out: Path, share: float, batch_size: int = 64, precision: str = "fp32", title: str = "digits-resnet14"
) -> None:
    folder = out / "tables" / f"{title}-0123abcd"
    folder.mkdir(parents=True)
    sums = (np.arange(1000) < 1000 * share).astype(np.uint32)
    for part in ("logits", "pooled"):
        sums.tofile(folder / f"{part}.sums")
    (folder / "table.json").write_text(f'{{"facts": {{"precision": "{precision}", "batch_size": {batch_size}}}}}')


def views(made: Job) -> int:
    recipe = made.cells[0].settings.recipe
    return int((2 * recipe["crop_padding"] + 1) ** 2 * (1 + recipe["flip"]))


def test_every_view_is_asked_for_once_however_many_seeds(tmp_path: Path) -> None:
    made = job(tmp_path, seeds="3", epochs=400)
    first, *later = shares(made)
    assert first == pytest.approx(views(made) / 400, rel=0.01)
    assert max(later) < 1e-6


def test_a_first_run_asks_for_the_views_that_it_draws(tmp_path: Path) -> None:
    made = job(tmp_path)
    v = views(made)
    drawn = v * (1 - (1 - 1 / v) ** 40)
    assert shares(made) == [pytest.approx(drawn / 40)]


@pytest.mark.parametrize(
    ("methods", "words", "wanted"),
    [
        ("kd,at", {}, 1.0),
        ("kd", {"table": "off"}, 1.0),
        ("student", {}, 0.0),
        ("kd", {"epochs": 2}, 1.0),
        ("kd,student", {"epochs": 2}, [0.0, 1.0]),
    ],
)
def test_where_there_is_no_table_the_teacher_is_live(
    methods: str, words: dict[str, Any], wanted: float | list[float], tmp_path: Path
) -> None:
    wanted = sorted(wanted) if isinstance(wanted, list) else [wanted]
    assert sorted(shares(job(tmp_path, methods, **words))) == wanted


def test_a_table_that_is_there_is_counted(tmp_path: Path) -> None:
    made = job(tmp_path, epochs=2)
    batch = made.cells[0].settings.recipe["batch_size"]
    table(tmp_path, 1.0, batch)
    assert shares(made) == [0.0]
    tuning = replace(made, request=replace(made.request, out=tmp_path / "tuned", home=tmp_path))
    assert shares(tuning) == [0.0]  # trials lie apart, teachers and their tables do not
    assert tables.kept_share(tmp_path, "digits", "resnet14", "fp32", batch, "pooled") == 1.0
    assert tables.kept_share(tmp_path, "digits", "resnet14", "fp32", batch + 1, "logits") is None
    assert tables.kept_share(tmp_path, "digits", "resnet20", "fp32", batch, "logits") is None
    (tmp_path / "tables" / "digits-resnet14-0123abcd" / "table.json").write_text("{")
    assert shares(made) == [1.0]


# -- what the estimate is made of ---------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clock.Clock, "busy", lambda self: 1.0)
    return tmp_path / "cache"


def known(made: Job, **seconds: float) -> Speeds:
    """Speeds of this machine as if they had been measured: ``resnet8_learns=0.001`` an image."""
    one = Speeds(machine=speeds.Machine.of("cpu", made.request.precision))
    place = f" | {made.suite.image_size} px, {made.suite.num_classes} classes, batch {made.suite.recipe.batch_size}"
    one.seconds = {name.replace("_", " ") + place: value for name, value in seconds.items()}
    one.keep()
    return one


USUAL = {"resnet14_learns": 3e-3, "resnet14_looks": 1e-3, "resnet8_learns": 2e-3, "resnet8_looks": 5e-4}


def parts(made: Job) -> dict[str, float]:
    one = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    return one.by(lambda part: part.kind)


def test_parts_are_images_times_seconds(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, "student,ft", table="off")
    known(made, **USUAL)
    monkeypatch.setattr(estimate, "_costs", lambda: {"student": 0.0, "ft": 0.5})
    found = parts(made)
    length, trained = made.suite.teacher.epochs, 1000
    batch = made.suite.teacher.batch_size
    assert found["teachers to be trained"] == pytest.approx(
        length * -(-trained // batch) * batch * 3e-3 + estimate.TEACHER_LOOKS * 797 * 1e-3
    )
    before = lanes.epochs(made.cells[1]) - 40  # its pre-training stage, in which the student is looked at only
    assert before > 0
    assert found["students"] == pytest.approx(trained * (2e-3 * (40 + 40) + 5e-4 * before))
    assert found["methods"] == pytest.approx(trained * 2e-3 * 0.5 * (40 + before))
    assert found["teachers' passes"] == pytest.approx(1e-3 * ((40 + before) * trained + 797))
    assert found["evaluation"] == pytest.approx(2 * 40 * 797 * 5e-4)


def test_further_views_are_seen_by_the_teacher_too(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(tmp_path, "sskd", table="off")
    known(made, **USUAL)
    views = 1 + len(registry.get("sskd").views)
    assert views > 1
    assert parts(made)["teachers' passes"] == pytest.approx(1e-3 * (views * 1000 * lanes.epochs(made.cells[0]) + 797))


def test_a_combination_takes_what_its_parts_take(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"at": 0.25, "sp": 0.5, "at+sp": 9.0}
    monkeypatch.setattr(estimate, "_costs", lambda: shares)
    for methods, share in (("at", 0.25), ("sp", 0.5), ("at+sp", 0.75)):
        made = job(tmp_path, methods)
        known(made, **USUAL)
        assert parts(made)["methods"] == pytest.approx(1000 * 40 * 2e-3 * share)


def test_of_a_combination_each_part_is_timed_for_itself(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's shares are those of one pair, and a part such as SemCKD is all that its combination costs."""
    monkeypatch.setattr(estimate, "_costs", lambda: {"at": 0.25, "sp": 0.5})
    made = job(tmp_path, "at+sp")
    known(made, **USUAL)
    asked: list[Item] = []

    def timed(watch: Stopwatch, items: Mapping[Item, float]) -> None:
        asked.extend(items)
        watch.speeds.seconds[watch._name(Item("resnet8", True, "sp", "resnet14"))] = 7e-3

    monkeypatch.setattr(Stopwatch, "measure_methods", timed)
    assert parts(made)["methods"] == pytest.approx(1000 * 40 * (2e-3 * 0.25 + 7e-3))
    assert {item.method for item in asked} == {"at", "sp"}


@pytest.mark.parametrize(("rule", "more"), [("sum", 0), ("dot", 1), ("deepkd:0.05", 1), ("dot-scaled", 0)])
def test_gradients_of_two_parts_go_back_twice(rule: str, more: int, tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path, "student,kd,ft", overrides=(f"recipe.gradients={rule}",))
    known(made, **USUAL)
    # Not the plain student, which has one part; nor before the main stage, which ft's pre-training is.
    learnt = 3 * 2e-3 + 2 * more * (2e-3 - 5e-4)
    before = sum(lanes.epochs(cell) - cell.epochs for cell in made.cells)
    assert before > 0
    assert parts(made)["students"] == pytest.approx(1000 * (40 * learnt + before * 5e-4))


def test_validation_images_are_looked_at_and_not_learnt(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path, "student", overrides=("recipe.validation=0.2",))
    known(made, **USUAL)
    found = parts(made)
    assert found["students"] == pytest.approx(800 * 40 * 2e-3)
    assert found["evaluation"] == pytest.approx(40 * (797 + 200) * 5e-4)


def test_a_method_that_nobody_has_measured_is_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_costs", dict)
    made = job(tmp_path, "kd")
    known(made, **USUAL)
    one = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    assert "not counted, because nobody has measured it: what kd takes" in estimate_words.sentences(one)


def test_what_was_measured_is_kept_and_not_measured_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(tmp_path, "student,kd")
    first = estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert first.measured > 0
    tried: list[Item] = []

    def noted(self: Stopwatch, item: Item, seconds: object) -> None:
        tried.append(item)

    monkeypatch.setattr(Stopwatch, "_time", noted)
    again = estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert not [item for item in tried if not item.method]
    assert again.measured == pytest.approx(first.measured, rel=1e-6)
    monkeypatch.setattr(environment, "threads", lambda: 2)  # another machine, as it were
    estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert {item.network for item in tried} == {"resnet14", "resnet8"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"machine": 1}', b"[" * 100_000, b'{"seconds": {"x": NaN}}', b" " * (2**22 + 1)],
    ids=["empty", "cut", "list", "bytes", "odd", "deep", "nan", "huge"],
)
def test_a_damaged_file_of_speeds_is_measured_again(content: bytes, tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    one.path.write_bytes(content)
    assert speeds.load(one.machine).seconds == {}
    estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert speeds.load(one.machine).seconds


def test_speeds_of_another_machine_are_not_taken(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    other = one.machine.model_copy(update={"torch": "0.1"})
    assert speeds.load(other).seconds == {}
    Speeds(machine=other).path.write_bytes(one.path.read_bytes())  # copied there by hand
    assert speeds.load(other).seconds == {}


def test_a_cache_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "file" / "below"))
    made = job(tmp_path)
    assert estimate.Estimator(made, budget=60.0).of(made, made.cells).seconds > 0


def test_without_time_networks_are_guessed_by_their_arithmetic(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path, pairs="resnet14:resnet8,resnet56:resnet8")
    estimate.Estimator(made, budget=0.0).of(made, made.cells)  # the sizes alone
    one = known(made, resnet14_learns=3e-3, resnet14_looks=1e-3)
    watch = estimate.Estimator(made, budget=0.0).watch
    found = [watch._expected(Item(name, True)) for name in ("resnet8", "resnet14", "resnet56")]
    assert found[1] == pytest.approx(3e-3)
    assert found == sorted(found)
    sizes = speeds.load(one.machine).sizes
    big, small = (next(s for name, s in sizes.items() if name.startswith(n + " ")) for n in ("resnet56", "resnet14"))
    assert found[2] / found[1] == pytest.approx(big.macs / small.macs)


def test_macs_of_a_network_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = models.create("resnet8", 10).net.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(2, 3, 32, 32))
    assert count_macs(net, torch.zeros(2, 3, 32, 32)) == counter.get_total_flops() / 4


def test_a_large_network_of_timm_is_not_built(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, pairs="timm/vit_base_patch16_224:resnet8")
    monkeypatch.setattr("kdbench.models.create", _never_timm(models.create))
    one = estimate.Estimator(made, budget=1.0).of(made, made.cells)
    assert one.by(lambda part: part.kind)["teachers to be trained"] >= 0


def _never_timm(create: Any) -> Any:
    def made(name: str, *args: Any, **words: Any) -> Any:
        assert not name.startswith("timm/"), "86 million parameters for an estimate"
        return create(name, *args, **words)

    return made


def test_measuring_draws_no_random_number_and_keeps_the_threads(tmp_path: Path, cache: Path) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    made = job(tmp_path, "kd,crd")
    estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_time_of_a_method_is_what_it_adds(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ticking_watch(tmp_path, monkeypatch, lambda images: 3e-3 * images)
    watch.measure_methods({AT: 3e-3})
    assert watch.known(Item("resnet8", True)) == pytest.approx(2e-3)
    assert watch.known(AT) == pytest.approx(3e-3)


def test_a_method_is_timed_on_whole_batches(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SemCKD leaves an epoch's shorter last batch alone: in a part of a batch it would cost nothing."""
    watch = ticking_watch(tmp_path, monkeypatch, lambda images: 3e-3 * images if images == 64 else 0.0)
    watch.measure_methods({AT: 3e-3})
    assert watch.known(AT) == pytest.approx(3e-3)


def test_a_network_is_timed_on_a_whole_batch_as_soon_as_there_is_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step costs whatever its batch is would count for more than it does in a part of one."""
    student, whole = Item("resnet8", True), 2e-3 + 0.05 / 64
    watch = ticking_watch(tmp_path, monkeypatch, lambda images: 0.0, fixed=0.05, left=0.8)
    assert watch.known(student) == pytest.approx(2e-3 + 0.05 / 10)
    watch.speeds.keep()
    watch.left = 2 * 64 * (2e-3 + 0.05 / 10) - 1e-6
    watch.measure({student: 1.0})
    assert watch.known(student) == pytest.approx(2e-3 + 0.05 / 10)
    watch.left = 60.0
    watch.measure({student: 1.0})
    assert watch.known(student) == pytest.approx(whole)
    watch.speeds.keep()
    kept = speeds.load(watch.speeds.machine)
    assert not kept.in_part
    assert list(kept.seconds.values()) == [pytest.approx(whole)]
    before = watch.clock.now()
    watch.measure({student: 1.0})  # nothing is left to do
    assert watch.clock.now() == before


def test_a_later_estimate_keeps_what_it_timed_on_whole_batches(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(tmp_path, "student")
    watched = estimate.Estimator(made, budget=60.0)
    name = watched.watch._name(Item("resnet8", True))
    watched.of(made, made.cells)
    watched.speeds.in_part.add(name)
    watched.speeds.keep()
    with monkeypatch.context() as full:
        full.setattr(Stopwatch, "_whole_batch", out_of_memory)
        estimate.Estimator(made, budget=60.0).of(made, made.cells)  # the run will say so
    assert speeds.load(watched.speeds.machine).in_part == {name}
    estimate.Estimator(made, budget=60.0).of(made, made.cells)
    assert not speeds.load(watched.speeds.machine).in_part


def out_of_memory(*_: object) -> float:
    raise OutOfMemory("a step of it needs more memory")


def test_what_two_processes_timed_on_a_part_is_kept_together(cache: Path) -> None:
    machine = speeds.Machine.of("cpu", "fp32")
    one, other, third = (speeds.load(machine) for _ in range(3))
    one.seconds, one.in_part = {"a": 3.0, "b": 3.0}, {"a", "b"}
    one.keep()
    other.seconds = {"c": 1.0}  # knew nothing of a and b
    other.keep()
    assert speeds.load(machine).in_part == {"a", "b"}
    third.seconds = {"a": 2.0}  # on a whole batch
    third.keep()
    assert (speeds.load(machine).seconds, speeds.load(machine).in_part) == ({"a": 2.0, "b": 3.0, "c": 1.0}, {"b"})


def test_runs_that_end_together_are_all_kept(cache: Path) -> None:
    machine = speeds.Machine.of("cpu", "fp32")
    one, other = speeds.load(machine), speeds.load(machine)
    one.ran("digits", 100.0, 110.0)
    other.ran("digits", 100.0, 130.0)
    one.keep()
    other.keep()
    other.keep()  # what was written is not written again
    assert [run.seconds for run in speeds.load(machine).runs] == [110.0, 130.0] == [run.seconds for run in other.runs]


def test_all_networks_are_timed_on_a_part_before_one_is_on_a_whole_batch(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ticking_watch(tmp_path, monkeypatch, lambda images: 0.0, fixed=0.05, left=0.0)
    watch.left = 60.0
    done: list[tuple[str, bool]] = []  # network, whether on a whole batch

    def step(item: Item) -> Any:
        def work(images: int) -> None:
            done.append((item.network, images == 64))
            ticking.wait(0.05)

        return lambda images: partial(work, images)

    monkeypatch.setattr(watch, "clock", ticking := Ticking())
    monkeypatch.setattr(watch, "_step", step)
    watch.measure({Item("resnet8", True): 1.0, Item("resnet14"): 2.0})
    assert list(dict.fromkeys(done)) == [("resnet14", False), ("resnet8", False), ("resnet14", True), ("resnet8", True)]


def test_a_method_that_takes_too_long_is_not_tried(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ticking_watch(tmp_path, monkeypatch, lambda images: pytest.fail("tried"))
    watch.left = 64 * (4 * 2e-3 + 2 * 1.0) - 0.1
    watch.measure_methods({AT: 1.0})
    assert watch.known(AT) is None


AT = Item("resnet8", True, "at", "resnet14")


def ticking_watch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: Callable[[int], float],
    *,
    fixed: float = 0.0,
    left: float = 60.0,
) -> Stopwatch:
    """A stopwatch whose student takes 2 ms for an image and ``fixed`` seconds for a step of any size.

    A method takes ``extra`` seconds for a step of so many images; ``left`` is the budget.
    """
    watch = estimate.Estimator(job(tmp_path), budget=60.0).watch
    monkeypatch.setattr(watch, "clock", ticking := Ticking())

    def step(item: Item) -> Any:
        return lambda images: lambda: ticking.wait(fixed + images * 2e-3 + (extra(images) if item.method else 0.0))

    monkeypatch.setattr(watch, "_step", step)
    watch.left = left
    watch.measure({Item("resnet8", True): 1.0})
    return watch


class Ticking:
    """A clock that moves when it is told to."""

    at = 0.0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


# -- what runs took -----------------------------------------------------------------------


def test_runs_correct_the_next_estimate(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    assert (plain.factor, plain.basis) == (1.0, "")
    taken.note(tmp_path, "run", "elsewhere", one.machine, plain, 99.0, plain.measured * 3)
    other = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    assert other.factor == pytest.approx(3)
    assert "of other suites on this machine" in other.basis
    for times in (1.5, 1.5, 7.9):
        taken.note(tmp_path, "run", "digits", one.machine, plain, 99.0, plain.measured * times)
    own = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    assert own.factor == pytest.approx(1.5)
    assert own.seconds == pytest.approx(1.5 * plain.seconds)
    assert own.basis == "corrected by 3 runs of digits on this machine"


@pytest.mark.parametrize("worked", [1.0, 1e6], ids=["short", "absurd"])
def test_a_run_that_says_nothing_corrects_nothing(worked: float, tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    taken.note(tmp_path, "run", "digits", one.machine, plain, 99.0, worked)
    assert estimate.Estimator(made, budget=0.0).of(made, made.cells).factor == 1.0
    assert len(taken.path(tmp_path).read_text().splitlines()) == 2  # it is written down all the same


def test_records_of_this_machine_correct_where_no_run_does(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path, "student")
    known(made, **USUAL)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    parts = sum(part.seconds for part in plain.parts if part.kind == "students")
    write_record(tmp_path, made, parts * 2.5)
    after = job(tmp_path, "student", seeds="2")
    found = estimate.Estimator(after, budget=0.0).of(after, after.cells[1:])
    assert found.factor == pytest.approx(2.5)
    assert found.basis == "corrected by 1 group of records of this machine"
    write_record(tmp_path, made, parts * 2.5, cpu="another")
    assert estimate.Estimator(after, budget=0.0).of(after, after.cells[1:]).factor == 1.0


def test_records_of_a_plug_in_that_is_not_loaded_correct_nothing_and_stop_nothing(tmp_path: Path, cache: Path) -> None:
    """Runs of strangers' methods and of ours lie in one folder; who asks for ours alone names no plug-in."""
    made = job(tmp_path, "student")
    known(made, **USUAL)
    cell = made.cells[0]
    theirs = replace(cell, settings=cell.settings.model_copy(update={"method": "somebody_elses"}), label="theirs")
    write_record(tmp_path, replace(made, cells=[theirs]), 100.0)
    assert estimate.Estimator(made, budget=0.0).of(made, made.cells).factor == 1.0


def write_record(out: Path, made: Job, seconds: float, **other: str) -> None:
    cell = made.cells[0]
    one = record.Record(
        status="done",
        method=cell.label,
        quick=cell.quick,
        settings=cell.settings,
        top1_last=50.0,
        top1_best_test=50.0,
        group_seconds=seconds,
        group_lanes=1,
        provenance="test",
        modified_student=False,
        code={},
        environment=environment.describe("cpu") | {"threads": environment.threads()} | other,
        finished="2026-01-01T00:00:00+00:00",
    )
    record.write(one, grid.files(out, cell).record)


def test_the_file_of_estimates_can_be_checked(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    two = job(tmp_path, "kd,at", workers="2")
    several = estimate.Estimator(two, budget=0.0).of(two, two.cells)
    assert several.starting > 0
    taken.note(tmp_path, "run", "digits", one.machine, several, 50.0, 50.0)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    for seconds in (100.0, 200.0):
        taken.note(tmp_path, "run", "digits", one.machine, plain, seconds, 50.0)
    rows = list(csv.DictReader(taken.path(tmp_path).read_text().splitlines()))
    assert [float(row["taken_seconds"]) for row in rows] == [50, 100, 200]
    for row in rows:
        ratio = float(row["taken_seconds"]) / float(row["estimated_seconds"])
        assert float(row["taken_over_estimated"]) == pytest.approx(ratio, rel=1e-3)
        work = float(row["worked_seconds"]) / float(row["parts_seconds"]) / float(row["factor"])
        assert float(row["worked_over_estimated"]) == pytest.approx(work, rel=1e-2)
        shared = float(row["parts_seconds"]) * float(row["factor"]) / float(row["sooner"])
        whole = float(row["busy"]) * (shared + float(row["starting_seconds"]))
        assert float(row["estimated_seconds"]) == pytest.approx(whole, rel=1e-3)
    whole = plain.seconds
    assert taken.sentence(plain, whole * 1.25, whole * 1.25).endswith("(25% more)")
    assert taken.sentence(plain, whole * 0.8, whole * 0.8).endswith("(20% less)")
    slowed = taken.sentence(plain, whole * 2, whole * 1.02)
    assert slowed.endswith("(100% more; of work 2% more, others used more of the machine than at the beginning)")
    spared = taken.sentence(replace(plain, busy=2.0), whole * 1.1, whole)
    assert spared.endswith("(45% less; of work as estimated, others used less of the machine than at the beginning)")


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 300.0 + 20.0), ("cuda", 150.0 + 10.0)])
def test_starting_workers_corrects_nothing(device: str, seconds: float, tmp_path: Path, cache: Path) -> None:
    """A CPU's clock counts the work of both workers, a GPU's the seconds on the wall."""
    machine = speeds.Machine(device=device, processor="x", torch="2", threads=1, precision="fp32", kdbench="0")
    part = estimate.Part("students", "a:b", "kd", 300.0)
    made = estimate.Estimate(4, (part,), device, workers=2, sooner=2.0, starting=10.0, loading=20.0)
    taken.note(tmp_path, "run", "digits", machine, made, 160.0, seconds)
    factor, runs = speeds.load(machine).factor("digits")
    assert (factor, runs) == (1.0, 1)


def test_rows_of_another_version_are_laid_aside(tmp_path: Path, cache: Path) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    for number, before in enumerate((b"finished,verb\nlong ago,run\n", b"\xff\xfe no text"), start=1):
        taken.path(tmp_path).write_bytes(before)
        taken.note(tmp_path, "run", "digits", one.machine, plain, 100.0, 50.0)
        assert (tmp_path / f"estimates-{number}.csv").read_bytes() == before
        assert len(list(csv.DictReader(taken.path(tmp_path).read_text().splitlines()))) == 1


def test_two_runs_that_end_together_both_leave_a_row(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(tmp_path)
    one = known(made, **USUAL)
    plain = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    write = atomic_write

    def slow(*given: Any, **words: Any) -> Any:
        time.sleep(0.2)  # between the look at what is there and the write
        return write(*given, **words)

    monkeypatch.setattr(taken, "atomic_write", slow)
    ends = [Thread(target=taken.note, args=(tmp_path, "run", "digits", one.machine, plain, 9.0, 5.0)) for _ in "ab"]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    assert len(taken.path(tmp_path).read_text().splitlines()) == 3


def test_a_machine_that_others_use_takes_longer(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path)
    known(made, **USUAL)
    alone = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    monkeypatch.setattr(clock.Clock, "busy", lambda self: 3.0)
    beside = estimate.Estimator(made, budget=0.0).of(made, made.cells)
    assert beside.seconds == pytest.approx(3 * alone.seconds)
    assert "others use the machine, too: 3.0 s for each second of work" in estimate_words.sentences(beside)[0]


def test_workers_are_waited_for(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loads what this process has loaded; more of them than the machine has room for load one after the other."""
    monkeypatch.setattr("time.process_time", lambda: 5.0)
    monkeypatch.setattr("kdbench.run.devices._abreast", lambda: 2)

    def of(**words: Any) -> estimate.Estimate:
        made = job(tmp_path, "kd,at", **words)
        known(made, **USUAL)
        return estimate.Estimator(made, budget=0.0).of(made, made.cells)

    alone, two, six = of(workers="1"), of(workers="2"), of(workers="6")
    assert (alone.starting, two.starting, six.starting) == (0.0, 5.0, 15.0)
    assert (alone.loading, two.loading, six.loading) == (0.0, 10.0, 30.0)
    assert two.seconds == pytest.approx(two.alone / two.sooner + 5.0)
    assert alone.seconds == alone.alone == two.alone
    assert "  of it until the workers have begun: 15 s" in estimate_words.sentences(six)
    monkeypatch.setattr("time.process_time", lambda: 5000.0)  # a notebook of many hours
    assert of(workers="2").starting == estimate.LOADING
    made = job(tmp_path, "kd,at", workers="2")
    assert estimate.Estimator(made, budget=0.0).of(made, []).starting == 0.0


# -- a budget -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("4h", 14400), ("1.5h", 5400), ("2d", 172800), ("1h30m", 5400), (" 4 H ", 14400)],
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "4", "h", "4x", "-4h", "0h", "1e3s", "4h4h", "4,5h", "nan", "inf d", "9999d", "٤h"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--budget takes "):
        budget.seconds(text)


WHOLE = budget.Choice(("student", "kd", "at", "semckd"), (("a", "b"), ("c", "d"), ("e", "f")), (0, 1, 2), 100)
DEAR = {"student": 1.0, "kd": 1.0, "at": 2.0, "semckd": 6.0, ("a", "b"): 3.0, ("c", "d"): 1.0, ("e", "f"): 2.0}


def price(choice: budget.Choice) -> float:
    pairs = sum(DEAR[pair] for pair in choice.pairs)
    return pairs * len(choice.seeds) * choice.epochs * sum(DEAR[name] for name in choice.methods)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (18_000, WHOLE),
        (9_000, replace(WHOLE, pairs=WHOLE.pairs[1:])),
        (3_000, replace(WHOLE, pairs=(("c", "d"),))),
        (2_999, replace(WHOLE, pairs=(("c", "d"),), seeds=(0, 1))),
        (1_000, replace(WHOLE, pairs=(("c", "d"),), seeds=(0,))),
        (555, replace(WHOLE, pairs=(("c", "d"),), seeds=(0,), epochs=55)),
        (99, budget.Choice(("student", "kd", "at"), (("c", "d"),), (0,), 10)),
        (39, budget.Choice(("student", "kd"), (("c", "d"),), (0,), 10)),
        (10, budget.Choice(("student",), (("c", "d"),), (0,), 10)),
    ],
)
def test_what_is_cut_for_a_budget_and_in_which_order(limit: float, wanted: budget.Choice) -> None:
    found = budget.propose(WHOLE, limit, price, 100)
    assert found == wanted
    assert price(found) <= limit


def test_a_budget_into_which_nothing_fits_says_what_does() -> None:
    with pytest.raises(
        ValueError, match=r"--budget has 9 s, and even .* alone on c:d with one seed and 10 epochs takes about 10 s"
    ):
        budget.propose(WHOLE, 9, price, 100)
