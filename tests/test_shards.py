"""The parts of a grid that machines take without talking to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kdbench.run import assistants, grid, session
from kdbench.run.executors.weights import steps
from kdbench.run.grid import Cell
from kdbench.run.lanes import epochs
from kdbench.run.session import Request
from kdbench.run.shards import shard, shards
from kdbench.suites import costs


def cells(methods: str = "kd,at,sp,vid", pairs: str = "resnet14:resnet8", seeds: str = "3", **words: Any) -> list[Cell]:
    return session.resolve(Request(methods, pairs, "digits", seeds=seeds, device="cpu", **words)).cells


def sizes(parts: Sequence[Sequence[Cell]]) -> list[int]:
    return [len(part) for part in parts]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12, 13, 100, 999_999_999])
def test_every_cell_is_in_one_part(count: int) -> None:
    some = cells("kd,at,sp,student", "resnet14:resnet8,resnet14:wrn_16_1")
    parts = shards(some, count)
    assert len(parts) == min(count, len(some))
    assert sorted(map(str, some)) == sorted(str(cell) for part in parts for cell in part)
    assert parts == [shard(some, index, count) for index in range(1, len(parts) + 1)]
    assert count <= len(some) or shard(some, count, count) == []


def test_three_seeds_fill_more_machines_than_three() -> None:
    assert sizes(shards(cells(), 3)) == [4, 4, 4]
    assert sizes(shards(cells(), 6)) == [2] * 6
    assert sizes(shards(cells(), 12)) == [1] * 12


def test_groups_stay_whole_where_they_fill_the_machines() -> None:
    some = cells(seeds="8")
    for part in shards(some, 4):
        assert sorted(sizes(grid.groups(part))) == [4, 4]


def test_a_small_group_is_not_a_whole_part() -> None:
    """The plain student's cells, one for each seed, go beside what is less: in turn they would go to the first two."""
    some = cells("student,kd,at,sp,vid,fitnet,cc", seeds="2")
    assert sizes(grid.groups(some)) == [1, 6, 1, 6]
    assert sizes(shards(some, 2)) == [7, 7]


def test_what_a_method_takes_counts() -> None:
    """A lane of SemCKD takes as long as several of KD: whoever has it has less beside it."""
    some = cells("semckd[beta=4],kd,at,sp,cc,pkt,rkd", seeds="1")
    parts = shards(some, 2)
    assert sorted(sizes(parts)) == [1, 6]
    assert next(part for part in parts if len(part) == 1)[0].method == "semckd"


def test_views_are_counted_once() -> None:
    """What three further views cost the student is a part of sskd's measured cost."""
    [sskd] = cells("sskd", seeds="1")
    assert steps(sskd) / epochs(sskd) == pytest.approx(1 + costs.load()["sskd"].share)


def test_who_learns_from_one_assistant_stays_together() -> None:
    some = cells("hkd,hkd[tau=2],hkd[tau=8]", seeds="1")
    parts = [part for part in shards(some, 3) if part]
    assert len({helper for part in parts for helper in assistants.of(part)}) == sum(
        len(assistants.of(part)) for part in parts
    )


def test_a_part_is_what_the_command_takes() -> None:
    assert cells(shard="2/6") == shards(cells(), 6)[1]
