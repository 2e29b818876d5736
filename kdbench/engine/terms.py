"""What a method may give back as its loss, and what its cross-entropy is told to learn."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.distiller import Batch

_NAME = re.compile(r"[\w.+-]+")


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
        check_name(name)
        if not isinstance(term, Tensor):
            raise TypeError(f"term {name!r} is of type {type(term).__name__}, no tensor")
        if term.ndim:
            raise ValueError(f"term {name!r} has shape {tuple(term.shape)}, and a term is one number")


def check_name(name: object, longest: int = 200) -> None:
    """Whether a term may be called so: its curve is kept under that name, beside the total, and printed.

    Args:
        longest: how many characters it may have; a combination puts a part's name before the part's own.

    Raises:
        TypeError, ValueError: it may not.

    >>> check_name("kd_rest")
    >>> check_name("total")
    Traceback (most recent call last):
    ValueError: 'total' is no name for a term; letters, digits and _ . + -, at most 200; 'total' is the sum
    """
    if not isinstance(name, str):
        raise TypeError(f"the names of terms are strings, not {type(name).__name__}")
    if len(name) > longest or not _NAME.fullmatch(name) or name == "total":
        raise ValueError(
            f"{name[:60]!r} is no name for a term; letters, digits and _ . + -, at most {longest}; 'total' is the sum"
        )


def smoothed(batch: Batch, num_classes: int, share: float) -> Batch:
    """A batch with targets (B, K) of which a share is spread evenly over all classes (Szegedy et al. 2016).

    >>> batch = Batch(torch.zeros(1, 3, 8, 8), torch.tensor([1]), torch.tensor([7]), torch.tensor(0.0))
    >>> smoothed(batch, 4, 0.2).target
    tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    if not share:
        return batch
    truth = batch.truth
    whole = F.one_hot(truth, num_classes).to(torch.float32) if truth.ndim == 1 else truth
    return batch._replace(target=whole * (1 - share) + share / num_classes)
