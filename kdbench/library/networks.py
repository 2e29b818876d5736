"""The two networks of an attached method, and who answers in the teacher's place."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from kdbench.engine.torch_private import versions
from kdbench.library.checks import of_one_format
from kdbench.library.sides import Side, dtype_of
from kdbench.models import Tapped, fold


class Networks:
    """The two networks; no module, so that neither is a part of the method.

    Attributes:
        student: its side.
        teacher: its side; None: there is none.
    """

    def __init__(self, student: Side, teacher: Side | None) -> None:
        self.student, self.teacher = student, teacher
        self._answering = None if teacher is None else Answering(teacher)

    @property
    def device(self) -> torch.device:
        """Where the student lies."""
        return next((p.device for p in self.student.given.parameters()), torch.device("meta"))

    @property
    def answering(self) -> Tapped | None:
        """Who answers in the teacher's place; None: there is no teacher."""
        return None if self._answering is None else self._answering()

    def follow(self, method: nn.Module) -> None:
        """Teacher and method go where the student is; the teacher is in eval mode, whoever has switched it."""
        device = self.device
        for part in (method, *(() if self.teacher is None else (self.teacher.given,))):
            if any(tensor.device != device for tensor in (*part.parameters(), *part.buffers())):
                part.to(device)
        if self.teacher is not None and any(module.training for module in self.teacher.given.modules()):
            self.teacher.given.eval()

    def check(self, images: Tensor, method: nn.Module) -> None:
        """Whether all are of one number format, and hold values.

        Raises:
            ValueError: which does not.
        """
        named = (("student", self.student.given), ("method", method))
        for role, part in named if self.teacher is None else (*named, ("teacher", self.teacher.given)):
            if any(tensor.is_meta for tensor in part.parameters()) or (
                role == "student" and self.device.type == "meta"
            ):
                raise ValueError(f"the {role}'s weights are without values (device meta); load some")
        theirs = None if self.teacher is None else dtype_of(self.teacher.given)
        of_one_format(images, self.device.type, dtype_of(self.student.given), theirs, method)


class Answering:
    """Who answers in the teacher's place.

    Of a network whose make is known that is a copy for inference; it is made anew when the teacher was loaded,
    trained, moved or given another layer since, for else the old one would go on answering without a word.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self._copy: Tapped | None = None
        self._stamp: Hashable = None

    def __call__(self) -> Tapped:
        """The teacher as it is now."""
        if not self.side.ours:
            return self.side.tapped
        stamp = _stamp(self.side.given)
        if self._copy is None or stamp != self._stamp:
            self._copy, self._stamp = fold(self.side.tapped), stamp
        return self._copy


def _stamp(net: nn.Module) -> Hashable:
    """Another one as soon as a weight or a statistic is written, moved or replaced."""
    tensors = [*net.parameters(), *net.buffers()]
    return tuple(versions(tensors)), tuple((tensor.data_ptr(), tensor.dtype) for tensor in tensors)
