"""Strangers' plug-ins beside honest methods, in whole commands: each costs its own cell, the others keep their bits."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from campaign import facts
from campaign.area import Area, Fault, Try
from campaign.child import command, copied
from campaign.judging import shortened, sound

HOSTILE = Path(__file__).resolve().parents[1] / "hostile"
SMALL = (
    *("--suite", "digits", "--pairs", "resnet14:resnet8", "--seeds", "1", "--device", "cpu", "--epochs", "2"),
    *("--limit-train", "96", "--set", "teacher.epochs=1"),
)
HONEST = "kd,fitnet"
#: A plug-in that is one of the classes of tests/hostile, which begins to misbehave when it is trained.
FILE = '''"""A stranger's method."""

import importlib.util

from kdbench import register

spec = importlib.util.spec_from_file_location("hostile_{file}", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


@register
class Stranger(module.{name}):
    """No honest one."""

    def __init__(self, pair, **common):
        super().__init__(pair, **{words!r})

    def loss(self, student, teacher, batch):
        self.armed = True
        return super().loss(student, teacher, batch)
'''
HEAD = """import os, signal, sys, threading, time
import torch
from kdbench import Distiller, register

@register
class Stranger(Distiller):
    reference = "none"
    provenance = "formula"
"""
#: Bodies of further classes, none of which may end as if nothing had been.
BODIES = {
    "__init__ exits": "    def __init__(self, pair, **common):\n        sys.exit('no')\n",
    "__init__ relabels": "    def __init__(self, pair, **common):\n        super().__init__(pair)\n        pair.train_labels.zero_()\n",
    "__init__ seeds all": "    def __init__(self, pair, **common):\n        super().__init__(pair)\n        torch.manual_seed(0)\n        torch.set_num_threads(3)\n",
    "__del__ raises": "    def terms(self, *a):\n        return {'own': a[0].pooled.abs().mean()}\n    def __del__(self):\n        raise SystemExit(3)\n",
    "thread goes on": "    def terms(self, *a):\n        threading.Thread(target=time.sleep, args=(1,)).start()\n        return {}\n",
    "loads nothing": "    def load_state_dict(self, *a, **k):\n        raise SystemExit('no')\n",
    "parameters change": "    def terms(self, student, teacher, batch):\n        self.more = torch.nn.Parameter(torch.zeros(1))\n        return {'own': self.more.sum()}\n",
    "huge memory": "    def terms(self, student, teacher, batch):\n        return {'own': torch.zeros(10**15).sum()}\n",
    "recursion": "    def terms(self, *a):\n        return self.terms(*a)\n",
    "writes the teacher's file": "    def terms(self, *a):\n        [open(f, 'wb').close() for f in __import__('glob').glob('out/runs/**/strange*', recursive=True)]\n        return {}\n",
}
#: Bodies that end the process itself, which nothing inside it can prevent: the command is repeated without the stranger.
DEADLY = {
    "os._exit": "    def terms(self, *a):\n        os._exit(9)\n",
    "kills itself": "    def terms(self, *a):\n        os.kill(os.getpid(), signal.SIGKILL)\n",
    "aborts": "    def terms(self, *a):\n        os.abort()\n",
    "null pointer": "    def terms(self, *a):\n        __import__('ctypes').string_at(0)\n",
}
#: Files that are no plug-in.
BROKEN = {
    "syntax": "def (",
    "raises": "raise RuntimeError('no')",
    "exits": "import sys; sys.exit(3)",
    "registers nothing": "x = 1",
    "no text": "\0\0",
}


def _module(file: str) -> ModuleType:
    """A file of tests/hostile."""
    spec = importlib.util.spec_from_file_location(f"hostile_{file}", HOSTILE / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def strangers() -> dict[str, str]:
    """All plug-ins: name -> the file's text."""
    found: dict[str, str] = {}

    def add(file: str, what: str, **words: Any) -> None:
        text = FILE.format(file=file, path=str(HOSTILE / f"{file}.py"), name=file.capitalize(), words=words)
        found[f"{file}: {what}"] = text

    for kind in _module("tensors").KINDS:
        add("tensors", kind, kind=kind)
    for kind in _module("process").KINDS:
        add("process", kind, kind=kind)
    for kind in _module("raising").ERRORS:
        add("raising", kind, kind=kind, place="terms")
    for place in _module("raising").PLACES:
        add("raising", f"in {place}", kind="odd", place=place)
    for answer in _module("raising").ANSWERS:
        add("raising", f"answers {answer}", answer=answer)
    found |= {f"body: {name}": HEAD + body for name, body in {**BODIES, **DEADLY}.items()}
    return found | {f"broken: {name}": text for name, text in BROKEN.items()}


def prepare(home: Path) -> None:
    """A teacher, and what honest methods become alone."""
    sound(command(("run", *SMALL, "--methods", "student", "--out", "out"), home), {0})
    sound(command(("run", *SMALL, "--methods", "kd", "--out", "made"), home), {0})
    (home / "out").rename(home / "unused")
    (home / "taught").mkdir()
    copied(home / "made" / "teachers", home / "taught" / "teachers")
    copied(home / "taught", home / "alone")
    sound(command(("run", *SMALL, "--methods", HONEST, "--out", "alone"), home), {0})


def names(home: Path, most: int) -> list[str]:
    """All strangers, in an order in which any number of them has some of each kind."""
    every = list(strangers())
    return [every[at * 61 % len(every)] for at in range(min(most, len(every)))]


def hold(one: Try) -> int:
    """A stranger between two honest methods, then, where it ended all, these alone."""
    copied(one.home / "taught", one.folder / "out")
    (one.folder / "stranger.py").write_text(strangers()[one.name])
    words = ["run", *SMALL, "--plugin", "stranger.py", "--out", "out", "--methods"]
    kind, _, name = one.name.partition(": ")
    first, last = HONEST.split(",")
    methods = HONEST if kind == "broken" else f"{first},stranger,{last}"
    ended = command([*words, methods], one.folder)
    deadly = name in DEADLY
    if not deadly:
        # The words of a failure are the stranger's, and those of Python about what it does when it goes.
        own = "(?s)Exception ignored in: <function Stranger.*|"
        sound(
            ended,
            {0, 1},
            but=own + "(stranger on|plug-in).*?(seed 0|imported): .*?(?=\n\\s*(done|failed)|\n\\d+ of \\d+|\\Z)",
        )
    elif ended.code in (0, 1, 2):
        raise Fault(f"exit code {ended.code}, though it ends the process")
    if deadly:
        sound(command(["run", *SMALL, "--methods", HONEST, "--out", "out"], one.folder), {0})
    _honest(one.folder / "out", one.home / "alone", ended.said)
    return 1


def _honest(out: Path, alone: Path, said: str) -> None:
    """Raises: Fault: an honest method's record or student is another than alone."""
    found = {name: value for name, value in facts.of(out).items() if "stranger" not in name}
    wanted: Mapping[str, Any] = facts.of(alone)
    try:
        facts.same(found, wanted)
    except Fault as fault:
        raise Fault(f"{fault} (it said: {shortened(said)})") from None


AREA = Area("company", 200, prepare, names, hold)
