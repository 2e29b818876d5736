"""What a GPU that is not there would hold: bytes counted from shapes, and lanes packed by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from commands import flat
from training import lane, setting

from kdbench.cli import main
from kdbench.engine import memory, torch_private
from kdbench.engine.fit import split
from kdbench.engine.graph.backend import Eager
from kdbench.run import device_memory, grid, session

WORDS = {"suite": "semckd", "pairs": "resnet32x4:resnet8x4", "seeds": "1", "device": "cpu"}


def needs(methods: str, **words: Any) -> tuple[list[device_memory.Need], int]:
    job = session.resolve(session.Request(methods=methods, **(WORDS | words)))
    [group] = grid.groups(job.cells)
    return device_memory.group_needs(job, group)


def test_without_values_nothing_is_computed() -> None:
    with torch_private.without_values():
        huge = torch.zeros(10**6, 10**6)  # four terabytes
        assert (huge.T @ huge[:, :3]).shape == (10**6, 3), "torch's mode without values gives no shapes"


def test_a_students_maps_are_counted() -> None:
    """Of resnet8x4, by hand: what each of its ten convolutions and norms reads is kept, 64 images of fp32."""
    [kd, crd], _ = needs("kd,crd")
    maps = 64 * 4 * 32 * 32 * 64  # the bytes of one of 64 channels in full resolution
    assert 5 * maps < kd.step < 25 * maps
    banks = 2 * 50_000 * 128 * 4
    assert crd.standing - kd.standing > 3 * banks  # they are compared, too
    assert kd.standing > 5 * 4 * 1_233_540  # weights, gradients and momenta, and copies of two of these


def test_half_precision_keeps_half_and_a_larger_batch_more() -> None:
    [full], _ = needs("kd")
    [half], _ = needs("kd", precision="bf16")
    [double], _ = needs("kd", overrides=("recipe.batch_size=128",))
    assert half.step == pytest.approx(full.step / 2, rel=0.05)
    assert double.step == pytest.approx(2 * full.step, rel=0.01)
    assert half.standing == full.standing


@pytest.mark.parametrize(
    ("text", "found"), [("24GB", [24e9]), ("8, 24,80.5 gb", [8e9, 24e9, 80.5e9]), ("141g", [141e9])]
)
def test_sizes(text: str, found: list[float]) -> None:
    assert device_memory.sizes(text) == found


@pytest.mark.parametrize("text", ["much", "-8GB", "0", "8MB", "8,,24"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="--device-memory takes a size in GB"):
        device_memory.sizes(text)


def test_lanes_are_packed_into_what_is_left() -> None:
    some = [device_memory.Need(10, 20)] * 6
    assert device_memory._held(some, 6 * 30 / memory.SHARE + 1) == "all 6"
    assert device_memory._held(some, 60 / memory.SHARE + 1) == "2 of 6"
    assert device_memory._held(some, 20) == "not every single one"


def test_workspaces_are_counted_for_each_stream_and_thread() -> None:
    assert memory.once(0, half=False) == memory.WORKSPACE * 2 * 8  # six branches, that of captures and the default


def test_a_dry_run_says_what_would_fit() -> None:
    words = ["run", "--dry-run", "--suite", "digits", "--methods", "kd,student", "--pairs", "resnet20:resnet8"]
    words += ["--seeds", "1", "--device", "cpu", "--limit-train", "100", "--epochs", "1"]
    done = CliRunner().invoke(main, [*words, "--device-memory", "0.01,24GB"])
    assert done.exit_code == 0, done.output
    said = flat(done.output)
    assert "computed from shapes and not measured" in said
    assert "resnet20 -> resnet8: 1 lane and what they share take" in said
    assert "0.01 GB not every single one, 24 GB all 1" in said
    done = CliRunner().invoke(main, [word for word in words if word != "--dry-run"] + ["--device-memory", "24"])
    assert done.exit_code == 2
    assert "--device-memory goes with --dry-run" in flat(done.output)


def test_lanes_on_cuda_are_packed_with_what_graphs_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of each lane takes ten megabytes, and there is room for two with all that belongs to them."""
    some = [lane("kd", tmp_path / str(number)) for number in range(5)]
    cuda, plain = torch.device("cuda"), setting()
    monkeypatch.setattr(memory, "peak", lambda *_: 10**7)
    each = 10**7 + memory.compared(some[0])
    with plain.guard() as guard:
        exam = memory.evaluated(some[0], next(iter(plain.test()))[0], guard)
    assert exam == 4 * 64 * (16 + 16) * 8 * 8  # maps of 16 channels, read and written
    once = memory.once(exam, half=False)
    room = int((2.5 * each + once) / memory.SHARE)
    monkeypatch.setattr(memory, "free", lambda device: room)
    with_graphs = replace(plain, device=cuda, machine=Eager())
    assert [len(part) for part in split(with_graphs, some, None)] == [2, 2, 1]
    assert len(split(replace(with_graphs, machine=None), some, None)) == 1
