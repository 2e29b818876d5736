"""Which devices the workers have: one each, the stronger ones first; several share one where more are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slot:
    """The place of one worker.

    >>> Slot(0, "cuda:2", strength=132e9).seen
    'cuda:0'
    """

    number: int
    device: str  # as this process knows it
    strength: float = 0.0  # beside the others': memory times processors
    sharing: int = 1  # workers on this device

    @property
    def seen(self) -> str:
        """The device as the worker knows it, which sees no other GPU."""
        return self.device if self.device == "cpu" else "cuda:0"

    def variables(self, visible: str | None) -> dict[str, str]:
        """Of its environment. ``visible``: CUDA_VISIBLE_DEVICES as it is here; None where it is not set.

        >>> Slot(0, "cuda:1").variables("GPU-5c2d,GPU-77aa")
        {'CUDA_VISIBLE_DEVICES': 'GPU-77aa'}
        """
        if self.device == "cpu":
            return {}
        index = int(self.device.partition(":")[2] or 0)
        names = [one.strip() for one in visible.split(",")] if visible else []
        return {"CUDA_VISIBLE_DEVICES": names[index] if index < len(names) else str(index)}


def slots(devices: Sequence[str], workers: int, strength: Callable[[str], float] | None = None) -> list[Slot]:
    """Places for so many workers.

    >>> power = {"cuda:0": 1.0, "cuda:1": 4.0}
    >>> [(slot.device, slot.sharing) for slot in slots(["cuda:0", "cuda:1"], 3, power.__getitem__)]
    [('cuda:1', 2), ('cuda:0', 1), ('cuda:1', 2)]
    """
    strength = strength or _strength
    known = {device: strength(device) for device in devices}
    order = sorted(devices, key=lambda device: -known[device])
    chosen = [order[number % len(order)] for number in range(workers)]
    return [Slot(number, one, known[one], chosen.count(one)) for number, one in enumerate(chosen)]


def _strength(device: str) -> float:
    if device == "cpu":
        return 1.0
    try:
        found = torch.cuda.get_device_properties(device)
    except Exception:  # it will say so itself when it is tried
        return 0.0
    return float(found.total_memory) * found.multi_processor_count


def strongest(idle: Sequence[Slot]) -> Slot:
    """Who of those without work takes the weightiest unit.

    >>> strongest([Slot(0, "cuda:0", 1.0), Slot(1, "cuda:1", 4.0)]).device
    'cuda:1'
    """
    return max(idle, key=lambda slot: (slot.strength, -slot.number))
