"""``kdbench.run`` and ``attach`` in the hands of callers that set torch's switches, use threads, notebooks, half precision."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SMALL, refused
from torch import nn

import kdbench
from kdbench import models, registry
from kdbench.library import verbs

WORDS: dict[str, Any] = {
    "suite": "digits",
    "epochs": 1,
    "limit_train": 64,
    "pairs": "resnet14:resnet8",
    "set": {"teacher.epochs": 1},
    "seeds": 1,
}
METHOD = """from kdbench import Distiller, register

@register
class Mine(Distiller):
    def __init__(self, pair, *, beta=1.0, **common):
        super().__init__(pair, **common)
        self.beta = beta

    def terms(self, student, teacher, batch):
        return {"mine": FACTOR * self.beta * (student.pooled.mean() - teacher.pooled.mean()) ** 2}
"""


@contextmanager
def default(switch: Callable[[Any], None], value: Any, before: Any) -> Any:
    switch(value)
    try:
        yield
    finally:
        switch(before)


SWITCHES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "another number format": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "another device": lambda: torch.device("meta"),
    "another default device": lambda: default(torch.set_default_device, "meta", None),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the teacher, and the weights of a student that was trained under no switch."""
    out = tmp_path_factory.mktemp("plain")
    (one,) = kdbench.run("kd", out=out, **WORDS)
    return out, str(one.weights_sha256)


@pytest.mark.parametrize("switch", SWITCHES)
def test_what_the_caller_has_switched_changes_no_number(switch: str, plain: tuple[Path, str], tmp_path: Path) -> None:
    with SWITCHES[switch]():
        (one,) = kdbench.run("kd", out=tmp_path, **WORDS)
    assert one.status == "done"
    assert one.weights_sha256 == plain[1]
    assert torch.get_default_dtype() is torch.float32


def test_a_second_run_beside_the_first_is_refused_and_the_first_goes_on(
    plain: tuple[Path, str], tmp_path: Path
) -> None:
    """Both would draw from torch's one generator, and neither would be what it is alone."""
    found: list[str] = []

    def another() -> None:
        try:
            kdbench.run("kd", out=tmp_path / "other", **WORDS)
        except ValueError as error:
            found.append(str(error))

    def heard(sentence: str) -> None:
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    (one,) = kdbench.run("kd", out=tmp_path, say=heard, **WORDS)
    assert one.weights_sha256 == plain[1]
    assert "another kdbench.run or kdbench.tune is at work" in found[-1]
    assert kdbench.run("kd", out=tmp_path, **WORDS)[0].weights_sha256 == plain[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # what forks here has threads, of torch's
def test_a_child_that_was_forked_during_a_run_may_train(plain: tuple[Path, str], tmp_path: Path) -> None:
    ends: list[int] = []

    def heard(sentence: str) -> None:
        if ends:
            return
        if not (child := os.fork()):
            try:
                with verbs._as_before():
                    os._exit(0)
            finally:
                os._exit(1)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    (one,) = kdbench.run("kd", out=tmp_path, say=heard, **WORDS)
    assert ends == [0]
    assert one.weights_sha256 == plain[1]


def test_a_record_of_another_code_is_not_the_answer(own_registry: None, tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    file.write_text(METHOD.replace("FACTOR", "1"))
    (one,) = kdbench.run("edited", plugin=str(file), out=tmp_path / "out", **WORDS)
    assert one.status == "done"
    registry.unload("edited", "it is edited")
    file.write_text(METHOD.replace("FACTOR", "100"))
    with pytest.warns(UserWarning, match="edited on resnet14:resnet8, seed 0 failed"):
        assert kdbench.run("edited", plugin=str(file), out=tmp_path / "out", **WORDS) == []


@pytest.mark.parametrize("value", ["None", "[1]", "{1: 2}", "(1, 2)", "float('inf')", "float('nan')", "open"])
def test_a_default_that_nobody_could_write_is_refused_in_a_sentence(
    value: str, own_registry: None, tmp_path: Path
) -> None:
    file = tmp_path / "odd.py"
    file.write_text(METHOD.replace("FACTOR", "1").replace("beta=1.0", f"beta={value}"))
    said = refused("run", *SMALL, "--plugin", file, "--methods", "kd,odd", "--out", tmp_path / "out")
    assert "method Mine: the default of beta is a finite number, a bool or a string, not" in said
    file = tmp_path / "loose.py"
    file.write_text(METHOD.replace("FACTOR", "1").replace("*, beta=1.0", "beta=1.0"))
    said = refused("run", *SMALL, "--plugin", file, "--methods", "kd,loose", "--out", tmp_path / "out")
    assert "method Mine: hyper-parameters are keywords; put `*` before beta" in said


def test_a_term_may_not_take_the_place_of_the_base_class(own_registry: None, tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(METHOD.replace("FACTOR", "1").replace('"mine"', '"ce"'))
    kd, mine = kdbench.run("kd,taken", plugin=str(file), out=tmp_path / "out", **WORDS)
    assert (kd.status, mine.status) == ("done", "failed")
    assert "terms() returns ce, a name of the base class" in str(mine.reason)


def test_a_class_of_a_notebook_is_known_by_its_code(own_registry: None) -> None:
    def cell(factor: int) -> str:
        exec(METHOD.replace("FACTOR", str(factor)), {"__name__": "__main__"})
        return registry.source_sha256("mine")

    first, second = cell(1), cell(100)
    assert len(first) == 64
    assert first != second
    assert cell(1) == first


NOTEBOOK = """
import torch
from kdbench import Distiller, register

WEIGHT, KINDS = 2.0, {"a": 1, "b": 2}

def near(x, y):
    return (x - y).square().mean() if "mean" in {"sum", "mean", "none", "max"} else 0

class Half:
    def __call__(self, x):
        return x / 2

@register
class Mine(Distiller):
    names = {"one", "two", "three"}

    def __init__(self, pair, *, beta=1.0, **common):
        super().__init__(pair, **common)
        self.beta, self.kind = beta, object

    def terms(self, student, teacher, batch):
        scale = [WEIGHT * x for x in KINDS.values()][0]
        return {"mine": scale * self.beta * near(student.pooled.mean(), teacher.pooled.mean()) * Half()(2.0)}
"""


def test_the_code_of_a_notebook_is_the_same_number_in_every_process_and_knows_what_it_calls(own_registry: None) -> None:
    def number(text: str) -> str:
        exec(text, {"__name__": "__main__"})
        return registry.source_sha256("mine")

    first = number(NOTEBOOK)
    environ = {**os.environ, "PYTHONHASHSEED": "1"}  # another order of every set of words
    said = NOTEBOOK + '\nfrom kdbench import registry\nprint(registry.source_sha256("mine"))\n'
    done = subprocess.run([sys.executable, "-"], input=said, capture_output=True, text=True, env=environ, check=True)
    assert done.stdout.strip() == first
    for before, after in (
        ("WEIGHT, KINDS = 2.0", "WEIGHT, KINDS = 3.0"),  # a value beside the class
        ("square()", "abs()"),  # a function beside it
        ('"a": 1', '"a": 5'),
        ("x / 2", "x * 2"),  # a class beside it
        ("beta=1.0", "beta=2.0"),
    ):
        assert number(NOTEBOOK.replace(before, after)) != first, after


def test_a_module_that_is_loaded_again_is_hashed_again(
    own_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "reloaded_method.py"
    file.write_text(METHOD.replace("FACTOR", "1"))
    module = importlib.import_module("reloaded_method")
    first = registry.source_sha256("reloaded_method")
    file.write_text(METHOD.replace("FACTOR", "1000"))
    assert registry.source_sha256("reloaded_method") == first  # what is in memory is not changed by an edit
    importlib.reload(module)
    assert registry.source_sha256("reloaded_method") != first
    del sys.modules["reloaded_method"]


def test_no_method_is_called_all(own_registry: None, tmp_path: Path) -> None:
    file = tmp_path / "all.py"
    file.write_text(METHOD.replace("FACTOR", "1"))
    assert "all, which stands for every method" in refused("info", "--plugin", file, "kd")


def test_minus_zero_is_zero() -> None:
    (one,), (other,) = registry.parse("fitnet[beta=-0]"), registry.parse("fitnet[beta=0]")
    assert str(one) == str(other)


class Returns(nn.Module):
    """A network that returns what it is told to."""

    def __init__(self, give: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.give = models.create("resnet8", 10), give

    def forward(self, image: torch.Tensor) -> Any:
        return self.give(self.net(image))


def test_which_rows_are_the_logits_is_not_guessed() -> None:
    sizes: dict[str, Any] = {"batch_size": 4, "image_size": 32}
    teacher = models.create("resnet14", 10)
    with pytest.raises(ValueError, match="returns rows of 64 and 10 numbers, and which are the logits is not told"):
        kdbench.attach(Returns(lambda out: (out.pooled, out.logits)), teacher, "kd", **sizes)
    alone = kdbench.attach(Returns(lambda out: (out.logits, out.logits)), teacher, "kd", **sizes)
    assert alone.predict(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_semckd_beside_networks_in_half_precision(kind: torch.dtype) -> None:
    student, teacher = (models.create(name, 10).to(kind) for name in ("resnet8", "resnet8"))
    attached = kdbench.attach(student, teacher, "semckd", labels=[0, 1] * 8, batch_size=4, image_size=16)
    loss = attached(torch.randn(4, 3, 16, 16).to(kind), torch.arange(4), torch.arange(4))
    loss.backward()
    assert loss.isfinite()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_hooks_do_not_reach_into_a_script_module() -> None:
    script = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))[:1])
    with pytest.raises(ValueError, match="is a ScriptModule, and hooks do not reach inside"):
        kdbench.attach(script, models.create("resnet14", 10), "kd", batch_size=4, image_size=32)
