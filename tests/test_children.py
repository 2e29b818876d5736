"""Processes beside ours: what a stranger forks ends by a signal of its own, and with the group of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import os, signal, sys, time
from kdbench.terminal.signals import Asked, orderly
from kdbench.engine.guard import Signals
with orderly(), Signals():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except Asked as asked:
        print(asked.exit_code)
"""


def test_a_forked_child_ends_by_the_signal_and_its_parent_in_order() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.split(), done.stderr) == ([str(-signal.SIGTERM), "143"], "")


def test_a_group_that_is_gone_is_no_error() -> None:
    from kdbench.utils.children import end_group

    child = subprocess.Popen([sys.executable, "-c", ""], process_group=0)
    child.wait()
    end_group(child.pid)
    assert os.getpid()  # we are in another group
