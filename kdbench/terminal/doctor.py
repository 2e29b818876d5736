"""`kdbench doctor`: what a run will meet on this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from kdbench.utils import environment

#: Free disk below which a CIFAR-100 grid may not find room for its checkpoints.
_DISK = 2 * 2**30


class Finding(NamedTuple):
    """One thing looked at; verdict is ok, note or wrong."""

    what: str
    found: str
    verdict: str


def look(data_dir: Path | None, out: Path) -> list[Finding]:
    """Every check; none leaves anything behind."""
    findings = [
        Finding("python", sys.version.split()[0], "ok" if sys.version_info >= (3, 11) else "wrong"),
        *_packages(),
        *_device(),
        *_folders(out),
        *_data(data_dir),
        *_methods(),
    ]
    code = environment.code()
    return [Finding("kdbench", " ".join(code.values()), "ok"), *findings]


def _packages() -> list[Finding]:
    found = []
    for name in ("torch", "torchvision", "timm", "pandas", "matplotlib", "scipy", "sklearn", "safetensors", "pydantic"):
        try:
            module = importlib.import_module(name)
            found.append(Finding(name, str(getattr(module, "__version__", "installed")), "ok"))
        except Exception as error:  # a broken torchvision raises RuntimeError, not ImportError
            found.append(Finding(name, f"cannot be imported: {error}".splitlines()[0], "wrong"))
    return found


def _device() -> list[Finding]:
    import torch

    free = environment.free_memory()
    memory = f", {free / 2**30:.1f} GiB free" if free else ""
    instructions = torch.backends.cpu.get_cpu_capability()
    cpu = f"{environment.cpu_name()}, {instructions}, {os.cpu_count()} cores{memory}"
    found = [Finding("cpu", cpu, "ok"), _precision()]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            room, whole = torch.cuda.mem_get_info(index)
            text = f"{torch.cuda.get_device_name(index)}, {room / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
            found.append(Finding(f"cuda:{index}", text, "ok"))
    else:
        found.append(Finding("cuda", "none; suite auto is `digits`", "note"))
    return found


def _precision() -> Finding:
    import torch

    from kdbench.engine.precision import Precision

    slow = Precision("bf16").warning(torch.device("cpu"))
    if slow:
        return Finding("precision", f"{slow}; on the CPU, amp is bf16", "note")
    return Finding("precision", "fp32, bf16 and amp on the CPU", "ok")


def _folders(out: Path) -> list[Finding]:
    from kdbench.utils.files import check_writable

    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        check_writable(there)
    except ValueError as error:
        return [Finding("output folder", str(error), "wrong")]
    free = shutil.disk_usage(there).free
    made = "" if there == out else ", made by the first run"
    return [Finding("output folder", f"{out}{made}, {free / 2**30:.0f} GiB free", "ok" if free > _DISK else "note")]


def _data(data_dir: Path | None) -> list[Finding]:
    from kdbench import data

    found = []
    for name in ("digits", "cifar100", "cifar10"):
        try:
            one = data.load(name, data_dir, download=False)
            text = f"{len(one.train_labels)} + {len(one.test_labels)} images"
            found.append(Finding(f"data {name}", text, "ok"))
        except ValueError as error:
            found.append(Finding(f"data {name}", str(error), "note"))
    return found


def _methods() -> list[Finding]:
    from kdbench import registry

    broken = registry.broken()
    found = [Finding("methods", f"{len(registry.names())} registered", "ok")]
    return found + [Finding(f"method {name}", why, "wrong") for name, why in broken.items()]
