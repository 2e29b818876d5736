"""The page `docs/own.md`: its suite, its network and all its commands, in order, on small networks and few pictures."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import written
from PIL import Image

from kdbench import models, record

PAGE = (written.ROOT / "docs" / "own.md").read_text()
SHARED = written.ROOT.parent / "shared" / "data"
#: What a test leaves out: pictures are seen small, epochs and tries are few.
SHORT = "--epochs 1 --set image_size=32 --set recipe.warmup_epochs=0 --set recipe.batch_size=16"
TEACHER = "--set image_size=32 --epochs 1"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The reader's folder: pictures, suite, network, and files of weights."""
    if (SHARED / "unpack.py").exists():
        subprocess.run([sys.executable, SHARED / "unpack.py", "imagenette224", tmp_path], check=True)
        for part in ("train", "val"):
            for place in (tmp_path / "imagenette224" / part).iterdir():
                for file in sorted(place.iterdir())[6:]:
                    file.unlink()
        (tmp_path / "imagenette224").rename(tmp_path / "pictures")
    else:
        draw = np.random.default_rng(0)
        for at in range(120):
            where = tmp_path / "pictures" / ("train" if at < 80 else "val") / f"{at % 10}"
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(where / f"{at}.jpg")
    for block in written.blocks(PAGE):
        name = {"toml": "own.toml", "python": "my_nets.py"}.get(block.kind)
        if name:
            (tmp_path / name).write_text(block.code)
    torch.save(models.create("resnet56", 100).net.state_dict(), tmp_path / "cifar100_resnet56.pt")
    weights = timm.create_model("resnet18", num_classes=1000).state_dict()
    torch.save(weights, tmp_path / "resnet18.tv_in1k.pth")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(written.ROOT),
        "XDG_CACHE_HOME": str(home / "cache"),
        "KDBENCH_CACHE": str(home / "cache"),
        "KDBENCH_DATA": str(home / "data"),
        "KDBENCH_WEIGHTS": str(home),
    }


def smaller(line: str) -> list[str]:
    """The command of the page with what makes it short."""
    words = shlex.split(line)[1:]
    if words[0] == "run":
        words += shlex.split(SHORT)
    elif words[0] == "tune":
        words += [*shlex.split(SHORT), "--trials", "2"]
    elif words[:2] == ["teacher", "finetune"]:
        words += shlex.split(TEACHER)
    elif words[:2] == ["data", "bench"]:
        words += ["--steps", "1", "--repeat", "1", "--batch", "16"]
    return words


def kdbench(home: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdbench", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=home, env=environment(home), stdout=pipe, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="kill -9 is a POSIX signal")
def test_every_command_of_the_page_runs_and_a_killed_run_goes_on(here: Path) -> None:
    lines = [line for line in written.shown(PAGE) if line.startswith("kdbench") and "FILE" not in line]
    assert len(lines) > 9
    for line in lines:
        words = smaller(line)
        if words == smaller("kdbench run --suite own.toml --data-source packed"):
            going = kdbench(here, [*words, "--checkpoint-minutes", "0.01"])
            until = time.monotonic() + 300
            while not list((here / "results").rglob("*.ckpt")) and going.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            going.send_signal(signal.SIGKILL)
            going.communicate()
            assert not list((here / "results/runs").rglob("ofa-*.json"))
        done = kdbench(here, words)
        said, _ = done.communicate(timeout=900)
        assert done.returncode == 0, f"{line}: {said}"
        if "tuned" not in line and words[0] == "run" and "student" not in line:
            assert "chosen on CIFAR-100" in " ".join(said.split())
    packed = {one.settings_hash: one.measured() for one in record.read_all(here / "results" / "runs")[0]}
    assert {"ofd", "ofa", "crd", "semckd"} <= {one.settings.method for one in record.read_all(here / "results/runs")[0]}
    streamed = [*smaller("kdbench run --suite own.toml"), "--data-source", "streamed", "--data-workers", "1"]
    (here / "streamed").mkdir()
    (here / "results" / "teachers").rename(here / "streamed" / "teachers")
    done = kdbench(here, [*streamed, "--out", "streamed"])
    said, _ = done.communicate(timeout=900)
    assert done.returncode == 0, said
    again = {one.settings_hash: one.measured() for one in record.read_all(here / "streamed" / "runs")[0]}
    assert len(again) == 12
    assert all(packed[key] == value for key, value in again.items())
