"""Hyper-parameters: what a signature states, and text from the command line as its type."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from kdbench.distiller import Distiller

_COMMON = ("ce_weight", "kd_weight", "tau")


class Hyper(NamedTuple):
    """One hyper-parameter, as the signature states it."""

    default: object
    common: bool  # declared by Distiller itself, not by the method


def hyperparameters(cls: type[Distiller]) -> dict[str, Hyper]:
    """Keyword-only parameters of ``__init__``, following ``**common`` up to the base.

    Raises:
        ValueError: one has no default.
    """
    found: dict[str, Hyper] = {}
    own = getattr(cls, "combined_hyperparameters", None)
    if own is not None:
        return dict(own())
    for klass in cls.__mro__:
        init = vars(klass).get("__init__")
        if init is None:
            continue
        follows = False
        for parameter in inspect.signature(init).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                follows = True
            elif parameter.kind is parameter.KEYWORD_ONLY:
                if parameter.default is parameter.empty:
                    raise ValueError(f"{cls.__name__}: hyper-parameter {parameter.name!r} has no default")
                found.setdefault(parameter.name, Hyper(parameter.default, parameter.name in _COMMON))
        if not follows or klass is Distiller:
            break
    return found


def convert(text: str, default: object, where: str) -> object:
    """Text from the command line -> the type of the default.

    Raises:
        ValueError: it does not read as that type.
    """
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind is int and text.lstrip("+-").isdigit():
            return int(text)
        if kind in (int, float):
            number = float(text)
            if number != number or (kind is int and not number.is_integer()):
                raise ValueError
            return int(number) if kind is int else number
        return text
    except (KeyError, ValueError):
        raise ValueError(f"{where} takes a value like {default!r}, not {text!r}") from None
