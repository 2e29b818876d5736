"""Averaged weights (EMA): after every step each moves a little towards the student's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a network's weights and buffers, all of them, as in timm.

    Args:
        net: whose.
        decay: share of the average that a step leaves; counters take the network's values.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = net, decay
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the network."""
        for name, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - self.decay)
            else:
                self.state[name].copy_(value)

    def begin(self) -> None:
        """Take the network as it is for the average."""
        self.load(self.net.state_dict())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Values in place, such as those of a checkpoint."""
        with torch.no_grad():
            for name, value in state.items():
                self.state[name].copy_(value)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again after, to the bit."""
        own = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        self.net.load_state_dict(self.state)
        try:
            yield
        finally:
            self.net.load_state_dict(own)
