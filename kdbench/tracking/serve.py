"""The process of one tracker: ``python -m kdbench.tracking.serve NAME FOLDER``.

Points come as lines of JSON on standard input. The first thing that goes wrong is one line on standard output, and the
end. What the tracker and its libraries print goes nowhere.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from kdbench.tracking.known import make
from kdbench.tracking.tracker import Point
from kdbench.utils.wording import printable


def main(name: str, folder: str) -> None:
    """Serve until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the run's matter, which closes the input when it ends
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        tracker = make(name, Path(folder))
        for line in sys.stdin.buffer:
            if line.endswith(b"\n"):  # a run that was killed may have written half of one
                tracker.point(Point(**json.loads(line)))
        tracker.close()
    except BaseException as error:  # whatever it is, the run goes on
        os.write(answers, f"{_said(error)}\n".encode())


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        text = ""
    plain = isinstance(error, OSError | ImportError) and text
    return printable(text if plain else f"{type(error).__name__}: {text}".removesuffix(": "), 500)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout = sys.stderr  # what is printed at the end of the interpreter goes nowhere, too
