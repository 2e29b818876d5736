"""What goes wrong becomes one sentence and an exit code.

0 all is well, 1 cells are missing, words were lost or the machine lacks something (a disk is full), 2 usage, 130
Ctrl-C, 143 and 129 another signal, 141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from kdbench.terminal.leaving import unhindered
from kdbench.terminal.signals import Asked, orderly
from kdbench.terminal.streams import ReaderGone, Stream, standard, unbreakable
from kdbench.utils.files import trouble
from kdbench.utils.wording import printable

#: Letters of a sentence: some name every method that there is.
LENGTH = 2000
#: Shows where an error of kdbench's own comes from.
TRACEBACK = "KDBENCH_TRACEBACK"
#: What this machine lacks, whatever the user has typed.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
_LONG = {"run", "train", "table", "probe"}  # verbs that keep what they have done and go on


class Failure(click.ClickException):
    """One sentence for the user, without a traceback."""

    exit_code = 2

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(str(sentence), LENGTH))

    def show(self, file: Any = None) -> None:
        """On standard error, whatever its encoding."""
        print(f"Error: {self.message}", file=file or standard(stderr=True))


class Ended(Failure):
    """A run that ended early: not the user's words were wrong, cells are missing."""

    exit_code = 1


class Interrupted(Failure):
    """Somebody asked for the end: Ctrl-C, a signal, or a reader that has gone."""

    def __init__(self, why: KeyboardInterrupt, verb: str = "") -> None:
        self.code, said = 130, "interrupted"
        if isinstance(why, Asked):
            self.code, said = why.exit_code, f"ended by {why}"
        elif isinstance(why, ReaderGone):
            self.code, said = 141, "ended, because nobody reads the output any more"
        done = "measured" if verb == "probe" else "trained up to the last checkpoint"
        kept = f"; what was {done} is kept, repeat the command to go on"
        # A list that nobody reads to its end is no news, and every other program says nothing of it.
        self.silent = isinstance(why, ReaderGone) and verb not in _LONG
        super().__init__(said + (kept if verb in _LONG else ""))

    def show(self, file: Any = None) -> None:
        """No "Error:" before it: nobody has made one."""
        if not self.silent:
            print(f"\n{self.message}", file=file or standard(stderr=True))


def sentences(verb: Callable[..., Any]) -> Callable[..., Any]:
    """What the user got wrong is one sentence and exit code 2, what the machine lacks one and 1; Ctrl-C is 130."""

    @wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except KeyboardInterrupt as stop:
            context = click.get_current_context(silent=True)
            raise Interrupted(stop, context.info_name or "" if context else "") from stop
        except click.exceptions.Exit:
            raise
        except ValueError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            raise (Ended if error.errno in _MACHINE else Failure)(trouble(error)) from error
        except click.ClickException:
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            raise Ended(_own(error)) from error

    return guarded


def _own(error: Exception) -> str:
    """An error that nobody foresaw: what, and where in kdbench."""
    try:
        said = f"{type(error).__name__}: {error}"
    except Exception:  # a stranger's error, whose text raises
        said = type(error).__name__
    if isinstance(error, MemoryError):
        return "the memory of this machine does not hold what was asked for" + (f" ({error})" if str(error) else "")
    home = Path(__file__).parents[1]
    frames = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).is_relative_to(home)]
    where = f" in kdbench/{Path(frames[-1].filename).relative_to(home)}, line {frames[-1].lineno}" if frames else ""
    return f"kdbench has met an error of its own{where}: {printable(said)}; {TRACEBACK}=1 shows the whole of it"


class Interruptible(click.Group):
    """The command line as a whole: exit codes, signals, and output that never raises."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, with the exit codes of this house."""
        standalone = kwargs.pop("standalone_mode", True)
        if not standalone:
            return super().main(*args, **kwargs, standalone_mode=False)  # type: ignore[call-overload]
        os.environ["MPLBACKEND"] = "agg"  # figures are files here; a backend that is not installed ends matplotlib
        with unbreakable() as (out, error):
            code = self._ended(*args, **kwargs)
            code = _told(out, error, code)
        sys.exit(unhindered(code))

    def _ended(self, *args: Any, **kwargs: Any) -> int:
        """The exit code, everything said."""
        try:
            with orderly():
                code = super().main(*args, **kwargs, standalone_mode=False)  # type: ignore[call-overload]
        except click.exceptions.Abort as abort:
            cause = abort.__cause__
            return _shown(Interrupted(cause if isinstance(cause, KeyboardInterrupt) else KeyboardInterrupt()))
        except KeyboardInterrupt as stop:  # while click was ending
            return _shown(Interrupted(stop))
        except click.ClickException as error:
            return _shown(error)
        return code if isinstance(code, int) else 0


def _shown(error: click.ClickException) -> int:
    if isinstance(error, click.UsageError):  # click's own, which repeats the user's words as they are
        error = click.UsageError(printable(error.format_message(), LENGTH), error.ctx)
    error.show()
    return error.code if isinstance(error, Interrupted) else error.exit_code


def _told(out: Stream, error: Stream, code: int) -> int:
    """The exit code when words could not be written: not 0, and a sentence if anybody can hear it."""
    try:
        out.flush()
    except KeyboardInterrupt as stop:
        code = code or _shown(Interrupted(stop))
    if out.lost and code in (0, 1):
        print(f"Error: {out.lost}", file=error)
        code = code or 1
    return code
