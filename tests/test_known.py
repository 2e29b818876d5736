"""Records that were read are not read again, and one that was edited since is never believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import records, run

from kdbench import record
from kdbench.record import RecordDamaged
from kdbench.run import known


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
    assert run(tmp_path, methods="student").exit_code == 0
    known._seen.clear()  # another process
    read.clear()
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
