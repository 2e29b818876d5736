"""What goes wrong becomes one sentence and an exit code: 1 cells are missing, 2 usage, 130 interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click


class Failure(click.ClickException):
    """One sentence for the user, without a traceback."""

    exit_code = 2

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(str(sentence).split()))


class Ended(Failure):
    """A run that ended early: not the user's words were wrong, cells are missing."""

    exit_code = 1


def sentences(verb: Callable[..., Any]) -> Callable[..., Any]:
    """What the user got wrong is one sentence and exit code 2; Ctrl-C is 130."""

    @wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except ValueError as error:
            raise Failure(str(error)) from error
        except BrokenPipeError:  # `kdbench list | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            raise Failure(said) from error

    return guarded


class Interruptible(click.Group):
    """click turns Ctrl-C into exit code 1; the shell's convention is 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, with the exit codes of this house."""
        standalone = kwargs.pop("standalone_mode", True)
        if not standalone:
            return super().main(*args, **kwargs, standalone_mode=False)  # type: ignore[call-overload]
        try:
            code = super().main(*args, **kwargs, standalone_mode=False)  # type: ignore[call-overload]
        except click.exceptions.Abort:
            click.echo(
                "interrupted; what was trained up to the last full epoch is kept, repeat the command to go on", err=True
            )
            sys.exit(130)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)
