"""What lies where a file should, and is none, or says nothing: a sentence, and never a wait without end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
from commands import SMALL, fine, flat, kdbench, run

from kdbench import record
from kdbench.engine import checkpoint
from kdbench.engine.checkpoint import CheckpointDamaged
from kdbench.models import teacher_card
from kdbench.run import speeds, tuned
from kdbench.run.group import disk_trouble
from kdbench.suites import _files, costs
from kdbench.utils import files
from kdbench.utils.sealing import checksum, parsed

PIPE = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes, which this system has not")


@PIPE
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a pipe or a device, no file"):
        files.content(path)
    with pytest.raises(record.RecordDamaged, match=r"a\.json cannot be read: it is a pipe or a device, no file"):
        record.read(path)
    for read in (teacher_card.read, tuned.read):
        with pytest.raises(ValueError, match="it is a pipe"):
            read(path)
    with pytest.raises(OSError, match="it is a pipe"):
        checkpoint.peek(path)


@PIPE
def test_a_pipe_in_the_place_of_kept_speeds_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path))
    machine = speeds.Machine.of("cpu", "fp32")
    path = speeds.load(machine).path
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    assert speeds.load(machine) == speeds.Speeds(machine=machine)


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00\r\n" * 100_000)
    assert files.content(tmp_path / "a") == b"\x00\r\n" * 100_000
    (tmp_path / "link").symlink_to("a")
    assert len(files.content(tmp_path / "link")) == 300_000
    with pytest.raises(FileNotFoundError):
        files.content(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        files.content(tmp_path)
    with pytest.raises(CheckpointDamaged):
        checkpoint.peek(tmp_path / "a")


def test_a_write_that_does_not_fit_names_its_file(tmp_path: Path) -> None:
    def full() -> None:
        with files.atomic_write(tmp_path / "a") as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as told:
        full()
    assert files.trouble(told.value) == f"{tmp_path / 'a'}: No space left on device"
    assert "Errno" not in disk_trouble(tmp_path, OSError(28, "No space left on device"))
    assert files.trouble(OSError("no number")) == "no number"


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path)]
)
def test_a_record_that_cannot_be_one_is_told_by_the_report(make: Callable[[Path], None], tmp_path: Path) -> None:
    first, second = synthetic.save(
        tmp_path, *(synthetic.make(name, synthetic.PAIRS[0], 0) for name in ("student", "kd"))
    )
    second.unlink()
    make(second)
    assert [one.method for one in record.read_all(tmp_path / "runs")[0]] == ["student"]
    told = kdbench("report", "--out", tmp_path, "--formats", "csv")
    assert told.exit_code == 0
    assert second.name in "".join(told.output.split())
    assert first.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}\xff", "byte 2 is not UTF-8"),
        (b"\0" * 40, "Expecting value"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5000, "a number of thousands of digits"),
    ],
)
def test_what_is_no_json_is_told_in_words_of_ours(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        parsed(content)
    (tmp_path / "a.json").write_bytes(content)
    for read in (record.read, teacher_card.read, tuned.read):
        with pytest.raises(ValueError, match=words):
            read(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"3", b'{"checksum": []}', b'{"checksum": null}'])
def test_what_is_no_tuned_file_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json (has no tuned weights|was changed)"):
        tuned.read(tmp_path / "a.json")


def test_status_believes_no_edited_card(tmp_path: Path) -> None:
    path = tmp_path / "teachers" / "digits" / "resnet8.json"
    path.parent.mkdir(parents=True)
    values = {"name": "resnet8", "top1": 70.0}
    values["checksum"] = checksum(values)
    path.write_text(json.dumps(values))
    assert "teacher digits/resnet8: 70.00%" in kdbench("status", "--out", tmp_path).output
    edited, no_card = "was changed after it was written", "is not a teacher's card"
    odds: list[tuple[object, str]] = [(values | {"top1": 99.0}, edited)]
    odds += [({"top1": "x"}, no_card), ({"top1": True}, no_card), ({}, no_card), ([], no_card), (3, no_card)]
    for odd, words in odds:
        path.write_text(json.dumps(odd))
        told = kdbench("status", "--out", tmp_path)
        assert told.exit_code == 1
        assert words in " ".join(told.output.split())
        assert "Traceback" not in told.output


def test_a_damaged_table_of_costs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = costs.TABLE.read_text()
    monkeypatch.setattr(costs, "TABLE", tmp_path / "cost.csv")
    for odd in (whole.replace(",64,", ",x,"), whole + "a\n", whole[:300]):
        costs.TABLE.write_text(odd)
        with pytest.raises(ValueError, match=r"^the table of measured costs, cost\.csv, cannot be read: .+$") as told:
            costs.load()
        assert "validation error" not in str(told.value)
    costs.TABLE.write_bytes(whole.encode() + b"\xff")
    with pytest.raises(ValueError, match=r"is not UTF-8$"):
        costs.load()


def test_a_number_of_thousands_of_digits_in_a_suite(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = " + "9" * 5000)
    with pytest.raises(ValueError, match=r"^a\.toml is not readable as TOML: it has a number of thousands of digits$"):
        _files.read(tmp_path / "a.toml")


def test_the_record_of_another_cell_is_not_this_ones(tmp_path: Path) -> None:
    assert run(tmp_path, methods="kd,at").exit_code == 0
    first, second = sorted((tmp_path / "runs" / "digits").rglob("*.json"))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    told = kdbench("run", *SMALL, "--methods", "kd,at", "--out", tmp_path)
    assert told.exit_code == 1
    assert "in the place of its record lies that of kd on resnet14:resnet8, seed 0 (done, settings" in flat(told.output)
    first.write_bytes(whole)
    assert "2 of 2 cells are there" in fine("run", *SMALL, "--methods", "kd,at", "--out", tmp_path)
