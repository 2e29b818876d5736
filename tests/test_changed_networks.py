"""Networks of the user's whose code has changed behind what was made of them, and odd ones that runs must serve or name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import flat, kdbench, measured
from test_own_networks import PLUGIN, plugin  # noqa: F401 -- a fixture
from torch import Tensor, nn

from kdbench import models, record
from kdbench.models import entered, own
from kdbench.models.entered import ENTERED, Own
from kdbench.models.fold import copied, fold

SMALL = ["--suite", "digits", "--seeds", "1", "--epochs", "1", "--limit-train", "64", "--device", "cpu"]


def said(*words: object, code: int = 0) -> str:
    done = kdbench(*words)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return flat(done.output)


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_another_code_is_told_wherever_its_weights_are_loaded(plugin: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    words = [*SMALL, "--out", out, "--plugin", plugin]
    taught = said("run", *words, "--methods", "kd", "--pairs", "resnet14:my_small,my_wide:resnet8")
    assert "starts from its pretrained weights" not in taught
    card = tmp_path / "x.safetensors.md"
    said("export", "kd", "my_small", "--results", out, "--out", tmp_path / "x.safetensors", "--plugin", plugin)
    assert "pretrained" not in card.read_text()
    assert f"Network of the user's, whose code has the sha256 {ENTERED['my_small'].sha256}" in card.read_text()
    before = measured(out)
    for name in ("my_small", "my_wide"):  # as if its file had been edited, and loaded in another process
        ENTERED[name] = replace(ENTERED[name], read="0" * 64)
    why = "is of another code of the network my_{} (sha256 "
    told = said("export", "kd", "my_small", "--results", out, "--out", tmp_path / "y.safetensors", code=2)
    assert "kd on resnet14:my_small, seed 0 " + why.format("small") in told
    told = said("probe", "agreement", "--out", out, code=1)
    assert why.format("small") in told
    assert f"the teacher my_wide of {out}/teachers/digits {why.format('wide')}" in told
    told = said("run", *words, "--methods", "at", "--pairs", "my_wide:resnet8", code=1)
    assert f"the teacher my_wide of {out}/teachers/digits {why.format('wide')}" in told
    assert "restore the file that builds it, or make it anew with another --out" in told
    assert measured(out) == before


NOTEBOOK = """
from torch import nn

from kdbench import register_model


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, WIDTH, 3, 2, 1), nn.Conv2d(WIDTH, 8, 3, 2, 1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, image):
        return self.fc(self.b(self.a(image).relu()).mean((2, 3)))


@register_model(stages=["a", "b"], classifier="fc")
def net_of_a_cell(num_classes):
    return Net(num_classes)
"""


@pytest.mark.usefixtures("own_registry")
def test_a_network_of_a_notebook_is_known_by_its_code_and_may_be_written_again() -> None:
    import kdbench.run.networks  # noqa: F401 -- which tells how code is known

    def cell(width: int, number: int) -> tuple[str, int]:
        code = compile(NOTEBOOK.replace("WIDTH", str(width)), f"/tmp/ipykernel_1/{number}.py", "exec")
        exec(code, {"__name__": "__main__"})
        net = models.create("net_of_a_cell", 10, image_size=8)
        return models.weights_identity("net_of_a_cell"), sum(p.numel() for p in net.parameters())

    first, again, wide = cell(8, 1), cell(8, 2), cell(32, 3)
    assert len(first[0]) == 64
    assert first == again
    assert wide[0] != first[0]
    assert wide[1] > first[1]
    with pytest.raises(ValueError, match="the name 'net_of_a_cell' is another network's"):
        own.register_model(stages=["a"], classifier="fc")(elsewhere)


def elsewhere(num_classes: int) -> nn.Module:
    return nn.Linear(1, num_classes)


elsewhere.__name__ = "net_of_a_cell"


def test_code_is_that_of_the_file_at_registration(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def make(num_classes): ...\n")
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    one = Own.of(space["make"], (), "")
    before = one.sha256
    file.write_text("def make(num_classes): return None\n")
    assert one.sha256 == before
    assert Own.of(space["make"], (), "").sha256 != before


# -- odd ones -------------------------------------------------------------------------------


class Plain(nn.Module):
    """Two convolutions and a classifier; those below do one thing otherwise."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, image: Tensor) -> Any:
        return self.fc(self.b(self.a(image).relu()).mean((2, 3)))


class Caching(Plain):
    def forward(self, image: Tensor) -> Any:
        self.cache = self.a(image)  # as for Grad-CAM
        return self.fc(self.b(self.cache.relu()).mean((2, 3)))


class Uncopied(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.counting = (number for number in range(3))


class Extra(Plain):
    def get_extra_state(self) -> Any:
        return {"epoch": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Double(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.double()


class Writing(Plain):
    def forward(self, image: Tensor) -> Any:
        image -= 0.5
        return super().forward(image)


class Named(Plain):
    def forward(self, image: Tensor) -> Any:
        return {"logits": super().forward(image)}


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Uncopied, "cannot be copied, as runs do to evaluate it: cannot pickle 'generator' object"),
        (Extra, "the state_dict of odd has '_extra_state', which is no tensor"),
        (Double, "a.weight of odd is float64; runs train float32 weights"),
        (Writing, "odd writes into its images, which others see, too; clone them first"),
        (Named, "odd gives a dict; it is to give logits"),
    ],
)
def test_what_runs_cannot_train_is_refused_before_anything_is_trained(kind: type[Plain], why: str) -> None:
    def odd(num_classes: int) -> nn.Module:
        return kind(num_classes)

    own.register_model(stages=["a", "b"], classifier="fc")(odd)
    with pytest.raises(ValueError, match=why):
        own.create("odd", 10, image_size=8)


CACHES = PLUGIN.replace(
    "return self.fc(self.pool(self.body(self.stem(image))).flatten(1))",
    "self.cache = self.stem(image)\n        return self.fc(self.pool(self.body(self.cache)).flatten(1))",
)


@pytest.mark.usefixtures("own_registry")
def test_a_network_that_keeps_what_it_made_trains_as_one_that_does_not(tmp_path: Path) -> None:
    sums = []
    for name, text in (("plain", PLUGIN), ("caches", CACHES)):
        file = tmp_path / f"{name}_{tmp_path.name}.py"
        file.write_text(text)
        for pair in ("resnet14:my_small", "my_small:resnet8"):
            said("run", *SMALL, "--out", tmp_path / name, "--plugin", file, "--methods", "kd", "--pairs", pair)
        sums.append({one.pair: one.weights_sha256 for one in record.read_all(tmp_path / name / "runs")[0]})
        for net in ("my_small", "my_wide"):
            ENTERED.pop(net)
    assert text != PLUGIN
    assert sums[0] == sums[1]
    assert len(sums[0]) == 2


def test_a_copy_has_the_values_and_no_graph() -> None:
    net = Caching(5)
    net(torch.ones(2, 3, 8, 8))
    assert net.cache.grad_fn is not None
    again = copied(net)
    assert again.cache.grad_fn is None
    assert torch.equal(again.cache, net.cache)
    assert again.a.weight is not net.a.weight
    plain = models.create("resnet8", 10)
    assert torch.equal(fold(plain).state_dict()["net.fc.weight"], plain.state_dict()["net.fc.weight"])
    assert entered.find("resnet8") is None
