"""Frozen weights held in half precision give the bits that autocast's own casts give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training import images, lane, loader, teacher

from kdbench import models
from kdbench.engine.evaluate import evaluate
from kdbench.engine.graph.backend import Eager
from kdbench.engine.graph.eval_step import Exams

BF16 = torch.bfloat16


@pytest.mark.parametrize(
    "name", ["resnet14", "resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", "timm/test_resnet"]
)
def test_the_bits_are_those_of_autocast(name: str) -> None:
    torch.manual_seed(0)
    net = models.create(name, 10, image_size=32)
    image = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    usual, halved = models.fold(net), models.fold(net, half=BF16)
    with torch.no_grad(), torch.autocast("cpu", BF16):
        ours, theirs = halved(image).tensors(), usual(image).tensors()
    for what, value in theirs.items():
        assert ours[what].dtype is value.dtype, what
        assert torch.equal(ours[what], value), what
    convolutions = {m.weight.dtype for m in halved.net.modules() if type(m) is nn.Conv2d}
    assert convolutions == ({torch.float32} if name.startswith("timm") else {BF16})
    assert halved.net.state_dict().keys() == usual.net.state_dict().keys()


def test_without_half_nothing_changes() -> None:
    assert {p.dtype for p in models.fold(teacher()).parameters()} == {torch.float32}


def test_a_captured_evaluation_of_halved_copies_is_that_of_folded_ones(tmp_path: Path) -> None:
    one, test = lane("kd", tmp_path), loader(len(images().train_labels)).plain(16)
    one.precision = type(one.precision)("bf16")
    exams = Exams(Eager(), list[str]().append, lambda student: models.fold(student, half=BF16))
    for _ in range(2):
        exams.evaluate([one], lambda: test, None)
        ours = one.report
        evaluate([one], lambda: test, None, models.fold)
        assert ours == one.report
        with torch.no_grad():
            for weight in one.student.parameters():
                weight.mul_(1.1)
