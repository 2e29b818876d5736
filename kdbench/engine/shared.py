"""Tensors that several methods are shown: lent as aliases, compared after each lane, put back where they last.

In-place operations are seen by torch's version counter, which all aliases of a tensor share. What goes
round it (``.data``, ``.numpy()``, a write into the storage) is seen in the bytes: those of small tensors
after every lane, those of all others in a thorough look, as the first step of every epoch has one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.engine.torch_private import versions

#: Bytes of a tensor on the CPU that are compared after every lane.
SMALL = 8192


class Shown(NamedTuple):
    """What a step shows to every lane.

    >>> batch = Shown(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([7, 3]), teacher=None)
    >>> [name for name, _ in batch.named()]
    ['the images of the batch', 'the labels of the batch', 'the idx of the batch']
    """

    image: Tensor
    label: Tensor
    idx: Tensor
    teacher: Outputs | None
    target: Tensor | None = None

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that lasts for this step only, with its name in a sentence."""
        yield "the images of the batch", self.image
        yield "the labels of the batch", self.label
        yield "the idx of the batch", self.idx
        if self.target is not None:
            yield "the targets of the batch", self.target
        if self.teacher is not None:
            for name in ("feats", "preacts", "tokens", "heads"):
                yield from ((f"the teacher's {name}", one) for one in getattr(self.teacher, name) or ())
            for name in ("last", "pooled", "logits"):
                yield f"the teacher's {name}", getattr(self.teacher, name)

    def lent(self) -> Shown:
        """Aliases without a graph: what is done to the tensor objects, not to their values, stays with who did it."""
        alias = _aliases()
        teacher = None if self.teacher is None else self.teacher.map(alias)
        target = None if self.target is None else alias(self.target)
        return Shown(alias(self.image), alias(self.label), alias(self.idx), teacher, target)


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers.

    >>> len(tensors_of(nn.BatchNorm2d(4)))
    5
    """
    return [*module.parameters(), *module.buffers()]


def _aliases() -> Callable[[Tensor], Tensor]:
    """``detach``, one alias for each tensor: a tap that is also ``last`` stays the same object."""
    made: dict[int, Tensor] = {}

    def alias(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach()
        return made[id(tensor)]

    return alias


class Lasting:
    """Tensors that methods can reach as long as they train, such as the teacher's weights; with a copy of each.

    Args:
        named: what they are called in a sentence, and they.

    >>> weight = torch.ones(2)
    >>> lasting = Lasting({"the teacher's weights": [weight]})
    >>> _ = weight.zero_()
    >>> lasting.put_back(), weight
    (["the teacher's weights"], tensor([1., 1.]))
    """

    def __init__(self, named: Mapping[str, Iterable[Tensor]]) -> None:
        self._named = {id(tensor): (what, tensor) for what, tensors in named.items() for tensor in tensors}
        self._copies = {key: tensor.detach().cpu().clone() for key, (_, tensor) in self._named.items()}
        self._tensors = [tensor for _, tensor in self._named.values()]
        self._sums = {key: _sum(copy) for key, copy in self._copies.items()}
        self._versions = self._look()

    def put_back(self, *, thorough: bool = False) -> list[str]:
        """Give them the values of the copies again; the names of those that had others."""
        versions = self._look()
        if versions == self._versions and not thorough:
            return []
        pairs = zip(self._named, self._versions, versions, strict=True)
        touched = {key for key, before, now in pairs if before != now}
        if thorough:
            touched |= {key for key in self._named if not self._is_as(key)}
        for key in touched:
            _restore(self._named[key][1], self._copies[key])
        self.settle()
        return list(dict.fromkeys(what for key, (what, _) in self._named.items() if key in touched))

    def _is_as(self, key: int) -> bool:
        """Whether a tensor has the bytes of its copy."""
        tensor, copy = self._named[key][1], self._copies[key]
        room = tensor.untyped_storage().nbytes() >= copy.nbytes
        same = tensor.shape == copy.shape and tensor.dtype == copy.dtype
        return same and room and _sum(tensor) == self._sums[key]

    def settle(self) -> None:
        """What was done to them until now was meant to be."""
        self._versions = self._look()

    def _look(self) -> list[int]:
        return versions(self._tensors)


class Passing:
    """What one step shows, and how it was before the first lane saw it.

    Args:
        shown: the batch.
        thorough: whether the bytes of all of it are compared, which costs about as much as copying it.
    """

    def __init__(self, shown: Shown, *, thorough: bool = False) -> None:
        self.shown = shown
        self._named = list(shown.named())
        # A part of a larger tensor has its version counter: what is done to the whole is seen, too.
        self._tensors = [tensor for _, tensor in self._named]
        self._versions = versions(self._tensors)
        self._sum = _sum_of_all if thorough else _sum
        looked = [(what, tensor) for what, tensor in self._named if thorough or _small(tensor)]
        self._sums = [(what, tensor, self._sum(tensor)) for what, tensor in looked]

    def changed(self) -> list[str]:
        """Names of what is not as it was."""
        found = []
        if (now := versions(self._tensors)) != self._versions:
            found = [what for (what, _), old, new in zip(self._named, self._versions, now, strict=True) if old != new]
        found += [what for what, tensor, old in self._sums if self._sum(tensor) != old]
        return list(dict.fromkeys(found))


@torch.no_grad()
def _restore(tensor: Tensor, copy: Tensor) -> None:
    room = tensor.untyped_storage().nbytes() >= copy.nbytes
    if tensor.shape == copy.shape and tensor.dtype == copy.dtype and room:
        tensor.copy_(copy)
    else:
        tensor.data = copy.clone().to(tensor.device)


def _small(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.nbytes <= SMALL


def _sum(tensor: Tensor) -> int:
    """A checksum of a tensor's values; waits for its device."""
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _sum_of_all(tensor: Tensor) -> int:
    """A checksum of the memory that a tensor is a part of: an expanded value is one. Waits for its device."""
    memory = tensor.untyped_storage()
    return zlib.crc32(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(memory).cpu().numpy().data)
