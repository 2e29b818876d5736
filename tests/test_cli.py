"""Every verb as a new user meets it, and every command that README.md and the help show."""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import written
from commands import fine, kdbench, refused, small
from rich.console import Console
from safetensors.torch import load_file, save_file

from kdbench import data, models, record, registry, suites
from kdbench.cli import main
from kdbench.engine.lane import Lane
from kdbench.models import teachers
from kdbench.run import teachers as teaching
from kdbench.terminal import console, screens
from kdbench.utils.wording import duration

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = small(epochs=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells, one of which predicts with the teacher's head; tests must not change it."""
    out = tmp_path_factory.mktemp("finished")
    fine("run", *SMALL, "--methods", "kd,simkd,fitnet[beta=50]", "--out", out)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


# -- what is written down works -----------------------------------------------------------


def test_the_readme_shows_the_numbers_of_the_committed_table() -> None:
    text, folder = README.partition("<!-- table: ")[2].partition("<!-- end of table -->")[0].split(" -->\n", 1)[::-1]
    with (ROOT / folder / "leaderboard.csv").open(newline="") as file:
        known = {row["method"] + " (reading)" * ("reading" in row["provenance"]): row for row in csv.DictReader(file)}
    page = [line.strip("| ").split(" | ") for line in (ROOT / folder / "leaderboard.md").read_text().splitlines()]
    shown = {row[0]: row[2].replace("\\", "").rstrip("*") for row in reversed(page) if len(row) > 4 and "[" in row[2]}
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    assert len(rows) > 4
    for name, gain, *means in rows:
        row = known[name]
        for pair, mean in zip(head[2:], means, strict=True):
            spread = row[f"{pair} std"]
            assert mean == f"{float(row[f'{pair} mean']):.2f}{f' ± {float(spread):.2f}' if spread else ''}"
        if name != "student":
            assert gain == shown[name]  # of the page that it links: the file's six digits would be rounded twice
    (seeds,) = {known[name][f"{pair} n"] for name, *_ in rows for pair in head[2:]}
    assert f"n = {seeds} seed" in README.partition("<!-- end of table -->")[2][:400]


def test_the_readme_is_short_and_names_every_verb() -> None:
    assert len(README.splitlines()) < 120
    (verbs,) = (line for line in README.splitlines() if "every verb:" in line)
    assert set(verbs.partition("every verb: ")[2].strip(" |").split(", ")) == set(main.commands)
    assert set(re.findall(r"`(--[a-z-]+)", README)) - written.options() == set()


@pytest.mark.usefixtures("own_registry")
def test_the_readme_method_keeps_the_contract_and_trains(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    file.write_text(found.group(1))
    assert "mine: keeps the contract" in fine("check", file)
    assert "mine on resnet14:resnet8" in fine("run", *SMALL, "--plugin", file, "-m", "mine", "--out", tmp_path / "o")
    assert "should point the same way" in fine("info", "mine", "--plugin", file)


def test_the_suite_of_the_page_on_data_trains_on_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for channel, name in enumerate(("cat", "dog", "fish")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = random.integers(0, 120, (40, 48, 3), dtype=np.uint8)
                picture[..., channel] += 100
                Image.fromarray(picture).save(folder / f"{i}.png")
    found = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert found
    suite = tmp_path / "pets.toml"
    suite.write_text(found.group(1))  # beside the suite, not where the command is started
    words: list[str | Path] = [
        "--suite",
        suite,
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        tmp_path / "o",
        "--set",
        "recipe.batch_size=8",
        "--set",
        "teacher.batch_size=8",
    ]
    assert "resnet32x4:resnet8x4" in fine("list", "pairs", "--suite", suite)
    assert "trained first, and counted in: teacher timm/test_resnet" in fine(
        "run", *words, "--pairs", "timm/test_resnet:resnet8", "--dry-run"
    )
    output = fine("run", *words, "--pairs", "timm/test_resnet:resnet8", "--methods", "kd,semckd")
    assert "2 of 2 cells are there" in output
    assert "timm/test_resnet" in fine("report", "--suite", "pets", "--out", tmp_path / "o")
    assert "timm-test_resnet" in fine("status", "--out", tmp_path / "o")
    assert "2 of 2 kept students" in fine("eval", "--out", tmp_path / "o")
    sentence = refused("run", *words, "--set", "num_classes=5")
    assert "suite pets says num_classes = 5 and image_size = 32, but imagefolder:" in sentence
    assert "has 3 classes and images of 32 px" in sentence


def test_every_help_is_there_and_no_verb_is_cut_short() -> None:
    for words in [[], *([name] for name in main.commands), ["teacher", "import"]]:
        output = fine(*words, "--help")
        assert "..." not in re.sub(r"\[ARGS\]...|STUDENT,\.\.\.|all\.\.\.", "", output)
        assert max(map(len, output.splitlines())) <= 80


# -- list, info ---------------------------------------------------------------------------


def test_lists_are_lines_in_a_pipe() -> None:
    rows = [line.split("\t") for line in kdbench("list", "methods").stdout.splitlines()]
    assert {len(row) for row in rows} == {4}
    assert {row[0] for row in rows} == set(registry.names())
    assert next(row[:3] for row in rows if row[0] == "kd") == ["kd", "logit", "port"]
    assert kdbench("list", "pairs", "--suite", "digits").stdout.splitlines()[0].count(":") == 1
    assert set(kdbench("list", "models").stdout.split()) == set(models.names())
    assert "digits\tdigits\t3\t20\tsemckd" in kdbench("list", "suites").stdout


def test_lists_are_tables_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Console(width=80, force_terminal=True, color_system=None)
    screens.show_list("methods", "auto", False, ["mine.py cannot be read"], screen, Console(width=80))
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 90
    assert "confidence_penalty" in output
    assert "broken mine.py cannot be read" in output


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("what", ["methods", "suites", "teachers"])
def test_a_list_can_be_read_at_any_width(what: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No word is broken, but for an address that is wider than the screen, and ideas do not become threads."""
    screen = Console(width=width, force_terminal=True, color_system=None)
    screens.show_list(what, "auto", False, [], screen, Console(width=width))
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= width
    said = [line.split("\t") for line in kdbench("list", what, "--plain").stdout.splitlines()]
    shown = output.split()
    assert {word for row in said for word in " ".join(row).split() if len(word) < width - 4} - set(shown) <= {
        word for word in " ".join(" ".join(row) for row in said).split() if f"{word}," in shown
    }
    assert len(output.splitlines()) < 5 * len(said) + 40


def test_a_broken_plugin_is_told_by_list_and_by_a_dry_run(tmp_path: Path) -> None:
    assert "no plug-in file 'no.py'" in refused("list", "--plugin", "no.py", code=1)
    dry = refused("run", *SMALL, "-m", "kd", "--out", tmp_path, "--plugin", "no.py", "--dry-run", code=1)
    assert "no plug-in file 'no.py'" in dry
    assert "1 missing of 1 cell" in dry


def test_the_card_of_a_method() -> None:
    output = fine("info", "simkd", "--pair", "resnet14:resnet8")
    for word in ("h_T", "CVPR 2022", "ranked apart", "authors' code", "deviations", "factor = 2", "78.08"):
        assert word in output
    assert re.search(
        r"resnet14:resnet8 at 32 px, 100 classes: ([\d,]+) extra parameters at training, \1 at inf", output
    )
    assert "304 extra parameters" not in fine("info", "fitnet")
    assert "takes one pair, not" in refused("info", "kd", "--pair", "all")
    assert "no method 'simkt'; did you mean simkd" in refused("info", "simkt")


def test_a_card_says_which_words_a_value_may_be_and_what_stands_in_place_of_kd() -> None:
    both = " ".join(fine("info", "sdd+itrd").split())
    assert "base = kd (or dkd, or rld)" in both
    assert "kd_weight = 0.0 (no convention adds KD: sdd stands in its place)" in both
    assert "kd_weight = 0.0 (1.0 in every convention)" in fine("info", "mag+crd")
    assert "gamma = 1.5 (3.5 in every convention)" in fine("info", "nkd")
    assert "weight = 0.9 (1.0 in convention semckd)" in fine("info", "ctkd")
    assert "``" not in fine("info", "abkd")
    assert 'taps = ""' in fine("info", "sp")


def test_the_card_of_a_row_has_the_values_of_its_brackets() -> None:
    lines = fine("info", "fitnet[tap=2, beta=10]", "--pair", "resnet14:resnet8").splitlines()
    assert lines[0] == "fitnet[beta=10.0,tap=2]"
    assert "  beta = 10.0 (100.0 by default): weight of the term" in lines
    assert "  tau = 4.0: temperature of that term" in lines
    (measured,) = (line for line in lines if "measured on" in line)
    assert "with the values by default" in measured
    assert "extra parameters" in "".join(lines)
    usual, other = (fine("info", f"semckd{inside}", "-p", "resnet14:resnet8") for inside in ("", "[factor=2]"))
    assert next(line for line in usual.splitlines() if "extra parameters at training" in line) not in other
    assert "standardise = True (False by default)" in fine("info", "sdd[standardise]+itrd")
    assert "'kd,at' means 2 methods" in refused("info", "kd,at")
    assert "fitnet[beta] takes a value like 100.0, not 'x'" in refused("info", "fitnet[beta=x]")


def test_the_card_of_a_combination_is_that_of_its_parts() -> None:
    lines = fine("info", "lskd+kd").splitlines()
    assert lines[0] == "kd+lskd"
    assert lines[1].strip().startswith("KD: ")
    assert lines[2].strip().startswith("LSKD: ")
    weighed = "ea changes the loss of dkd, which is not added again"
    assert weighed in fine("info", "ea+dkd")
    assert weighed not in fine("info", "ea+crd")


# -- run --dry-run, status ----------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_a_plan_fits_the_screen(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(
        "kdbench.terminal.ahead.look", lambda job, screen, *, dry: screen.print(len(job.cells), "to do")
    )
    output = fine("run", "--suite", "crd", "--methods", "all", "--dry-run", "--out", tmp_path)
    table = [line for line in output.splitlines() if line.startswith(" ")]
    assert max(len(line.rstrip()) for line in table) <= width
    assert output.count(" confidence_penalty ") == output.count("method ")
    assert output.count("→") == 13
    alone = [name for name in registry.names() if not registry.get(name).needs_teacher]
    shared = len(dict.fromkeys(student for _, student in suites.load("crd").pairs))
    cells = 13 * (len(registry.names()) - len(alone)) + shared * len(alone)
    assert f"{cells * 3} to do" in output


def test_a_plan_says_which_data_are_not_there(tmp_path: Path) -> None:
    output = fine(
        "run",
        "--suite",
        "crd",
        "--methods",
        "kd",
        "--pairs",
        "resnet14:resnet8",
        "--dry-run",
        "--out",
        tmp_path,
        "--data-dir",
        tmp_path / "none",
    )
    assert "the data are not there yet: cifar100 is not complete" in output
    assert not (tmp_path / "none").exists()


def test_status_shows_what_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Lane.start_epoch

    def interrupted(lane: Lane) -> None:
        if lane.epoch and lane.key.startswith(stop):
            raise KeyboardInterrupt
        start(lane)

    monkeypatch.setattr(Lane, "start_epoch", interrupted)
    words: list[str | Path] = [*SMALL[:2], "--epochs", "2", *SMALL[4:], "--methods", "kd", "--out", str(tmp_path)]
    stop = "teacher"
    assert "repeat the command to go on" in refused("run", *words, code=130)
    assert re.search(r"on its way teacher resnet14\S*: 1 epoch trained", fine("status", "--out", tmp_path))
    stop = "kd"
    refused("run", *words, code=130)
    assert re.search(
        r"on its way digits resnet14-resnet8 kd-s0-\w+: 1 epoch trained", fine("status", "--out", tmp_path)
    )
    path = next((tmp_path / "runs").rglob("*.ckpt"))
    path.write_bytes(b"no checkpoint")
    assert "is truncated" in fine("status", "--out", tmp_path)


def test_status_names_what_is_damaged(copied: Path) -> None:
    assert re.search(r"teacher digits/resnet14-quick-\w+: \d+\.\d\d%", fine("status", "--out", copied))
    card = next((copied / "teachers").rglob("*.json"))
    card.write_text("{}")
    assert f"damaged {card} is not a teacher's card" in refused("status", "--out", copied, code=1)


def test_the_bar_counts_teachers_and_ends_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[console.Progress] = []
    leave = console.Progress.__exit__

    def leaving(self: console.Progress, *rest: Any) -> None:
        seen.append(self)
        leave(self, *rest)

    monkeypatch.setattr(console.Progress, "__exit__", leaving)
    fine("run", *SMALL, "--methods", "kd,mag", "--out", tmp_path)
    assert seen[0].total > 0
    assert seen[0].behind == seen[0].total


# -- eval ---------------------------------------------------------------------------------


def test_eval_finds_what_was_recorded(finished: Path) -> None:
    output = fine("eval", "--out", finished)
    assert "3 of 3 kept students equal to the record" in output
    assert "equal simkd on resnet14:resnet8, seed 0" in output
    assert "fitnet[beta=50]" in output


def test_eval_tells_how_many_students_are_not_kept(copied: Path) -> None:
    assert "not measured" not in fine("eval", "--out", copied)
    next((copied / "students").rglob("kd-*.safetensors")).unlink()
    output = fine("eval", "--out", copied)
    assert "2 of 2 kept students equal to the record" in output
    assert "not measured: 1 finished cell whose student is not kept here" in output


def test_eval_tells_other_weights_another_accuracy_and_a_missing_record(copied: Path) -> None:
    student = next((copied / "students").rglob("kd-*.safetensors"))
    state = load_file(student)
    key = next(key for key in state if key.endswith("conv1.weight"))
    save_file(state | {key: state[key] + 1}, student)
    path = next((copied / "runs").rglob("simkd-*.json"))
    old = record.read(path)
    path.unlink()
    record.write(old.model_copy(update={"top1_last": 99.0, "top1_best_test": 99.0, "checksum": ""}), path)
    next((copied / "runs").rglob("fitnet*.json")).unlink()
    output = refused("eval", "--out", copied, code=1)
    assert "does not hold the weights that the record was measured with" in output
    assert f"{old.top1_last:.2f}%, the record has 99.00%" in output
    assert "it has no record" in output
    assert "0 of 3 kept students equal to the record, 3 wrong" in output


def test_eval_folds_as_a_run_does_and_takes_records_from_before(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[models.Tapped] = []
    fold = models.fold

    def wrong(student: models.Tapped) -> models.Tapped:
        folded.append(fold(student))
        with torch.no_grad():
            next(folded[-1].parameters()).neg_()
        return folded[-1]

    monkeypatch.setattr(models, "fold", wrong)
    assert "3 of 3 kept students equal to the record" in fine("eval", "--out", finished)
    assert len(folded) == 3


def test_eval_needs_the_teacher_that_a_row_predicts_with(copied: Path) -> None:
    next((copied / "teachers").rglob("*.json")).unlink()
    output = refused("eval", "--out", copied, code=1)
    assert "its teacher resnet14" in output
    assert "simkd predicts with it" in output
    assert "2 of 3 kept students equal" in output


def test_eval_of_nothing(tmp_path: Path, finished: Path) -> None:
    assert "no kept students in" in refused("eval", "--out", tmp_path)
    assert "no kept students of suite crd in" in refused("eval", "--out", finished, "--suite", "crd")


# -- teacher ------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo harmless",)


def test_a_published_checkpoint_is_taken_over(tmp_path: Path) -> None:
    words: list[str | Path] = ["--suite", "digits", "--out", tmp_path / "o"]
    state = models.create("resnet14", 10, image_size=8).net.state_dict()
    good, evil, other = (tmp_path / f"{name}.pth" for name in ("good", "evil", "other"))
    torch.save({"model": state, "epoch": 240, "opt": argparse.Namespace(lr=0.1)}, good)
    torch.save({"model": state, "opt": Evil()}, evil)
    torch.save({"model": models.create("resnet20", 10, image_size=8).net.state_dict()}, other)
    take: list[str | Path] = ["teacher", "import", *words, "--name", "resnet14"]
    assert "reading it might run code" in refused(*take, evil)
    assert "not for resnet14" in refused(*take, other)
    assert "no checkpoint" in refused(*take, tmp_path / "none.pth")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "accuracy not measured" in fine(*take, good, "--no-verify")
    assert "--replace puts this one in its place" in refused(*take, good)
    assert re.search(r"teacher resnet14 for digits: \d+\.\d\d% on the test set", fine(*take, good, "--replace"))
    assert "sha256 as on its card" in fine("teacher", "verify", "resnet14", *words)
    assert "is there already" in fine("teacher", "train", "resnet14", *words)
    assert "no teacher resnet8 for digits" in refused("teacher", "verify", "resnet8", *words)


def test_a_teacher_whose_accuracy_is_not_that_of_its_card(copied: Path) -> None:
    words: list[str | Path] = ["teacher", "verify", "resnet14", "--suite", "digits", "--out", copied]
    images = data.load("digits")
    quick = next((copied / "teachers").rglob("*.json"))
    net, card = teachers.load(
        copied / "teachers", "digits", "resnet14", variant=quick.stem.removeprefix("resnet14"), image_size=8
    )
    facts = card.model_dump(exclude={"checksum", "format", "sha256", "dtype", "kdbench", "created", "data"})
    whole = {"data": teaching.identity(images)}
    teachers.store(copied / "teachers", net, **facts | whole)
    assert "sha256 as on its card" in fine(*words)
    teachers.store(copied / "teachers", net, **facts | whole | {"top1": 99.0})
    assert "but its card says 99.00%" in refused(*words, code=1)
    assert "wrong teacher resnet14" in " ".join(refused("eval", "--out", copied, code=1).split())
    edited = quick.with_name("resnet14.json")
    edited.write_text(edited.read_text().replace("99.0", "98.0"))
    assert "was changed after it was written: its checksum differs" in refused(*words)


def test_a_teacher_is_trained_by_name(tmp_path: Path) -> None:
    words: list[str | Path] = ["--suite", "digits", "--out", tmp_path]
    output = " ".join(fine("teacher", "train", "resnet8", *words, "--epochs", "1").split())
    assert f"1 of the 30 epochs of its recipe; every later run on {tmp_path} takes this teacher" in output
    assert "training it for 1 epoch " in output
    assert "--epochs must be 1 or more, not 0" in refused("teacher", "train", "resnet8", *words, "--epochs", "0")
    assert "no model 'resnet9'" in refused("teacher", "train", "resnet9", *words)


# -- check, doctor, the shell -------------------------------------------------------------


@pytest.mark.usefixtures("own_registry")
def test_check_ends_with_1_where_a_method_is_wrong(tmp_path: Path) -> None:
    assert "student: keeps the contract" in fine("check", "student")
    file = tmp_path / "silent.py"
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    file.write_text(found.group(1).replace('provenance = "formula"', 'provenance = "hearsay"'))
    output = refused("check", file, code=1)
    assert "silent: fails" in output
    assert "hearsay" in output
    assert "no method 'nope'" in refused("check", "nope")


def test_a_suite_of_what_has_none_is_refused() -> None:
    for what in ("methods", "suites", "models", "teachers"):
        assert f"--suite is for pairs and published numbers; {what} are" in refused("list", what, "--suite", "digits")


def test_check_takes_rows_as_run_does() -> None:
    said = fine("check", "label_smoothing[eps=0.1,0.2]", "student")
    assert "label_smoothing[eps=0.1]: keeps the contract" in said
    assert "label_smoothing[eps=0.2]: keeps the contract" in said
    assert "student: keeps the contract" in said
    assert "tap=9 is not there" in refused("check", "fitnet[tap=9]", code=1)
    assert "has no hyper-parameter 'nope'" in refused("check", "fitnet[nope=9]")


def test_doctor_leaves_nothing_behind_and_names_what_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "data"))
    output = " ".join(fine("doctor", "--out", tmp_path / "o").split())
    for word in ("torch", "1000 + 797 images", "methods", "made by the first run"):
        assert word in output
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "cannot write to the output folder" in refused("doctor", "--out", tmp_path / "file", code=1)


def test_the_output_folder_may_be_an_environment_variable(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_OUT", str(finished))
    assert "resnet14-resnet8" in fine("status")
    again = fine("run", *SMALL, "--methods", "kd")
    assert "1 of 1 cell is there" in again
    assert "nothing was trained; --force trains them again" in again


def test_nobody_reads_on() -> None:
    """`kdbench list | head -1` and a reader that is gone at once: no traceback."""
    command = f"{shlex.quote(sys.executable)} -m kdbench list methods --plain | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "less than a second"),
        (41.4, "41 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (400_000, "5 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
