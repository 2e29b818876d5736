"""What the words of a request name: its device, its suite, its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec

from kdbench import suites
from kdbench.run import words
from kdbench.run.devices import AUTO
from kdbench.suites import Suite
from kdbench.utils.wording import quoted


def choose_device(wanted: str) -> str:
    """``auto``: the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: there is no such device.

    >>> choose_device("cpu")
    'cpu'
    >>> choose_device("tpu")
    Traceback (most recent call last):
    ValueError: no device 'tpu'; write cpu, cuda or cuda:N
    """
    if wanted == "cpu":
        return wanted
    import torch

    if wanted == AUTO:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except (RuntimeError, ValueError, OverflowError):
        raise ValueError(f"no device {quoted(wanted)}; write cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {wanted!r} is not supported; write cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {wanted!r} was asked for, but torch sees no CUDA device; try --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {wanted!r} is not there; torch sees {torch.cuda.device_count()} CUDA devices")
        return f"cuda:{device.index or 0}"
    return "cpu"


def compiles(device: str) -> bool:
    """Whether students are compiled where nobody has said: on CUDA, if there is Triton, which writes its kernels."""
    return device.startswith("cuda") and find_spec("triton") is not None


def choose_suite(wanted: str, device: str) -> tuple[Suite, list[str]]:
    """``auto``: semckd where there is CUDA, else digits; the note says which and why.

    >>> suite, notes = choose_suite("auto", "cpu")
    >>> suite.name, notes
    ('digits', ['suite digits (embedded, small), because there is no CUDA device; --suite semckd trains on ...
    """
    if wanted != AUTO:
        return suites.load(wanted), []
    if device.startswith("cuda"):
        return suites.load("semckd"), [
            "suite semckd (CIFAR-100), because there is a CUDA device; --suite chooses another"
        ]
    return suites.load("digits"), [
        "suite digits (embedded, small), because there is no CUDA device; --suite semckd trains on CIFAR-100"
    ]


def choose_pairs(wanted: str, suite: Suite) -> list[tuple[str, str]]:
    """``all``, globs over the suite's pairs, or ``T:S`` of any models.

    Raises:
        ValueError: no such pair or model.

    >>> choose_pairs("wrn_16_2:*", suites.load("digits"))
    [('wrn_16_2', 'wrn_16_1'), ('wrn_16_2', 'resnet8')]
    """
    from kdbench import models

    known = list(suite.pairs)
    chosen: list[tuple[str, str]] = []
    for word in (part.strip() for part in wanted.split(",")):
        if not word:
            continue
        if word == "all":
            words.networks(suite, known)
            chosen += known
        elif any(sign in word for sign in "*?"):
            found = [(t, s) for t, s in known if fnmatchcase(f"{t}:{s}", word)]
            if not found:
                raise ValueError(f"no pair of suite {suite.name} matches {quoted(word)}; it has {_pairs(known)}")
            words.networks(suite, found)
            chosen += found
        else:
            teacher, colon, student = word.partition(":")
            if not colon or not teacher or not student:
                near = get_close_matches(word, [f"{t}:{s}" for t, s in known], n=2, cutoff=0.4)
                hint = f"did you mean {' or '.join(near)}?" if near else f"suite {suite.name} has {_pairs(known)}"
                raise ValueError(f"a pair is written teacher:student, not {quoted(word)}; {hint}")
            chosen.append((models.resolve(teacher), models.resolve(student)))
    if not chosen:
        raise ValueError("no pair was asked for; try --pairs all or `kdbench list pairs`")
    return list(dict.fromkeys(chosen))


def _pairs(known: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(":".join(pair) for pair in known)
