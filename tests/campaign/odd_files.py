"""Files that a user may give by mistake: suites that are none, plug-ins that break, checkpoints of other things."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOOD: dict[str, Any] = {
    "name": "own",
    "title": "Own",
    "dataset": "digits",
    "image_size": 8,
    "num_classes": 10,
    "convention": "semckd",
    "pairs": ["resnet14:resnet8"],
    "default_methods": ["student", "kd"],
    "default_seeds": [0],
    "recipe": {
        "epochs": 2,
        "batch_size": 32,
        "lr": 0.05,
        "light_lr": 0.01,
        "milestones": [1],
        "mean": [0.3, 0.3, 0.3],
        "std": [0.3, 0.3, 0.3],
    },
}
#: Values that no key of a suite takes, or not every key.
ODD_VALUES: tuple[Any, ...] = (
    "",
    " ",
    "x" * 300,
    "../../x",
    "a\nb",
    "\x1b[2J",
    "0.1",
    -1,
    0,
    10**30,
    float("nan"),
    float("inf"),
    True,
    [],
    [[]],
    [["a", "b", "c"]],
    ["a:b:c"],
    [1, "x"],
    {},
    {"a": {"b": 1}},
    datetime.date(2026, 1, 1),
)
#: Names of suites that are odd and good.
NAMES = ("mein Ä suite", "pets 32", "a_b", "猫", "x" * 100, "a+b", "100%", "[b]")


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        inside = "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value)
        return f'"{inside}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def suite(changes: dict[str, Any] | None = None) -> str:
    """The text of the good suite with changes; ``recipe.lr`` changes the recipe."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in GOOD.items()}
    for key, value in (changes or {}).items():
        table, _, name = key.rpartition(".")
        home = values.setdefault(table, {}) if table else values
        home[name] = value
    tables = ("recipe", "teacher")
    lines = [f"{key} = {toml(value)}" for key, value in values.items() if key not in tables]
    for table in tables:
        inside = values.get(table)
        if isinstance(inside, dict):
            lines += [f"[{table}]", *(f"{key} = {toml(value)}" for key, value in inside.items())]
        elif inside is not None:
            lines.insert(0, f"{table} = {toml(inside)}")
    return "\n".join(lines) + "\n"


def suites(folder: Path) -> tuple[list[Path], list[Path]]:
    """Suite files that must be refused, and odd ones that are good."""
    bad: dict[str, bytes] = {}
    keys = [*GOOD, *(f"recipe.{key}" for key in GOOD["recipe"]), "recipe.flip", "recipe.nesterov", "recipe.gamma"]
    keys += ["recipe.momentum", "recipe.weight_decay", "recipe.crop_padding", "teacher", "teacher.epochs", "strange"]
    for number, key in enumerate(keys):
        for at, value in enumerate(ODD_VALUES):
            if not _may_be(key, value):
                bad[f"{number:02d}-{at:02d}"] = suite({key: value}).encode()
    text = suite()
    good = {f"name{at}": suite({"name": name}).encode() for at, name in enumerate(NAMES)}
    good |= {
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "comment": b"# \xc3\xa4\n" * 1000 + text.encode(),
    }
    bad |= {
        "utf16": text.encode("utf-16"),
        "latin1": text.replace("Own", "\xe4").encode("latin-1"),
        "large": b"# " + b"x" * 10_000_000 + b"\n" + text.encode(),
        "deep": b"name = " + b"[" * 5000 + b"]" * 5000,
        "digits": b"name = " + b"9" * 5000,
        "binary": bytes(range(256)),
        "empty": b"",
        "twice": text.encode() + b"[recipe]\n",
        "cr": text.replace("\n", "\r").encode(),
        "student": suite({"pairs": ["resnet14:resnet9"]}).encode(),
        "teacher": suite({"pairs": ["resnet14:resnet8", "resmet20:resnet8"]}).encode(),
        "timm": suite({"pairs": ["resnet14:timm/no_such_net"]}).encode(),
        "method": suite({"default_methods": ["student", "kdd"]}).encode(),
        "weights": suite({"default_methods": ["kd[tau=-1]"]}).encode(),
        "convention": suite({"convention": "no.toml"}).encode(),
        "typed": suite({"convention": "typed-convention.toml"}).encode(),
    }
    convention = 'name = "c"\ntitle = "c"\nce_weight = 1.0\nkd_weight = 1.0\ncombined_kd_weight = 1.0\n'
    (folder / "typed-convention.toml").write_text(convention + '[methods.kd]\ntau = "4"\n')
    made: tuple[list[Path], list[Path]] = ([], [])
    for paths, contents, prefix in zip(made, (bad, good), ("bad", "good"), strict=True):
        for name, content in contents.items():
            path = folder / f"{prefix}-{name}.toml"
            path.write_bytes(content)
            paths.append(path)
    (folder / "folder.toml").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.toml")
        made[0].append(folder / "pipe.toml")
    made[0].extend([folder / "folder.toml", folder / f"{'x' * 300}.toml", folder / "none.toml"])
    return made


def _may_be(key: str, value: Any) -> bool:
    """Whether this value is right, or told only when a run looks at the data."""
    short = key.rpartition(".")[2]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if short in ("title", "dataset"):
        return isinstance(value, str) and (short == "title" or bool(value.strip()))
    if short == "name":
        return bool(value == "0.1")
    if short in ("flip", "nesterov"):
        return value is True
    if short == "milestones":
        return bool(value == [])
    if short in ("lr", "light_lr"):
        return number and value == 10**30
    if short == "weight_decay":
        return bool(number and value in (0, 10**30))
    if short in ("momentum", "crop_padding"):
        return bool(number and value == 0)
    return key == "teacher" and value == {}


def plugins(folder: Path) -> list[Path]:
    """Plug-ins that cannot be loaded."""
    contents = {
        "syntax": "def (",
        "raises": "raise RuntimeError('\\x1b[2J [bold] \\ud800')",
        "exits": "import sys; sys.exit(3)",
        "nothing": "x = 1",
        "odd name": "x = 1",
        "import": "import no_such_module",
        "deep": "def f(): f()\nf()",
        "nul": "x = '\\0'\n\0",
        "bytes": "",
    }
    made = []
    for name, text in contents.items():
        path = folder / f"{name}.py"
        path.write_bytes(b"\xff\xfe" if name == "bytes" else text.encode())
        made.append(path)
    (folder / "plain.txt").write_text("x")
    return [*made, folder / "plain.txt", folder / "none.py", folder, folder / f"{'x' * 300}.py"]


def checkpoints(folder: Path) -> list[Path]:
    """Files that hold no network."""
    contents = {"empty.pth": b"", "text.pth": b"hello", "zeros.safetensors": bytes(64), "half.pth": b"PK\x03\x04abc"}
    made = []
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        made.append(path)
    return [*made, folder, folder / "none.pth", folder / f"{'x' * 300}.pth"]


def pictures(folder: Path) -> None:
    """Three kinds of small pictures, in four formats."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("ant", "bee", "cow"):
            home = folder / part / kind
            home.mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / f"{number}.{('png', 'jpg', 'bmp', 'gif')[number % 4]}")
