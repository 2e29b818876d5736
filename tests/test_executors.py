"""Several workers: which unit is next, what becomes of a lost one, and that no bit depends on how many there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import measured, refused, small

from kdbench.data import load
from kdbench.run import choices, devices, group, outcome, session
from kdbench.run.executors import examine, lend, plan, processes, strangers
from kdbench.run.executors.board import TRIES, Board
from kdbench.run.executors.merge import Merged
from kdbench.run.executors.slots import Slot, slots, strongest
from kdbench.run.executors.spread import Load, makespan, spread
from kdbench.run.executors.unit import Unit
from kdbench.run.grid import Cell
from kdbench.run.outcome import CellEnded, Done, GroupBegins, Note, Skipped, Stepped
from kdbench.utils import cores

ROOT = Path(__file__).resolve().parents[1]
GRID = [*small(epochs=3), "--methods", "kd,fitnet,student"]


def cells(methods: str = "kd,at,fitnet", **words: Any) -> list[Cell]:
    given = {"suite": "digits", "pairs": "resnet20:resnet8", "seeds": "1", "device": "cpu"} | words
    return session.resolve(session.Request(methods, **given)).cells


def work(out: Path, some: list[Cell], **words: Any) -> group.Work:
    job = session.resolve(session.Request("kd", "resnet20:resnet8", "digits", device="cpu"))
    return group.Work(job.suite, tuple(some), out, "cpu", "fp32", **words)


# -- what is cut, and what is next ----------------------------------------------------------


def test_two_workers_share_a_single_group_unless_its_teacher_is_all_of_it() -> None:
    assert [len(part) for part in spread([Load((1.0,) * 6, shared=0.5)], 2)[0]] == [3, 3]
    assert spread([Load((0.1,) * 6, shared=100.0)], 2) == [[(0, 1, 2, 3, 4, 5)]]
    assert makespan([Load((1.0,) * 6, shared=0.5)], [2], 2) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("groups", "workers", "parts", "end"),
    [
        (2, 4, [2, 2], 7.0),  # one of them alone, cut, would leave the end to the other
        (3, 8, [2, 2, 2], 7.0),
        (6, 16, [2] * 6, 7.0),
        (3, 2, [1, 1, 2], 19.0),  # all three, cut, would end at 21
        (2, 2, [1, 1], 12.0),
        (1, 1, [1], 12.0),
    ],
)
def test_equal_groups_fill_more_workers_than_they_are(groups: int, workers: int, parts: list[int], end: float) -> None:
    loads = [Load((1.0,) * 10, shared=2.0)] * groups
    found = [len(some) for some in spread(loads, workers)]
    assert (sorted(found), makespan(loads, found, workers)) == (parts, end)


@pytest.mark.parametrize("loads", [[], [Load(())], [Load((0.0, 0.0))] * 2, [Load((0.0,), shared=0.0)]])
def test_loads_that_weigh_nothing_are_spread(loads: list[Load]) -> None:
    assert [[lane for part in parts for lane in part] for parts in spread(loads, 4)] == [
        list(range(len(load.lanes))) for load in loads
    ]


def test_every_lane_is_in_one_part() -> None:
    loads = [Load((5.0, 1.0, 1.0), 0.1), Load((2.0,)), Load((1.0,) * 9, 2.0, after=(1,))]
    for workers in (1, 2, 3, 8):
        for one, parts in zip(loads, spread(loads, workers), strict=True):
            assert sorted(lane for part in parts for lane in part) == list(range(len(one.lanes)))


def test_a_teacher_is_trained_once_and_waited_for(tmp_path: Path) -> None:
    some = cells("kd,at", seeds="2")
    works = [work(tmp_path, [cell for cell in some if cell.seed == seed]) for seed in (0, 1)]
    board = Board(plan.abreast(works, 3), print)
    first = board.take(idle=3)
    assert first is not None
    assert first.work.teacher_only
    assert board.take(idle=2) is None
    assert list(board.ended(first, Done())) == [(first, Done())]
    begun = [board.take(idle=1) for _ in range(2)]
    assert all(one is not None and not one.work.teacher_only for one in begun)


def test_who_learns_from_a_teacher_that_cannot_be_had_fails_with_its_sentence(tmp_path: Path) -> None:
    heard: list[outcome.Event] = []
    board = Board(plan.abreast([work(tmp_path, cells("kd,at"))], 1), heard.append)
    first = board.take()
    assert first is not None
    _, (_, failed) = board.ended(first, Done(untaught="ce is nan"))
    assert set(failed.failed.values()) == {"ce is nan"}
    assert [event.status for event in heard if isinstance(event, CellEnded)] == ["failed", "failed"]
    assert not board.more


def test_a_lost_unit_goes_back_and_fails_cell_by_cell_in_the_end(tmp_path: Path) -> None:
    some = cells()
    heard: list[outcome.Event] = []
    board = Board([Unit(0, work(tmp_path, some))], heard.append)
    for tries in range(TRIES - 1):
        unit = board.take()
        assert unit is not None
        assert (unit.tries, len(unit.work.cells)) == (tries, 3)
        assert list(board.lost(unit, {}, "killed by SIGKILL")) == []
    alone = [board.take() for _ in range(3)]
    assert [len(one.work.cells) for one in alone if one] == [1, 1, 1]
    guilty, *others = [one for one in alone if one]
    ((_, failed),) = board.lost(guilty, {}, "killed by SIGKILL")
    assert list(failed.failed.values()) == [
        "the process that trained it was lost 3 times: killed by SIGKILL; the command repeated tries again"
    ]
    for one in others:
        assert list(board.ended(one, Done())) == [(one, Done())]
    assert not board.more


def test_what_a_lost_worker_had_ended_is_not_begun_again(tmp_path: Path) -> None:
    some = cells()
    board = Board([Unit(0, work(tmp_path, some))], print)
    unit = board.take()
    assert unit is not None
    ((_, known),) = board.lost(unit, {some[0]: CellEnded(some[0], "failed", "ce is nan")}, "gone")
    assert known.failed == {some[0]: "ce is nan"}
    again = board.take()
    assert again is not None
    assert list(again.work.cells) == some[1:]


def test_the_last_unit_is_cut_for_those_that_idle(tmp_path: Path) -> None:
    board = Board([Unit(0, work(tmp_path, cells()))], print)
    parts = [board.take(idle=left) for left in (3, 2, 1)]
    assert [len(one.work.cells) for one in parts if one] == [1, 1, 1]
    assert len({one.number for one in parts if one}) == 3


# -- one stream of events -------------------------------------------------------------------


def test_what_a_lost_worker_counted_is_taken_back() -> None:
    heard: list[outcome.Event] = []
    merged = Merged(heard.append)
    merged.hear("a", 0, GroupBegins("one", 30))
    merged.hear("a", 0, Skipped(4))
    merged.hear("a", 0, Stepped(6))
    merged.lost(0)
    merged.hear("b", 0, GroupBegins("one", 30))
    merged.hear("b", 0, Stepped(30))
    steps = sum(event.lanes for event in heard if isinstance(event, Stepped))
    skipped = sum(event.lane_steps for event in heard if isinstance(event, Skipped))
    assert steps + skipped == 30


def test_a_sentence_of_two_workers_is_said_once() -> None:
    heard: list[outcome.Event] = []
    merged = Merged(heard.append)
    for worker in ("a", "b", "a"):
        merged.hear(worker, 0, Note("the teacher is quick"))
    assert heard == [Note("the teacher is quick")] * 2  # a single process would say it twice, too


# -- devices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--workers", "0"], "--workers takes auto or a number from 1 to 1,024, not '0'"),
        (["--workers", "two"], "--workers takes auto or a number"),
        (["--executor", "ray8"], "--executor takes auto, here, processes or ray, not 'ray8'"),
        (["--executor", "here", "--workers", "2"], "--executor here trains in one process, and --workers asks for 2"),
        (["--device", "cuda:0;1"], "no device 'cuda:0;1'"),
        (["--device", "cuda:0,x"], "write cpu, cuda, cuda:N or cuda:N,M"),
    ],
)
def test_odd_words_are_sentences(given: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in refused("run", *GRID, *given, "--out", tmp_path)


def test_all_visible_devices_and_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices.choose("cuda", choices.choose_device) == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    assert devices.choose("cuda:3,1", choices.choose_device) == ("cuda:3", "cuda:1")
    assert devices.choose("cuda:0,cuda:2", choices.choose_device) == ("cuda:0", "cuda:2")
    assert devices.choose("auto", choices.choose_device) == ("cuda:0",)
    with pytest.raises(ValueError, match="torch sees 4 CUDA devices"):
        devices.choose("cuda:1,9", choices.choose_device)
    four = devices.choose("cuda", choices.choose_device)
    assert devices.hands("auto", "auto", four).workers == 4
    assert devices.hands("auto", "2", four).devices == four[:2]
    assert devices.hands("auto", "1", four) == devices.Hands(devices=("cuda:0",))
    with pytest.raises(ValueError, match="each needs a worker"):
        session.resolve(session.Request("kd", suite="digits", device="cuda:0,1", workers="1"))


def test_the_stronger_device_has_the_weightier_unit(tmp_path: Path) -> None:
    power = {"cuda:0": 24e9 * 60, "cuda:1": 80e9 * 132, "cuda:2": 24e9 * 60}
    found = slots(list(power), 3, power.__getitem__)
    assert [slot.device for slot in found] == ["cuda:1", "cuda:0", "cuda:2"]
    assert strongest(found[::-1]).device == "cuda:1"
    small_one, large = Unit(0, work(tmp_path, cells()), rank=1.0), Unit(1, work(tmp_path, cells()), rank=5.0)
    taken = Board([small_one, large], print).take(idle=3)
    assert taken is not None
    assert taken.number == 1


def test_a_worker_sees_its_own_device_alone() -> None:
    assert Slot(0, "cuda:2").variables(None) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert Slot(0, "cuda:1").variables("5,7") == {"CUDA_VISIBLE_DEVICES": "7"}
    assert Slot(0, "cuda:1").variables("MIG-a, MIG-b") == {"CUDA_VISIBLE_DEVICES": "MIG-b"}
    assert Slot(0, "cpu").variables("5,7") == {}


def test_a_device_that_computes_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not work" in examine.fault("cuda:7")
    right = examine._gradients
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: None)
    monkeypatch.setattr(examine, "_gradients", lambda device: right(torch.device("cpu")))
    assert examine.fault("cuda:0") == ""
    wrong = [*right(torch.device("cpu"))]
    wrong[1] = wrong[1] * 1.01
    monkeypatch.setattr(examine, "_gradients", lambda device: right(device) if device.type == "cpu" else wrong)
    assert "does not compute what the CPU does" in examine.fault("cuda:0")
    wrong[1] = wrong[1] * float("nan")
    assert "does not compute what the CPU does" in examine.fault("cuda:0")


def test_cores_are_physical_within_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, core in enumerate((0, 1, 0, 1)):
        home = tmp_path / "cpus" / f"cpu{cpu}" / "topology"
        home.mkdir(parents=True)
        (home / "physical_package_id").write_text("0\n")
        (home / "core_id").write_text(f"{core}\n")
    monkeypatch.setattr(cores, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(cores, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert cores.usable() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    assert cores.usable() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (tmp_path / "cgroup/a/b").mkdir(parents=True)
    (tmp_path / "cgroup/a/b/cpu.max").write_text("max 100000\n")
    (tmp_path / "cgroup/a/cpu.max").write_text("150000 100000\n")
    assert cores.usable() == 1


# -- data -----------------------------------------------------------------------------------


def test_lent_data_are_the_same_and_written_to_in_private() -> None:
    images = load("digits")
    assert isinstance(images.train_images, torch.Tensor)
    lent = lend.Lent(images)
    assert lent.facts is not None
    assert len(lent.facts) < images.train_images.nbytes
    mine = lend.borrow(lent.facts)
    assert isinstance(mine.train_images, torch.Tensor)
    assert mine.fingerprint == images.fingerprint
    assert torch.equal(mine.train_images, images.train_images)
    mine.train_images[:] = 7
    assert not torch.equal(mine.train_images, images.train_images)
    lent.close()


def test_data_that_cannot_be_sent_are_read_anew() -> None:
    images = replace(load("digits"), notes=(lambda: "no pickle",))  # type: ignore[arg-type]
    assert lend.Lent(images).facts is None


# -- whole runs -----------------------------------------------------------------------------


def command(out: Path, *words: str, **how: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "kdbench", "run", *GRID, "--device", "cpu", "--out", str(out), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def ended(out: Path, *words: str, code: int = 0) -> str:
    done = command(out, *words)
    said, _ = done.communicate(timeout=500)
    assert done.returncode == code, said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid by one process."""
    out = tmp_path_factory.mktemp("alone")
    ended(out, "--workers", "1")
    return out


def children(of: int) -> list[int]:
    """Worker processes of a command."""
    found = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    return [int(one) for one in found if "executors.worker" in Path(f"/proc/{one}/cmdline").read_text()]


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def until(holds: Any, seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


PLUGIN = """
'''Prints, and ends its process as it is told.'''
import os, signal
from pathlib import Path
from kdbench import Distiller, register

@register
class Odd(Distiller):
    reference = "none"
    provenance = "formula"
    family = "logits"

    def terms(self, student, teacher, batch):
        flag = Path(os.environ["ODD_FLAG"])
        if os.environ["ODD"] == "once" and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["ODD"] == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if not flag.with_suffix(".said").exists():
            flag.with_suffix(".said").touch()
            print("odd says hello")
        return {"odd": student.logits.square().mean()}
"""


#: It dies while a process that it has forked holds all that it held.
DIES = """
import os, sys, time
child = os.fork()
if child == 0:
    time.sleep(100)
with open(os.environ["HELPERS"], "a") as file:
    print(child, file=file)
os._exit(4)
"""


def test_a_worker_whose_children_live_on_is_lost_and_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(number: int, frame: object) -> None:
        raise TimeoutError("nobody saw that the worker is gone")

    monkeypatch.setattr(processes, "_CHILD", DIES)
    monkeypatch.setattr(strangers, "known", tuple)  # plug-ins of other tests, whose files are gone
    monkeypatch.setenv("HELPERS", str(tmp_path / "helpers"))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        executor = processes.Processes(load("digits"), [Slot(0, "cpu")])
        with pytest.raises(ValueError, match="worker processes cannot be started: it ended with code 4"):
            list(executor.run([Unit(0, work(tmp_path, cells()))], print))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    helpers = [int(line) for line in (tmp_path / "helpers").read_text().split()]
    assert len(helpers) == processes.STARTS
    until(lambda: all(map(gone, helpers)))


@pytest.mark.slow
def test_what_a_method_forks_takes_no_other_cell_with_it(alone: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        PLUGIN.partition("        flag =")[0]
        + """        if os.fork() == 0:
            import time
            time.sleep(300)
        os._exit(4)
"""
    )
    said = ended(
        tmp_path / "out", "--workers", "2", "--plugin", str(file), "--methods", "kd,fitnet,student,odd", code=1
    )
    assert "a worker was lost (it ended with code 4" in said
    assert measured(tmp_path / "out") == measured(alone)


@pytest.mark.slow
def test_records_do_not_depend_on_the_number_of_workers(alone: Path, tmp_path: Path) -> None:
    said = ended(tmp_path, "--workers", "2")
    assert said.count("training it for 3 epochs") == 1
    assert "3 of 3 cells are there" in said
    assert measured(tmp_path) == measured(alone)
    assert "3 of 3 cells are there" in ended(tmp_path, "--workers", "2")  # nothing is left


@pytest.mark.slow
def test_a_killed_worker_costs_an_epoch_and_no_bit(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "odd.py"
    file.write_text(PLUGIN)
    monkeypatch.setenv("ODD_FLAG", str(tmp_path / "flag"))
    monkeypatch.setenv("ODD", "once")
    with_odd = ["--workers", "2", "--plugin", str(file), "--methods", "kd,fitnet,student,odd"]
    said = ended(tmp_path / "out", *with_odd)
    assert "a worker was lost (killed by SIGKILL" in said
    assert "odd says hello" in said
    found = measured(tmp_path / "out")
    assert {name: one for name, one in found.items() if "odd" not in name} == measured(alone)
    monkeypatch.setenv("ODD", "always")
    said = ended(tmp_path / "two", *with_odd, code=1)
    assert "failed odd on resnet14:resnet8, seed 0: the process that trained it was lost 3 times" in " ".join(
        said.split()
    )
    assert measured(tmp_path / "two") == measured(alone)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_run_and_a_repeated_command_goes_on(number: int, alone: Path, tmp_path: Path) -> None:
    asked = command(tmp_path, "--workers", "2", process_group=0)
    until(lambda: (tmp_path / "teachers").is_dir())
    workers = children(asked.pid)
    assert len(workers) == 2
    os.kill(asked.pid, number)
    asked.communicate(timeout=200)
    assert asked.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(number)]
    until(lambda: all(map(gone, workers)))
    ended(tmp_path, "--workers", "2")
    assert measured(tmp_path) == measured(alone)


@pytest.mark.slow
def test_a_device_that_fails_its_test_is_left_out(tmp_path: Path) -> None:
    heard: list[outcome.Event] = []
    made = work(
        tmp_path, cells("student", pairs="resnet14:resnet8", epochs=1, limit_train=64), epochs=1, limit_train=64
    )
    places = [Slot(0, "cuda:7", 9.0), Slot(1, "cpu")]
    executor = processes.Processes(load("digits"), places)
    (ending,) = executor.run(plan.abreast([made], 2), heard.append)
    assert [one.status for one in ending[1].records.values()] == ["done"]
    (left_out,) = [event.sentence for event in heard if isinstance(event, Note) and "left out" in event.sentence]
    assert left_out.startswith("left out: cuda:7: cuda:0 does not work")
    with pytest.raises(ValueError, match="no worker is left for 1 group"):
        list(processes.Processes(load("digits"), places[:1]).run(plan.abreast([made], 1), heard.append))
