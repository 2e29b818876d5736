"""Runs on a Ray cluster: what is asked for, what travels, what is lost and tried again, and that no bit depends on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import written
from commands import fine, measured, records, refused, small
from safetensors.torch import load_file
from test_executors import cells, until, work

from kdbench.run import grid, hearts
from kdbench.run.executors.board import TRIES, Board
from kdbench.run.executors.cluster import connect, luggage, needs, parcel, task, token
from kdbench.run.executors.cluster.connect import Node
from kdbench.run.executors.cluster.parcel import Roots
from kdbench.run.executors.strangers import Stranger, Unlike
from kdbench.run.executors.unit import Unit
from kdbench.utils import environment

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'kdbench[ray]')")
ROOT = Path(__file__).resolve().parents[1]
GRID = [*small(epochs=3), "--methods", "kd,fitnet,student", "--device", "cpu"]


# -- what is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--ray-address auto", "--ray-address names a Ray cluster, and --executor is auto; write --executor ray"),
        ("--ray-address a:1 --executor here", "and --executor is here; write --executor ray beside it"),
        ("--executor ray --ray-address ray://10.0.0.7:10001", "not the client address 'ray://10.0.0.7:10001'"),
        ("--executor ray --ray-address nowhere", "--ray-address takes auto, local or HOST:PORT, not 'nowhere'"),
        ("--executor ray --ray-address here:70000", "--ray-address takes auto, local or HOST:PORT"),
        ("--executor ray --ray-address 127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: "),
        ("--executor ray --workers none", "--workers takes auto or a number"),
        ("--executor ray --device cuda:0,1", "takes auto, cpu or cuda, not 'cuda:0,1': Ray chooses the GPUs"),
    ],
)
def test_odd_words_are_sentences(given: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in refused("run", *GRID[:-2], *given.split(), "--out", tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_cluster_that_was_killed_and_is_still_noted_down_is_a_sentence_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would wait for it for minutes."""
    noted = tmp_path / "tmp" / "ray" / "ray_current_cluster"
    noted.parent.mkdir(parents=True)
    noted.write_text("127.0.0.1:1\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    said = refused("run", *GRID[:-2], "--executor", "ray", "--ray-address", "auto", "--out", tmp_path / "out")
    assert "--ray-address auto finds no Ray on this machine: the last one was at 127.0.0.1:1: " in said


def test_without_ray_one_sentence_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'kdbench[ray]'" in refused("run", *GRID, "--executor", "ray", "--out", tmp_path)


def test_a_cluster_without_gpus_is_not_asked_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "nodes_of", lambda address: (Node("a", "a", 4.0, 0.0, 8e9),))
    said = refused("run", *GRID, "--device", "cuda", "--executor", "ray", "--out", tmp_path)
    assert "this machine has no GPU with a processor beside it; try --device cpu" in said


def test_workers_are_as_many_as_the_nodes_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.run.executors.cluster.hands import hands

    nodes = Node("a", "a", 4.0, 2.0, 8e9), Node("b", "b", 3.0, 0.0, 8e9)
    monkeypatch.setattr(connect, "nodes_of", lambda address: nodes)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found, _ = hands("a:1", "auto", "cpu")
    assert (found.executor, found.workers, found.devices, found.address) == ("ray", 3, ("cpu",), "a:1")
    assert hands("a:1", "auto", "auto")[0].devices == ("cuda:0",)
    assert hands("a:1", "auto", "cuda")[0].workers == 2
    fewer, notes = hands("a:1", "9", "cpu")
    assert (fewer.workers, notes) == (3, ["the Ray cluster at a:1 has room for 3 workers, and 9 were asked for"])


def test_who_answers_but_is_no_ray_is_told_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        assert connect.answers(where, seconds=0.2) == "nobody answers within 0 s"

        def serve() -> None:
            other, _ = server.accept()  # the one that has waited
            other.close()
            other, _ = server.accept()
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            other.close()

        threading.Thread(target=serve, daemon=True).start()
        assert connect.answers(where) != ""


# -- what travels ---------------------------------------------------------------------------


def test_plugins_are_what_they_were_or_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with luggage.packed([Stranger("/far/mine.py", b"one"), Stranger("/farther/mine.py", b"two")]) as (runtime, plugins):
        package, sent = map(Path, runtime["py_modules"])
        assert (package / "methods" / "semckd.py").is_file()
        assert not [*package.rglob("__pycache__")]
        shutil.copytree(sent, tmp_path / sent.name)
    assert not sent.exists()
    with pytest.raises(Unlike, match=r"the plug-in /far/mine.py did not reach a worker"):
        plugins[0].here()
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.here().text for one in plugins] == [b"one", b"two"]
    (tmp_path / sent.name / "1" / "mine.py").write_bytes(b"three")
    with pytest.raises(Unlike, match=r"the plug-in /farther/mine.py was changed on its way to a worker"):
        plugins[1].here()


def test_a_process_of_the_cluster_has_one_thread_and_knows_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("KDBENCH_OUT", "here")
    found = luggage.variables()
    assert found["OMP_NUM_THREADS"] == "1"
    assert "KDBENCH_OUT" not in found
    assert json.loads(found["KDBENCH_CODE"]) == environment.code()


def test_a_copy_of_kdbench_has_its_senders_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "kdbench" / "utils" / "environment.py"))
    plain = environment.code.__wrapped__
    assert set(plain()) == {"kdbench"}
    told = {"kdbench": environment.code()["kdbench"], "git": "0123456789ab"}
    monkeypatch.setenv("KDBENCH_CODE", json.dumps(told))
    assert plain() == told
    monkeypatch.setenv("KDBENCH_CODE", json.dumps(told | {"kdbench": "another"}))
    assert set(plain()) == {"kdbench"}


def test_files_keep_their_names_on_every_machine(tmp_path: Path) -> None:
    here, there = Roots(tmp_path / "a/tuned", tmp_path / "a"), Roots(tmp_path / "b/out", tmp_path / "b")
    assert here.moved(str(tmp_path / "a/tuned/runs/x.ckpt"), there) == str(tmp_path / "b/out/runs/x.ckpt")
    assert here.moved(str(tmp_path / "a/teachers/x.ckpt"), there) == str(tmp_path / "b/teachers/x.ckpt")
    assert here.moved("/elsewhere/x", there) == "/elsewhere/x"
    for odd in ("out/../../x", "out//x", "etc/passwd", "out/", "home/a/../../../x"):
        with pytest.raises(ValueError, match="is no file of a run"):
            here.path(odd)


def test_what_comes_back_takes_the_place_of_what_failed_before(tmp_path: Path) -> None:
    (cell, *_) = cells("kd")
    where = grid.files(tmp_path, cell)
    where.record.parent.mkdir(parents=True)
    where.failed.write_text("before")
    where.checkpoint.write_text("before")
    roots = Roots(tmp_path, tmp_path)
    parcel.returned({roots.name(where.student): b"weights", roots.name(where.record): b"record"}, roots)
    assert (where.student.read_bytes(), where.record.read_bytes()) == (b"weights", b"record")
    assert not where.failed.exists()
    assert not where.checkpoint.exists()
    parcel.forget(work(tmp_path, [cell]), [roots.name(where.student), "out/../x"])
    assert not where.student.exists()
    assert where.record.exists()


def test_a_folder_that_is_not_shared_is_told_by_its_token(tmp_path: Path) -> None:
    with token.token(tmp_path) as mark:
        assert mark.seen()
        assert not replace(mark, text="of another run").seen()
    assert not mark.seen()
    assert token.name_of(tmp_path) == token.name_of(tmp_path) != token.name_of(tmp_path / "other")


def test_what_a_plugin_prints_is_told_line_by_line() -> None:
    said: list[str] = []
    lines = task._Lines(said.append)
    for text in ("one\ntw", "o\n", "\n", "x" * 3000, "three"):
        print(text, end="", file=lines)
    lines.close()
    assert not lines.closed
    assert said[:2] == ["one", "two"]
    assert len(said) == 3


class _Silent:
    """An actor that has taken nothing for long."""

    def __init__(self, silence: float) -> None:
        self.put, self.remote, self.silence = self, lambda *letter: silence, silence


def test_a_task_ends_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "is_there", lambda reference: True)
    monkeypatch.setattr(connect, "got", lambda reference, seconds=None: reference)
    voice = task._Voice(_Silent(0.1), 1)
    for _ in range(3):
        voice.say("something")
    voice = task._Voice(_Silent(task.LONELY + 1), 1)
    voice.say("something")
    with pytest.raises(KeyboardInterrupt):
        voice.say("something")


# -- what it asks for, and what is tried again -----------------------------------------------


def test_a_task_asks_for_what_its_cells_take_and_for_no_more_than_a_node_has(tmp_path: Path) -> None:
    nodes = Node("a", "a", 4.0, 0.0, 64e9), Node("b", "b", 2.0, 0.0, 4e9)
    some = cells("kd,at")
    both, one = work(tmp_path, some), work(tmp_path, some[:1])
    roomy = needs.Needs(nodes, "cpu", 6, data=10**6)
    assert roomy.rooms == {"a": int(16e9), "b": int(2e9)}
    assert needs.PROCESS < roomy.of(one)["memory"] < roomy.of(both)["memory"] < 16e9
    narrow = needs.Needs(nodes[1:], "cpu", 2, data=10**10)
    assert narrow.of(both)["memory"] == int(2e9)
    with_gpus = needs.Needs([Node("a", "a", 8.0, 2.0, 64e9)], "cuda:0", 4, data=10**6)
    assert (with_gpus.sharing, with_gpus.of(one)["num_gpus"]) == (2, 0.5)


def test_a_lost_node_is_no_fault_of_a_cell(tmp_path: Path) -> None:
    board = Board([Unit(0, work(tmp_path, cells()))], print)
    for _ in range(3 * TRIES):
        unit = board.take()
        assert unit is not None
        assert (unit.tries, len(unit.work.cells)) == (0, 3)
        assert list(board.lost(unit, {}, "its node is gone", counts=False)) == []
    assert board.more


def test_who_trains_elsewhere_is_shown_with_host_and_process(tmp_path: Path) -> None:
    where = {"host": "node-7", "pid": 4711, "space": "", "born": ""}
    with hearts.beating(tmp_path, "group", lambda: where):
        (one,) = hearts.read(tmp_path)
    assert (one.host, one.pid, hearts.is_dead(one)) == ("node-7", 4711, False)
    assert hearts.is_dead(one, now=time.time() + 2 * hearts.DEAD)


def test_the_job_for_kubernetes_runs_a_command_that_there_is() -> None:
    import yaml

    page = (ROOT / "docs" / "scale.md").read_text()
    (job,) = [yaml.safe_load(block.code) for block in written.blocks(page) if block.kind == "yaml"]
    asked = written.parsed(written.words(job["spec"]["entrypoint"]))
    assert (asked.info_name, asked.params["executor"], asked.params["ray_address"]) == ("run", "ray", "auto")


# -- whole runs -----------------------------------------------------------------------------

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
        flag = Path(os.environ["KDBENCH_ODD_FLAG"])
        if os.environ["KDBENCH_ODD"] == "once" and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["KDBENCH_ODD"] == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if not flag.with_suffix(".said").exists():
            flag.with_suffix(".said").touch()
            print("odd says hello")
        return {"odd": student.logits.square().mean()}
"""


def command(out: Path, *words: str, **how: Any) -> subprocess.Popen[str]:
    line = [
        sys.executable,
        *how.pop("start", ("-m", "kdbench")),
        "run",
        *GRID,
        "--out",
        str(out),
        "--executor",
        "ray",
        *words,
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | how.pop("more", {})
    return subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def ended(out: Path, *words: str, code: int = 0, **how: Any) -> str:
    done = command(out, *words, **how)
    said, _ = done.communicate(timeout=500)
    assert done.returncode == code, said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid by one process."""
    out = tmp_path_factory.mktemp("alone")
    fine("run", *GRID, "--executor", "here", "--out", out)
    return out


def odd(folder: Path, how: str) -> dict[str, str]:
    """What the plug-in is told."""
    return {"KDBENCH_ODD_FLAG": str(folder / "flag"), "KDBENCH_ODD": how}


def same(out: Path, other: Path) -> None:
    """Records, and every bit of the kept students."""
    assert measured(out) == measured(other)
    kept = sorted((other / "students").rglob("*.safetensors"))
    assert len(kept) == len(records(other))
    for file in kept:
        mine, theirs = load_file(out / file.relative_to(other)), load_file(file)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_run_on_ray_has_the_bits_of_one_process(tmp_path: Path) -> None:
    """The smallest one: what of Ray is left in the process that asked for it."""
    words = [*small(epochs=1), "--methods", "student", "--device", "cpu"]
    fine("run", *words, "--executor", "here", "--out", tmp_path / "alone")
    said = fine("run", *words, "--executor", "ray", "--workers", "1", "--out", tmp_path / "ray")
    assert "1 of 1" in said
    same(tmp_path / "ray", tmp_path / "alone")
    assert not [*tmp_path.glob("**/ray-*")]  # the token
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_records_do_not_depend_on_the_number_of_workers(workers: int, alone: Path, tmp_path: Path) -> None:
    said = ended(tmp_path, "--workers", str(workers))
    assert "3 of 3 cells are there" in said
    assert said.count("training it for 3 epochs") == 1
    assert "raylet" not in said
    same(tmp_path, alone)
    assert "3 of 3 cells are there" in ended(tmp_path, "--workers", str(workers))  # nothing is left


@pytest.mark.slow
def test_a_killed_worker_costs_no_bit_and_a_cell_that_kills_fails_by_itself(alone: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(PLUGIN)
    words = ["--workers", "2", "--plugin", str(file), "--methods", "kd,fitnet,student,odd"]
    said = " ".join(ended(tmp_path / "out", *words, more=odd(tmp_path, "once")).split())
    assert "its process is gone: killed, crashed, or out of memory); what it trained goes on from its last" in said
    assert "odd says hello" in said
    found = measured(tmp_path / "out")
    assert {name: one for name, one in found.items() if "odd" not in name} == measured(alone)
    said = " ".join(ended(tmp_path / "two", *words, more=odd(tmp_path, "always"), code=1).split())
    assert "failed odd on resnet14:resnet8, seed 0: the process that trained it was lost 3 times" in said
    same(tmp_path / "two", alone)


LONGER = ["--epochs", "40", "--limit-train", "512", "--checkpoint-minutes", "0", "--workers", "2"]


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that lasts long enough to be killed in its middle, by one process."""
    out = tmp_path_factory.mktemp("longer")
    fine("run", *GRID, *LONGER[:-2], "--executor", "here", "--out", out)
    return out


def trained(out: Path) -> list[hearts.Heart]:
    """Groups of students that are beyond their first epoch, with host and process."""
    found = [one for one in hearts.read(out) if one.work == "group"]
    return [one for one in found if any(lane.epoch > 1 and "teacher" not in lane.name for lane in one.lanes)]


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_goes_on(longer: Path, tmp_path: Path) -> None:
    asked = command(tmp_path, *LONGER)
    until(lambda: trained(tmp_path))
    (one, *_) = trained(tmp_path)
    assert one.host == socket.gethostname()
    os.kill(one.pid, signal.SIGKILL)
    said, _ = asked.communicate(timeout=500)
    assert asked.returncode == 0, said
    said = " ".join(said.split())
    assert f"a worker was lost on {socket.gethostname()}" in said
    assert ": going on after epoch" in said
    same(tmp_path, longer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_run_and_a_repeated_command_goes_on(number: int, longer: Path, tmp_path: Path) -> None:
    asked = command(tmp_path, *LONGER, process_group=0)
    until(lambda: trained(tmp_path))
    workers = [one.pid for one in trained(tmp_path)]
    # A terminal's Ctrl-C is heard by Ray's own processes, too.
    (os.killpg if number == signal.SIGINT else os.kill)(asked.pid, number)
    said, _ = asked.communicate(timeout=200)
    assert asked.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(number)], (
        said
    )
    until(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))
    assert ": going on after epoch" in " ".join(ended(tmp_path, *LONGER).split())
    same(tmp_path, longer)


OPEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def head() -> Iterator[tuple[str, Any]]:
    """A cluster that is no child of the command: its address, and what kills it at once."""
    env = os.environ | connect.QUIET | OPEN
    folder = Path("/tmp") / f"kdbench-head-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bin = Path(sys.executable).parent / "ray"
    line = [str(bin), "start", "--head", f"--port={port}", "--num-cpus=4", "--include-dashboard=false", "--block"]
    line += [f"--temp-dir={folder}", "--object-store-memory=200000000", "--node-ip-address=127.0.0.1"]
    started = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)
    try:
        until(lambda: not connect.answers(f"127.0.0.1:{port}", seconds=1.0))
        yield f"127.0.0.1:{port}", lambda: kill(started.pid)
    finally:
        kill(started.pid)
        started.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def kill(process: int) -> None:
    """A process with all that it has started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process)
        for one in [*first.children(recursive=True), first]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


@pytest.mark.slow
def test_the_head_is_killed_and_the_command_repeated(longer: Path, tmp_path: Path, head: tuple[str, Any]) -> None:
    address, kills = head
    asked = command(tmp_path, *LONGER, "--ray-address", address, more=OPEN)
    until(lambda: trained(tmp_path))
    kills()
    said, _ = asked.communicate(timeout=200)
    assert asked.returncode == 1, said
    assert "Traceback" not in said
    assert "is gone" in said
    assert "what was finished is kept, repeat the command" in " ".join(said.split())
    assert "no Ray cluster answers at" in ended(tmp_path, *LONGER, "--ray-address", address, code=2)
    assert ": going on after epoch" in " ".join(ended(tmp_path, *LONGER).split())
    same(tmp_path, longer)


@pytest.mark.slow
def test_where_no_folder_is_shared_all_comes_back(alone: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(PLUGIN)
    words = ["--workers", "2", "--plugin", str(file), "--methods", "kd,fitnet,student,odd"]
    more = odd(tmp_path, "once") | {"TMPDIR": str(tmp_path)}
    said = " ".join(
        ended(tmp_path / "out", *words, "--checkpoint-minutes", "0", more=more, start=("-c", APART)).split()
    )
    assert f"does not see {tmp_path / 'out'}: what it reads and makes is sent" in said
    assert "a worker was lost on" in said
    assert "odd says hello" in said
    (mine,) = [one for one in records(tmp_path / "out").values() if one.method == "odd"]
    assert mine.plugin_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for path in (tmp_path / "out").rglob("*odd*"):
        path.unlink()
    same(tmp_path / "out", alone)
    assert [*(tmp_path / "out" / "teachers").rglob("*.json")]


#: The command, with a driver whose token no task finds.
APART = """
from kdbench.run.executors.cluster import driven
driven.CHILD = '''
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from contextlib import contextmanager
from pathlib import Path
from kdbench.run.executors.cluster import crew, driver, token

@contextmanager
def nowhere(out):
    yield token.Token(Path("/nowhere/at/all"), "none")

crew.token = nowhere
driver.main(sys.argv[1], sys.argv[3])
'''
from kdbench.cli import main
main()
"""
