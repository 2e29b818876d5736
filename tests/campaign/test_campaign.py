"""A small part of every area holds, and what is broken is seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="forks, and asks the system what only Linux answers"
    ),
]
HERE = Path(__file__).parent
#: How to break kdbench, before a campaign of two tries or more.
BREAK = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from campaign import __main__ as campaign
from campaign import child
child.warm()
{body}
sys.exit(campaign.main({words!r}))
"""
#: What is broken: area, try, what is then said, and how it is broken.
BROKEN = {
    "checkpoints are not kept": (
        *("kill", "train-0", "had been saved, and was trained again"),
        "from kdbench.engine.lane import Lane\nLane.resume = lambda self: False",
    ),
    "files are written in place": (
        # Which of them dies within the file follows from how many commands there are.
        *("kill", "import-*", "is half a file"),
        "import contextlib\nfrom kdbench.utils import files\n"
        "@contextlib.contextmanager\n"
        "def write(path, mode='wb', newline=None):\n"
        "    path.parent.mkdir(parents=True, exist_ok=True)\n"
        "    with open(path, mode, newline=newline) as file:\n"
        "        yield file\n"
        "for module in list(sys.modules.values()):\n"
        "    if getattr(module, 'atomic_write', None) is not None:\n"
        "        module.atomic_write = write",
    ),
    "checksums are not looked at": (
        *("damage", "record/flip/run/2", "is not what a run without a fault leaves: teacher_sha256 is"),
        "from kdbench.utils import sealed\nsealed.check = lambda path, values: None",
    ),
}


def campaign(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=1200)


@pytest.mark.parametrize("area", ["kill", "disk", "damage", "lines", "company", "screens"])
def test_a_small_part_of_an_area_holds(area: str) -> None:
    done = campaign(sys.executable, str(HERE), "--area", area, "--tries", "12", "--seed", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{area} " in done.stdout


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_seen(what: str) -> None:
    area, only, said, body = BROKEN[what]
    words = [
        "--area",
        area,
        "--tries",
        {"train-0": "40", "import-*": "200"}.get(only, "2000"),
        "--seed",
        "1",
        "--only",
        only,
    ]
    text = BREAK.format(root=str(HERE.parents[1]), tests=str(HERE.parent), body=body, words=words)
    done = campaign(sys.executable, "-c", text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert fnmatchcase(re.findall(r"ONLY=(\S+)\n", done.stdout)[0], only), done.stdout
    assert said in done.stdout


def test_an_unknown_area_is_told() -> None:
    done = campaign(sys.executable, str(HERE), "--area", "nope")
    assert done.returncode == 2
    assert "no area nope; there are kill, disk" in done.stderr
