"""The parts of a short visit to a GPU, on a CPU: each writes its JSON, and says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from commands import flat

from kdbench.bench import random_data
from kdbench.bench.acceptance import Gate, measured, projected
from kdbench.terminal import gpu_visit
from kdbench.terminal.acceptance import main as acceptance

ROOT = Path(__file__).resolve().parents[1]


def saved(folder: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"gpu-{part}.json").read_text())
    return found


def test_missing_packages_are_listed_by_their_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_visit.PARTS, "check", {"no_such_module": "no-such-wheel"})
    assert gpu_visit.main(["check", "--out", str(tmp_path)]) == 2
    assert "lacks no-such-wheel: install these wheels" in capsys.readouterr().out


def test_a_part_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_visit, "ROOT", tmp_path)
    done = gpu_visit.run(["-c", "import time; time.sleep(60)"], 1.0)
    assert done["exit"] is None
    assert done["seconds"] < 30


def test_tests_that_fail_are_told_with_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: Any, seconds: float) -> dict[str, Any]:
        file = next(word for word in words if word.startswith("--junitxml=")).partition("=")[2]
        cases = '<testcase name="good"/><testcase name="bad"><failure>E  1 == 2</failure></testcase>'
        Path(file).write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        return {"exit": 1, "seconds": 1.0}

    monkeypatch.setattr(gpu_visit, "run", run)
    assert gpu_visit.main(["test", "--out", str(tmp_path)]) == 1
    found = saved(tmp_path, "test")
    assert found["outcomes"] == {"good": "passed", "bad": "failure"}
    assert found["details"] == {"bad": "E  1 == 2"}


@pytest.mark.parametrize("codes", [(0, 0, 0), (0, 1, 0), (0, 0, None)])
def test_the_bench_has_a_third_of_the_time_for_each_precision(
    codes: tuple[int | None, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, given = list(codes), list[float]()

    def run(words: Any, seconds: float) -> dict[str, Any]:
        given.append(seconds)
        return {"exit": left.pop(0), "seconds": 1.0}

    monkeypatch.setattr(gpu_visit, "run", run)
    assert gpu_visit.main(["bench", "--out", str(tmp_path)]) == (0 if codes == (0, 0, 0) else 1)
    assert sum(given) < 600
    assert {"amp", "tf32", "fp32"} <= saved(tmp_path, "bench").keys()


def test_every_part_ends_within_ten_minutes_and_has_a_target() -> None:
    assert gpu_visit.LIMIT < 600
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\ngpu-{part}: ##" in makefile for part in gpu_visit.PARTS)  # none waits for an installation


def test_it_begins_without_any_package() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'click', 'rich', 'pydantic']))\n"
    code += "from kdbench.terminal import gpu_visit; sys.exit(gpu_visit.main(['check', '--out', 'nowhere']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "lacks torch, torchvision, timm, pydantic, click, rich" in done.stdout


def test_twelve_epochs_are_projected_to_all() -> None:
    made = measured([], 100.0, {}, device="cuda:0", peak=0.0, reserved=None)
    made = made.__class__(**{**vars(made), "train_seconds": 90.0, "epochs": 12})
    assert projected(made, 240) == pytest.approx(10 + 90 * 20)
    assert projected(made, 12) == pytest.approx(100)


def test_the_short_acceptance_needs_neither_data_nor_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = random_data.pictures
    monkeypatch.setattr(random_data, "pictures", lambda suite: usual(suite, 80, 40))
    words = ["--out", str(tmp_path), "--random-data", "--epochs", "1", "--device", "cpu", "--precision", "fp32"]
    done = CliRunner().invoke(acceptance, [*words, "--methods", "kd,student", "--pairs", "resnet14:resnet8"])
    assert done.exit_code == 0, done.output
    assert "projected, not measured: 240 epochs in" in flat(done.output)
    whole = json.loads((tmp_path / "acceptance.json").read_text())
    assert whole["projected_seconds"] > whole["measured"]["wall_seconds"]
    assert whole["gate"]["epochs"] == Gate().epochs


def test_random_pictures_are_the_same_every_time() -> None:
    from kdbench import suites

    suite = suites.load("semckd")
    one, other = (random_data.pictures(suite, 20, 10) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert one.train_images.dtype is torch.uint8
