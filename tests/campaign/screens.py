"""Terminals of many encodings and widths, and ones that cannot be written to: words are lost at most, never the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from campaign import facts, odd_files
from campaign.area import Area, Fault, Try
from campaign.child import Ended, command, copied
from campaign.judging import FOREIGN, shortened, sound
from kdbench.utils.wording import printable

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "cp437", "utf-16", "shift_jis", "gbk")
WIDTHS = ("100", "0", "1", "20", "57", "1000", "abc", "-3", "")
NAME, TITLE = "mein \u00c4 \u732b", "\u00fc \u2192 \u732b \u00b1 [b] \u00e9"
#: A process that is started as a user starts it: what the environment says of the language.
LANGUAGES = {
    "C": {"LC_ALL": "C"},
    "C, no coercion": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX ascii": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "strict ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "no terminal": {"TERM": "dumb", "NO_COLOR": "1"},
    "forced colours": {"FORCE_COLOR": "1", "TERM": "xterm-256color"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "warnings": {"PYTHONWARNINGS": "error"},
}
#: Screens that cannot be written to: how the shell makes them, and the exit code of a verb that ends well.
BROKEN = {
    "a full device": (">/dev/full", 1),
    "a closed output": (">&-", 0),
    "both closed": (">&- 2>&-", 0),
    "a full device for errors": ("2>/dev/full", 0),
    "a reader that has gone": ("> >(exec true)", 141),
}
#: Bytes after which a reader goes.
READ = (0, 1, 100, 1000)
_OUT, _SUITE = "out \u00e4", "\u732b.toml"
_SMALL = ("--suite", _SUITE, "--epochs", "1", "--limit-train", "64", "--out", _OUT)
_TEACHER = ("resnet14", "--suite", _SUITE, "--out", _OUT)
VERBS: dict[str, tuple[str, ...]] = {
    "run": ("run", *_SMALL),
    "dry": ("run", *_SMALL, "--methods", "student,kd,semckd", "--dry-run"),
    "force": ("run", *_SMALL, "--methods", "fitnet", "--force"),
    "report": ("report", "--out", _OUT, "--formats", "csv,md"),
    "status": ("status", "--out", _OUT),
    "eval": ("eval", "--out", _OUT),
    "eval-suite": ("eval", "--out", _OUT, "--suite", NAME),
    "doctor": ("doctor", "--out", _OUT),
    "verify": ("teacher", "verify", *_TEACHER),
    "table": ("teacher", "table", *_TEACHER),
    **{f"list-{what}": ("list", what) for what in ("methods", "pairs", "suites", "models")},
    "info": ("info", "semckd"),
    "info-two": ("info", "kd+crd"),
    "help": ("--help",),
    "run-help": ("run", "--help"),
    "no-folder": ("status", "--out", "\u732b \u2192"),
    "no-method": ("info", "\u732b \u2192"),
    "no-suite": ("run", "--suite", "\u00e9\u2192"),
    "no-suite-file": ("run", "--suite", "\u732b\u732b.toml"),
    "no-records": ("report", "--out", "\u00fc"),
}
_QUICK = ("list-suites", "info", "help", "status")


def prepare(home: Path) -> None:
    """The smallest grid of a suite with signs of many scripts."""
    here = home / "here"
    here.mkdir()
    (here / _SUITE).write_text(odd_files.suite({"name": NAME, "title": TITLE}), "utf-8")
    for words in (("teacher", "train", *_TEACHER, "--epochs", "1"), VERBS["run"]):
        sound(command(words, here), {0})


def names(home: Path, most: int) -> list[str]:
    """Verb and screen."""
    made = [f"{verb}/encoding/{encoding}/{WIDTHS[0]}" for verb in VERBS for encoding in ENCODINGS]
    made += [
        f"{verb}/encoding/{('ascii', 'utf-8')[at % 2]}/{width}" for verb in VERBS for at, width in enumerate(WIDTHS[1:])
    ]
    made += [f"{verb}/gone/{size}/" for verb in VERBS for size in READ]
    made += [f"{verb}/broken/{how}/" for verb in _QUICK for how in BROKEN]
    made += [f"{verb}/language/{language}/" for verb in ("report", "status") for language in LANGUAGES]
    step = next(
        step for step in range(len(made) * 5 // 8, len(made)) if all(len(made) % k or step % k for k in range(2, step))
    )
    return [made[at * step % len(made)] for at in range(min(most, len(made)))]


def hold(one: Try) -> int:
    """One verb on one screen."""
    verb, kind, what, width = one.name.split("/")
    here = copied(one.home / "here", one.folder / "here")
    shown = f"{printable(' '.join(VERBS[verb]), 120)}"
    try:
        if kind == "encoding":
            _encoded(verb, what, width, here, one.home)
        elif kind == "gone":
            _gone(verb, int(what), here, one.home)
        elif kind == "broken":
            _broken(verb, what, here)
        else:
            _started(verb, LANGUAGES[what], here)
    except Fault as fault:
        raise Fault(f"kdbench {shown} on {kind} {what} {width}: {fault}") from None
    return 1


def _usual(verb: str, here: Path) -> int:
    """The exit code in UTF-8: everything is there, or nothing that was asked for."""
    return 2 if verb.startswith("no-") and verb != "no-folder" else 0


def _encoded(verb: str, encoding: str, width: str, here: Path, home: Path) -> None:
    ended = command(VERBS[verb], here, encoding=encoding, environment={"COLUMNS": width})
    try:
        said = ended.out.decode(encoding) + ended.err.decode(encoding)
    except UnicodeError as error:
        raise Fault(f"what was written is not {encoding}: {error}") from None
    sound(Ended(ended.code, said.encode("utf-8", "replace"), b""), {_usual(verb, here)})
    if not said.strip():
        raise Fault("it says nothing")
    _same_work(verb, here, home)


def _same_work(verb: str, here: Path, home: Path) -> None:
    """What was made does not depend on the screen."""
    if verb == "run":
        facts.same(facts.of(here / _OUT), facts.of(home / "here" / _OUT))


def _gone(verb: str, size: int, here: Path, home: Path) -> None:
    """Standard output is a pipe whose reader goes after so many bytes."""
    reads, writes = os.pipe()
    reader = os.fork()
    if reader == 0:
        try:
            os.close(writes)
            left = size
            while left > 0 and (read := os.read(reads, left)):
                left -= len(read)
        finally:
            os._exit(0)
    os.close(reads)
    try:
        if size == 0:
            os.waitpid(reader, 0)
        ended = command(VERBS[verb], here, out=writes)
    finally:
        os.close(writes)
        if size:
            os.waitpid(reader, 0)
    wanted = {_usual(verb, here), 141}  # 0: all was said before it went
    if match := FOREIGN.search(ended.said):
        raise Fault(f"it says {match.group()!r}: {shortened(ended.said)}")
    if ended.code not in wanted:
        raise Fault(f"exit code {ended.code}, not one of {sorted(wanted)}: {shortened(ended.said)}")
    if verb in ("run", "force"):
        sound(command(VERBS[verb], here), {0})
    _same_work(verb, here, home)


def _start(words: list[str], here: Path, environment: dict[str, str]) -> Ended:
    own = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(here)}
    done = subprocess.run(
        words,
        env=os.environ | own | environment,
        cwd=here,
        capture_output=True,
        check=False,
        timeout=300,
        process_group=0,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _broken(verb: str, how: str, here: Path) -> None:
    ending, wanted = BROKEN[how]
    words = '"$PYTHON" -m kdbench "$@" ' + ending
    ended = _start([shutil.which("bash") or "/bin/bash", "-c", words, "bash", *VERBS[verb]], here, {})
    said = ended.err.decode("utf-8", "replace")
    if ended.code != wanted:
        raise Fault(f"exit code {ended.code}, not {wanted}: {shortened(said)}")
    if FOREIGN.search(said) or "Exception" in said:
        raise Fault(f"it says {shortened(said)}")
    if wanted == 1 and "cannot write to standard output: No space left on device" not in said:
        raise Fault(f"it does not blame the screen: {shortened(said)}")


def _started(verb: str, environment: dict[str, str], here: Path) -> None:
    ended = _start([sys.executable, "-m", "kdbench", *VERBS[verb]], here, environment)
    sound(ended, {0})
    if not ended.out.strip():
        raise Fault("it says nothing")


AREA = Area("screens", 450, prepare, names, hold)
