"""`kdbench data bench`: every source is measured, a source that holds its pictures in memory shows it, odd numbers are told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdbench.bench import data_sources
from kdbench.bench.data_sources import Asked, Found, _highest, measure
from kdbench.cli import main

SMALL = ("--pictures", "100", "--side", "16", "--steps", "1", "--repeat", "1", "--batch", "8")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measured in this process: another one takes seconds to begin."""
    monkeypatch.setattr(data_sources, "_apart", data_sources._look)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_source_is_measured_and_written(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = CliRunner().invoke(main, ["data", "bench", *SMALL, "--out", str(file)])
    assert done.exit_code == 0, done.output
    found = Found.model_validate(json.loads(file.read_text(encoding="utf-8")))
    assert [row.source for row in found.rows] == ["resident", "packed", "streamed"]
    assert (found.train, found.test, found.stored, found.side) == (90, 10, (3, 16, 16), 16)
    assert all(value > 0 for row in found.rows for value in (*row.per_second, *row.opened_s))
    assert all(value >= 0 for row in found.rows for value in row.cpu_ms)  # the system counts in ticks of 10 ms
    assert found.packed_s is not None
    assert {"torch", "cpu"} <= found.environment.keys()
    assert all(row.source in done.output for row in found.rows)
    assert "without the system's cache" in done.output


def test_what_is_held_is_seen_at_its_highest() -> None:
    with _highest() as most:
        held = torch.ones(40 * 2**20, dtype=torch.uint8)
        time.sleep(5 * data_sources.PERIOD)
        del held
    if most[0] is None:
        pytest.skip("this system does not tell what a process holds")
    assert most[0] > 35 * 2**20
    with _highest() as nothing:
        pass
    assert nothing[0] is not None
    assert nothing[0] < 20 * 2**20


def test_a_pack_that_is_there_is_taken(tmp_path: Path) -> None:
    data_sources.make_pictures(tmp_path / "pictures", 100, 16)
    asked = Asked(
        f"imagefolder:{tmp_path / 'pictures'}@16",
        tmp_path,
        sources=("packed",),
        side=8,
        steps=1,
        repeat=2,
        batch_size=8,
    )
    first, second = measure(asked), measure(asked)
    assert first.packed_s is not None
    assert second.packed_s is None
    assert len(second.rows[0].memory_mb) == 2
    assert second.whole_mb == 100 * 3 * 16 * 16 / 2**20


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data-source", "memory"), "no data source 'memory'; there are resident, packed, streamed"),
        (("--data-workers", "some"), "--data-workers takes numbers, as 0,2, not 'some'"),
        (("--data-workers", "-1"), "--data-workers takes numbers from 0 to 256"),
        (("--pictures", "5"), "--pictures takes 100 or more, not 5"),
        (("--batch", "1"), "--batch takes 2 or more, not 1"),
        (("--repeat", "0"), "--repeat takes 1 or more, not 0"),
        (("imagefolder:nowhere@16",), "nowhere"),
        (("digits",), "digits is no folder of pictures and has no pack"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["data", "bench", "--data-dir", str(tmp_path), *words])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())
    assert "Traceback" not in done.output
