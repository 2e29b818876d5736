"""A run's records are the same from every source; pictures may be larger than what networks see."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdbench import record
from kdbench.cli import main

SUITE = """
name = "tiny"
title = "tiny"
dataset = "imagefolder:pictures@20"
image_size = 16
num_classes = 2
convention = "semckd"
pairs = ["resnet8:resnet8"]
default_methods = ["student", "kd"]

[recipe]
epochs = 2
batch_size = 8
lr = 0.05
light_lr = 0.01
crop_padding = 0
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for part, many in (("train", 18), ("val", 8)):
        for number in range(many):
            where = tmp_path / "pictures" / part / "ab"[number % 2]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (22, 26, 3), dtype=np.uint8)).save(where / f"{number}.png")
    (tmp_path / "tiny.toml").write_text(SUITE)
    return tmp_path / "tiny.toml"


def run(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_records_do_not_depend_on_the_source(suite: Path, tmp_path: Path) -> None:
    said = run("data", "pack", f"imagefolder:{tmp_path / 'pictures'}@20", "--data-dir", str(tmp_path))
    assert "18 training images" in said
    found = {}
    for kind in ("resident", "packed", "streamed"):
        out = tmp_path / kind
        words = [
            "--data-source",
            kind,
            "--data-dir",
            str(tmp_path),
            "--data-workers",
            "1" if kind == "streamed" else "0",
        ]
        run("run", "--suite", str(suite), "--seeds", "1", "--out", str(out), *words)
        records, problems = record.read_all(out / "runs")
        assert not problems
        assert [one.status for one in records] == ["done"] * 2
        assert records[0].settings.recipe["image_size"] == 16
        found[kind] = [one.measured() for one in records]
    assert found["resident"] == found["packed"] == found["streamed"]
    assert "2 of 2" in run("eval", "--out", str(tmp_path / "packed"), "--data-dir", str(tmp_path))


def test_a_smaller_picture_is_refused_unless_it_is_scaled(suite: Path, tmp_path: Path) -> None:
    words = ["run", "--suite", str(suite), "--seeds", "1", "--methods", "student", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*words, "--set", "image_size=24"])
    assert done.exit_code == 2
    assert "images of 20 px" in done.output
    run(*words, "--set", "image_size=24", "--set", "recipe.augment=rrc", "--set", "teacher.augment=rrc")


def test_weights_that_were_chosen_on_other_pictures_are_told(suite: Path, tmp_path: Path) -> None:
    words = ["run", "--suite", str(suite), "--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run"]
    said = " ".join(run(*words, "--methods", "student,kd,semckd").split())
    assert (
        "the weights of kd, semckd are those of the convention semckd, chosen on CIFAR-100 or ImageNet, not on these"
        in said
    )
    assert f"`kdbench tune --suite {suite}` finds some" in said
    assert "chosen on CIFAR-100" not in run(*words, "--methods", "student")
    assert "chosen on CIFAR-100" not in run(*words, "--methods", "semckd[beta=100]")
    assert "chosen on CIFAR-100" not in run("run", "--suite", "digits", "--out", str(tmp_path / "out"), "--dry-run")
