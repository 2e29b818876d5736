"""A plug-in's first lines may not change what all others see: put back, and the file is refused with a sentence."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from commands import refused, run

import kdbench
from kdbench import registry
from kdbench.registry import discovery
from kdbench.run.executors import strangers
from kdbench.run.plugins import load

HEAD = "import os, random, sys, warnings\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\nimport kdbench\n"
TAIL = """
from kdbench import Distiller, register

@register
class Mine(Distiller):
    reference, provenance = "none", "formula"
"""
CHANGES = {
    "torch.set_default_dtype(torch.float64)": "the default dtype",
    "F.cross_entropy = F.nll_loss": "what torch, Python or kdbench calls by a name",
    "nn.BatchNorm2d.forward = lambda self, x: x": "what torch, Python or kdbench calls by a name",
    "torch.backends.cuda.matmul.allow_tf32 = True": "the precision of fp32 products",
    "os.chdir('/')": "the current folder",
    "random.seed(0)": "Python's random numbers",
    "sys.stdout = None": "standard output or error",
    "import kdbench.methods.kd as m; m.KD.terms = lambda *_: {}": "what torch, Python or kdbench calls by a name",
}
TAKES = {
    "import kdbench.registry.discovery as d; d._classes.clear()": "puts something else in the place of ab, abkd, afd",
    "class K(kdbench.Distiller): pass\nK.__module__, K.__qualname__ = 'kdbench.methods.kd', 'KD'\nkdbench.register(K)": (
        "puts something else in the place of kd"
    ),
}


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "first_lines.py"


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("line", [*CHANGES, *TAKES])
def test_what_first_lines_change_is_put_back_and_said(line: str, write: Path) -> None:
    write.write_text(HEAD + line + TAIL)
    known = {name: registry.get(name) for name in registry.names()}
    before = F.cross_entropy, os.getcwd(), torch.get_default_dtype()
    with pytest.raises(ValueError, match=CHANGES.get(line) or TAKES[line]) as error:
        load(write)
    assert "first_lines.py" in str(error.value)
    assert (F.cross_entropy, os.getcwd(), torch.get_default_dtype()) == before
    assert {name: registry.get(name) for name in registry.names()} == known


@pytest.mark.usefixtures("own_registry")
def test_filters_of_warnings_are_put_back_without_a_word(write: Path) -> None:
    write.write_text(HEAD + "warnings.simplefilter('ignore')" + TAIL)
    before = list(warnings.filters)
    assert load(write) == "first_lines"
    assert list(warnings.filters) == before


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("text", "words"),
    [("def (", "cannot be imported: SyntaxError"), ("x = 1", "registers no method"), (None, "no plug-in file")],
)
def test_who_asks_for_the_method_of_a_broken_file_hears_why(text: str | None, words: str, write: Path) -> None:
    """Not that there is no such method: 'did you mean fitnet?' helps nobody."""
    if text is not None:
        write.write_text(text)
    for methods in ("first_lines", "kd,first_lines+at"):
        done = run(write.parent / "out", "--plugin", write, methods=methods)
        assert done.exit_code == 2
        assert words in " ".join(done.output.split())
    write.write_text(HEAD + TAIL)
    assert load(write) == "first_lines"
    assert registry.get("first_lines")


@pytest.mark.usefixtures("own_registry")
def test_every_way_to_load_one_refuses_it(write: Path, tmp_path: Path) -> None:
    write.write_text(HEAD + "torch.set_default_dtype(torch.float64)" + TAIL)
    done = run(tmp_path / "out", "--plugin", write, methods="first_lines")
    assert done.exit_code == 2
    assert "first_lines.py changes the default dtype when it is imported" in " ".join(done.output.split())
    with pytest.raises(ValueError, match=r"first_lines.py changes the default dtype"):
        registry.get("first_lines")
    with pytest.raises(ValueError, match="the default dtype"):
        kdbench.run("first_lines", plugin=write, out=tmp_path)
    stranger = strangers.Stranger(str(write), write.read_bytes())
    with pytest.raises(strangers.Unlike):
        strangers.load((stranger,))


@pytest.fixture
def plain_dtype() -> Iterator[None]:
    """If what is refused were let in, the tests that follow would still be of fp32."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("plain_dtype")
def test_an_installed_package_may_not_change_them_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (good := "point_good", bad := "point_bad"):
        line = "torch.set_default_dtype(torch.float64)" if name == bad else ""
        (tmp_path / f"{name}.py").write_text(HEAD + line + TAIL)
    monkeypatch.syspath_prepend(tmp_path)
    points = [metadata.EntryPoint(name, f"{name}:Mine", "kdbench.methods") for name in (bad, good)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    for table in ("_classes", "_broken"):
        monkeypatch.setattr(discovery, table, dict(getattr(discovery, table)))
    monkeypatch.setattr(discovery, "_discover", discovery._discover.__wrapped__)
    registry.names()
    assert torch.get_default_dtype() == torch.float32
    assert "package of entry point 'point_bad' changes the default dtype when it is imported" in registry.broken()[bad]
    assert registry.get(good).__name__ == "Mine"
    with pytest.raises(ValueError, match="'point_bad' is there but broken"):
        registry.get(bad)
    for name in (good, bad):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own_registry")
def test_a_script_for_slurm_looks_at_them_too(write: Path) -> None:
    write.write_text(HEAD + "torch.set_default_dtype(torch.float64)" + TAIL)
    said = refused("slurm", "--suite", "digits", "--methods", "kd", "--plugin", write)
    assert "plug-in first_lines.py changes the default dtype when it is imported" in said
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("own_registry")
def test_the_digest_is_of_what_was_imported(write: Path) -> None:
    """Nobody had asked for it before the file was edited, while a teacher was trained, say."""
    write.write_text(HEAD + TAIL)
    registry.load_plugin(write)
    before = hashlib.sha256(write.read_bytes()).hexdigest()
    write.write_text(HEAD + TAIL + "# edited\n")
    assert registry.source_sha256("first_lines") == before
    with pytest.raises(ValueError, match=r"first_lines\.py was changed after it was loaded; start Python anew"):
        registry.load_plugin(write)
    write.write_text(HEAD + TAIL)
    assert registry.load_plugin(write) == "first_lines"
