"""The wheel holds what the tree holds; one name is never imported from two places."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_kdbench_methods_is_the_top_level_folder() -> None:
    assert (ROOT / "kdbench" / "methods").resolve() == ROOT / "methods"


def test_no_method_is_imported_twice() -> None:
    from kdbench import registry

    registry.names()
    assert [name for name in sys.modules if name == "methods" or name.startswith("methods.")] == []


def test_help_answers_without_torch() -> None:
    code = "import sys, kdbench.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_tree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "kdbench", "methods"], capture_output=True, text=True, check=True
    )
    expected = {
        f"kdbench/{name}" if name.startswith("methods/") else name
        for name in tracked.stdout.split()
        if name != "kdbench/methods"
    }
    assert inside == expected
