"""`kdbench run` from the command line to a leaderboard cell, and everything that can get in its way."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL, fine, kdbench, measured, records, refused, run, stop_after_an_epoch
from filelock import FileLock

from kdbench import models, record, registry
from kdbench.engine import fit as engine
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.lane import Lane
from kdbench.run import grid
from kdbench.run.claims import claimed
from kdbench.run.outcome import Done
from kdbench.run.session import Request, resolve
from kdbench.terminal.pace import Pace
from kdbench.utils.files import check_writable


def test_from_the_command_to_a_cell_of_the_csv(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    fine("report", "--out", tmp_path)
    rows = list(csv.DictReader((tmp_path / "digits.csv").read_text().splitlines()))
    assert [(row["teacher"], row["student"], row["method"], row["status"]) for row in rows] == [
        ("resnet14", "resnet8", "fitnet", "done"),
        ("resnet14", "resnet8", "kd", "done"),
    ]
    for row in rows:
        assert 0 <= float(row["top1_last"]) <= float(row["top1_best_test"]) <= 100
        assert float(row["group_seconds"]) > 0
    assert (tmp_path / "digits" / "leaderboard.png").stat().st_size > 5000
    assert "fitnet" in (tmp_path / "digits" / "leaderboard.md").read_text()


def test_a_record_says_everything_that_sets_its_numbers(finished: Path) -> None:
    one = records(finished)["resnet14:resnet8 fitnet 0"]
    assert one.settings.hyper["beta"] == 100.0
    assert one.settings.hyper["tap"] == 1  # the semckd convention's layer
    assert one.settings.hyper["kd_weight"] == 1.0
    assert one.quick
    assert len(one.curve) == 2
    assert one.weights_sha256
    assert one.teacher_sha256
    assert one.data["fingerprint"]
    assert one.extra_train_params
    assert one.extra_infer_params == 0
    assert one.agreement is not None


def test_repeating_a_finished_run_does_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    result = run(finished)
    assert result.exit_code == 0
    assert "2 of 2 cells are there" in result.output
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}


def test_a_run_leaves_no_checkpoint_or_lock_behind(finished: Path) -> None:
    left = [
        path
        for path in finished.rglob("*")
        if path.suffix in (".ckpt", ".tmp") or (path.parent.match("runs/*/*") and path.suffix == ".lock")
    ]
    assert left == []


def test_one_more_method_joins_with_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    alone = run(tmp_path, methods="fitnet")
    assert alone.exit_code == 0, alone.output
    ours, theirs = records(tmp_path)["resnet14:resnet8 fitnet 0"], records(finished)["resnet14:resnet8 fitnet 0"]
    assert ours.measured() == theirs.measured()


def test_several_students_share_a_teacher_and_lanes_change_nothing(tmp_path: Path) -> None:
    both = ["--pairs", "resnet14:resnet8,resnet14:wrn_16_1"]
    for lanes in ("1", "4"):
        fine("run", *SMALL, *both, "--methods", "kd,student", "--out", tmp_path / lanes, "--lanes", lanes)
    assert len(measured(tmp_path / "1")) == 4
    assert measured(tmp_path / "1") == measured(tmp_path / "4")


def test_seeds_differ_and_methods_of_a_seed_start_alike(tmp_path: Path) -> None:
    result = run(tmp_path, "--seeds", "2", methods="kd")
    assert result.exit_code == 0, result.output
    found = records(tmp_path)
    assert found["resnet14:resnet8 kd 0"].weights_sha256 != found["resnet14:resnet8 kd 1"].weights_sha256


def test_dry_run_shows_the_matrix_and_trains_nothing(finished: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "--dry-run")
    assert result.exit_code == 0
    assert "2 missing of 2 cells" in result.output
    assert "on cpu for 2 cells" in result.output
    assert not list(tmp_path.rglob("*.json"))
    assert "2 done of 2 cells" in run(finished, "--dry-run").output


def test_status_tells_what_is_there(finished: Path, tmp_path: Path) -> None:
    result = kdbench("status", "--out", finished)
    assert result.exit_code == 0
    assert "resnet14-resnet8" in result.output
    assert "teacher digits/resnet14" in result.output
    assert "nothing in" in kdbench("status", "--out", tmp_path).output


def test_shards_make_the_whole(tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        result = run(tmp_path, "--seeds", "2", "--shard", part, methods="kd")
        assert result.exit_code == 0, result.output
        assert "1 of 1 cell is there" in result.output
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "fitnets"], "no method 'fitnets'; did you mean fitnet"),
        (["--methods", "zzz*"], "no method matches 'zzz*'"),
        (["--methods", "kd[beta=1]"], "method 'kd' has no hyper-parameter 'beta'; it has"),
        (["--methods", "fitnet[beta=much]"], "fitnet[beta] takes a value like 100.0, not 'much'"),
        (["--methods", "kd+kd"], "names a method twice"),
        (["--methods", ","], "no method was asked for"),
        (["--pairs", "resnet14"], "a pair is written teacher:student, not 'resnet14'"),
        (["--pairs", "resnet14:resnet9"], "no model 'resnet9'"),
        (["--pairs", "foo*:bar"], "no pair of suite digits matches"),
        (["--suite", "digit"], "no suite 'digit' (a file of yours ends in .toml); did you mean digits"),
        (["--epochs", "0"], "--epochs must be 1 or more, not 0"),
        (["--epochs", "-3"], "--epochs must be 1 or more, not -3"),
        (["--epochs", "many"], "'many' is no whole number"),
        (["--seeds", "0"], "with a comma behind it, 0 is that one seed"),
        (["--seeds", "-1"], "--seeds takes a count of 1 or more"),
        (["--seeds", "a,b"], "--seeds takes a count such as 3"),
        (["--lanes", "0"], "--lanes must be 1 or more, not 0"),
        (["--limit-train", "1"], "--limit-train must be 2 or more"),
        (["--precision", "half"], "no precision 'half'; there are fp32, tf32, bf16, fp16 and amp"),
        (["--precision", "tf32"], "tf32 needs a CUDA device"),
        (["--device", "tpu9"], "no device 'tpu9'"),
        (["--shard", "3/2"], "--shard takes i/n"),
        (["--set", "recipe.lr"], "--set takes key=value"),
        (["--set", "recipe.speed=1"], "no setting 'recipe.speed'"),
        (["--set", "recipe.lr=-1"], "recipe.lr=-1 will not do"),
        (["--out", "/dev/null/x"], "cannot write to the output folder /dev/null/x"),
        (["--nonsense"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words_get_one_sentence_and_exit_code_2(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in refused("run", *SMALL, "--methods", "kd", "--out", tmp_path, *words)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("command", ["run", "tune"])
def test_a_folder_that_cannot_be_written_is_told_before_the_estimate(command: str) -> None:
    """The estimate takes its time, and its question is answered for a run that could not begin."""
    said = refused(command, "--suite", "digits", "--methods", "kd", "--out", "/dev/null/x")
    assert "Error: cannot write to the output folder /dev/null/x:" in said
    assert "about" not in said


def test_the_look_before_the_estimate_leaves_no_folder_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", keep=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    check_writable(tmp_path / "a", keep=False)
    assert (tmp_path / "a").is_dir()


def test_a_look_at_a_full_disk_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"cannot write to the output folder .*No space left"):
        check_writable(tmp_path / "a" / "b", keep=False)
    assert not list(tmp_path.iterdir())


def test_missing_data_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torchvision.datasets.CIFAR100.download", lambda self: (_ for _ in ()).throw(OSError("no network"))
    )
    words = ["--suite", "semckd", "--methods", "kd", "--pairs", "resnet14:resnet8", "--data-dir", tmp_path]
    assert "KDBENCH_DATA" in refused("run", *words, "--out", tmp_path / "o")


def test_a_broken_plugin_is_named_and_the_rest_runs(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    result = run(tmp_path / "out", "--plugin", str(broken), methods="kd")
    assert result.exit_code == 1
    assert "plug-in broken.py cannot be imported" in result.output
    assert "1 of 1 cell is there" in result.output


def test_a_pair_that_a_method_refuses_is_a_sentence_in_the_table(tmp_path: Path) -> None:
    result = run(tmp_path, methods="kd,fitnet[tap=9]")
    assert result.exit_code == 0, result.output
    assert "tap=9 is not there" in result.output
    assert "1 of 2 cells are there, 1 refused by their method" in result.output
    assert "tap=9 is not there" in kdbench("report", "--out", tmp_path).output.replace("\n", " ")


def test_weights_that_go_missing_are_asked_for_again(tmp_path: Path) -> None:
    """What another machine or another day can serve is no verdict on the pair: nothing is written down."""
    create = models.create

    def gone(name: str, *rest: Any, **words: Any) -> models.Tapped:
        if name == "resnet8":
            raise models.WeightsMissing("its weights are in no cache")
        return create(name, *rest, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", gone)
        result = run(tmp_path, methods="kd")
        assert result.exit_code == 1
        assert "its weights are in no cache" in result.output
        assert records(tmp_path) == {}
    assert run(tmp_path, methods="kd").exit_code == 0
    assert records(tmp_path)


def test_a_diverging_cell_fails_with_term_and_epoch_and_the_others_go_on(tmp_path: Path) -> None:
    result = run(tmp_path, methods="kd,fitnet[beta=1e39]")
    assert result.exit_code == 1
    assert "term 'hint' was" in result.output
    assert "in epoch 1" in result.output
    found = records(tmp_path)
    assert {one.status for one in found.values()} == {"done", "failed"}
    again = run(tmp_path, methods="kd,fitnet[beta=1e39]")
    assert again.exit_code == 1
    assert "--retry-failed tries again" in again.output


def test_force_loses_nothing_that_it_cannot_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, methods="kd").exit_code == 0
    path = next((tmp_path / "runs").rglob("kd-*.json"))
    before = path.read_bytes()
    stop_after_an_epoch(monkeypatch)
    assert run(tmp_path, "--force", methods="kd").exit_code == 130
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert run(tmp_path, "--force", methods="kd").exit_code == 0
    assert path.read_bytes() != before  # trained anew: another time, the same numbers
    assert record.read(path).weights_sha256 == json.loads(before)["weights_sha256"]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_run_that_goes_on_is_not_in_its_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_after_an_epoch(patched)
        assert run(tmp_path, methods="kd").exit_code == 130
    seen: list[str] = []
    step = Pace.step

    def watched(pace: Pace, lanes: int) -> None:
        seen.append(pace.at)
        step(pace, lanes)

    monkeypatch.setattr(Pace, "step", watched)
    assert run(tmp_path, methods="kd").exit_code == 0
    assert set(seen) == {"going on"}


def test_force_takes_another_teacher(tmp_path: Path) -> None:
    assert run(tmp_path, methods="kd").exit_code == 0
    path = next((tmp_path / "runs").rglob("kd-*.json"))
    made = record.read(path).model_copy(update={"teacher_sha256": "0" * 64, "checksum": ""})
    record.write(made, path)
    assert run(tmp_path, methods="fitnet").exit_code == 1
    assert run(tmp_path, "--force", methods="kd,fitnet").exit_code == 0


def test_fail_fast_stops(tmp_path: Path) -> None:
    result = run(tmp_path, "--fail-fast", methods="fitnet[beta=1e39],kd")
    assert result.exit_code == 1
    assert "--fail-fast" in result.output


def test_two_runs_on_one_folder_share_the_cells(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path, methods="kd").exit_code == 0
    path = next(iter((finished / "runs").rglob("fitnet-*.json")))
    theirs = tmp_path / ".locks" / path.relative_to(finished / "runs").with_suffix(".lock")
    theirs.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(theirs):
        result = run(tmp_path)
    assert result.exit_code == 1
    assert "another kdbench run on this folder is training it" in result.output
    assert "1 of 2 cells are there, 1 left to the other kdbench run" in result.output
    assert run(tmp_path).exit_code == 0


@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_a_damaged_record_is_named_and_not_trusted(tmp_path: Path, damage: str) -> None:
    assert run(tmp_path, methods="kd,student").exit_code == 0
    path = next((tmp_path / "runs").rglob("kd-*.json"))
    text = path.read_text()
    if damage == "truncated":
        path.write_text(text[: len(text) // 2])
    else:
        raw = json.loads(text)
        raw["top1_last"] = 99.9
        path.write_text(json.dumps(raw))
    result = run(tmp_path, methods="kd,student")
    assert result.exit_code == 1
    assert path.name in result.output
    assert "--force trains the cell anew" in result.output
    reported = kdbench("report", "--out", tmp_path)
    assert path.name in reported.output.replace("\n", "")
    assert run(tmp_path, "--force", methods="kd").exit_code == 0


def test_a_truncated_checkpoint_is_put_aside_and_the_cell_ends_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_an_epoch(monkeypatch)
    assert run(tmp_path).exit_code == 130
    monkeypatch.undo()
    path = next((tmp_path / "runs").rglob("fitnet-*.ckpt"))
    path.write_bytes(path.read_bytes()[:1000])
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert "put aside as" in result.output
    assert "kd on resnet14:resnet8, seed 0: going on after epoch 1 of 2" in result.output
    assert measured(tmp_path) == measured(finished)


def test_ctrl_c_is_130_and_the_run_goes_on_where_it_was(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_an_epoch(monkeypatch)
    result = run(tmp_path)
    assert result.exit_code == 130
    assert "repeat the command to go on" in result.output
    monkeypatch.undo()
    assert "2 running of 2 cells" in run(tmp_path, "--dry-run").output
    assert run(tmp_path).exit_code == 0
    assert measured(tmp_path) == measured(finished)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after_an_epoch(monkeypatch)
    assert run(tmp_path, methods="kd").exit_code == 130
    assert run(tmp_path, methods="fitnet").exit_code == 130
    monkeypatch.undo()
    ours, theirs = (next((tmp_path / "runs").rglob(f"{name}-*.ckpt")) for name in ("kd", "fitnet"))
    ours.write_bytes(theirs.read_bytes())
    result = run(tmp_path, methods="kd")
    assert result.exit_code == 1
    assert "belongs to another set of settings" in result.output
    assert run(tmp_path, "--force", methods="kd").exit_code == 0


def test_an_edited_teacher_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, methods="kd").exit_code == 0
    path = next((tmp_path / "teachers").rglob("*.safetensors"))
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(bytes(whole))
    result = run(tmp_path, methods="fitnet")
    assert result.exit_code == 1
    assert "sha256" in result.output
    assert "Traceback" not in result.output


def test_another_teacher_is_never_mixed_into_a_table(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--set", "recipe.weight_decay=0.1", methods="kd").exit_code == 0
    folder = tmp_path / "runs" / "digits" / "resnet14-resnet8"
    old = next(folder.glob("kd-*.json"))
    made = record.read(old)
    old.unlink()
    other = made.model_copy(update={"teacher_sha256": "0" * 64, "checksum": ""})
    record.write(other, old)
    result = run(tmp_path, "--set", "recipe.weight_decay=0.1", methods="fitnet")
    assert result.exit_code == 1, result.output
    assert "was measured with another teacher resnet14" in result.output


def test_a_full_disk_ends_the_run_in_a_sentence_and_loses_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_an_epoch(monkeypatch)
    assert run(tmp_path).exit_code == 130
    monkeypatch.undo()
    save = Lane.save

    def full(lane: Lane) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Lane, "save", full)
    monkeypatch.setattr(
        record, "write", lambda made, path: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "No space left on device; what was finished is kept" in result.output
    monkeypatch.undo()
    assert Lane.save is save
    assert run(tmp_path).exit_code == 0
    assert measured(tmp_path) == measured(finished)


def test_out_of_memory_goes_on_with_fewer_lanes_or_says_which(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.train_epoch

    def small(setting: engine.Setting, lanes: list[Lane], *rest: Any) -> None:
        if len(lanes) > 1:
            raise OutOfMemory(f"{len(lanes)} lanes do not fit into the memory of cpu")
        real(setting, lanes, *rest)

    monkeypatch.setattr(engine, "train_epoch", small)
    asked = run(tmp_path / "asked", "--lanes", "2")
    assert asked.exit_code == 0, asked.output
    assert "going on with half of them at once (--lanes 1 begins there)" in asked.output
    result = run(tmp_path / "auto")
    assert result.exit_code == 0, result.output
    assert "going on with half of them at once" in result.output
    assert measured(tmp_path / "auto") == measured(finished)


def test_what_force_comes_to_takes_the_place_of_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the report would go on showing a number that the method, as it is now, refuses to give."""
    assert run(tmp_path, methods="kd,fitnet").exit_code == 0

    def refuses(pair: object, **hyper: object) -> None:
        raise ValueError("it takes other networks")

    monkeypatch.setattr(registry.get("fitnet"), "build", refuses)
    said = run(tmp_path, "--force", methods="kd,fitnet").output
    assert "the record of before is put aside as fitnet-" in said
    assert {name.split()[1]: one.status for name, one in records(tmp_path).items()} == {
        "kd": "done",
        "fitnet": "unsupported",
    }
    assert len(list(tmp_path.rglob("fitnet-*.replaced"))) == 1
    monkeypatch.undo()
    assert run(tmp_path, methods="kd,fitnet").exit_code == 0
    assert {one.status for one in records(tmp_path).values()} == {"done"}


def test_what_a_lost_process_of_a_forced_run_had_trained_is_not_forced_again(tmp_path: Path) -> None:
    """The work is done a second time by another process; what it finds is younger than the run."""
    (cell,) = resolve(Request("kd", "resnet14:resnet8", "digits", seeds="1", out=tmp_path)).cells
    where = grid.files(tmp_path, cell)
    where.checkpoint.parent.mkdir(parents=True)
    for since, there in ((0.0, True), (math.inf, False)):
        where.checkpoint.touch()
        with claimed(tmp_path, [cell], Done(), lambda event: None, force=True, wait=False, since=since) as mine:
            assert (mine, where.checkpoint.exists()) == ([cell], there)
    where.record.touch()
    done = Done()
    with claimed(tmp_path, [cell], done, lambda event: None, force=True, wait=False, since=0.0) as mine:
        assert (mine, done.found) == ([], [cell])
