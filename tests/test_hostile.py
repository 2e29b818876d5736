"""A stranger's method may do what it likes: its own cell fails with a sentence, the others end with the same bits."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from strangers import alone, bad, data, good, pair, strangers, teacher, train
from telling import thinned
from training import assert_same, result

from kdbench import Distiller, registry
from kdbench.engine import called
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.graph.backend import Eager
from kdbench.engine.guard import NotBuilt, built
from kdbench.engine.lane import Lane
from kdbench.engine.process import Process
from kdbench.engine.shared import Lasting, tensors_of
from kdbench.registry import discovery


@contextmanager
def own_streams() -> Iterator[None]:
    """Standard streams that may be closed: pytest's own are not to be lost. They can be written to after."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (open(os.devnull, "w") for _ in range(2))  # noqa: SIM115
    opened = sys.stdout, sys.stderr
    try:
        yield
        print("to standard output", file=sys.stdout)
        print("to standard error", file=sys.stderr)
    finally:
        sys.stdout, sys.stderr = before
        for one in opened:
            one.close()


@contextmanager
def unchanged() -> Iterator[None]:
    """Process, teacher and labels are after what they were before."""
    process = Process()
    process.note(thorough=True)
    before = [tensor.clone() for tensor in tensors_of(teacher())]
    labels = data()[1].clone()
    try:
        with own_streams():
            yield
    finally:
        changed = process.put_back()
        process.close()
    assert changed == []
    assert all(torch.equal(one, old) for one, old in zip(tensors_of(teacher()), before, strict=True))
    assert torch.equal(data()[1], labels)


def company(stranger: Lane, folder: Path, machine: Any = None) -> str:
    """The stranger's sentence, from between two others, which must end as they do without it."""
    epochs = stranger.plan.epochs
    lanes = [good("student", folder, epochs), stranger, good("kd", folder, epochs)]
    with unchanged():
        finished = train(lanes, machine)
    assert sorted(one.key for one in finished) == sorted(one.key for one in lanes)
    for one, wanted in zip((lanes[0], lanes[2]), alone(epochs), strict=True):
        assert_same(result(one), wanted)
    sentence = stranger.failure or ""
    assert sentence.isprintable()
    assert len(sentence) < 500
    return sentence


MACHINES: dict[str, Any] = {"loop": None, "captured": Eager()}
PATHS = [pytest.param(machine, id=name) for name, machine in MACHINES.items()]
CHANGED = ["threads", "dtype", "stdout closed", "warnings", "no grad", "files closed", "exit"]


@pytest.mark.parametrize("machine", PATHS)
@pytest.mark.parametrize("kind", strangers("tensors").KINDS)
def test_what_is_shown_to_all(kind: str, machine: Any, tmp_path: Path) -> None:
    wanted = strangers("tensors").KINDS[kind]
    epochs = 2 if kind == "in the second epoch" else 1
    sentence = company(bad("tensors", tmp_path, kind=kind, epochs=epochs), tmp_path, machine)
    assert wanted in sentence
    assert bool(wanted) == bool(sentence)


@pytest.mark.parametrize("kind", strangers("process").KINDS)
def test_the_process(kind: str, tmp_path: Path) -> None:
    wanted = strangers("process").KINDS[kind][1]
    sentence = company(bad("process", tmp_path, kind=kind), tmp_path)
    assert wanted in sentence
    assert bool(wanted) == bool(sentence)


@pytest.mark.parametrize(("kind", "when", "machine"), thinned(CHANGED, ["on_stage", "predict", "terms"], [*MACHINES]))
def test_the_process_wherever_it_is_changed(kind: str, when: str, machine: str, tmp_path: Path) -> None:
    if kind == "exit":
        stranger, wanted = bad("raising", tmp_path, kind=kind, place=when), "SystemExit"
    else:
        stranger = bad("process", tmp_path, kind=kind, when=when)
        wanted = strangers("process").KINDS[kind][1]
    sentence = company(stranger, tmp_path, MACHINES[machine])
    if kind != "no grad" or when == "terms":  # elsewhere the gradient mode is the engine's, which puts it back
        assert sentence
        assert wanted in sentence


@pytest.mark.parametrize("kind", strangers("raising").ERRORS)
def test_whatever_is_raised(kind: str, tmp_path: Path) -> None:
    wanted = strangers("raising").ERRORS[kind][1].format(where=" in epoch 1")
    assert company(bad("raising", tmp_path, kind=kind, place="terms"), tmp_path) == wanted


@pytest.mark.parametrize("place", strangers("raising").PLACES)
@pytest.mark.parametrize("kind", ["odd", "disk"])
def test_wherever_it_is_raised(kind: str, place: str, tmp_path: Path) -> None:
    where = strangers("raising").PLACES[place]
    epochs = 2 if place == "state_dict" else 1
    sentence = company(bad("raising", tmp_path, kind=kind, place=place, epochs=epochs), tmp_path)
    if place == "state_dict" and kind == "disk":
        where = " when its state was asked for"
    assert sentence == strangers("raising").ERRORS[kind][1].format(where=where)


@pytest.mark.parametrize("answer", strangers("raising").ANSWERS)
def test_answers_that_are_none(answer: str, tmp_path: Path) -> None:
    sentence = company(bad("raising", tmp_path, answer=answer, epochs=2), tmp_path)
    assert strangers("raising").ANSWERS[answer][2] in sentence


# -- while a method is built -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", strangers("process").KINDS)
def test_a_method_that_changes_the_process_is_not_built(kind: str) -> None:
    do, wanted = strangers("process").KINDS[kind]
    if kind in ("no grad", "inference"):
        wanted = "the gradient mode"

    def make() -> object:
        do()
        return strangers("process").Process(pair())

    if not wanted:
        assert isinstance(built("x", make), Distiller)
        return
    with unchanged(), pytest.raises(NotBuilt) as told:
        built("x", make)
    assert wanted in str(told.value)


def test_a_refusal_is_told_in_its_own_words_and_anything_else_is_a_failure() -> None:
    def raising(error: BaseException) -> Callable[[], object]:
        def make() -> object:
            raise error

        return make

    with pytest.raises(ValueError, match=r"^no such pair \\x1b$"):
        built("x", raising(ValueError("no such\npair \x1b")))
    for error in (SystemExit(2), KeyboardInterrupt(), TypeError("no"), strangers("raising").Odd("odd")):
        with pytest.raises(NotBuilt, match=f"^{type(error).__name__}"):
            built("x", raising(error))
    with pytest.raises(OutOfMemory, match=r"^x does not fit into the memory of cpu$"):
        built("x", raising(MemoryError()))
    with pytest.raises(OSError, match="full"):
        built("x", raising(OSError(28, "full")), passing=(OSError,))


def test_a_method_that_changes_the_labels_or_the_teacher_is_not_built() -> None:
    labels, weights = torch.arange(5), [torch.ones(2, 2)]

    def shared() -> list[Lasting]:
        return [Lasting({"the training labels": [labels], "the teacher's weights": weights})]

    with pytest.raises(NotBuilt, match=r"^the method changed the training labels; it may not change what others see"):
        built("x", lambda: labels.zero_(), shared=shared())
    with pytest.raises(NotBuilt, match="the teacher's weights"):
        built("x", lambda: weights[0].data.mul_(3), shared=shared())
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(weights[0], torch.ones(2, 2))


# -- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_ends_the_run_also_in_a_method_that_catches_everything(
    swallowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = bad("raising", tmp_path, place="terms")

    def terms(*_: object) -> dict[str, torch.Tensor]:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _turn in range(10**6):  # the handler comes between two of these
                pass
        except BaseException:
            if not swallowed:
                raise
        return {}

    monkeypatch.setattr(stranger.method, "terms", terms)
    with unchanged(), pytest.raises(KeyboardInterrupt):
        train([stranger])
    assert stranger.failure is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_signal_whose_handler_raises_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        stranger = bad("raising", tmp_path, place="terms")
        monkeypatch.setattr(stranger.method, "terms", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train([stranger])
        assert stranger.failure is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_an_interrupt_cannot_be_told_from_a_methods_and_ends_the_run(tmp_path: Path) -> None:
    stranger = bad("raising", tmp_path, kind="interrupt", place="terms")
    ended: list[BaseException] = []

    def work() -> None:
        try:
            train([stranger])
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [type(error) for error in ended] == [KeyboardInterrupt]
    assert stranger.failure is None


# -- what the guard costs and keeps ------------------------------------------------------------------


def test_a_failed_lane_keeps_nothing_of_its_step_alive(tmp_path: Path) -> None:
    stranger = bad("raising", tmp_path, kind="value", place="terms")
    gc.collect()
    train([stranger])
    held = [one for one in gc.get_objects() if type(one) is ValueError]
    assert not any(str(one) == "no such thing" for one in held)


def test_importing_in_a_call_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "changes_at_import.py"
    module.write_text("import os, warnings\nos.environ['SET_BY_IMPORT'] = '1'\nwarnings.simplefilter('ignore')\n")
    stranger = bad("raising", tmp_path)
    usual = stranger.method.terms

    def terms(*given: Any) -> dict[str, torch.Tensor]:
        sys.path.insert(0, str(tmp_path))
        __import__("changes_at_import")
        sys.path.remove(str(tmp_path))
        return usual(*given)

    monkeypatch.setattr(stranger.method, "terms", terms)
    filters = list(warnings.filters)
    try:
        assert company(stranger, tmp_path) == ""
    finally:
        sys.modules.pop("changes_at_import", None)
    assert "SET_BY_IMPORT" not in os.environ
    assert list(warnings.filters) == filters


@pytest.mark.slow  # a lane in a process of its own is trained in test_kill, too
def test_the_first_lane_of_a_process_is_no_fault(tmp_path: Path) -> None:
    """What torch replaces of itself at first use is not the method's doing."""
    words = ["run", "--suite", "digits", "--methods", "student", "--pairs", "resnet14:resnet8", "--seeds", "1"]
    words += ["--epochs", "1", "--limit-train", "48", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "kdbench", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_that_was_replaced_is_looked_at_where_it_stands_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first look of a process may have met another registry, as in a test that registers into a copy."""
    test_the_process("threads", tmp_path)  # loads all that the next one needs
    with monkeypatch.context() as patched:
        patched.setattr(discovery, "_classes", dict(discovery._classes))
        called._found.cache_clear()
        called.fact().look()
    test_the_process("the registry", tmp_path)
    assert "kd" in registry.names()
