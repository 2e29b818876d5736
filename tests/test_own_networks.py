"""The user's own network from a plug-in file, and a teacher fine-tuned from weights of another data set."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kdbench import models, record, registry
from kdbench.cli import main
from kdbench.models import entered, fresh_head, own

PLUGIN = """
from torch import nn

from kdbench import register_model


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


class Small(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.stem, self.body = block(3, width), block(width, 2 * width)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(2 * width, num_classes)

    def forward(self, image):
        return self.fc(self.pool(self.body(self.stem(image))).flatten(1))


@register_model(stages=["stem", "body"], classifier="fc")
def my_small(num_classes):
    return Small(4, num_classes)


@register_model(stages=["stem", "body"], classifier="fc")
def my_wide(num_classes):
    return Small(12, num_classes)
"""
QUICK = ["--suite", "digits", "--seeds", "1", "--epochs", "2", "--limit-train", "80"]


@pytest.fixture
def plugin(own_registry: None, tmp_path: Path) -> Path:
    file = tmp_path / f"nets_{tmp_path.name.replace('-', '_')}.py"
    file.write_text(PLUGIN)
    return file


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output.replace("\n", " ")


def test_an_own_network_teaches_and_learns(plugin: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    pairs = "my_wide:my_small,my_wide:resnet8,resnet8:my_small"
    run("run", *QUICK, "--plugin", str(plugin), "--methods", "kd,semckd", "--pairs", pairs, "--out", out)
    records, _ = record.read_all(tmp_path / "out" / "runs")
    assert [one.status for one in records] == ["done"] * 6
    ours = next(one for one in records if one.student == "my_small")
    assert ours.settings.pretrained == entered.ENTERED["my_small"].sha256
    assert "my_small" in run("list", "models", "--plain", "--plugin", str(plugin))
    assert "6 of 6" in run("eval", "--out", out, "--plugin", str(plugin))


def test_taps_and_head_are_the_networks_own(plugin: Path) -> None:
    registry.load_plugin(str(plugin))
    net = models.create("my_small", 7, image_size=16).eval()
    image = torch.randn(3, 3, 16, 16)
    seen = net(image)
    assert [tuple(one.shape) for one in seen.feats] == [(3, 4, 8, 8), (3, 8, 4, 4)]
    with torch.no_grad():
        assert torch.equal(seen.logits, net.net(image))
    assert torch.allclose(net.head(seen.last), seen.logits, atol=1e-5)
    folded = models.fold(net)
    assert torch.allclose(folded(image).feats[0], seen.feats[0], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"stages": ["steam"], "classifier": "4"}, "has no submodule 'steam' to tap; it has 0, 1"),
        ({"stages": ["0"], "classifier": "1"}, "is Conv2d, not nn.Linear"),
        ({"stages": ["0"], "classifier": "4"}, "are not its classifier on the mean of its last stage"),
        ({"stages": ["1", "3"], "classifier": "4"}, "are to be maps"),
        ({}, "does not say what methods may see of it"),
    ],
)
def test_what_cannot_be_seen_is_a_sentence(words: dict[str, Any], why: str) -> None:
    from torch import nn

    entered.ENTERED.pop("odd_net", None)

    def odd_net(num_classes: int) -> nn.Module:
        convs = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))

    enter: Any = own.register_model(**words)
    enter(odd_net)
    with pytest.raises(ValueError, match=why):
        models.create("odd_net", 3, image_size=8)
    entered.ENTERED.pop("odd_net")


def test_a_name_of_ours_is_not_given_away() -> None:
    def resnet20(num_classes: int) -> None:
        """Not ours."""

    with pytest.raises(ValueError, match="another network's"):
        own.register_model(resnet20)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet8", "timm/test_resnet"])
def test_a_teacher_is_fine_tuned(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = models.create(name, 4, image_size=8)
    torch.save(before.net.state_dict(), tmp_path / "four.pth")
    made = fresh_head.start(name, 10, image_size=8, weights=tmp_path / "four.pth")
    ours, theirs = made.net.state_dict(), before.net.state_dict()
    fresh = {key for key in ours if ours[key].shape != theirs[key].shape}
    assert len(fresh) == 2
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key not in fresh)
    words = ["teacher", "finetune", name, "--suite", "digits", "--weights", str(tmp_path / "four.pth")]
    words += ["--epochs", "1", "--set", "teacher.optimizer=adamw", "--set", "teacher.lr=1e-3", "--out", str(tmp_path)]
    said = run(*words)
    assert "starts from its pretrained weights" in said
    assert "is there already" in run(*words)
    assert "as on its card" in run("teacher", "verify", name, "--suite", "digits", "--out", str(tmp_path))


def test_a_teacher_that_diverged_is_no_fault_of_the_words(tmp_path: Path) -> None:
    torch.save(models.create("resnet8", 4, image_size=8).net.state_dict(), tmp_path / "four.pth")
    words = ["teacher", "finetune", "resnet8", "--suite", "digits", "--weights", str(tmp_path / "four.pth")]
    said = run(*words, "--epochs", "1", "--set", "teacher.lr=1e30", "--out", str(tmp_path), code=1)
    assert "term 'ce' was" in said


def test_nothing_to_fine_tune_is_a_sentence(tmp_path: Path) -> None:
    said = run("teacher", "finetune", "timm/resnet18", "--suite", "digits", "--out", str(tmp_path), code=2)
    assert "has nothing to fine-tune: write a name with a tag" in said


ODD = """
import sys, torch
from torch import nn
import kdbench

@kdbench.register_model(stages=["0", "1"], classifier="4")
def my_odd(num_classes):
    {line}
    maps = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))
"""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("torch.backends.mkldnn.enabled = False", "network my_odd changes"),
        ("torch.use_deterministic_algorithms(True, warn_only=True)", "network my_odd changes"),
        ("sys.exit(3)", "network my_odd ends the process when it is built"),
    ],
)
def test_what_a_constructor_does_is_its_own_cells_failure(
    line: str, why: str, own_registry: None, tmp_path: Path
) -> None:
    file = tmp_path / f"odd_{tmp_path.name.replace('-', '_')}.py"
    file.write_text(ODD.format(line=line))
    before = torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled()
    words = [*QUICK, "--plugin", str(file), "--methods", "kd", "--pairs", "my_odd:resnet8,resnet14:resnet8"]
    said = " ".join(run("run", *words, "--out", str(tmp_path / "out"), code=1).split())
    assert why in said
    assert "1 of 2 cells are there, 1 failed" in said
    assert before == (torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled())
