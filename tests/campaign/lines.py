"""Command lines, valid and odd: each ends with a known exit code and one sentence, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from campaign import odd_files
from campaign.area import Area, Fault, Try
from campaign.child import Ended, command, copied
from campaign.judging import shortened, sound
from kdbench.cli import main
from kdbench.utils.wording import printable

ROOT = Path(__file__).resolve().parents[2]

WORDS = (
    *("", " ", ",", ",,x", "x", "-1", "0", "1e400", "nan", "inf", "\uff19", "\u00b2", "1_0", "9" * 400, "9" * 5000),
    *("a" * 300, "ä ö", "\u202ex", "\x1b[2J", "a\nb", "[", "]", "[/a]", "{}", "../../x", "~nobodyhere/x", "/dev/null"),
    *("=", "+", "%s %d", "\\", "?", "\udcff", "a\0b"),
)
METHODS = (
    *("+", "a++b", "kd+", "+kd", "student+kd", "kd+student+crd", "kd+kd", "kd+nope", "*+kd", "mlkd+kd", "dml", "zz*"),
    *("kd[tau=-1]", "kd[tau=0]", "kd[kd_weight=-1]", "kd[tau=nan]", "kd[tau=inf]", "kd[tau=1e400]", "kd[tau]"),
    *("kd[tau=1", "kd]", "kd[tau=1]x", "kd[[tau=1]]", "kd[=1]", "kd[tau=]", "kd[tau==1]", "kd[tau=1,,2]", "kd[;]"),
    *("kd[tau=\uff14]", "kd[tau=1_0]", "kd[ TAU=1]", "kd[beta=1]", "semckd[factor=99999999999]", "fitnet[tap=1.5]"),
    *("fitnet[relu=maybe]", "crd[nce_t=0]", "mlkd[w_ce=-1]", "semckd[beta=-4]", "kd[tau=true]", "all,nope", "kd,,+"),
    "kd[" + ",".join(f"tau={n + 1}" for n in range(1200)) + "]",
    "kd[" + ";".join(f"{key}={','.join(map(str, range(1, 40)))}" for key in ("tau", "kd_weight", "ce_weight")) + "]",
)
PAIRS = (
    *(":", "a:", ":a", "a:b:c", "resnet14", "resnet14:resnet9", "resnet9:resnet14", "resnet14;resnet8", "*:nope", "?"),
    *("timm/:resnet8", "timm/nope:resnet8", "resnet14:timm/../x", "timm/resnet18.nope:resnet8:", ",,,", "[*"),
)
SEEDS = (
    *("1000000000", "1,1e400", "0,-1", "-0", "1.5", "0x3", "1 2", f"{2**63}", f"{2**63},", f"{2**64},1", "3;4"),
    *("10001", "\u0663", "1_0", "9" * 5000),
)
SETTINGS = (
    *("recipe", "=", "=1", "recipe.lr", "recipe.lr=", "recipe.lr=-1", "recipe.lr=nan", "recipe.lr=inf", "recipe.lr=x"),
    *("recipe.lr=1e400", "recipe.lr='0.1'", "recipe.lr=[1]", "recipe.lr={a=1}", "recipe.lr=2026-01-01", "name=x"),
    *("recipe.lr=true", "recipe.batch_size=99999999999999999999", "recipe.batch_size=1", "recipe.batch_size=64.5"),
    *("recipe.mean=1", "recipe.mean=1,2", "recipe.std=0,0,0", "recipe.mean=nan,0,0", "recipe.milestones=9,1"),
    *("recipe.milestones=x", "recipe.flip=1", "recipe.flip=yes", "teacher.epochs=0", "teacher.epochs=x"),
    *("teacher.mean=1", "image_size=0", "image_size=100000", "num_classes=1", f"num_classes={10**9}", "dataset=1"),
    *("recipe.crop_padding=1000000", "dataset=", "convention=x", "convention=1", "recipe.gamma=2", "recipe.epochs=3"),
    *("recipe.lr=1\nname='x'", "recipe.lr=" + "9" * 5000, "recipe.lr=" + "[" * 3000, "recipe.momentum=1"),
)
NUMBERS = ("--epochs", "--limit-train", "--lanes")
OPTIONS_OF_RUN = (
    *("--methods", "--pairs", "--suite", "--seeds", "--set", "--precision", "--graphs", "--table", "--shard"),
    *("--plugin", "--data-dir", "--out", "--device", "--weights", *NUMBERS),
)
SHARDS = ("0/1", "2/1", "1/0", "1/\u00b2", "-1/2", "1/2/3", "1", "/", "a/b", "1/" + "9" * 400, "1.0/2")
SMALL = ("--suite", "digits", "--pairs", "resnet14:resnet8", "--methods", "kd", "--seeds", "1", "--epochs", "1")


class Line(NamedTuple):
    """A command line; ``code`` is how it must end where only one ending is right."""

    words: tuple[str, ...]
    code: int | None = None

    def __str__(self) -> str:
        return printable(" ".join(word or "''" for word in self.words), 300)


def lines(home: Path) -> list[Line]:
    """All command lines; ``home`` is the folder in which the files that they name are made."""
    files = odd_files.suites(home)
    plugins, checkpoints = odd_files.plugins(home), odd_files.checkpoints(home)
    (home / "file").write_text("")
    found = [*_run(home, *files, plugins), *_looking(plugins), *_bench(home), *_teacher(home, checkpoints)]
    found += [Line(words, 2) for words in (("fly",), ("run", "extra"), ("run", "--nope"), ("info",), ("check",))]
    found += [Line((verb, "--help"), 0) for verb in main.commands]
    return list(dict.fromkeys(found))


def _run(home: Path, bad: Sequence[Path], good: Sequence[Path], plugins: Sequence[Path]) -> Iterator[Line]:
    dry = ("run", "--dry-run", "--out", "{out}")

    def small(option: str, value: str, code: int | None = None) -> Line:
        words = list(SMALL)
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
        return Line((*dry, *words), code)

    for option in OPTIONS_OF_RUN:
        yield from (small(option, word) for word in WORDS)
    yield from (small("--methods", word, 2) for word in METHODS)
    yield from (small("--pairs", word, 2) for word in PAIRS)
    yield from (small("--seeds", word, 2) for word in SEEDS)
    yield from (small("--shard", word, 2) for word in SHARDS)
    yield from (small("--set", word, 2) for word in SETTINGS)
    for option in NUMBERS:
        yield from (small(option, word, 2) for word in ("-5", "0", "1.5", "1e3", "99999999999", "0x10", "+", "\u0661"))
    yield from (small("--precision", word, 2) for word in ("tf32", "fp16", "fp32,bf16", "exact?"))
    yield from (small("--device", word, 2) for word in ("gpu", "cuda:99", "cuda:-1", "meta", "mps", "cpu:x"))
    yield from (Line((*dry, "--suite", str(path)), 2) for path in bad)
    yield from (Line((*dry, "--suite", str(path)), 0) for path in good)
    yield from (small("--plugin", str(path), 1) for path in plugins)
    for words in (
        ("--set", "dataset=imagefolder:nowhere@8"),
        ("--set", "dataset=cifar101"),
        ("--set", "num_classes=5"),
        ("--set", "image_size=16"),
        ("--out", str(home / "file")),
        ("--out", str(home / "file" / "below")),
    ):
        yield Line(("run", "--out", "{out}", *SMALL, *words), 2)


def _few() -> list[str]:
    return [word for word in WORDS if word not in ("a\nb", "%s %d", "9" * 5000, "1e400", "inf", "{}", "=")]


def _looking(plugins: Sequence[Path]) -> Iterator[Line]:
    few = _few()
    for verb, options in {
        "report": ("--suite", "--methods", "--baseline", "--formats", "--out", "--pairs", "--top", "--select"),
        "list": ("--suite", "--plugin"),
        "status": ("--out",),
        "eval": ("--suite", "--plugin", "--device", "--out"),
        "doctor": ("--data-dir",),
    }.items():
        for option in options:
            out = () if option == "--out" or verb == "list" else ("--out", "{out}")
            yield from (Line((verb, *out, option, word)) for word in few)
    yield from (Line(("list", word), 2) for word in few)
    yield from (Line(("list", "pairs", "--suite", word), 2) for word in few)
    yield from (Line(("info", word), 2) for word in (*few, *METHODS[:10]))
    yield from (Line(("info", "kd", "--pair", word), 2) for word in (*few, *PAIRS))
    yield from (Line(("check", word), 2) for word in (*few, "kd[tau=1]", "nope.py", "all,kd"))
    yield from (Line(("check", str(path)), 2) for path in plugins if path.suffix == ".py")


def _bench(home: Path) -> Iterator[Line]:
    bench = ("bench", "--steps", "1", "--repeat", "1")
    for option in ("--pair", "--methods", "--precision", "--repeat", "--steps", "--graphs", "--device"):
        yield from (Line((*bench, option, word), 2) for word in _few())
    yield Line((*bench, "--out", str(home / "no" / "x.json")), 2)


def _teacher(home: Path, checkpoints: Sequence[Path]) -> Iterator[Line]:
    few, digits = _few(), ("--suite", "digits", "--out", "{out}")
    for verb in ("train", "verify", "table"):
        yield from (Line(("teacher", verb, *digits, "--", word), 2) for word in few)
        yield from (Line(("teacher", verb, "resnet14", "--suite", word, "--out", "{out}"), 2) for word in few)
    for path in checkpoints:
        yield Line(("teacher", "import", str(path), "--name", "resnet8", *digits), 2)
    for option in ("--name", "--part", "--normalisation", "--prefix"):
        words = ("teacher", "import", str(home / "text.pth"), "--name", "resnet8", *digits, option)
        yield from (Line((*words, word), 2) for word in few)
    yield Line(("teacher", "fly"), 2)


# -- running them -------------------------------------------------------------------------

#: Each so many-th line is tried in a process of its own, started as a user starts it, too.
OWN = 50


def prepare(home: Path) -> None:
    """The files that command lines name, and an output folder with a finished grid."""
    (home / "files").mkdir()
    (home / "full").mkdir()
    words = ("run", "--out", home / "full" / "out", *SMALL, "--limit-train", "64", "--set", "teacher.epochs=1")
    sound(command(words, home / "full"), {0})


def names(home: Path, most: int) -> list[str]:
    """Numbers of lines, from all over the list; those that end in ``o`` in a process of their own."""
    many = len(_lines(home))
    chosen = [at * 617 % many for at in range(min(most, many))]  # 617 is a prime: every line once
    return [f"{at}{'o' if number % OWN == OWN - 1 else ''}" for number, at in enumerate(chosen)]


_made: dict[Path, list[Line]] = {}


def _lines(home: Path) -> list[Line]:
    """All lines on an empty folder, and half of them on one where a grid is finished."""
    if home not in _made:
        shown = [*lines(home / "files"), *good(home)]
        told = [Line(("on a finished folder", *line.words)) for line in shown[::2] if "{out}" in line.words]
        _made[home] = shown + told
    return _made[home]


def good(home: Path) -> list[Line]:
    """Lines that are right, one of every verb."""
    out = ("--out", "{out}")
    return [
        Line(("run", *out, *SMALL, "--limit-train", "64", "--set", "teacher.epochs=1"), 0),
        Line(("run", *out, *SMALL, "--limit-train", "64", "--set", "teacher.epochs=1", "--shard", "1/2"), 0),
        Line(("run", *out, *SMALL, "--dry-run"), 0),
        Line(("teacher", "train", "resnet8", "--suite", "digits", "--epochs", "1", *out), 0),
        Line(("on a finished folder", "report", *out, "--formats", "csv,md,tex,html")),
        Line(("on a finished folder", "status", *out)),
        Line(("on a finished folder", "eval", *out)),
        Line(("doctor", *out), 0),
        Line(("info", "semckd", "--pair", "resnet14:resnet8"), 0),
        Line(("check", "kd"), 0),
        *(Line(("list", what), 0) for what in ("methods", "pairs", "suites", "models")),
        Line(("--version",), 0),
    ]


def hold(one: Try) -> int:
    """Run a command line."""
    line = _lines(one.home)[int(one.name.rstrip("o"))]
    here = one.folder / "here"
    ready = line.words[0] == "on a finished folder"
    if ready:
        copied(one.home / "full", here)
        line = Line(line.words[1:])
    words = [str(here / "out") if word == "{out}" else word for word in line.words]
    if any("\0" in word for word in words) or not one.name.endswith("o"):
        ended = command(words, here)
    else:
        ended = _by_itself(words, here)
    try:
        _judge(line, ended, here, ready=ready)
    except Fault as fault:
        raise Fault(f"kdbench {line}: {fault}") from None
    return 1


def _by_itself(words: Sequence[str], here: Path) -> Ended:
    here.mkdir(exist_ok=True)
    environment = {"HOME": str(here), "XDG_CACHE_HOME": str(here / "cache"), "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", *map(os.fsencode, words)],
        env=os.environ | environment | {"PYTHONIOENCODING": "utf-8"},
        cwd=here,
        capture_output=True,
        timeout=300,
        check=False,
        process_group=0,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _judge(line: Line, ended: Ended, here: Path, *, ready: bool) -> None:
    """Raises: Fault: see the text at the top."""
    # What is behind it are the plug-in's own words.
    sound(ended, {0, 1, 2} if line.code is None else {line.code}, but="plug-in .* cannot be imported: .*")
    if odd := {sign for sign in ended.said if not (sign.isprintable() or sign in "\n\t")}:
        raise Fault(f"control signs in what it says: {odd}")
    if ended.code == 2:
        said = ended.err.decode("utf-8", "replace")
        errors = [text for text in said.splitlines() if text.startswith("Error: ")]
        if len(errors) != 1 or said.splitlines()[-1] != errors[0]:
            raise Fault(f"no single line of error at the end: {shortened(said)}")
        if len(errors[0]) < 20:
            raise Fault(f"a short sentence: {errors[0]}")
        if not ready and (here / "out").exists():
            raise Fault("an output folder is left behind")
    allowed = {"out", "cache", ".config", ".cache"}
    if strays := sorted(path.name for path in here.iterdir() if path.name not in allowed):
        raise Fault(f"files outside the output folder: {strays[:3]}")


AREA = Area("lines", 1500, prepare, names, hold)
