"""The examples of docs/examples: short, complete, and run as they stand."""

from __future__ import annotations

import ast
import importlib
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdbench import models

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "docs" / "examples").glob("*.py"))
#: What an example needs that kdbench itself does not.
NEEDS = {
    "lightning_module": ("lightning",),
    "lightning_callback": ("lightning",),
    "hf_trainer": ("transformers", "accelerate"),
}
LINES = 15  # of code; imports are lines, the sentence above and blank lines are none


def code(path: Path) -> list[str]:
    text = path.read_text()
    sentence = ast.parse(text).body[0].end_lineno or 0
    return [line for line in text.splitlines()[sentence:] if line.strip()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(code(path)) <= LINES
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDS.get(path.stem, ()):
        try:
            importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        if path.stem in NEEDS:
            warnings.simplefilter("ignore")  # those libraries warn of themselves
        found = runpy.run_path(str(path), run_name="__main__")
        if "train" in found:  # it takes a module of the reader's
            found |= {"net": _trained(found["train"])}
    torch.set_num_threads(threads)
    d = found["d"] if "d" in found else found["net"].d
    assert d.terms
    assert all(term.isfinite() for term in d.terms.values())
    assert d.calls > 1


def _trained(train: Callable[[object, object], None]) -> object:
    """A module as Lightning's users write it, after the example has trained it."""
    import lightning

    class Plain(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = models.create("resnet8", 10)

        def training_step(self, batch: tuple[torch.Tensor, ...], number: int) -> torch.Tensor:
            raise AssertionError("the callback's step stands in its place")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    module = Plain()
    before = [one.clone() for one in module.net.parameters()]
    train(module, torch.utils.data.TensorDataset(torch.randn(40, 3, 32, 32), torch.arange(40) % 10))
    held = {id(one) for group in module.optimizers().param_groups for one in group["params"]}
    assert held >= {id(one) for one in module.d.parameters()}
    assert any(not torch.equal(one, two) for one, two in zip(before, module.net.parameters(), strict=True))
    return module


def test_what_is_asked_for_is_shown() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {"plain_loop", "timm_loop", "torchvision_pair", "memory_bank", "two_stages", *NEEDS}
