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

    >>> before = rng_state(torch.device("cpu"))
    >>> one = torch.rand(2)
    >>> set_rng_state(before, torch.device("cpu"))
    >>> torch.equal(torch.rand(2), one)
    True
    """
    state = {"cpu": torch.get_rng_state()}
    if _has_its_own(device):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Make these the present states.

    >>> set_rng_state({"cpu": torch.Generator().manual_seed(3).get_state()}, torch.device("cpu"))
    >>> torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
    True
    """
    torch.set_rng_state(state["cpu"])
    if _has_its_own(device) and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _has_its_own(device: torch.device) -> bool:
    """Whether random numbers are drawn on the device itself; a CUDA device that only stands for one draws none."""
    return device.type == "cuda" and torch.cuda.is_available()


def offset(state: Tensor) -> int | None:
    """How far a CUDA generator has gone, from its state: sixteen bytes, the seed and this; None of a CPU's."""
    return int.from_bytes(bytes(state[8:].tolist()), "little") if state.numel() == 16 else None
