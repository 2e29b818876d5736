"""Fair weights: the same budget for every method, chosen on held-out images, kept, and used by name."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import written
from click.testing import Result
from commands import kdbench, records
from narrow import there

from kdbench import data, record, registry
from kdbench.engine.lane import Lane
from kdbench.run import tuned
from kdbench.run.outcome import Teller
from kdbench.run.tuned import Budget, Score, Trial
from kdbench.tuning.choose import best, candidates, margins, ordered

SHORT = ["--suite", "digits", "--epochs", "2", "--limit-train", "96", "--pairs", "resnet14:resnet8"]
WORDS = [*SHORT, "--set", "teacher.epochs=1"]


def tune(out: Path, *words: str, methods: str = "kd,fitnet") -> Result:
    return kdbench("tune", *WORDS, "--methods", methods, "--trials", "3", "--out", out, *words)


def choices(out: Path) -> dict[str, tuned.Tuned]:
    return {path.stem: tuned.read(path) for path in sorted((out / "tuned" / "digits").rglob("*.json"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods tuned; tests must not change it."""
    out = tmp_path_factory.mktemp("tuned")
    result = tune(out)
    assert result.exit_code == 0, result.output
    assert "no teacher resnet14" in result.output
    assert "trials of 2 epochs choose for runs of 20" in " ".join(result.output.split())
    return out


def test_the_next_command_is_whole(tmp_path: Path, own_registry: None) -> None:
    """It names the plug-in, and words with blanks are quoted; so does the sentence about weights that are missing."""
    page = (written.ROOT / "README.md").read_text()
    (code,) = (block.code for block in written.blocks(page) if block.kind == "python")
    file = tmp_path / "my files" / "next_mine.py"
    file.parent.mkdir()
    file.write_text(code)
    out = tmp_path / "my results"
    words = ["--epochs", "1", "--plugin", str(file)]
    said = tune(out, *words, methods="next_mine").output
    (line,) = (line for line in said.replace("\n", " ").split("Next: ")[1:])
    asked = shlex.split(line.split(" estimated ")[0])
    assert asked[:3] == ["kdbench", "run", "--weights"]
    assert asked[asked.index("--methods") + 1] == "student,next_mine"
    assert asked[asked.index("--plugin") + 1] == str(file)
    assert asked[asked.index("--out") + 1] == str(out)
    missing = kdbench("run", *SHORT, "--plugin", file, "--weights", "tuned", "--methods", "at", "--out", out)
    assert f"--plugin '{file}'" in missing.output.replace("\n", " ")
    assert f"--out '{out}'" in missing.output.replace("\n", " ")


def trial(value: float, *scores: float | None) -> Trial:
    made = tuple(Score(seed=1000 + at, settings="x", val_top1=one) for at, one in enumerate(scores))
    return Trial(values={"beta": value}, published=value == 1.0, scores=made)


def test_the_best_mean_is_chosen_ties_go_to_the_nearest_and_what_failed_loses() -> None:
    assert best([trial(1.0, 50.0, 52.0), trial(3.0, 60.0, 41.0), trial(0.1, 99.0, None)]) == trial(1.0, 50.0, 52.0)
    assert best([trial(1.0, 50.0), trial(3.0, 50.0)]) == trial(1.0, 50.0)
    assert best([trial(1.0, None), trial(3.0, 1.0)]) == trial(3.0, 1.0)
    assert best([trial(1.0, None)]) is None
    tries = [trial(1.0, 50.0), trial(3.0, 53.0), trial(0.3, 52.0)]
    assert margins(tries[1], tries) == (3.0, 1.0)
    assert margins(tries[1], [trial(1.0, None), tries[1]]) == (None, None)


def test_candidates_are_the_nearest_the_published_first() -> None:
    space = [{"beta": value} for value in (4.0, 40.0, 133.0, 400.0, 1200.0, 4000.0)]
    assert candidates("x", space, {"beta": 400.0}, 3) == [{"beta": 400.0}, {"beta": 1200.0}, {"beta": 133.0}]
    assert ordered([{"kind": "a"}, {"kind": "b"}, {"kind": "c"}], {"kind": "b"}) == [1, 0, 2]
    with pytest.raises(ValueError, match="x has 1 candidates, not 2"):
        candidates("x", [{"beta": 1.0}], {"beta": 1.0}, 2)


def test_the_files_prove_the_same_budget_and_the_choice(finished: Path) -> None:
    found = choices(finished)
    assert list(found) == ["fitnet", "kd"]
    assert {str(one.budget) for one in found.values()} == {"3 trials of 2 epochs, seeds 1000"}
    trained = {one.settings_hash: one for one in records_of(finished / "tuned")}
    assert len(trained) == 6
    for one in found.values():
        assert len(one.trials) == one.budget.trials
        for score in (score for trial in one.trials for score in trial.scores):
            run = trained[score.settings]
            assert (run.epochs, run.seed) == (one.budget.epochs, score.seed)
            assert run.settings.recipe["validation"] == one.budget.validation == 0.1
            assert run.curve[-1].val_top1 == score.val_top1
            assert run.teacher_sha256 == one.teacher_sha256
        chosen = best(one.trials)
        assert chosen is not None
        assert one.choice == chosen.values
        assert sum(trial.published for trial in one.trials) == 1


def records_of(out: Path) -> list[record.Record]:
    found, problems = record.read_all(out / "runs")
    assert not problems
    return found


def test_teachers_are_not_trained_a_second_time(finished: Path) -> None:
    assert list((finished / "teachers").rglob("*.safetensors"))
    assert not (finished / "tuned" / "teachers").exists()


def test_a_dry_run_shows_the_trials_and_trains_nothing(finished: Path, tmp_path: Path) -> None:
    said = fine_text(tune(tmp_path, "--dry-run"))
    assert "2 choices among 3 candidates of each, 6 trials in all" in said
    assert "6 missing of 6 cells" in said
    assert "on cpu for 6 cells" in said
    assert "trained first, and counted in: teacher resnet14" in said
    assert not list(tmp_path.rglob("*.json"))
    assert "6 done of 6 cells" in fine_text(tune(finished, "--dry-run"))


def fine_text(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_what_is_complete_is_kept_and_others_go_on(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    assert tune(finished).exit_code == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}


def test_parts_make_the_choices_of_the_whole(finished: Path, tmp_path: Path) -> None:
    """The part that ends first trains its trials and chooses nothing; the last one chooses as one process does."""
    shutil.copytree(finished / "teachers", tmp_path / "teachers")
    first = tune(tmp_path, "--shard", "2/2")
    assert first.exit_code == 0, first.output
    assert "2 choices among 3 candidates of each, 6 trials in all, 3 of them in part 2/2" in " ".join(
        first.output.split()
    )
    assert "2 choices wait for trials of other parts" in " ".join(first.output.split())
    assert (choices(tmp_path), len(records(tmp_path / "tuned"))) == ({}, 3)
    last = tune(tmp_path, "--shard", "1/2")
    assert last.exit_code == 0, last.output
    assert "wait" not in last.output
    made, wanted = choices(tmp_path), choices(finished)
    assert [(one.choice, one.trials) for one in made.values()] == [(one.choice, one.trials) for one in wanted.values()]
    again = tune(tmp_path, "--shard", "2/2")
    assert (again.exit_code, "kd" in again.output) == (0, True)
    nothing = tune(tmp_path, "--shard", "50/50")
    assert (nothing.exit_code, "0 of them in part 50/50" in nothing.output) == (0, True)


def test_a_part_that_lost_a_trial_says_so(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished / "teachers", tmp_path / "teachers")
    monkeypatch.setattr("kdbench.run.runner.run", lambda job, watch: None)
    told = tune(tmp_path, "--shard", "1/2")
    assert told.exit_code == 1
    assert "not every trial has ended; repeat the command" in told.output


def test_a_kill_between_trials_loses_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Teller.epoch
    seen: list[Lane] = []

    def killed(self: Teller, stage: str, lanes: Sequence[Lane]) -> None:
        real(self, stage, lanes)
        seen.extend(lanes)
        if len([lane for lane in seen if not lane.key.startswith("teacher")]) == 7:  # in the fourth trial
            raise KeyboardInterrupt

    monkeypatch.setattr(Teller, "epoch", killed)
    assert tune(tmp_path, "--lanes", "1").exit_code != 0
    monkeypatch.undo()
    assert len(records_of(tmp_path / "tuned")) == 3
    assert list(choices(tmp_path)) == ["kd"]  # its three trials had ended
    kept = (tmp_path / "tuned" / "digits" / "resnet14-resnet8" / "kd.json").read_bytes()
    assert tune(tmp_path).exit_code == 0
    assert (tmp_path / "tuned" / "digits" / "resnet14-resnet8" / "kd.json").read_bytes() == kept
    alike = {name: (one.trials, one.choice, one.over_second) for name, one in choices(tmp_path).items()}
    assert alike == {name: (one.trials, one.choice, one.over_second) for name, one in choices(finished).items()}


def test_test_labels_choose_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = data.choose

    def permuted(*words: Any, **named: Any) -> data.Dataset:
        whole = real(*words, **named)
        return replace(whole, test_labels=whole.test_labels.roll(101))

    monkeypatch.setattr("kdbench.data.choose", permuted)
    result = tune(tmp_path)
    assert result.exit_code == 0, result.output
    ours, theirs = choices(tmp_path), choices(finished)
    assert {name: (one.trials, one.choice) for name, one in ours.items()} == {
        name: (one.trials, one.choice) for name, one in theirs.items()
    }
    tested = [sorted(there(one.top1_last) for one in records_of(out / "tuned")) for out in (tmp_path, finished)]
    assert tested[0] != tested[1]  # they were other labels


def test_tuned_weights_replace_the_published_ones_and_the_rows_say_so(finished: Path) -> None:
    result = kdbench("run", *WORDS, "--methods", "kd,student", "--seeds", "1", "--weights", "tuned", "--out", finished)
    assert result.exit_code == 0, result.output
    assert "no teacher resnet14" not in result.output
    plain = kdbench("run", *WORDS, "--methods", "kd", "--seeds", "1", "--out", finished)
    assert plain.exit_code == 0, plain.output
    found = records(finished)
    one = found["resnet14:resnet8 kd@tuned 0"]
    assert one.settings.weights == "tuned"
    assert choices(finished)["kd"].choice.items() <= one.settings.hyper.items()
    assert "validation" not in one.settings.recipe
    assert found["resnet14:resnet8 kd 0"].settings.weights == "published"
    assert found[":resnet8 student 0"].settings.weights == "published"  # nothing to tune: one row
    shown = kdbench("report", "--out", finished, "--formats", "csv")
    assert "kd@tuned" in shown.output
    rows = {line.split()[0] for line in shown.output.splitlines() if "1/1" in line}
    assert rows == {"student", "kd", "kd@tuned"}  # one table


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "at"], "no tuned weights of at on resnet14:resnet8; find them first: kdbench tune --methods at"),
        (["--methods", "at"], "--pairs resnet14:resnet8 --suite digits --set teacher.epochs=1 --out"),
        (["--methods", "kd", "--seeds", "1000,"], "seed 1000 chose the weights of kd"),
        (["--methods", "kd", "--set", "convention=crd"], "another data set, convention or published weight"),
        (["--methods", "fitnet[beta=3]"], "fitnet[beta=3.0] sets beta, which is all that tuning chose"),
    ],
)
def test_weights_that_are_not_there_are_a_sentence(finished: Path, words: list[str], sentence: str) -> None:
    result = kdbench("run", *WORDS, "--weights", "tuned", "--out", finished, *words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_a_choice_that_gives_way_to_another_is_told(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = records_of(tmp_path / "tuned")
    result = tune(tmp_path, "--epochs", "1", methods="kd")
    said = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "kd on resnet14:resnet8 was tuned otherwise before (3 trials of 2 epochs, seeds 1000)" in said
    assert choices(tmp_path)["kd"].budget.epochs == 1
    assert before
    assert all(one in records_of(tmp_path / "tuned") for one in before)
    assert "otherwise" not in tune(tmp_path, "--epochs", "1", methods="kd").output


def test_a_damaged_trial_is_told_and_trained_anew_by_force(tmp_path: Path, finished: Path) -> None:
    """Its choice is gone, too, as after a disk that failed; otherwise the trial would not be read."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = choices(tmp_path)["kd"]
    tuned.path(tmp_path, "digits", "resnet14", "resnet8", "kd").unlink()
    trial = next((tmp_path / "tuned" / "runs").rglob("kd*-s1000-*.json"))
    whole = json.loads(trial.read_text())
    trial.write_text(trial.read_text()[:300])
    told = tune(tmp_path, methods="kd")
    assert told.exit_code == 1
    assert "--force trains the cell anew" in " ".join(told.output.split())
    mended = tune(tmp_path, "--force", methods="kd")
    assert mended.exit_code == 0, mended.output
    assert json.loads(trial.read_text())["top1_last"] == whole["top1_last"]
    assert choices(tmp_path)["kd"].choice == before.choice


def test_an_edited_choice_is_not_believed(tmp_path: Path, finished: Path) -> None:
    whole = next((finished / "tuned" / "digits").rglob("kd.json"))
    file = tuned.path(tmp_path, "digits", "resnet14", "resnet8", "kd")
    file.parent.mkdir(parents=True)
    values = json.loads(whole.read_text())
    for broken in (json.dumps(values | {"choice": {}}), "", "{", "[]", "3", '{"checksum": 1}', "\0"):
        file.write_text(broken)
        result = kdbench("run", *WORDS, "--methods", "kd", "--weights", "tuned", "--out", tmp_path)
        assert result.exit_code == 2, broken
        assert "tune again: kdbench tune --methods kd" in " ".join(result.output.split())


def test_rows_of_unequal_budget_are_refused(tmp_path: Path, finished: Path) -> None:
    for name, one in choices(finished).items():
        budget = one.budget if name == "kd" else Budget(trials=6, epochs=9, seeds=(1000,), validation=0.1)
        tuned.write(
            one.model_copy(update={"budget": budget}), tuned.path(tmp_path, "digits", "resnet14", "resnet8", name)
        )
    result = kdbench("run", *WORDS, "--methods", "kd,fitnet", "--weights", "tuned", "--out", tmp_path)
    assert result.exit_code == 2
    assert "rows of one table have the same budget" in " ".join(result.output.split())


def test_another_teacher_is_a_failure_of_the_cell(tmp_path: Path, finished: Path) -> None:
    one = choices(finished)["kd"].model_copy(update={"teacher_sha256": "0" * 64})
    tuned.write(one, tuned.path(tmp_path, "digits", "resnet14", "resnet8", "kd"))
    result = kdbench("run", *WORDS, "--methods", "kd", "--seeds", "1", "--weights", "tuned", "--out", tmp_path)
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "tuned under another teacher" in said
    assert "leave out --epochs, which shortens the teacher as no trial does" in said  # to tune again would not help


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trials", "7"], "--trials takes 2 to 6"),
        (["--seeds", "0"], "--seeds takes a count of 1 to 1000"),
        (["--methods", "kd[kd_weight=2]"], "chooses the values of kd itself (kd_weight); leave them out of [...]"),
    ],
)
def test_words_that_will_not_do(tmp_path: Path, words: list[str], sentence: str) -> None:
    result = kdbench("tune", *WORDS, "--methods", "kd", "--out", tmp_path, *words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_where_every_trial_diverges_the_published_values_stay_and_the_file_says_why(tmp_path: Path) -> None:
    result = tune(tmp_path, "--set", "recipe.lr=1e12", methods="fitnet")
    assert result.exit_code == 0, result.output
    one = choices(tmp_path)["fitnet"]
    assert one.choice == {}
    assert one.reason.startswith(
        "no trial came to its end: the logits were not finite after epoch 1; try a smaller beta"
    )
    assert all(score.val_top1 is None and score.reason for trial in one.trials for score in trial.scores)
    assert "the published values stay" in " ".join(result.output.split())
    assert tune(tmp_path, "--set", "recipe.lr=1e12", methods="fitnet").exit_code == 0


def test_a_method_that_refuses_the_pair_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(pair: object, **hyper: object) -> None:
        raise ValueError("it takes other networks")

    monkeypatch.setattr(registry.get("fitnet"), "build", refuses)
    assert tune(tmp_path).exit_code == 0
    found = choices(tmp_path)
    assert found["fitnet"].choice == {}
    assert found["fitnet"].reason == "no trial came to its end: it takes other networks"
    assert found["kd"].choice
    words = ["--methods", "kd,fitnet", "--seeds", "1", "--weights", "tuned", "--out", str(tmp_path)]
    result = kdbench("run", *WORDS, *words)
    assert result.exit_code == 0, result.output
    assert records(tmp_path)["resnet14:resnet8 fitnet@tuned 0"].status == "unsupported"


@pytest.mark.parametrize(
    "changes",
    [{"student": "resnet20"}, {"teacher": "resnet20"}, {"suite": "semckd"}, {"method": "fitnet"}, {"teacher": ""}],
)
def test_a_choice_in_the_place_of_another_is_refused(changes: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    """A file that was copied from another pair's folder is whole and sealed, and its weights are another's."""
    file = next(iter((finished / "tuned" / "digits").rglob("kd.json")))
    copied = tmp_path / file.relative_to(finished)
    tuned.write(tuned.read(file).model_copy(update=changes), copied)
    result = kdbench("run", *WORDS, "--methods", "kd", "--weights", "tuned", "--out", tmp_path, "--dry-run")
    assert result.exit_code == 2
    assert "put in the place of another; tune again: kdbench tune --methods kd" in " ".join(result.output.split())


def test_a_choice_of_a_later_format_is_not_believed(finished: Path, tmp_path: Path) -> None:
    file = next(iter((finished / "tuned" / "digits").rglob("kd.json")))
    copied = tmp_path / file.relative_to(finished)
    tuned.write(tuned.read(file).model_copy(update={"format": 2}), copied)
    with pytest.raises(ValueError, match="has weights of format 2, and this kdbench reads 1: a later one wrote it"):
        tuned.read(copied)
