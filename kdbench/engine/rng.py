"""States of torch's default generators, one per lane."""

from __future__ import annotations

import torch
from torch import Tensor


def fresh_rng(seed: int, device: torch.device) -> dict[str, Tensor]:
    """The states that this seed begins with, on the CPU and on ``device``."""
    state = {"cpu": torch.Generator().manual_seed(seed).get_state()}
    if device.type == "cuda":
        state["cuda"] = torch.Generator(device).manual_seed(seed).get_state()
    return state


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The present states.

    >>> device = torch.device("cpu")
    >>> before = rng_state(device)
    >>> drawn = torch.rand(1)
    >>> set_rng_state(before, device)
    >>> torch.equal(torch.rand(1), drawn)
    True
    """
    state = {"cpu": torch.get_rng_state()}
    if _has_its_own(device):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Make these the present states.

    >>> set_rng_state(fresh_rng(0, torch.device("cpu")), torch.device("cpu"))
    >>> torch.initial_seed()
    0
    """
    torch.set_rng_state(state["cpu"])
    if _has_its_own(device) and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _has_its_own(device: torch.device) -> bool:
    """Whether random numbers are drawn on the device itself; a CUDA device that only stands for one draws none."""
    return device.type == "cuda" and torch.cuda.is_available()
