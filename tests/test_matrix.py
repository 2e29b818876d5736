"""`make matrix` with a Python that only pretends: what it asks for, what it says, how it ends, what it leaves."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest
from narrow import there

ROOT = Path(__file__).resolve().parents[1]
#: Makes environments of itself; installs nothing; its tests fail where the install asked for the torch in $BAD.
PRETENDER = """#!/bin/bash
echo "$@" >> "$ASKED"
case "$2" in
  venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  pip) echo "$*" > "$(dirname "$0")/got"; [ "$BAD" != pip ] ;;
  pytest) grep -q -- "$BAD" "$(dirname "$0")/got" && echo "1 failed, 6 passed in 2s" && exit 1; echo "7 passed in 2s" ;;
  *) echo "torch 1.2.3 torchvision 4.5.6" ;;
esac
"""


def matrix(tmp_path: Path, bad: str) -> tuple[int, list[str], str]:
    """Exit code, the lines for each torch, and what the interpreter was asked."""
    (tmp_path / "python").write_text(PRETENDER)
    (tmp_path / "python").chmod(0o755)
    room = tmp_path / "room"
    room.mkdir()
    told = {"PYTHON": str(tmp_path / "python"), "TMPDIR": str(room), "BAD": bad, "ASKED": str(tmp_path / "asked")}
    done = subprocess.run([ROOT / ".ci" / "matrix"], env=os.environ | told, capture_output=True, text=True, check=False)
    assert list(room.iterdir()) == [], "an environment was left behind"
    lines = [line for line in done.stdout.splitlines() if line.startswith("matrix: ")]
    return done.returncode, lines, (tmp_path / "asked").read_text()


def test_each_torch_has_its_line(tmp_path: Path) -> None:
    code, lines, asked = matrix(tmp_path, "nothing")
    assert code == 0
    pattern = r"matrix: (oldest|newest), torch 1.2.3 torchvision 4.5.6: passed, \d+ s: 7 passed in 2s"
    assert [there(re.fullmatch(pattern, line))[1] for line in lines] == ["oldest", "newest"]
    assert asked.count("core and not slow and not gpu") == 2


@pytest.mark.parametrize(("bad", "which"), [("torch==", ["oldest"]), ("install", ["oldest", "newest"])])
def test_one_that_fails_fails_it_all(tmp_path: Path, bad: str, which: list[str]) -> None:
    code, lines, _ = matrix(tmp_path, bad)
    assert code == 1
    assert len(lines) == 2
    assert [line.split(",")[0].split()[1] for line in lines if "FAILED in the tests" in line] == which


def test_an_install_that_fails_is_said(tmp_path: Path) -> None:
    code, lines, asked = matrix(tmp_path, "pip")
    assert code == 1
    assert all("no torch: FAILED in the install" in line for line in lines)
    assert "-m pytest" not in asked


def test_a_full_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "bin" / "df"
    full.parent.mkdir()
    full.write_text("#!/bin/sh\necho head; echo disk 9 9 2097152 50% /\n")  # 2 GB in KB
    full.chmod(0o755)
    monkeypatch.setenv("PATH", f"{full.parent}:{os.environ['PATH']}")
    (tmp_path / "asked").touch()
    code, lines, asked = matrix(tmp_path, "nothing")
    assert code == 2
    assert lines == [f"matrix: oldest needs 10 GB in {tmp_path / 'room'}, 2 are free; set TMPDIR to a roomier folder"]
    assert asked == ""


def test_the_oldest_is_the_oldest_that_setup_cfg_allows() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    least = re.search(r"^torch>=([\d.]+)$", parser["options"]["install_requires"], re.M)
    assert least is not None
    assert f'try oldest "torch=={least[1]}.*"' in (ROOT / ".ci" / "matrix").read_text()


@pytest.mark.parametrize("part", ["methods", "kit", "engine", "capture", "precision", "device", "torch_private"])
def test_the_core_holds_contract_engine_and_conformance(part: str) -> None:
    assert "\npytestmark = pytest.mark.core\n" in (ROOT / "tests" / f"test_{part}.py").read_text()


def test_the_core_holds_the_authors_numbers() -> None:
    import golden

    case = golden.cases("at").args[1][0]
    assert "core" in [mark.name for mark in case.marks] or not golden.FOLDER.is_dir()
