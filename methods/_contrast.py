"""Negatives drawn without replacement, and sums over them: what CRD computes with every image of a training set."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def draws_for(k: int, m: int) -> int:
    """How many draws with replacement among m hold k distinct ones, with 30 standard deviations to spare."""
    left = m - torch.arange(k, dtype=torch.float64)  # the next new one takes m / left draws on average
    mean, variance = (m / left).sum().item(), (m * (m - left) / left**2).sum().item()
    return math.ceil(mean + 30 * math.sqrt(variance)) + 1


def distinct(drawn: Tensor, k: int, m: int) -> Tensor:
    """(B, J) int64 below m -> (B, m) bool, whether a number is among the first k distinct ones of its row.

    Of independent uniform draws they are a uniform sample without replacement; a top-k of m random keys
    takes twice the time. A row with fewer than k distinct entries has all of them.
    """
    place = torch.arange(drawn.shape[1], dtype=torch.int32, device=drawn.device).expand_as(drawn)
    # The least place is the same in whatever order a device serves the repeats.
    first = place.new_full((len(drawn), m), drawn.shape[1]).scatter_reduce_(1, drawn, place, "amin")
    met = (first.gather(1, drawn) == place).cumsum(1, dtype=torch.int32)  # so many distinct ones up to here
    return first < (met < k).sum(1, dtype=torch.int32, keepdim=True).clamp(max=drawn.shape[1] - 1) + 1


def factors_for(most: float) -> int:
    """Of how many numbers 1 + x, with log x at most ``most``, a product fits into fp32, counted up to 4.

    >>> factors_for(20.0), factors_for(80.0), factors_for(100.0)
    (4, 1, 0)
    """
    return min(4, int(88 / (max(most, 0.0) + 1)))


def unmatched(x: Tensor, score: Tensor, shift: Tensor, drawn: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """Sum over what was drawn of log(1 + exp(score - shift)), (B,), and by how much it grows with each score, (B, N).

    Args:
        x: (B, N), exp(score), 0 where ``drawn`` is; overwritten.
        score: (B, N), read where ``factors`` is 0: its exponential does not fit into fp32 then.
        shift: ().
        drawn: (B, N) of 0 and 1.
        factors: see ``factors_for``.
    """
    if factors:
        x *= (-shift).exp()
        return sum_log1p(x, factors), x.div_(1 + x)
    logit = score - shift
    return (F.softplus(logit) * drawn).sum(dim=1), logit.sigmoid() * drawn


def sum_log1p(x: Tensor, factors: int) -> Tensor:
    """(B, N), none negative -> (B,), sum of log(1 + x), where no product of so many 1 + x overflows.

    A logarithm costs ten products and ``log1p`` a hundred, so it is taken of products: (1 + a)(1 + b) = 1 + t with
    t = a + b (1 + a), which keeps the digits of small a and b.
    """
    width = x.shape[1] // factors
    t, *others = x[:, : factors * width].split(width, dim=1) if width else (x[:, :0],)
    for b in others:
        t = torch.addcmul(t + b, t, b)
    u = 1 + t
    lost = (u - 1).sub_(t).div_(u)  # of the digits of t, in u
    return u.log_().sub_(lost).sum(dim=1) + x[:, factors * width :].log1p().sum(dim=1)
