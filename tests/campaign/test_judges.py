"""The campaign's own judges see what they are there to see."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from campaign import facts, full, spoil
from campaign.area import Fault, drawn
from campaign.child import Ended
from campaign.judging import sound
from campaign.ledger import Ledger


def said(code: int, out: str = "", err: str = "Error: no such pair\n") -> Ended:
    return Ended(code, out.encode(), err.encode())


def test_a_sentence_and_a_known_code_are_sound() -> None:
    for code in (0, 1, 2, 130, 143):
        sound(said(code))
    sound(said(0, err=""))


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (said(1, err="Traceback (most recent call last):"), "Traceback"),
        (said(2, out="invalid literal for int()"), "invalid literal"),
        (said(2, err="[Errno 28] No space"), "Errno"),
        (said(70), "exit code 70"),
        (said(-9), "exit code -9"),
        (said(1, err=" \n"), "without a word"),
    ],
)
def test_what_is_not_sound(ended: Ended, words: str) -> None:
    with pytest.raises(Fault, match=words):
        sound(ended)


def test_a_code_must_be_one_of_those_asked_for_and_foreign_words_may_be_excepted() -> None:
    with pytest.raises(Fault, match="exit code 1, not 0 or 2"):
        sound(said(1), {0, 2})
    sound(said(1, err="plug-in x: Traceback"), but="plug-in .*Traceback")


def test_what_was_saved_and_is_trained_again_is_lost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, tmp_path / "ledger.txt")
    ledger.check()
    good = ["epoch 0 0 a.ckpt", "saved 0 1 a.ckpt", "epoch 1 0 a.ckpt", "epoch 1 0 a.ckpt", "saved 1 1 a.ckpt"]
    ledger.file.write_text("\n".join([*good, "epoch 1 1 a.ckpt", "epoch 1 0 b.ckpt", "rows 3 4 logits.rows"]))
    ledger.check()
    for lost in ("epoch 1 0 a.ckpt", "epoch 0 3 a.ckpt"):
        ledger.file.write_text("\n".join([*good, lost]))
        with pytest.raises(Fault, match=r"of a\.ckpt had been saved, and was trained again"):
            ledger.check()
    ledger.file.write_text("rows 3 4 logits.rows\nrows 4 pooled.rows\nrows 5 4 logits.rows\n")
    with pytest.raises(Fault, match=r"entry 4 of logits\.rows was kept"):
        ledger.check()


def test_facts_that_differ() -> None:
    facts.same({"a": 1}, {"a": 1})
    for found, words in (({}, "not there: a"), ({"a": 1, "b": 2}, "but not in a run"), ({"a": 2}, "a is not what")):
        with pytest.raises(Fault, match=words):
            facts.same(found, {"a": 1})
    with pytest.raises(Fault, match="top1 is 3, not 2"):
        facts.same({"a": {"top1": 3, "seed": 0}}, {"a": {"top1": 2, "seed": 0}})


def test_a_budget_is_spent(tmp_path: Path) -> None:
    budget = full.Budget(tmp_path, 10)
    budget.spend(10)
    with pytest.raises(OSError, match="No space left on device"):
        budget.spend(1)
    assert budget.spent == 11
    assert list(full.sizes(400, 20))[:3] == [0, 1, 4]
    assert len(set(full.sizes(400, 20))) == 20


@pytest.mark.parametrize("kind", spoil.KINDS)
def test_a_spoilt_file_is_another(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": 1}' * 20)
    (tmp_path / "b.json").write_bytes(b"another")
    assert spoil.spoil(path, kind, random.Random(1)).startswith("a.json ")
    assert not path.is_file() or path.read_bytes() != b'{"a": 1}' * 20


def test_what_is_drawn_follows_from_seed_and_name() -> None:
    assert drawn(1, "kill", "x").random() == drawn(1, "kill", "x").random()
    assert len({drawn(seed, area, name).random() for seed in (1, 2) for area in "ab" for name in "xy"}) == 8
