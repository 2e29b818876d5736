"""Records that were read are not read again, and one that was edited since is never believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import records, run

from kdbench import record
from kdbench.engine.lane import Lane
from kdbench.record import RecordDamaged
from kdbench.run import known
from kdbench.run.grid import Cell
from kdbench.run.ledger import Ledger


def test_a_record_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_seen", {})
    monkeypatch.setattr(known, "_WORTH", 1)
    assert run(tmp_path, methods="student").exit_code == 0
    (path,) = (tmp_path / "runs").rglob("*.json")
    usual, read = record.read, list[Path]()

    def counted(one: Path) -> record.Record:
        read.append(one)
        return usual(one)

    monkeypatch.setattr(record, "read", counted)
    known._seen.clear()  # another process, which knows what the run has kept of what it wrote
    assert run(tmp_path, methods="student").exit_code == 0
    assert read == []
    text, times = path.read_text(), os.stat(path)
    path.write_text(text.replace('"status": "done"', '"status": "d0ne"'))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as long, and as old, as it was
    with pytest.raises(RecordDamaged):
        known.of(path)
    assert run(tmp_path, methods="student").exit_code == 1
    path.write_text(text)
    assert run(tmp_path, methods="student").exit_code == 0
    (tmp_path / ".known").write_text("{}")  # cut or edited: as if there were none
    known._seen.clear()
    assert run(tmp_path, methods="student").exit_code == 0
    assert len(records(tmp_path)) == 1


def test_a_run_reads_what_it_has_written_once_and_an_interrupted_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_seen", {})
    monkeypatch.setattr(known, "_WORTH", 1)
    usual, usual_finish, read = record.read, Ledger.finish, list[Path]()

    def counted(one: Path) -> record.Record:
        read.append(one)
        return usual(one)

    def finish(ledger: Ledger, lane: Lane, cell: Cell) -> None:
        usual_finish(ledger, lane, cell)
        if cell.method == "fitnet":
            raise KeyboardInterrupt

    assert run(tmp_path, methods="student").exit_code == 0
    monkeypatch.setattr(record, "read", counted)
    monkeypatch.setattr(Ledger, "finish", finish)
    assert run(tmp_path, "--lanes", 1, methods="student,kd,fitnet").exit_code == 130
    monkeypatch.setattr(Ledger, "finish", usual_finish)
    known._seen.clear()
    read.clear()
    assert run(tmp_path, methods="student,kd,fitnet").exit_code == 0
    assert all(read.count(path) <= 1 for path in read)
    assert not [path for path in read if path.name.startswith("student")]
    read.clear()
    known._seen.clear()
    assert run(tmp_path, methods="student,kd,fitnet").exit_code == 0
    assert read == []
