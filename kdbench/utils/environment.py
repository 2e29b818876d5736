"""What a result was made with: versions, device, code; and what `kdbench doctor` looks at."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from kdbench.utils import memory
from kdbench.utils.wording import quoted
from kdbench.version import __version__

#: Threads that a process is given at most.
MOST_THREADS = 1024


@cache
def code() -> dict[str, str]:
    """kdbench's version and, in a checkout, its commit (``+`` when files were changed).

    >>> code()["kdbench"] == __version__
    True
    """
    found = {"kdbench": __version__}
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "kdbench", "methods")
        if commit:
            found["git"] = commit + ("+" if changed else "")
    elif told := os.environ.get("KDBENCH_CODE"):  # a copy that was sent to another machine: its sender knows
        with suppress(ValueError):
            said = json.loads(told)
            if isinstance(said, dict) and said.get("kdbench") == __version__ and isinstance(said.get("git"), str):
                found["git"] = said["git"]
    return found


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def describe(device: str) -> dict[str, Any]:
    """Versions and hardware of this process; goes into every record.

    >>> {"python", "torch", "cpu", "threads"} <= describe("cpu").keys()
    True
    """
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "device": device,
        "cpu": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def threads() -> int:
    """Threads of a run on the CPU: the first number of OMP_NUM_THREADS, 1 where it says none.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, OMP_NUM_THREADS="4,2"):
    ...     threads()
    4
    """
    return _threads()[0]


def threads_note() -> str:
    """A sentence where OMP_NUM_THREADS is set and cannot be followed; else empty.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, OMP_NUM_THREADS="two"):
    ...     threads_note()
    "OMP_NUM_THREADS is 'two', which is no number from 1 to 1024; one thread is used"
    """
    return _threads()[1]


def _threads() -> tuple[int, str]:
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return 1, ""
    first = text.split(",")[0].strip()  # "4,2": 4 on the first level, 2 in regions within
    number = int(first) if re.fullmatch("[0-9]{1,9}", first) else 0
    if 1 <= number <= MOST_THREADS:
        return number, ""
    return 1, f"OMP_NUM_THREADS is {quoted(text)}, which is no number from 1 to {MOST_THREADS}; one thread is used"


def version(package: str) -> str:
    """Installed version, or ``none``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def cpu_name() -> str:
    """The processor's own name where the system tells it.

    >>> bool(cpu_name())
    True
    """
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mb(device: str) -> float:
    """Largest memory so far: of the device on CUDA, of this process on the CPU.

    >>> peak_memory_mb("cpu") > 1
    True
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10


def free_memory(room: int | None = None, promised: memory.Promised = memory.NONE) -> int | None:
    """Bytes of main memory that this process can still have; None where the system does not tell.

    ``room`` are those that it may have in all, what it has already included; ``promised`` is what others will take.

    >>> left = free_memory()
    >>> left is None or left > 0
    True
    >>> free_memory(room=0)
    0
    """
    left = memory.free(promised)
    if room is None:
        return left
    mine = max(0, room - (memory.resident() or 0))
    return mine if left is None else min(left, mine)
