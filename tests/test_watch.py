"""`status --watch` and `--notify`: who works on a folder, on any screen, and who is told of the end."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import fine, kdbench, measured, refused
from rich.console import Console

import kdbench as suite
from kdbench.run import grid, hearts, notify, pulse, runner, session
from kdbench.run.hearts import Heart
from kdbench.run.outcome import Standing
from kdbench.terminal import watching
from kdbench.terminal.console import Screen
from kdbench.utils.naming import cell_key, key_of

WORDS = ["--pairs", "resnet14:resnet8", "--suite", "digits", "--seeds", "1", "--limit-train", "64", "--device", "cpu"]
GONE: dict[str, Any] = {"host": "vm", "space": "", "pid": 1, "born": "x", "since": 0.0, "beat": 0.0}


def written(out: Path, name: str = "a", **facts: Any) -> Path:
    path = hearts.folder(out) / f"{name}.heart"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Heart(**{"work": "group", **GONE, **facts}).model_dump_json())
    return path


class Watcher:
    """Reads the signs of life while a run goes on."""

    def __init__(self, out: Path) -> None:
        self.out, self.found = out, list[list[Heart]]()

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        time.sleep(0.1)  # the signs are those of some time ago
        self.found.append(hearts.read(self.out))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def test_a_run_shows_cells_epochs_speed_and_host_and_takes_its_signs_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearts, "EVERY", 0.02)
    watch = Watcher(tmp_path)
    words: dict[str, Any] = {"pairs": "resnet14:resnet8", "suite": "digits", "seeds": "2", "epochs": 3}
    job = session.resolve(session.Request("student", **words, limit_train=64, device="cpu", out=tmp_path))
    assert runner.run(job, watch).exit_code == 0
    assert hearts.read(tmp_path) == []
    assert not hearts.folder(tmp_path).exists()
    run, group = watch.found[0]
    assert (run.work, run.cells, run.ended, group.work) == ("run", 2, 0, "group")
    assert group.lanes[0].name == "student on resnet8, seed 0"
    assert (group.lanes[0].epoch, group.lanes[0].total) == (1, 3)
    assert (group.pid, group.host) == (os.getpid(), run.host)
    assert run.seconds_left is not None
    assert watch.found[-1][0].ended == 1
    assert watch.found[-1][1].title == "no teacher, seed 1"


def test_a_run_that_is_refused_after_its_first_sign_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    words = "--suite", "digits", "--methods", "kd", "--pairs", "resnet14:resnet8", "--seeds", "1", "--epochs", "1"
    assert "image_size" in refused("run", *words, "--set", "image_size=16", "--out", out)
    assert not (tmp_path / "new").exists()


def test_folders_that_were_there_or_hold_something_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "made"):
        with hearts.beating(tmp_path / name, "run", dict):
            if name == "made":
                (tmp_path / name / "record").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["made", "record", "there"]


def test_the_dead_are_told_and_swept_by_the_next_run(tmp_path: Path) -> None:
    space = hearts.space()
    if not space:
        pytest.skip("this system does not tell processes apart")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    now = time.time()
    written(tmp_path, "gone", work="run", cells=3, ended=1, space=space, pid=gone.pid, beat=now)
    written(tmp_path, "reused", space=space, pid=os.getpid(), beat=now)  # born at another time
    written(tmp_path, "far", space="another", beat=now - 1)
    written(tmp_path, "old", space="another", pid=2, beat=now - 1000)
    assert [hearts.is_dead(one) for one in hearts.read(tmp_path)] == [True, False, True, True]
    looks = watching.Looks(tmp_path)
    looks.look()
    assert (len(looks.alive), len(looks.dead), looks.over) == (1, 3, False)
    assert any("dead: 2 cells not ended (vm, pid" in line for line in watching.lines(looks))
    hearts.sweep(tmp_path)
    assert [one.name for one in sorted(hearts.folder(tmp_path).iterdir())] == ["far.heart", "old.heart"]


def test_what_a_dead_run_left_and_others_ended_is_not_waited_for(tmp_path: Path) -> None:
    """As after a reboot, or on a node that does not come back: nobody can look whether the process is there."""
    out = tmp_path / "out"
    asked = session.Request(
        "student,label_smoothing", "resnet14:resnet8", "digits", seeds="1", epochs=1, limit_train=64
    )
    job = session.resolve(replace(asked, device="cpu", out=out))
    keys = [cell_key(cell.seed, cell.hash) for cell in job.cells]
    written(out, "node17", work="run", space="another", cells=2, ended=0, waiting=keys, beat=time.time() - 3600)
    looks = watching.Looks(out)
    for methods, over in (("student", False), ("student,label_smoothing", True)):
        assert kdbench("run", *WORDS, "--methods", methods, "--epochs", "1", "--out", out).exit_code == 0
        looks.look()
        assert looks.over == over
    assert looks.dead == []
    assert [one.host for one in hearts.read(out)] == ["vm"]


def test_a_run_names_what_it_has_not_ended(tmp_path: Path) -> None:
    job = session.resolve(
        session.Request("student,kd", "resnet14:resnet8", "digits", seeds="1", device="cpu", out=tmp_path)
    )
    told = pulse.RunPulse(None, "suite digits", job.cells)
    assert len(told.facts()["waiting"]) == 2
    told._ended.add(job.cells[0])
    assert told.facts()["waiting"] == [cell_key(0, job.cells[1].hash)]
    assert key_of(grid.files(tmp_path, job.cells[1]).failed.name) == cell_key(0, job.cells[1].hash)


def test_another_machines_clock_makes_nobody_dead(tmp_path: Path) -> None:
    now = [0.0]
    looks = watching.Looks(tmp_path, clock=lambda: now[0])
    written(tmp_path, beat=100.0)
    looks.look()
    assert looks.dead  # so far nothing says otherwise
    written(tmp_path, beat=105.0)
    looks.look()
    assert looks.alive
    now[0] = hearts.DEAD + 1
    looks.look()
    assert looks.dead


_SIGN = '{"work": "run", "host": "h", "space": "", "pid": 1, "born": "", "since": 0, "beat": 9e9, %s}'
ODD = [
    _SIGN % one
    for one in ('"cells": -3', '"ended": -1', '"speed": -1', '"lanes": [{"name": "kd", "epoch": -5, "total": 1}]')
]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"work": "group"}', '{"since": 1e999}', "\x00", *ODD])
def test_what_is_no_sign_of_life_is_left_out(text: str, tmp_path: Path) -> None:
    written(tmp_path).write_text(text)
    (hearts.folder(tmp_path) / "folder.heart").mkdir()
    assert hearts.read(tmp_path) == []
    assert "nobody works on" in fine("status", "--watch", "--out", tmp_path)


def test_it_waits_for_the_end_and_ends_by_itself(tmp_path: Path) -> None:
    path, waits = written(tmp_path, beat=time.time(), lanes=[{"name": "kd on a:b", "epoch": 3, "total": 30}]), []
    ckpt = tmp_path / "runs/digits/a-b/kd-s0.ckpt"
    ckpt.parent.mkdir(parents=True)
    ckpt.touch()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            path.unlink()
        if len(waits) == 65:
            ckpt.unlink()

    screen = Screen(file=io.StringIO(), width=200)
    assert watching.watch(tmp_path, 1, screen, sleep=sleep) == 0
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert len(waits) == 65
    assert said.count("kd on a:b 3/30 (vm, pid 1") == 1  # a line a minute
    assert said.count("1 cell stopped on the way") == 1
    assert "nothing there is on its way" in said.splitlines()[-1]


@pytest.mark.parametrize("width", [1, 12, 80])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_screen_shows_it(width: int, encoding: str, tmp_path: Path) -> None:
    lane = {"name": "kd[tau=4] on ä:b\x1b[2J [red]", "epoch": 3, "total": 30, "stage": "pretrain"}
    written(tmp_path, beat=time.time(), lanes=[lane] * 30, speed=12.3, seconds_left=7.0, title="ü")
    written(tmp_path, "run", work="run", beat=time.time(), cells=2, seconds_left=1e6, title="suite ü")
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="")
    screen = Screen(file=file, width=width, height=10, force_terminal=True)
    looks = watching.Looks(tmp_path)
    looks.look()
    screen.print(watching.shown(looks, screen))
    file.flush()
    assert b"\x1b[2J" not in raw.getvalue()
    if width == 80:
        assert "kd[tau=4]" in raw.getvalue().decode(encoding)
    assert isinstance(screen, Console)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_it(number: int, code: int, tmp_path: Path) -> None:
    written(tmp_path, beat=time.time() + 1e4)
    words = [sys.executable, "-m", "kdbench", "status", "--watch", "1", "--out", str(tmp_path)]
    going = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert going.stdout is not None
    going.stdout.readline()  # it has begun
    going.send_signal(number)
    _, said = going.communicate(timeout=20)
    assert going.returncode == code
    assert "Traceback" not in said


def test_no_time_is_refused(tmp_path: Path) -> None:
    assert "from 1 to 86400, not 0" in refused("status", "--watch", "0", "--out", tmp_path)


# -- --notify -------------------------------------------------------------------------------------

ASK = 'echo "$KDBENCH_VERB $KDBENCH_STATE $KDBENCH_ASKED $KDBENCH_DONE $KDBENCH_FAILED $KDBENCH_OUT" > {}'


def told(tmp_path: Path) -> str:
    return (tmp_path / "told").read_text().strip()


def train(out: Path, *words: object) -> Any:
    return kdbench("run", *WORDS, "--methods", "student", "--epochs", "1", "--out", out, *words)


def test_the_end_of_a_run_is_told(tmp_path: Path) -> None:
    out, ask = tmp_path / "out", ASK.format(tmp_path / "told")
    assert train(out, "--notify", ask).exit_code == 0
    assert told(tmp_path) == f"run done 1 1 0 {out}"
    before = measured(out)
    # Nothing is left to do, and its failure changes nothing.
    done = train(out, "--notify", f"{ask}; exit 3")
    assert done.exit_code == 0
    assert "ended with code 3" in done.output
    assert measured(out) == before


def test_the_end_of_a_tuning_is_told(tmp_path: Path) -> None:
    ask = ASK.format(tmp_path / "told")
    words = [*WORDS, "--methods", "label_smoothing", "--epochs", "1", "--trials", "2", "--out", tmp_path / "out"]
    words[words.index("--seeds") + 1] = "1"
    fine("tune", *words, "--notify", ask)
    assert told(tmp_path) == f"tune done 1 1 0 {tmp_path / 'out'}"


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt(), "interrupted"), (OSError(28, "full"), "failed"), (ValueError(), "failed")],
)
def test_every_end_is_told(error: BaseException, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runner, "works", broken)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        suite.run(
            "student", "resnet14:resnet8", suite="digits", epochs=1, limit_train=64, device="cpu",
            out=tmp_path / "out", notify=ASK.format(tmp_path / "told"),
        )  # fmt: skip
    assert told(tmp_path).startswith(f"run {state} ")


def test_times_that_cannot_be_written_down_are_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "estimates.csv").mkdir(parents=True)
    done = train(out, "--notify", ASK.format(tmp_path / "told"))
    assert done.exit_code == 0
    assert f"not written down for later estimates: {out / 'estimates.csv'}: Is a directory" in done.output.replace(
        "\n", ""
    )
    assert told(tmp_path) == f"run done 1 1 0 {out}"


def test_what_there_was_before_an_early_end_is_counted(tmp_path: Path) -> None:
    out, ask = tmp_path / "out", ASK.format(tmp_path / "told")
    assert train(out).exit_code == 0
    words = [*WORDS, "--methods", "student,semckd[beta=1e30]", "--epochs", "1", "--out", out, "--fail-fast"]
    assert kdbench("run", *words, "--notify", ask).exit_code == 1
    assert told(tmp_path) == f"run failed 2 1 1 {out}"


def test_choices_that_were_there_before_an_early_end_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "full")

    out = tmp_path / "out"
    words = [*WORDS, "--epochs", "1", "--trials", "2", "--out", out]
    fine("tune", *words, "--methods", "label_smoothing")
    monkeypatch.setattr(runner, "works", broken)
    ask = ASK.format(tmp_path / "told")
    assert kdbench("tune", *words, "--methods", "label_smoothing,kd", "--notify", ask).exit_code != 0
    assert told(tmp_path) == f"tune failed 2 1 0 {out}"


def test_a_command_has_a_time_limit_and_its_children_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LIMIT", 0.5)
    said: list[str] = []
    began = time.monotonic()
    with notify.notifying("run", "sleep 60 | sleep 60", tmp_path, said.append):
        pass
    assert time.monotonic() - began < 10
    assert re.fullmatch(r"--notify's command was ended after \d+ seconds?", said[0])
