"""Text from the command line as the type of a hyper-parameter."""

from __future__ import annotations


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
