"""A command of kdbench in a forked process: as cheap as it gets, and free to die."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

#: Seconds after which a command that has not ended never will.
PATIENCE = 180.0


class Ended(NamedTuple):
    """How a command ended: its exit code (-n: killed by signal n), and what it said."""

    code: int
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """All of it, as UTF-8."""
        return (self.out + self.err).decode("utf-8", "replace")


def warm() -> None:
    """Import all that commands need, so that their processes need not. Runs no autograd and starts no thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MPLBACKEND"] = "agg"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # faults are the same everywhere, and a device is not forked
    import matplotlib.pyplot
    import pandas
    import scipy.stats
    import sklearn.datasets
    import timm
    import torch

    torch.set_num_threads(1)
    import kdbench.bench.measure
    import kdbench.cli
    import kdbench.report
    import kdbench.run.runner
    import kdbench.terminal.bench
    import kdbench.terminal.doctor
    import kdbench.terminal.screens
    import kdbench.terminal.tune
    import kdbench.terminal.verbs
    from kdbench import registry

    del matplotlib, pandas, scipy, sklearn, timm, kdbench
    registry.names()
    gc.collect()
    gc.freeze()


def command(
    words: Sequence[str | Path],
    here: Path,
    *,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    out: int | None = None,
    killed: float | None = None,
) -> Ended:
    """Run ``kdbench WORDS`` in a child, with ``here`` as the current and the home folder.

    ``before`` is called in the child, last of all. ``encoding`` is that of standard output and error; ``out`` is a
    descriptor that takes the place of standard output, and is not read. ``killed``: by SIGKILL, after so many seconds.
    """
    here.mkdir(parents=True, exist_ok=True)
    text = [os.fsdecode(word) for word in words]

    def act() -> int:
        from kdbench.cli import main

        try:
            main(text)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def prepared() -> int:
        from kdbench.engine import fit

        # After every epoch: these runs end long before the first would be due by time.
        vars(fit)["EVERY_ON_CPU"] = 0.0
        if before is not None:
            before()
        return act()

    return forked(prepared, here, environment=environment, encoding=encoding, out=out, killed=killed)


def forked(
    act: Callable[[], int],
    here: Path,
    *,
    environment: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    out: int | None = None,
    killed: float | None = None,
) -> Ended:
    """Call ``act`` in a child, which ends with what it returns; see ``command``."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        pid = os.fork()
        if pid == 0:
            _be(act, here, dict(environment or {}), encoding, out if out is not None else said.fileno(), told.fileno())
        status = _wait(pid, PATIENCE if killed is None else killed)
        said.seek(0)
        told.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), said.read(), told.read())


def _be(act: Callable[[], int], here: Path, environment: dict[str, str], encoding: str, out: int, err: int) -> NoReturn:
    """The child's whole life."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(here)
        for gone in ("KDBENCH_OUT", "KDBENCH_DATA", "KDBENCH_CACHE", "KDBENCH_WEIGHTS", "KDBENCH_TRACEBACK"):
            os.environ.pop(gone, None)
        os.environ.update({"HOME": str(here), "XDG_CACHE_HOME": str(here / "cache"), "COLUMNS": "100", **environment})
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
        code = act()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = code or 120  # as Python itself
        os._exit(code)


def _wait(pid: int, patience: float) -> int:
    """The child's wait status; it is killed, with all that it has started, when patience ends or we are stopped."""
    end, pause = time.monotonic() + patience, 0.002
    try:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            left = end - time.monotonic()
            if left <= 0:
                _kill(pid)
                return os.waitpid(pid, 0)[1]
            time.sleep(min(pause, left))
            pause = min(pause * 1.2, 0.02)
    except BaseException:
        _kill(pid)
        raise


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
            return
        except ProcessLookupError:  # its group may not be made yet
            continue


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder, links and times as they are."""
    shutil.copytree(source, target, symlinks=True)
    return target
