"""A thread or a process that a plug-in has left running does not hold up the end of a command."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = {
    "thread": "threading.Thread(target=time.sleep, args=(60,), name='left').start()",
    "process": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()",
    "daemon process": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True).start()",
    "daemon": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "idle pool": "ThreadPoolExecutor(1).submit(time.sleep, 0).result()",
    "busy pool": "ThreadPoolExecutor(1, thread_name_prefix='left').submit(time.sleep, 60)",
    "short": "threading.Thread(target=time.sleep, args=(0.3,)).start()",
}


@pytest.mark.parametrize("kind", LEAVES)
def test_nobody_waits_for_what_is_left(kind: str, tmp_path: Path) -> None:
    code = (
        "import atexit, multiprocessing, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from kdbench.cli import main\n"
        "from kdbench.terminal import leaving\n"
        "leaving.GRACE = 1.0\n"
        f"atexit.register(lambda: open({str(tmp_path / 'ended')!r}, 'w').close())\n"
        f"{LEAVES[kind]}\n"
        "main(['list', 'nothing'], prog_name='kdbench')\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=50)
    assert time.monotonic() - began < 40
    assert done.returncode == 2
    assert ("without a thread that a plug-in has left running ('left" in done.stderr) == (
        kind in ("thread", "busy pool")
    )
    assert ("left running" in done.stderr) == (kind in ("thread", "busy pool"))
    assert "Traceback" not in done.stderr
    assert (tmp_path / "ended").exists()
