"""What does not belong together is never averaged, and a sentence says so."""

from __future__ import annotations

from typing import Any

import pytest
import synthetic
from synthetic import PAIRS, make

from kdbench.report.select import Selection, protocol, select
from kdbench.report.teacherless import Pair

PAIR = PAIRS[0]


def seeds(selection: Selection, method: str = "kd", pair: Pair = PAIR) -> list[int]:
    return [one.seed for one in selection.runs.get((method, pair), [])]


def test_seeds_are_one_cell() -> None:
    selection = select([make("kd", PAIR, seed) for seed in (2, 0, 1)])
    assert seeds(selection) == [0, 1, 2]
    assert selection.notes == []


def test_quick_runs_never_join_full_ones() -> None:
    quick = [make("kd", PAIR, seed, epochs=2, quick=True) for seed in range(5)]
    selection = select([*quick, make("kd", PAIR, 0)])
    assert seeds(selection) == [0]
    assert not selection.quick
    assert selection.epochs == 240
    assert len(selection.notes) == 1
    assert "left out 5 runs" in selection.notes[0]
    assert "epochs 2, not 240" in selection.notes[0]
    assert select(quick).quick


def test_a_failed_full_run_does_not_hide_quick_ones() -> None:
    failed = synthetic.refused("kd", PAIR, 0, "killed", "failed")
    assert seeds(select([failed, make("kd", PAIR, 0, epochs=2, quick=True)])) == [0]


def test_other_settings_of_the_protocol_are_left_out() -> None:
    other = [make("at", PAIR, 0, setting={"precision": "amp"})]
    selection = select([make("kd", PAIR, 0), make("kd", PAIR, 1), *other])
    assert selection.methods == ["kd"]
    assert "precision amp, not fp32" in selection.notes[0]


def test_learning_rates_may_differ_between_pairs() -> None:
    selection = select([make("kd", pair, 0) for pair in PAIRS])
    assert len(selection.runs) == 4
    assert selection.notes == []


def test_another_teacher_is_left_out() -> None:
    other = make("at", PAIR, 0, teacher_sha256="ff" * 32)
    selection = select([make("kd", PAIR, 0), make("kd", PAIR, 1), other])
    assert selection.methods == ["kd"]
    assert selection.notes == ["left out 1 run on resnet32x4:vgg8 with another teacher (sha256 ffffffff): at"]


def test_one_label_with_two_settings_keeps_the_more_complete() -> None:
    other = make("kd", PAIR, 2, setting={"hyper": {"ce_weight": 0.5}}, top1_last=1.0)
    selection = select([make("kd", PAIR, 0), make("kd", PAIR, 1), other])
    assert seeds(selection) == [0, 1]
    assert "kd on resnet32x4:vgg8 with other settings" in selection.notes[0]
    assert "ce_weight" in selection.notes[0]


def test_one_seed_counts_once() -> None:
    selection = select(
        [
            make("kd", PAIR, 0, top1_last=1.0, finished="2026-01-01"),
            make("kd", PAIR, 0, top1_last=2.0, finished="2026-01-02"),
        ]
    )
    assert [one.top1_last for one in selection.runs["kd", PAIR]] == [2.0]
    assert "twice" in selection.notes[0]


def test_a_failure_that_was_mended_is_no_failure() -> None:
    failed = synthetic.refused("kd", PAIR, 0, "killed", "failed")
    assert select([failed, make("kd", PAIR, 0)]).refused == []
    assert len(select([failed, make("kd", PAIR, 1)]).refused) == 1


def test_two_versions_of_the_code_are_named() -> None:
    selection = select([make("kd", PAIR, 0), make("kd", PAIR, 1, code={"kdbench": "0.2.0"})])
    assert selection.notes == ["the runs were made with different versions of the code: 0.1.0 0123456789ab, 0.2.0"]


def test_methods_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no runs of crd; it has kd"):
        select([make("kd", PAIR, 0)], ["crd"])


def test_other_data_are_another_protocol() -> None:
    """Same name, other pictures: never one table."""
    known = [make("kd", PAIR, seed, data={"fingerprint": "aa" * 32}) for seed in (0, 1)]
    other = make("at", PAIR, 0, data={"fingerprint": "bb" * 32})
    selection = select([*known, other])
    assert selection.methods == ["kd"]
    assert "left out 1 run of another protocol (data bbbb" in selection.notes[0]
    assert ", not aaaa" in selection.notes[0]
    unknown = select([*known, make("at", PAIR, 0)])
    assert unknown.methods == ["kd"]
    assert "(data unknown, not aaaa" in unknown.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"setting": {"recipe": {"lr": 0.05, "batch_size": 128}}},
        {"setting": {"compile": True}},
        {"setting": {"limit_train": 500}},
        {"epochs": 100},
        {"convention": "crd"},
        {"dataset": "cifar10"},
        {"quick": True},
    ],
    ids=str,
)
def test_any_other_setting_is_another_protocol(change: dict[str, Any]) -> None:
    same, other = make("kd", PAIR, 0), make("kd", PAIR, 0, **change)
    assert protocol(same) != protocol(other)
    assert protocol(same) == protocol(make("at", PAIRS[2], 5))
    selection = select([same, make("at", PAIR, 0), other])
    assert selection.methods == ["at", "kd"]
    assert len(selection.notes) == 1


def test_a_teacher_that_saw_other_images_is_another_teacher() -> None:
    seen = [make("kd", PAIR, seed) for seed in (0, 1)]
    half = ((0.5,) * 3, (0.5,) * 3)
    selection = select([*seen, make("at", PAIR, 0, teacher_normalisation=half)])
    assert selection.methods == ["kd"]
    assert "another normalisation" in selection.notes[0]


def test_another_file_of_a_method_is_another_setting() -> None:
    selection = select([make("kd", PAIR, 0), make("kd", PAIR, 1), make("kd", PAIR, 2, plugin_sha256="ff" * 32)])
    assert seeds(selection) == [0, 1]
    assert "plugin" in selection.notes[0]


def test_pairs_can_be_chosen_by_name_or_glob() -> None:
    records = [make("kd", pair, 0) for pair in PAIRS]
    assert select(records, pairs=["resnet32x4:*"]).pairs == sorted(PAIRS[:2])
    assert select(records, pairs=["vgg13:ShuffleV2", "*:vgg8"]).pairs == sorted([PAIRS[0], PAIRS[2]])
    assert len(select(records, pairs=["all"]).pairs) == 4
    with pytest.raises(ValueError, match=r"no runs on vgg8:vgg8; it has runs on resnet32x4:resnet8x4"):
        select(records, pairs=["vgg8:vgg8"])


def test_the_protocol_of_the_pairs_asked_for_is_taken() -> None:
    full, quick = make("kd", PAIR, 0), make("kd", PAIRS[1], 0, epochs=2, quick=True)
    assert select([full, quick]).pairs == [PAIR]
    assert select([full, quick], pairs=["*:resnet8x4"]).quick


def test_a_table_holds_students_that_begin_at_random_and_others() -> None:
    """A network of the user's, or with weights of timm's, stands beside one of ours; two of one name do not."""
    own, other = "ab" * 32, "cd" * 32
    runs = [make("kd", PAIR, seed) for seed in (0, 1)]
    runs += [make(name, PAIRS[1], seed, pretrained=own) for name in ("kd", "student") for seed in (0, 1)]
    runs += [make(name, PAIRS[1], 0, pretrained=other) for name in ("kd", "student")]
    selection = select(runs)
    assert seeds(selection) == seeds(selection, "kd", PAIRS[1]) == seeds(selection, "student", PAIRS[1]) == [0, 1]
    assert {one.settings.pretrained for one in selection.runs["kd", PAIRS[1]]} == {own}
    (note,) = selection.notes
    assert "with a student that began otherwise, or a network of another file (cdcdcdcd)" in note
