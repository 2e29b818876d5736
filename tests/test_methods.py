"""Every registered method goes through the conformance kit, and its file keeps the rules of the house."""

import inspect
import sys
import traceback
from pathlib import Path

import pytest
from telling import fast

import kdbench
from kdbench import Distiller, registry
from kdbench.testing import CHECKS, Check

pytestmark = pytest.mark.core

QUICK, DEAREST = ["kd+simkd", "crd+label_smoothing"], ["crd+mag", "crd+semckd", "fitnet+mas"]
COMBINATIONS = [*QUICK, *DEAREST]
(DEAR,) = (check for check in CHECKS if check.__name__ == "check_loss_compiles_whole")
METHODS = Path(kdbench.__file__).parent / "methods"


def rule(check: Check) -> str:
    return check.__name__.removeprefix("check_")


def trouble(check: Check, cls: type[Distiller]) -> str:
    """Why a method does not keep a rule; nothing where it does."""
    try:
        check(cls)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


@pytest.mark.parametrize(
    "name", [*registry.names(), *QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in DEAREST)]
)
def test_contract(name: str) -> None:
    cls = registry.get(name)
    broken = {rule(check): why for check in CHECKS if check is not DEAR and (why := trouble(check, cls))}
    assert broken == {}


@pytest.mark.parametrize("name", fast([*registry.names(), *COMBINATIONS]))
def test_contract_under_the_compiler(name: str) -> None:
    """Half the time of all checks together. Values that are read are found of every method in tests/test_device.py."""
    assert trouble(DEAR, registry.get(name)) == ""


def test_no_file_is_broken() -> None:
    assert registry.broken() == {}


def test_every_file_is_a_method() -> None:
    files = {file.stem for file in METHODS.glob("[!_]*.py")}
    assert {name for name in registry.names() if registry.get(name).__module__ == f"kdbench.methods.{name}"} == files


@pytest.mark.parametrize("name", registry.names())
def test_card_is_complete(name: str) -> None:
    cls: type[Distiller] = registry.get(name)
    assert registry.idea(cls), "the file's docstring begins with the idea in one line"
    where = inspect.getdoc(sys.modules[cls.__module__]) or ""
    assert cls.family == "control" or "http" in where, "the file's docstring cites the paper with a link"
    assert cls.family == "control" or "http" in cls.reference, "the reference has a link"
    assert {"loss", "CE"} & set((cls.__doc__ or "").split()), "the class docstring gives the formula"
    assert all(sentence.endswith((".", ")")) for sentence in cls.deviations), "a deviation is a sentence"


@pytest.mark.parametrize("name", ["dskd", "pffu"])
def test_a_paper_that_leaves_choices_open_is_a_reading_and_says_which(name: str) -> None:
    assert registry.get(name).provenance == "reading"
    assert registry.get(name).deviations


def test_files_are_short() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in METHODS.glob("*.py")}
    long = {name: number for name, number in lines.items() if number >= 150}
    assert not long, f"{long} lines; a method is one idea, fewer than 150 lines hold it"
