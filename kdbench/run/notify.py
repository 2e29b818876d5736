"""``--notify COMMAND``: the shell runs it when a command ends, however it ends; what becomes of it changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from kdbench.run.outcome import Outcome, one_line
from kdbench.utils.wording import count

#: Seconds that the command may take.
LIMIT = 60.0


@dataclass
class Ending:
    """What is known of how a command ended; filled in by the command.

    >>> Ending("run").sentence()
    'kdbench run failed'
    """

    verb: str
    state: str = "failed"  # done; missing: it came to its end, and not all is there; failed; interrupted
    numbers: dict[str, int] = field(default_factory=dict)  # what there is of each kind
    why: str = ""
    began: float = field(default_factory=monotonic)
    states: Callable[[], Mapping[Any, str]] | None = None  # of the cells, for an end before the end

    def of(self, outcome: Outcome, asked: int) -> None:
        """That of a run that has come to its end."""
        self.state = "done" if outcome.exit_code == 0 else "missing"
        self.numbers = {
            "asked": asked,
            "done": len(outcome.done),
            "failed": len(outcome.failed),
            "unsupported": len(outcome.unsupported),
            "elsewhere": len(outcome.elsewhere),
        }

    def chosen(self, asked: int, found: int, missing: int) -> None:
        """That of a tuning that has come to its end, in choices."""
        self.state = "missing" if missing else "done"
        self.numbers = {"asked": asked, "done": found, "failed": missing}

    def early(self, state: str, why: BaseException) -> None:
        """That of a command that has not come to its end: the cells are asked how they stand."""
        self.state, self.why = state, one_line(why)
        with suppress(Exception):  # it is about another error
            found = Counter((self.states or dict)().values())
            self.numbers = {"asked": found.total(), **{what: found[what] for what in ("done", "failed", "unsupported")}}

    def sentence(self) -> str:
        """For people."""
        ended = {
            "done": "has ended, and all is there",
            "missing": "has ended, and not all is there",
            "interrupted": "was interrupted",
        }
        numbers = ", ".join(f"{number} {what}" for what, number in self.numbers.items() if number and what != "asked")
        said = f"kdbench {self.verb} {ended.get(self.state, 'failed')}"
        return said + (f": {numbers}" if numbers else "") + (f": {self.why}" if self.why else "")

    def variables(self, out: Path) -> dict[str, str]:
        """What the command finds in its environment.

        >>> Ending("run", "done", {"done": 3}).variables(Path("/results"))["KDBENCH_DONE"]
        '3'
        """
        plain = {
            "STATE": self.state,
            "VERB": self.verb,
            "OUT": str(out.absolute()),
            "SENTENCE": self.sentence(),
            "REASON": self.why,
            "SECONDS": str(round(monotonic() - self.began)),
        }
        numbers = {what: self.numbers.get(what, 0) for what in ("asked", "done", "failed", "unsupported", "elsewhere")}
        plain |= {what.upper(): str(number) for what, number in numbers.items()}
        return {f"KDBENCH_{name}": value.replace("\0", " ") for name, value in plain.items()}


@contextmanager
def notifying(verb: str, command: str | None, out: Path, say: Callable[[str], object]) -> Iterator[Ending]:
    """The command is run when the block ends, by an error or an interrupt, too.

    >>> with notifying("run", 'echo "$KDBENCH_STATE $KDBENCH_DONE" > said.txt', Path("results"), print) as ending:
    ...     ending.state, ending.numbers = "done", {"done": 3}
    >>> Path("said.txt").read_text()
    'done 3\\n'
    """
    ending = Ending(verb)
    try:
        yield ending
    except KeyboardInterrupt as stop:
        ending.early("interrupted", stop)
        raise
    except BaseException as error:
        ending.early("failed", error)
        raise
    finally:
        if command is not None:
            _run(command, ending.variables(out), say)


def _run(command: str, variables: dict[str, str], say: Callable[[str], object]) -> None:
    """One sentence where it fails; a second Ctrl-C ends it."""
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        _say(say, f"--notify could not run its command: {one_line(error)}")
        return
    try:
        code = process.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        _say(say, f"--notify's command was ended after {count(round(LIMIT), 'second')}")
    else:
        if code:
            _say(say, f"--notify's command has ended with code {code}; nothing else has changed")
    finally:
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _say(say: Callable[[str], object], sentence: str) -> None:
    with suppress(Exception):
        say(sentence)
