"""What a user calls a student or a teacher, as a ``Tapped``; and who took which hooks to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from kdbench.distiller import Outputs
from kdbench.engine.torch_private import compiled
from kdbench.library.hooks import HookReader, hooks_of, unhook
from kdbench.models import Tapped
from kdbench.models.tapped import evaluating, picture
from kdbench.models.timm_taps import TimmReader

Taps = Sequence[str] | Mapping[str, Sequence[str]] | None


class OutputsReader:
    """A network whose forward pass gives ``kdbench.Outputs`` itself."""

    linear = True  # it says itself what its classifier takes

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net

    def tap(self, image: Tensor) -> Outputs:
        """(B, C, H, W) -> all that a method may see."""
        seen: Outputs = self.net(image)
        return seen

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits: its own ``head``, or mean and classifier."""
        if hasattr(self.net, "head"):
            logits: Tensor = self.net.head(last)
            return logits
        raise ValueError(f"{type(self.net).__name__} gives Outputs, but has no head(last) that gives logits")


class Side:
    """One side of a pair.

    Attributes:
        given: the module as the user has it.
        tapped: the same, showing ``Outputs``.
        linear: whether the input of a linear classifier is known.
        maps: whether there are maps that could be stages.
        ours: whether kdbench knows its make (zoo, timm), so that a copy for inference can be folded.
    """

    def __init__(self, given: nn.Module, role: str, image_shape: tuple[int, int, int], taps: Sequence[str] | None):
        if not isinstance(given, nn.Module):
            raise ValueError(f"the {role} is a torch.nn.Module, not {type(given).__name__}")
        _have_values(given, role)
        before = hooks_of(given)
        self.given = given
        self.ours = taps is None
        self.linear = self.maps = True
        if taps is None and isinstance(given, Tapped):
            self.tapped = given
        elif taps is None and hasattr(given, "tap") and hasattr(given, "head"):  # a network of the zoo
            self.tapped = Tapped(given, getattr(given, "name", type(given).__name__))
        else:
            try:
                self.tapped = self._read(given, image_shape, taps)
            except BaseException:
                unhook(given, hooks_of(given) - before)
                raise
        self._own = hooks_of(given) - before

    def _read(self, given: nn.Module, image_shape: tuple[int, int, int], taps: Sequence[str] | None) -> Tapped:
        net = given.net if isinstance(given, Tapped) else given
        name = given.name if isinstance(given, Tapped) else type(net).__name__
        if isinstance(net, torch.jit.ScriptModule):
            raise ValueError(
                f"{name} is a ScriptModule, and hooks do not reach inside; attach the network that it was made from"
            )
        if hasattr(net, "_orig_mod") or compiled(net):
            raise ValueError(
                f"{name} was compiled, and hooks do not reach inside; attach the network that torch.compile was given"
            )
        before = hooks_of(net)
        c, h, w = image_shape
        if taps is None and hasattr(net, "forward_intermediates") and (c, h) == (3, w):
            try:
                return Tapped(net, name, reader=TimmReader(net, name, image_size=h))
            except ValueError:
                unhook(net, hooks_of(net) - before)
        self.ours = False
        if taps is None and gives_outputs(net, image_shape):
            return Tapped(net, name, reader=OutputsReader(net))
        reader = HookReader(net, name, image_shape=image_shape, taps=taps)
        self.linear, self.maps = reader.linear is not None, bool(reader.feats)
        return Tapped(net, name, reader=reader)

    def detach(self) -> None:
        """Remove the hooks that were added, and no others."""
        unhook(self.given, self._own)


def _have_values(net: nn.Module, role: str) -> None:
    """Raises: ValueError: there is nothing that could compute, or nothing yet."""
    weights = [*net.parameters()]
    if not weights:
        raise ValueError(f"the {role} {type(net).__name__} has no weights")
    if any(isinstance(p, UninitializedParameter) or p.is_meta for p in weights):
        raise ValueError(
            f"the {role} {type(net).__name__} has weights without values; call it once, or load them, then attach it"
        )
    formats = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    if strange := [p.dtype for p in weights if p.is_floating_point() and p.dtype not in formats]:
        raise ValueError(f"the {role} {type(net).__name__} has weights of {strange[0]}, which no loss computes with")
    if any(tensor.is_inference() for tensor in (*weights, *net.buffers())):
        raise ValueError(
            f"the {role} {type(net).__name__} was made in torch.inference_mode, so nothing of it can be trained; make"
            " it outside"
        )


def gives_outputs(net: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether a forward pass gives ``Outputs``; False, too, where there is none."""
    like = next((p for p in net.parameters() if p.is_floating_point()), None)
    with evaluating(net):
        try:
            image = picture(image_shape)
            return isinstance(net(image if like is None else image.to(like)), Outputs)
        except Exception:  # whatever its code raises: the next reader tells it
            return False


def taps_of(taps: Taps, role: str) -> Sequence[str] | None:
    """The taps of one side.

    Raises:
        ValueError: a mapping has other keys than the sides.
    """
    if not isinstance(taps, Mapping):
        return taps
    if strange := [str(key) for key in taps if key not in ("student", "teacher")]:
        raise ValueError(f"taps are those of the student and of the teacher, not of {strange[0]!r}")
    return taps.get(role)


def dtype_of(net: nn.Module) -> torch.dtype:
    """Of its weights; float32 of a network without any."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
