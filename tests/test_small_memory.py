"""Check 15 of `kdbench doctor --gpu`, on an allocator that is pretended; and what a process may have of a shared GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from kdbench.engine import memory
from kdbench.engine.graph import capture
from kdbench.probes.gpu import failures
from kdbench.probes.gpu.failures import METHODS, MIB
from kdbench.record import Record
from kdbench.run.grid import Cell
from kdbench.run.outcome import Done

CPU = torch.device("cpu")
WHOLE = 1000 * MIB
OFTEN = "CUDA out of memory; going on with half of them at once (--lanes 2 begins there)"


class Allocator:
    """Lanes that take 50 MiB each beside 100 that all share; ``halving`` says what the engine does of too many."""

    def __init__(self, *, halving: bool = True, lane: int = 50, leak: int = 0) -> None:
        self.halving, self.lane, self.leak = halving, lane, leak
        self.most, self.limit, self.left = 0, float(WHOLE), 0

    def grid(self, device: torch.device, out: Path, home: Path, lanes: int | None = None) -> tuple[Done, list[str]]:
        together, notes = lanes or len(METHODS), list[str]()
        while together and (100 + self.lane * together) * MIB > self.limit:
            together = together // 2 if self.halving else 0
            notes.append(OFTEN)
        self.most, self.left = (100 + self.lane * together) * MIB, self.left + self.leak * MIB
        done = Done()
        for name in METHODS if together else ():
            done.records[cast(Cell, name)] = cast(Record, SimpleNamespace(status="done"))
        if not together:
            done.failed[cast(Cell, "kd")] = "out of memory"
        return done, notes

    def restrict(self, fraction: float, index: int) -> None:
        self.limit = fraction * WHOLE


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Allocator], str]:
    def made(allocator: Allocator) -> str:
        monkeypatch.setattr(failures, "_grid", allocator.grid)
        monkeypatch.setattr(capture, "index_of", lambda device: 0)
        for name, value in {
            "get_device_properties": lambda device: SimpleNamespace(total_memory=WHOLE),
            "set_per_process_memory_fraction": allocator.restrict,
            "reset_peak_memory_stats": lambda device: None,
            "max_memory_reserved": lambda device: allocator.most,
            "memory_allocated": lambda device: allocator.left,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        return failures.small_memory(CPU)

    return made


def test_half_of_the_lanes_at_once_pass(check: Callable[[Allocator], str]) -> None:
    allocator = Allocator()
    assert check(allocator) == f"{OFTEN}; one lane 150 MiB, four 300, here 200; 0 MiB after it, 0 before"
    assert allocator.limit == WHOLE  # it ends as it began


@pytest.mark.parametrize(
    ("allocator", "sentence"),
    [
        (Allocator(halving=False), "0 of 4 cells finished .*; out of memory"),
        (Allocator(lane=2), "one lane takes 102 MiB, four 108: too near to tell"),
        (Allocator(leak=20), "80 MiB after it, 20 before"),
    ],
    ids=["nothing halves", "lanes too small", "memory is lost"],
)
def test_what_is_wrong_is_told(allocator: Allocator, sentence: str, check: Callable[[Allocator], str]) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(allocator)
    assert allocator.limit == WHOLE


def test_its_grid_trains_four_cells(tmp_path: Path) -> None:
    done, notes = failures._grid(CPU, tmp_path / "one", tmp_path, lanes=1)
    assert (len(done.of("done")), done.failed) == (4, {})
    assert any("resnet14" in note for note in notes)  # the teacher, which the next run finds
    _, notes = failures._grid(CPU, tmp_path / "all", tmp_path)
    assert not any("training it" in note for note in notes)


@pytest.mark.parametrize(
    ("left", "fraction", "reserved", "free"),
    [(600, 1.0, 100, 600), (600, 0.25, 100, 150), (80, 0.25, 100, 80), (600, 0.05, 100, 0)],
    ids=["alone", "its part", "others took it", "more than its part"],
)
def test_a_shared_gpu_is_free_for_its_part(
    left: int, fraction: float, reserved: int, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (left, 1000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    assert memory.free(torch.device("cuda:0")) == free
