"""A file is replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdbench.utils import files
from kdbench.utils.files import atomic_write

OLD = b"what was there"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(OLD)
    return path


def alone(path: Path) -> bool:
    return os.listdir(path.parent) == [path.name]


def test_bytes_and_text(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"\x00new\r\n")
        assert path.read_bytes() == OLD  # until the end
    assert path.read_bytes() == b"\x00new\r\n"
    with atomic_write(path, "w") as file:
        file.write("grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert alone(path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_leaves_the_old_file_alone(path: Path, error: type[BaseException]) -> None:
    def stopped() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        stopped()
    assert path.read_bytes() == OLD
    assert alone(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_alone(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(OSError, match="No space"), atomic_write(path, "w") as file:
        file.write("half")
    assert path.read_bytes() == OLD
    assert alone(path)


def test_a_real_limit_of_the_system_leaves_the_old_file_alone(path: Path) -> None:
    """The kernel refuses to write more than 4 kB, as a full disk would."""
    program = """
import resource, signal, sys
from pathlib import Path
from kdbench.utils.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_write(Path(sys.argv[1])) as file:
        file.write(bytes(100_000))
except OSError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 7
    assert path.read_bytes() == OLD
    assert alone(path)


def test_a_kill_leaves_the_old_file_and_a_hidden_one_that_a_later_write_removes(path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from kdbench.utils.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(bytes(100_000))
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode < 0
    assert path.read_bytes() == OLD
    (left,) = (one for one in path.parent.iterdir() if one != path)
    assert left.name.startswith(".kdbench-")
    with atomic_write(path) as file:  # whoever is still at work keeps his file
        file.write(b"new")
    assert left.exists()
    os.utime(left, (time.time() - 90_000, time.time() - 90_000))
    files._swept.clear()  # another process
    with atomic_write(path) as file:
        file.write(b"new")
    assert alone(path)


def test_permission_bits_are_those_of_any_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "new") as file:
            file.write(b"x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    finally:
        os.umask(old)


def test_a_link_is_replaced_and_what_it_names_is_left_alone(path: Path) -> None:
    link = path.with_name("link.csv")
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write(b"new")
    assert not link.is_symlink()
    assert (link.read_bytes(), path.read_bytes()) == (b"new", OLD)


def test_the_longest_name_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with atomic_write(path) as file:
        file.write(b"x")
    assert alone(path)


def test_two_writers_of_one_file_do_not_meet(path: Path) -> None:
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # that ended later
    assert alone(path)


def test_folders_are_made_and_one_of_that_name_is_an_error(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "no" / "a") as file:
        file.write(b"x")
    assert os.listdir(tmp_path / "no") == ["a"]
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "no"):
        pass
    assert os.listdir(tmp_path) == ["no"]
