"""What a method may give back as its loss."""

from __future__ import annotations

from torch import Tensor


def check_terms(terms: dict[str, Tensor]) -> None:
    """Whether these are named scalars.

    Raises:
        TypeError, ValueError: which of them is none.

    >>> import torch
    >>> check_terms({"hint": torch.tensor(0.5)})
    >>> check_terms({"hint": torch.zeros(2)})
    Traceback (most recent call last):
    ValueError: term 'hint' has shape (2,), and a term is one number
    """
    for name, term in terms.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of terms are strings, not {type(name).__name__}")
        if not isinstance(term, Tensor):
            raise TypeError(f"term {name!r} is of type {type(term).__name__}, no tensor")
        if term.ndim:
            raise ValueError(f"term {name!r} has shape {tuple(term.shape)}, and a term is one number")
