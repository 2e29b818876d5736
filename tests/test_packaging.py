"""The wheel holds what the tree holds; one name is never imported from two places."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

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


def test_one_version_is_named_everywhere() -> None:
    from kdbench import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGES.md").read_text()
    assert changes.index(f"\n## {__version__}") == changes.index("\n## ")


def test_every_package_is_named_for_the_wheel() -> None:
    named = set((ROOT / "setup.cfg").read_text().partition("packages =\n")[2].partition("\npackage_dir")[0].split())
    there = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "kdbench").rglob("__init__.py")
        if "__pycache__" not in file.parts
    }
    assert named == there | {"kdbench.methods"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tree, built of a copy: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if not name.startswith(("tests/", "results/", "docs/")) and (ROOT / name).exists():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "tree" / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "./tree"]
    alone = importlib.util.find_spec("setuptools") is not None  # no network is needed then
    subprocess.run([*command, *(["--no-build-isolation"] if alone else [])], cwd=folder, check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "kdbench", "methods"], capture_output=True, text=True, check=True
    )
    expected = {
        f"kdbench/{name}" if name.startswith("methods/") else name
        for name in tracked.stdout.split()
        if name != "kdbench/methods"
    }
    assert inside == expected
    assert {Path(name).suffix for name in inside} >= {".toml", ".csv", ".j2", ".typed"}


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """As after ``pip install kdbench``; what kdbench needs is this environment's, so that torch is not fetched again."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "own")], check=True)
    python, needs = tmp_path / "own" / "bin" / "python", Path(torch.__file__).parents[1]
    home = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Paths of this environment come last, and those of its editable installs (a checkout's) not at all.
    (Path(home) / "needs.pth").write_text(f"import sys; sys.path.append({str(needs)!r})\n")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel], check=True
    )
    work = tmp_path / "work"
    work.mkdir()
    names = ("PATH", "HOME", "TMPDIR", "LANG")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "KDBENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def kdbench(*words: str) -> str:
        done = subprocess.run(
            [tmp_path / "own" / "bin" / "kdbench", *words], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import kdbench, kdbench.methods.kd as kd; print(kdbench.__file__, kd.__file__)"
    found = subprocess.run([python, "-c", where], cwd=work, env=environment, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(tmp_path / "own")) for path in found.stdout.split()), found.stdout
    small = ["--suite", "digits", "--methods", "kd", "--epochs", "1", "--set", "teacher.epochs=1", "--seeds", "1"]
    assert "3 of 3 cells are there" in kdbench("run", *small)
    assert "kd: keeps the contract" in kdbench("check", "kd")
    assert "kd" in kdbench("report")
    assert (work / "results" / "digits" / "leaderboard.html").is_file()
    assert "digits" in kdbench("site")
    assert (work / "site" / "index.html").is_file()
    assert "semckd" in kdbench("list", "suites")
    assert "measured on" in kdbench("info", "semckd")
    assert "resnet56" in kdbench("list", "teachers")
