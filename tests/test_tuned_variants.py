"""Tuned weights of variants: which file is whose, and under what they were found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from commands import kdbench

from kdbench import registry, suites
from kdbench.run import session, tuned
from kdbench.tuning import plan
from kdbench.utils.tuning_file import Budget, Score, Trial, Tuned, Unlike

SHORT = ["--suite", "digits", "--epochs", "2", "--limit-train", "96", "--pairs", "resnet14:resnet8"]
WORDS = [*SHORT, "--set", "teacher.epochs=1"]
PAIR = ("resnet14", "resnet8")
RECIPE = {"lr": 0.02, "milestones": [13, 15], "validation": 0.1, "eval_every": 20}


def found(out: Path, row: str, trials: int, **changes: Any) -> Tuned:
    """The file of a choice, as `kdbench tune` would have written it after so many trials."""
    (spec,) = registry.parse(row)
    suite = suites.load("digits")
    usual = session.published_hyper(suites.convention(suite.convention), spec.name, *PAIR)
    variant, fixed = session.variant_of(spec, usual)
    published = usual | fixed
    space = registry.get(spec.name).search_space(published)[:trials]
    score = Score(seed=1000, settings="0123abcd", val_top1=50.0)
    request = session.Request(
        spec.name, ":".join(PAIR), "digits", out=out, overrides=("teacher.epochs=1",), epochs=2, limit_train=96
    )
    cell = session.resolve(request).cells[0]
    facts: dict[str, Any] = {
        **{name: getattr(suite, name) for name in ("dataset", "convention")},
        **{"suite": "digits", "student": PAIR[1], "method": variant, "published": published},
        "teacher": PAIR[0] if registry.get(spec.name).needs_teacher else "",
        "trials": tuple(Trial(values=one, published=False, scores=(score,)) for one in space),
        "choice": space[0],
        "budget": Budget(trials=trials, epochs=2, seeds=(1000,), validation=0.1),
        **{
            "recipe": cell.recipe | {"validation": 0.1},
            "precision": "fp32",
            "data": {},
            "code": {},
            "finished": "2026-01-01",
        },
        "limit_train": cell.settings.limit_train,
    }
    one = Tuned(**facts | changes)
    return tuned.write(one, tuned.path(out, "digits", one.teacher, one.student, variant))


def run(out: Path, methods: str, *words: str) -> Result:
    return kdbench("run", *WORDS, "--weights", "tuned", "--methods", methods, "--out", out, "--dry-run", *words)


def flat(result: Result) -> str:
    return " ".join(result.output.split())


A = "confidence_penalty+label_smoothing"


def test_a_weight_that_is_set_beside_has_the_file_of_its_own_search(tmp_path: Path) -> None:
    """The plain file would fit, too: what it has tuned is no part of what it holds fast."""
    found(tmp_path, A, 3)
    found(tmp_path, f"{A}[beta=0]", 2)
    found(tmp_path, "tfkd", 2)
    assert run(tmp_path, f"{A}[beta=0],tfkd").exit_code == 0
    mixed = run(tmp_path, f"{A}[beta=0],{A}")
    assert mixed.exit_code == 2
    assert "2 trials" in flat(mixed)
    assert "3 trials" in flat(mixed)


@pytest.mark.parametrize("row", ["fitnet[teacher_tap=2]", "crd+fitnet[teacher_tap=2]", 'ofa[exits="tokens"]'])
def test_what_came_later_can_be_set_beside(row: str, tmp_path: Path) -> None:
    row = row.replace('"', "")
    made = plan.resolve(session.Request(row, ":".join(PAIR), "digits", out=tmp_path))
    assert len(made.job.cells) == 6
    assert all(set(dict([row[:-1].split("[")[1].split("=")])) <= cell.settings.hyper.keys() for cell in made.job.cells)


def test_what_came_later_at_its_default_is_the_plain_method(tmp_path: Path) -> None:
    made = plan.resolve(session.Request("fitnet[teacher_tap=-1],fitnet", ":".join(PAIR), "digits", out=tmp_path))
    assert [question.method for question in made.questions] == ["fitnet"]
    found(tmp_path, "fitnet", 2)
    assert run(tmp_path, "fitnet[teacher_tap=-1]").exit_code == 0


def test_long_names_that_begin_alike_are_two_files(tmp_path: Path) -> None:
    ctkd = "t_start=2,t_end=30,decay_max=0.5,decay_min=0.1,loops=5,alpha=2"
    row = f"confidence_penalty+ctkd+label_smoothing[{ctkd},ce_weight=0.5,tau="
    made = plan.resolve(session.Request(f"{row}2],{row}3]", ":".join(PAIR), "digits", out=tmp_path), trials=2)
    assert len(made.questions) == 2
    files = {question.file for question in made.questions}
    assert len(files) == 2
    assert max(len(file.name) for file in files) < 130


def test_both_verbs_agree_that_a_weight_of_nothing_has_nothing_to_tune(tmp_path: Path) -> None:
    made = plan.resolve(session.Request("kd[kd_weight=0],kd", ":".join(PAIR), "digits", out=tmp_path))
    assert [question.method for question in made.questions] == ["kd"]
    assert "kd[kd_weight=0] has nothing to tune; its row is the same with every --weights" in made.notes
    assert run(tmp_path, "kd[kd_weight=0]").exit_code == 0


def test_rows_of_another_search_are_refused(tmp_path: Path) -> None:
    found(tmp_path, "kd", 2)
    other = found(tmp_path, "fitnet", 2)
    assert run(tmp_path, "kd,fitnet").exit_code == 0
    for changes, words in (
        ({"precision": "bf16"}, "was tuned with bf16, but kd@tuned"),
        ({"limit_train": 64}, "64 images"),
        ({"recipe": other.recipe | {"lr": 0.5}}, "lr 0.5"),
    ):
        found(tmp_path, "fitnet", 2, **changes)
        refused = run(tmp_path, "kd,fitnet")
        assert refused.exit_code == 2, changes
        assert words in flat(refused)
        assert "rows of one table have the same search" in flat(refused)


def test_weights_of_other_conditions_are_told(tmp_path: Path) -> None:
    assert "other conditions" not in flat(run(place(tmp_path / "a"), "kd"))
    said = flat(run(place(tmp_path / "b", precision="bf16", limit_train=7), "kd"))
    assert "Weights were tuned under other conditions" in said
    assert "bf16, not fp32 (kd)" in said
    assert "7 images, not" in said


def place(out: Path, **changes: Any) -> Path:
    found(out, "kd", 2, **changes)
    return out


def test_what_moves_with_the_length_is_no_other_recipe(tmp_path: Path) -> None:
    one = found(tmp_path, "kd", 2, recipe=RECIPE)
    longer = RECIPE | {"milestones": [130, 150], "validation": 0.0, "eval_every": 1}
    assert one.unlike(longer, "fp32", one.limit_train, 20) == []
    assert one.unlike(longer, "fp32", one.limit_train, 2) == [Unlike("milestones [13, 15]", "milestones [130, 150]")]
    assert one.unlike(RECIPE | {"clip_grad": 5.0}, "fp32", one.limit_train, 2) == [
        Unlike("clip_grad none", "clip_grad 5.0")
    ]


def test_the_next_command_of_a_method_without_a_teacher_names_its_pair(tmp_path: Path) -> None:
    words = [*WORDS, "--methods", "label_smoothing", "--trials", "2", "--epochs", "1", "--out", tmp_path]
    said = flat(kdbench("tune", *words))
    assert "--pairs resnet14:resnet8" in said.split("Next: ")[1]
    shutil.rmtree(tmp_path / "tuned" / "digits")
    assert "--pairs resnet14:resnet8" in flat(run(tmp_path, "label_smoothing"))
