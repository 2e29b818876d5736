"""A short visit to a GPU: ``python -m kdbench.terminal.gpu_visit check|test|bench|acceptance``, for `make gpu-...`.

Each part ends within ten minutes, needs neither network nor data, and writes one JSON. It starts with Python's own
library alone, so that it can say which packages are missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Seconds of one part.
LIMIT = 590.0
#: What each part imports, by the name of its wheel.
ALWAYS = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "pydantic": "pydantic", "click": "click"}
ALWAYS |= {"rich": "rich", "safetensors": "safetensors", "filelock": "filelock", "sklearn": "scikit-learn"}
PARTS: dict[str, dict[str, str]] = {
    "check": {},
    "test": {"pytest": "pytest"},
    "bench": {},
    "acceptance": {},
}
PRECISIONS = ("amp", "tf32", "fp32")
PAIR = "resnet32x4:resnet8x4"


def missing(part: str) -> list[str]:
    """Wheels that this Python lacks, or whose packages cannot be imported."""
    found = []
    for module, wheel in (ALWAYS | PARTS[part]).items():
        try:
            importlib.import_module(module)
        except Exception:  # a broken torchvision raises RuntimeError
            found.append(wheel)
    return found


def run(words: Sequence[str], seconds: float) -> dict[str, Any]:
    """A command of this Python, shown as it goes: its exit code (None: it was stopped) and its time."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], cwd=ROOT) as process:
        try:
            code: int | None = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
    return {"command": " ".join(words), "exit": code, "seconds": round(time.perf_counter() - started, 1)}


def check(folder: Path, device: str) -> dict[str, Any]:
    """The sixteen checks."""
    file = folder / "part.json"
    words = ("-m", "kdbench", "doctor", "--gpu", "--device", device, "--json", str(file))
    return run(words, LIMIT) | {"doctor": read(file)}


def test(folder: Path, device: str) -> dict[str, Any]:
    """The tests that need a GPU, with the outcome of each."""
    file = folder / "part.xml"
    words = ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={file}", "tests/test_gpu.py")
    done = run(words, LIMIT)
    cases = [] if not file.exists() else list(ElementTree.parse(file).getroot().iter("testcase"))
    outcomes = {case.get("name", ""): next((child.tag for child in case), "passed") for case in cases}
    details = {case.get("name", ""): (child.text or "")[-4000:] for case in cases for child in case}
    return done | {"outcomes": outcomes, "details": {name: text for name, text in details.items() if text}}


def bench(folder: Path, device: str) -> dict[str, Any]:
    """The bench in three precisions, each in its third of the time."""
    found: dict[str, Any] = {"exit": 0, "seconds": 0.0}
    for precision in PRECISIONS:
        file = folder / f"{precision}.json"
        words = ["-m", "kdbench", "bench", "--device", device, "--pair", PAIR, "--precision", precision]
        words += ["--repeat", "3", "--steps", "100", "--no-table", "--side-by-side", "--out", str(file)]
        done = run(words, LIMIT / len(PRECISIONS))
        found[precision] = done | {"bench": read(file)}
        found["exit"] = found["exit"] or done["exit"]
        found["seconds"] += done["seconds"]
        if done["exit"] is None:
            found["exit"] = None
    return found


def acceptance(folder: Path, device: str) -> dict[str, Any]:
    """Twelve epochs on random data, and what they let expect of 240."""
    words = ("-m", "kdbench.terminal.acceptance", "--random-data", "--epochs", "12", "--device", device)
    return run((*words, "--out", str(folder)), LIMIT) | {"acceptance": read(folder / "acceptance.json")}


def read(file: Path) -> Any:
    """What a part has written; None where it wrote nothing."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


WORK: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "check": check,
    "test": test,
    "bench": bench,
    "acceptance": acceptance,
}


def main(words: Sequence[str] | None = None) -> int:
    """Make a part of the visit; 0 where all of it went well, 2 where packages are missing."""
    parser = argparse.ArgumentParser(prog="kdbench.terminal.gpu_visit", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    parser.add_argument("--device", default="cuda", help="as for `kdbench run`")
    given = parser.parse_args(words)
    if lacking := missing(given.part):
        print(f"{sys.executable} lacks {', '.join(lacking)}: install these wheels (pip install --no-index WHEEL ...)")
        return 2
    with tempfile.TemporaryDirectory(prefix="kdbench-gpu-") as folder:
        found = WORK[given.part](Path(folder), given.device)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"gpu-{given.part}.json"
    file.write_text(json.dumps({"part": given.part, **found}, indent=1) + "\n", encoding="utf-8")
    late = "" if found["exit"] is not None else f"; it was stopped after {found['seconds']:.0f} s"
    print(f"wrote {file}{late}")
    return 1 if found["exit"] is None else int(found["exit"])


if __name__ == "__main__":
    sys.exit(main())
