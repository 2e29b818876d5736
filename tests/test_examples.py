"""The examples of docs/examples: short, complete, and run as they stand."""

from __future__ import annotations

import ast
import importlib
import runpy
import warnings
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "docs" / "examples").glob("*.py"))
#: What an example needs that kdbench itself does not.
NEEDS = {"lightning_module": ("lightning",), "hf_trainer": ("transformers", "accelerate")}
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
    torch.set_num_threads(threads)
    d = found["d"] if "d" in found else found["net"].d
    assert d.terms
    assert all(term.isfinite() for term in d.terms.values())
    assert d.calls > 1


def test_what_is_asked_for_is_shown() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {"plain_loop", "timm_loop", "torchvision_pair", "memory_bank", "two_stages", *NEEDS}
