"""The methods that stand for all in the fast suite: of every kind, no more than needed, and found without a list."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from telling import cover, fast, kinds, telling, thinned
from torch import Tensor

from kdbench import registry
from kdbench.distiller import Batch, Distiller, Outputs, Pair

pytestmark = pytest.mark.core


def test_every_kind_is_among_them() -> None:
    found = {name: set(kinds(registry.get(name))) for name in registry.names()}
    assert set().union(*found.values()) == set().union(*(found[name] for name in telling()))
    assert len(telling()) < len(found) / 3


def test_what_the_engine_treats_differently_is_among_them() -> None:
    some = [registry.get(name) for name in telling()]
    for kind in (
        lambda one: not one.needs_teacher,
        lambda one: one.pretrain_student,
        lambda one: one.pretrain_epochs and not one.pretrain_student,
        lambda one: "rot90" in one.views,
        lambda one: "randaugment" in one.views,
        lambda one: one.modifies_student(),
        lambda one: one.assistant,
        lambda one: one.own_cross_entropy,
        lambda one: one.attention_modules,
        lambda one: one.absorbs,
        lambda one: one.roles,
        lambda one: one.transform is not Distiller.transform,
        *(lambda one, level=level: one.reads == level for level in ("logits", "pooled", "maps")),
    ):
        assert any(map(kind, some))
    assert {"crd", "semckd"} <= telling()  # the only bank by idx, the only attention


def test_as_few_as_may_be() -> None:
    assert cover({"a": frozenset("x"), "b": frozenset("xy"), "c": frozenset("z"), "d": frozenset("y")}) == ["b", "c"]
    assert cover({}) == []


class Keeping(Distiller):
    """As no other: a bank of drawn numbers beside two views."""

    views: ClassVar[tuple[str, ...]] = ("rot180",)
    bank: Tensor

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.register_buffer("bank", torch.zeros(pair.num_train, 3))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.bank[batch.idx] = torch.rand(3)
        return {"odd": student.pooled.mean()}


def test_a_method_of_a_new_kind_comes_in_by_itself() -> None:
    known = {name: frozenset(kinds(registry.get(name))) for name in registry.names()}
    new = frozenset(kinds(Keeping))
    assert {"saved buffer of every image", "draws in train: True", "keeps something of every batch: True"} <= new
    assert "new" in cover({**known, "new": new})  # two views, and none drawn
    assert "new" not in cover({**known, "new": known["kd"]})


def test_others_are_slow() -> None:
    slow = {one.values[0] for one in fast([*registry.names(), "crd+mag"]) if one.marks}
    assert slow == set(registry.names()) - telling() - {"student", "kd"}


def test_a_product_is_whole_and_every_value_is_in_the_fast_part() -> None:
    rows = thinned("abcd", "xyz", [1, 2])
    quick = [one.values for one in rows if not one.marks]
    assert len({one.values for one in rows}) == len(rows) == 24
    assert [{*column} for column in zip(*quick, strict=True)] == [{*"abcd"}, {*"xyz"}, {1, 2}]
    assert len(quick) == 4


def test_the_random_numbers_of_the_caller_are_left_alone() -> None:
    before = torch.get_rng_state()
    list(kinds(registry.get("crd")))
    assert torch.equal(before, torch.get_rng_state())
