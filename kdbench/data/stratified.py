"""Parts of a training set in which each class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified(labels: Tensor, n: int, seed: int) -> Tensor:
    """Positions, rising, of n of (N,) labels, each class keeping its share; every class is there as soon as n allows.

    Smaller choices of one seed lie inside larger ones.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[stratified(labels, 3, seed=0)].tolist()
    [0, 0, 1]
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    # The r-th image of a class of m has the key r / m: all firsts come first, then all
    # classes fill up in step. The sort is stable, so the shuffle decides between equals.
    key = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        key[members] = torch.arange(len(members), dtype=torch.float64) / len(members)
    chosen: Tensor = shuffled[key[shuffled].argsort(stable=True)[:n]].sort().values
    return chosen
