"""Raises, wherever it is called, whatever Python lets one raise; and gives back what is no answer."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair

T = TypeVar("T")


class Odd(BaseException):
    """No Exception."""


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")


class _Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError


class Nameless(Exception, metaclass=_Meta):
    pass


class Liar(BaseException):
    __class__ = property(lambda self: sys.exit(3))
    __cause__ = __context__ = property(lambda self: sys.exit(3))


class Group(BaseExceptionGroup[BaseException]):
    pass


def endless() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["x"] = found
    return found


#: What is raised, by kind, and what the sentence of the failure then ends with.
ERRORS: dict[str, tuple[Any, str]] = {
    "value": (lambda: ValueError("no such thing"), "ValueError{where}: no such thing"),
    "exit": (lambda: SystemExit(3), "SystemExit{where}: 3"),
    "generator": (lambda: GeneratorExit(), "GeneratorExit{where}"),
    "stop": (lambda: StopIteration(5), "StopIteration{where}: 5"),
    "interrupt": (lambda: KeyboardInterrupt(), "KeyboardInterrupt{where}"),
    "cancelled": (lambda: asyncio.CancelledError(), "CancelledError{where}"),
    "odd": (lambda: Odd("odd"), "Odd{where}: odd"),
    "mute": (lambda: Mute(), "Mute{where}: its text cannot be read, that raises SystemExit"),
    "nameless": (lambda: Nameless("x"), "Nameless{where}: x"),
    "liar": (lambda: Liar("x"), "Liar{where}: x"),
    "group": (lambda: Group("several", [ValueError(), Odd()]), "Group{where}: several (2 sub-exceptions)"),
    "markup": (lambda: ValueError("\\[/a] [bold]"), "ValueError{where}: \\[/a] [bold]"),
    "escape": (lambda: ValueError("\x1b[2J\x07"), "ValueError{where}: \\x1b[2J\\x07"),
    "surrogate": (lambda: ValueError("\ud800"), "ValueError{where}: \\ud800"),
    "lines": (lambda: ValueError("one\ntwo\r\nthree\x00"), "ValueError{where}: one two three\\x00"),
    "long": (lambda: ValueError("x" * 10**6), "ValueError{where}: " + "x" * 297 + "..."),
    "disk": (lambda: OSError(28, "No space left on device"), "OSError{where}: [Errno 28] No space left on device"),
    "import": (lambda: ImportError("no module"), "ImportError{where}: no module"),
    "assertion": (lambda: AssertionError(), "AssertionError{where}"),
}

#: Where it is raised, and what the sentence says of it.
PLACES = {
    "loss": " in epoch 1",
    "transform": " in epoch 1",
    "terms": " in epoch 1",
    "pretrain_terms": " in epoch 1 of the pre-training stage",
    "backward": " in epoch 1",
    "on_stage": " when it was evaluated after epoch 1",
    "predict": " when it was evaluated after epoch 1",
    "eval": " when it was evaluated after epoch 1",
    "state_dict": " when its checkpoint was written",
    "needs_teacher": " in epoch 1",
    "forward": " in epoch 1",
}

#: Answers that are none: by kind, what is given back in which place, and what the failure says.
ANSWERS: dict[str, tuple[str, Any, str]] = {
    "None": ("terms", lambda s: None, "TypeError in epoch 1"),
    "a list": ("terms", lambda s: [s.logits.mean()], "TypeError in epoch 1"),
    "no tensor": ("loss", lambda s: {"own": 3.0}, "TypeError in epoch 1: term 'own' is of type float, no tensor"),
    "nothing": ("loss", lambda s: {}, "RuntimeError in epoch 1"),
    "names": ("loss", lambda s: {3: s.logits.mean()}, "TypeError in epoch 1: the names of terms are strings, not int"),
    "named as the sum": ("terms", lambda s: {"total": s.logits.mean()}, "in epoch 1: 'total' is no name for a term"),
    "no name": ("terms", lambda s: {"": s.logits.mean()}, "in epoch 1: '' is no name for a term"),
    "a line break": ("terms", lambda s: {"a\nb": s.logits.mean()}, "in epoch 1: 'a\\nb' is no name for a term"),
    "shape": ("loss", lambda s: {"a": s.logits, "b": s.logits.mean()}, "in epoch 1: term 'a' has shape (16, 5)"),
    "one": ("loss", lambda s: {"a": s.logits.mean()[None]}, "in epoch 1: term 'a' has shape (1,)"),
    "detached": ("loss", lambda s: {"own": s.logits.mean().detach()}, "RuntimeError in epoch 1"),
    "nan": ("terms", lambda s: {"own": s.logits.mean() * torch.nan}, "term 'own' was nan in epoch 1"),
    "meta": ("loss", lambda s: {"own": torch.zeros((), device="meta", requires_grad=True)}, "in epoch 1"),
    "graph gone": ("terms", lambda s: (s.logits.sum().backward(), {})[1], "RuntimeError in epoch 1"),
    "predicts None": ("predict", lambda s: None, "AttributeError when it was evaluated after epoch 1"),
    "predicts a vector": ("predict", lambda s: s.logits[:, 0], " when it was evaluated after epoch 1"),
    "predicts fewer": ("predict", lambda s: s.logits[:3], " when it was evaluated after epoch 1"),
    "predicts nan": ("predict", lambda s: s.logits * torch.nan, "the logits were not finite after epoch 1"),
    "a module as state": ("state_dict", lambda s: {"x": nn.Linear(2, 2)}, "its state holds"),
    "a function as state": ("state_dict", lambda s: {"x": lambda: None}, "its state holds"),
    "no dict as state": ("state_dict", lambda s: 3, "its state holds method, of type int, no dict"),
    "odd keys in a state": ("state_dict", lambda s: {object(): 3}, "its state holds"),
    "endless state": ("state_dict", lambda s: endless(), "its state holds"),
    "sparse state": ("state_dict", lambda s: {"x": torch.eye(2).to_sparse()}, "its state holds"),
    "an object as state": ("state_dict", lambda s: {"x": {"y": [object()]}}, "its state holds"),
    "a file as state": ("state_dict", lambda s: {"x": io.BytesIO()}, "its state holds"),
}


class Raising(Distiller):
    """Raises error ``kind`` in ``place``, or gives answer ``answer``."""

    reference = "none"
    provenance = "formula"

    def __init__(self, pair: Pair, *, kind: str = "", place: str = "", answer: str = "") -> None:
        super().__init__(pair, kd_weight=1.0)
        if answer:
            place = ANSWERS[answer][0]
        self.kind, self.place, self.answer, self.armed = kind, place, answer, False
        self.pretrain_epochs = 120 * (place == "pretrain_terms")  # type: ignore[misc]
        self.layer = nn.Linear(2, 2)
        self.last: Any = None
        if place == "forward":
            self.layer.register_forward_hook(lambda *_: self._do("forward", None))

    def _do(self, here: str, usual: T) -> T:
        if here != self.place or not self.armed:
            return usual
        if self.answer:
            answer: T = ANSWERS[self.answer][1](self.last)
            return answer
        raise ERRORS[self.kind][0]()

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.last = student
        if self.place == "loss":
            return self._do("loss", {})
        return super().loss(student, teacher, batch)

    def transform(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        return self._do("transform", (student, teacher))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.place == "backward":
            student.pooled.register_hook(lambda grad: self._do("backward", grad))
        if self.place == "forward":
            self.layer(torch.zeros(1, 2))
        return self._do("terms", {"own": student.pooled.square().mean()})

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return self._do("pretrain_terms", {"own": self.layer(torch.ones(1, 2)).sum()})

    def on_stage(self, stage: str) -> None:
        self._do("on_stage", None)

    def predict(self, student: Outputs) -> Tensor:
        self.last = student
        return self._do("predict", student.logits)

    def train(self, mode: bool = True) -> Raising:
        if not mode:
            self._do("eval", None)
        return super().train(mode)

    def state_dict(self, *args: Any, **words: Any) -> Any:
        return self._do("state_dict", super().state_dict(*args, **words))

    def __getattribute__(self, name: str) -> Any:
        if name == "needs_teacher":
            return self._do("needs_teacher", True)
        return super().__getattribute__(name)
