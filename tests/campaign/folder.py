"""A folder with every kind of file that kdbench writes or reads, all of them good."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from campaign import odd_files
from campaign.child import command
from campaign.judging import sound
from kdbench.distiller import Batch, Outputs
from kdbench.engine import checkpoint, saving
from kdbench.engine.lane import Lane

SMALL = ("--pairs", "resnet14:resnet8", "--seeds", "1", "--device", "cpu", "--epochs", "2")
DIGITS = ("--suite", "digits", *SMALL, "--limit-train", "64", "--set", "teacher.epochs=2")
OUT = ("--out", "out")
PLUGIN = '''"""A method of the user's."""

from kdbench import Distiller, register


@register
class Plugin(Distiller):
    """loss = CE + KD + beta * mean |f_S|."""

    reference = "none"
    provenance = "formula"

    def __init__(self, pair, *, beta=0.5, **common):
        super().__init__(pair, **common)
        self.beta = beta

    def terms(self, student, teacher, batch):
        return {"own": self.beta * student.pooled.abs().mean()}
'''
BROKEN = '''"""A method that fails."""

from kdbench import Distiller, register


@register
class Broken(Distiller):
    """None."""

    reference = "none"
    provenance = "formula"

    def terms(self, student, teacher, batch):
        raise ValueError("no such thing")
'''

#: The commands that read these files, each run in the folder.
VERBS: dict[str, tuple[str, ...]] = {
    "run": ("run", *DIGITS, "--methods", "student,kd,fitnet", *OUT),
    "dry": ("run", *DIGITS[:-2], "--methods", "kd,at", "--dry-run", *OUT),
    "more": ("run", *DIGITS, "--methods", "at,kd", *OUT),
    "filled": ("run", *DIGITS, "--methods", "sp,kd", "--set", "recipe.crop_padding=0", *OUT),
    "resume": ("run", *DIGITS, "--methods", "vid", *OUT),
    "midway": ("run", *DIGITS, "--methods", "crd,pkt", "--set", "recipe.batch_size=8", "--checkpoint-minutes", "1e-5", *OUT),
    "failed": ("run", *DIGITS, "--methods", "broken,kd", "--plugin", "broken.py", *OUT),
    "tune": ("tune", *DIGITS[:4], *DIGITS[6:], "--methods", "fitnet", "--trials", "2", *OUT),
    "tuned": ("run", *DIGITS, "--methods", "fitnet", "--weights", "tuned", *OUT),
    "report": ("report", "--suite", "digits", "--formats", "csv,md", *OUT),
    "status": ("status", *OUT),
    "eval": ("eval", "--suite", "digits", *OUT),
    "verify": ("teacher", "verify", "resnet8", "--suite", "digits", *OUT),
    "table": ("teacher", "table", "resnet8", "--suite", "digits", *OUT),
    "import": ("teacher", "import", "net.safetensors", "--name", "resnet8", "--suite", "digits", "--replace", *OUT),
    "import-pth": ("teacher", "import", "net.pth", "--name", "resnet8", "--suite", "digits", "--replace", *OUT),
    "own": ("run", "--suite", "own.toml", *SMALL, "--limit-train", "64", "--methods", "kd", *OUT),
    "plugin": ("run", *DIGITS, "--methods", "plugin,kd", "--plugin", "plugin.py", *OUT),
    "pictures-first": ("run", "--suite", "pictures.toml", *SMALL, "--methods", "student,kd", *OUT),
    "packed": ("run", "--suite", "pictures.toml", *SMALL, "--methods", "kd,fitnet", "--data-source", "packed:pack", *OUT),
    "pack": ("data", "pack", "imagefolder:pictures@8", "--out", "pack"),
    "pictures": ("run", "--suite", "pictures.toml", *SMALL, "--methods", "kd,fitnet", *OUT),
    "cifar": ("run", "--suite", "cifar.toml", *SMALL, "--limit-train", "128", "--methods", "student", "--data-dir", "data", *OUT),
}  # fmt: skip
#: A pack knows where its pictures lie, so that a copy of the folder needs one of its own.
BEFORE = {"packed": "pack"}


def make(home: Path) -> Path:
    """The folder ``good`` in a home."""
    here = home / "good"
    here.mkdir()
    (here / "plugin.py").write_text(PLUGIN)
    (here / "broken.py").write_text(BROKEN)
    _suites(here)
    odd_files.pictures(here / "pictures")
    _cifar(here / "data" / "cifar-100-python")
    shutil.copy(Path(__file__).parents[2] / "kdbench" / "suites" / "cost.csv", here / "cost.csv")
    before = reading(here)
    for verb in ("run", "failed", "tune"):
        sound(command(VERBS[verb], here, before=before), {1 if verb == "failed" else 0})
    sound(command(("run", *DIGITS, "--methods", "kd,at", "--set", "recipe.crop_padding=0", *OUT), here), {0})
    student = next((here / "out" / "students" / "digits" / "resnet8").glob("student*"))
    shutil.copy(student, here / "net.safetensors")
    weights = {key.removeprefix("student.net."): value for key, value in load_file(student).items()}
    torch.save({"model": weights, "epoch": 240, "best_acc": torch.tensor(70.0)}, here / "net.pth")
    for verb in ("import", "table", "report", "dry"):
        sound(command(VERBS[verb], here, before=before), {0})
    _halfway(here)
    return here


def reading(here: Path) -> Callable[[], None]:
    """To be called in a command's process: no network, our own pictures as CIFAR, the folder's costs of methods."""

    def before() -> None:
        import socket

        from torchvision.datasets import CIFAR100

        from kdbench.suites import costs

        def offline(*_: object, **__: object) -> None:
            raise OSError("there is no network here")

        socket.socket.connect = offline  # type: ignore[method-assign]
        socket.getaddrinfo = offline  # type: ignore[assignment]
        costs.TABLE = here / "cost.csv"
        sums = dict(line.split() for line in (here / "data" / "sums").read_text().splitlines())
        CIFAR100.train_list, CIFAR100.test_list = [["train", sums["train"]]], [["test", sums["test"]]]
        CIFAR100.meta = {**CIFAR100.meta, "md5": sums["meta"]}

    return before


def _halfway(here: Path) -> None:
    """Kill runs after the first epoch, and in the midst of the second, so that checkpoints lie there."""

    def after_one() -> None:
        start = Lane.start_epoch

        def dying(lane: Lane) -> None:
            if lane.epoch:
                os.kill(os.getpid(), signal.SIGKILL)
            start(lane)

        Lane.start_epoch = dying  # type: ignore[method-assign, assignment]

    def within() -> None:
        step, saving.RAREST = Lane.step, 0.0

        def dying(lane: Lane, teacher: Outputs | None, batch: Batch) -> None:
            if lane.epoch and lane.meter.steps == 6:
                time.sleep(1)  # what was handed over is written
                os.kill(os.getpid(), signal.SIGKILL)
            step(lane, teacher, batch)

        Lane.step = dying  # type: ignore[method-assign, assignment]

    for verb, before in (("resume", after_one), ("midway", within)):
        ended = command(VERBS[verb], here, before=before)
        assert ended.code == -signal.SIGKILL, ended.said
    halves = [path for path in here.glob("out/runs/**/*.ckpt") if "partial" in checkpoint.peek(path)]
    assert halves, "no checkpoint was written in mid-epoch"


def _suites(here: Path) -> None:
    (here / "convention.toml").write_text(
        'name = "c"\ntitle = "c"\nce_weight = 1.0\nkd_weight = 1.0\ncombined_kd_weight = 1.0\n'
        "[methods]\nkd = { tau = 3.0 }\n"
    )
    own = {"name": "own", "convention": "convention.toml", "teacher.epochs": 2}
    (here / "own.toml").write_text(odd_files.suite(own))
    other = {"name": "pictures", "dataset": "imagefolder:pictures@8", "num_classes": 3, "recipe.batch_size": 8}
    (here / "pictures.toml").write_text(odd_files.suite({**other, "teacher.epochs": 2}))
    other = {
        "name": "cifar",
        "dataset": "cifar100",
        "image_size": 32,
        "num_classes": 100,
        "pairs": ["resnet14:resnet8"],
    }
    (here / "cifar.toml").write_text(odd_files.suite({**other, "recipe.batch_size": 64}))


def _cifar(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    files: dict[str, object] = {"meta": {"fine_label_names": [f"c{k}" for k in range(100)]}}
    for part, many in (("train", 200), ("test", 100)):
        pixels = rng.integers(0, 256, (many, 3072), dtype=np.uint8)
        files[part] = {"data": pixels, "fine_labels": [k % 100 for k in range(many)]}
    sums = []
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums.append(f"{name} {hashlib.md5((folder / name).read_bytes()).hexdigest()}")
    (folder.parent / "sums").write_text("\n".join(sums) + "\n")
