"""Values of hyper-parameters: text from the command line as the right type, and what no value may be."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Iterable

from kdbench.distiller import Distiller
from kdbench.registry._words import quoted

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
#: Whole numbers are below this: counts, sizes of a layer.
_LARGEST = 2**31
#: Weights of parts of a loss, exponents, what is added to be safe: below 0 they would turn the sign of a loss.
_FROM_ZERO = (
    *("alpha", "beta", "gamma", "lam", "beta_a", "beta_d", "aux_ce", "lambda_corr", "lambda_mutual", "multiplier"),
    *("warmup", "decay", "eps", "sharpen", "p", "ratio", "loops", "t_end"),
)
#: Shares of a whole.
_SHARES = ("nce_m", "ratio_ss", "ratio_tf")
#: Whole numbers of which there is at least one: sizes of layers and maps, how often.
_COUNTS = ("dim", "hidden", "k", "nce_k", "resolution", "factor", "grid", "iterations", "epochs", "widest")
#: Letters of a text.
_LETTERS = 100


def convert(text: str, default: object, where: str) -> object:
    """Text from the command line -> the type of the default.

    Raises:
        ValueError: it does not read as that type.

    >>> convert("400", 1.0, "semckd[beta]")
    400.0
    """
    kind = type(default)
    try:
        if kind is bool:
            return _TRUTH[text.lower()]
        if kind is int and _WHOLE.fullmatch(text):
            return int(text)
        if kind in (int, float):
            if len(text) > _LETTERS or not _NUMBER.fullmatch(text):  # float() also takes 1_0, nan, other scripts
                raise ValueError
            number = float(text)
            if kind is int and not number.is_integer():
                raise ValueError
            return int(number) if kind is int else number + 0.0  # -0 is 0: one loss has one name
        return text
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{where} takes a value like {default!r}, not {quoted(text)}") from None


def sound(cls: type[Distiller]) -> None:
    """Refuse a method whose hyper-parameters nobody could set or write down.

    Raises:
        ValueError: one is no keyword, or its default is no number, bool or string.

    >>> sound(Distiller)
    """
    for part in cls.components():
        loose = [
            one.name
            for one in [*inspect.signature(part.__init__).parameters.values()][2:]  # after self and pair
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        if loose:
            raise ValueError(
                f"method {part.__name__}: hyper-parameters are keywords; put `*` before {', '.join(loose)}"
            )
    for name, hyper in cls.hyperparameters().items():
        kind, default = type(hyper.default), hyper.default
        if kind not in (bool, int, float, str) or (kind is float and not math.isfinite(default)):
            raise ValueError(
                f"method {cls.__name__}: the default of {name} is a finite number, a bool or a string, not"
                f" {quoted(repr(default))}"
            )


def check(cls: type[Distiller], key: str, value: object, where: str) -> None:
    """Refuse what can be right for no method; what only this method cannot use, it says itself.

    Numbers are finite and of the default's type, temperatures above 0, weights not below, shares from 0 to 1, sizes 1
    or more; what kind one is, its name tells. A method whose weight may be negative says so (``Distiller.signed``).

    Args:
        cls: the method, or a combination.
        key: name of the hyper-parameter, as ``cls.hyperparameters()`` has it.
        value: its value.
        where: for the sentence, such as "kd[tau]".

    Raises:
        ValueError: it is refused.

    >>> check(Distiller, "tau", 4.0, "kd[tau]")
    """
    default, choices = cls.hyperparameters()[key].default, cls.hyperparameters()[key].choices
    if choices and not any(type(value) is type(one) and value == one for one in choices):
        raise ValueError(f"{where} is one of {', '.join(map(str, choices))}, not {quoted(str(value))}")
    if isinstance(default, str) or default is None:
        if isinstance(default, str) and not (isinstance(value, str) and len(value) <= _LETTERS and value.isprintable()):
            raise ValueError(f"{where} is a word like {default!r}, not {quoted(value)}")
        return
    if isinstance(default, bool) or isinstance(value, bool) or not isinstance(value, int | float):
        if type(value) is not type(default):
            raise ValueError(f"{where} takes a value like {default!r}, not {quoted(repr(value))}")
        return
    if not isinstance(default, int | float):
        return
    if abs(value) > sys.float_info.max:  # of a whole number, which can be larger than any other
        raise ValueError(f"{where} is a finite number, {default!r} by default, not {'-' * (value < 0)}inf")
    if not math.isfinite(value) or (isinstance(default, int) and abs(value) >= _LARGEST):
        raise ValueError(f"{where} is a finite number, {default!r} by default, not {value:g}")
    short = key.rpartition(".")[2]
    unsigned = value < 0 <= default and not _signed(cls, key)
    if short in _FROM_ZERO and unsigned:
        raise ValueError(f"{where} is 0 or more, {default!r} by default, not {value:g}")
    if short in _SHARES and not 0 <= value <= 1:
        raise ValueError(f"{where} is a share from 0 to 1, {default!r} by default, not {value:g}")
    if isinstance(default, int) and (short in _COUNTS or short.endswith("_dim")) and value < 1 <= default:
        raise ValueError(f"{where} is 1 or more, {default!r} by default, not {value:g}")
    if _is_temperature(short) and (value < 0 or (value == 0 and default > 0)):
        raise ValueError(f"{where} is a temperature and above 0, {default!r} by default, not {value:g}")
    if unsigned and _is_weight(short, (part.main_weight for part in cls.components())):
        raise ValueError(f"{where} weighs a loss and is 0 or more, {default!r} by default, not {value:g}")


def _signed(cls: type[Distiller], key: str) -> bool:
    """Whether the part that a hyper-parameter belongs to says that it may be negative."""
    name, _, short = key.rpartition(".")
    owners = [part for part in cls.components() if short in part.hyperparameters()]
    named = [part for part in owners if name == part.__module__.rpartition(".")[2] or name == part.__name__.lower()]
    return all(short in part.signed for part in named or owners)


def _is_temperature(key: str) -> bool:
    words = ("tau", "t", "T", "temperature", "nce_t", "t_start", "soft")
    return key in words or key.startswith("tau_") or key.endswith("_tau")


def _is_weight(key: str, main: Iterable[str]) -> bool:
    return key.endswith("weight") or key.startswith("w_") or key in main
