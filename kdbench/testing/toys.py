"""Toy problems for the conformance kit: tiny networks and 27 images, in batches as the engine makes them.

Nothing here is a benchmark. As in training, maps lie in channels-last memory and an epoch ends in a short batch.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.errors import text as words

N, B, SIDE = 27, 8, 16  # three whole batches and one of three images; px
EPOCHS = {"pretrain": 2, "train": 2}
LR = 1e-4  # small: the weights of the papers are made for wider networks


class Net(nn.Module):
    """Convolution, batch norm and ReLU per tap; a 1x1 convolution before the head where ``d`` asks for it.

    Args:
        widths: channels of the stem and the stages.
        strides: of each of them.
        d: channels of the last map, D; equal to the deepest stage's, the last map *is* that stage.
        num_classes: K.

    >>> Net((4, 6), (1, 2), d=6, num_classes=5)(torch.zeros(2, 3, 16, 16)).shapes()
    Shapes(feats=((4, 16, 16), (6, 8, 8)), last=(6, 8, 8), pooled=6, tokens=None)
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], d: int, num_classes: int) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, s, 1, bias=False) for i, o, s in zip(inputs, widths, strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.neck = nn.Conv2d(widths[-1], d, 1) if d != widths[-1] else None
        self.fc = nn.Linear(d, num_classes)
        for norm in self.norms:  # batch norms of trained networks are not 0 and 1
            nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(norm.bias, -0.5, 0.5)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""
        x, feats, preacts = image, [], []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            preacts.append(norm(conv(x)))
            x = F.relu(preacts[-1])
            feats.append(x)
        last = x if self.neck is None else F.relu(self.neck(x))
        pooled = last.mean(dim=(2, 3))
        return Outputs(tuple(feats), last, pooled, self.fc(pooled), tuple(preacts), (self.fc.weight, self.fc.bias))


class TokenNet(nn.Module):
    """Rows of tokens as a transformer's: a class token and patches of 4 px, mixed by nets of two layers in each stage.

    Args:
        width: C of every token.
        stages: how many.
        num_classes: K.

    >>> TokenNet(6, 2, num_classes=5)(torch.zeros(2, 3, 16, 16)).shapes().tokens
    ((16, 6), (17, 6), (17, 6))
    """

    def __init__(self, width: int, stages: int, num_classes: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        places = (SIDE // 4) ** 2 + 1
        self.across = nn.ModuleList(nn.Linear(places, places) for _ in range(stages))
        self.within = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(stages)
        )
        self.fc = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see; the head reads the mean of the patches."""
        patches = self.patch(image)
        rows = [patches.flatten(2).transpose(1, 2)]
        x = torch.cat((self.first.expand(len(image), -1, -1), rows[0]), dim=1)
        for across, within in zip(self.across, self.within, strict=True):
            x = x + across(x.transpose(1, 2)).transpose(1, 2)
            x = x + within(x)
            rows.append(x)
        feats = (patches, *(one[:, 1:].transpose(1, 2).unflatten(2, patches.shape[2:]) for one in rows[1:]))
        pooled = feats[-1].mean(dim=(2, 3))
        classifier = self.fc.weight, self.fc.bias
        return Outputs(feats, feats[-1], pooled, self.fc(pooled), None, classifier, tuple(rows))


class Side(NamedTuple):
    """One side of a toy pair, as arguments of ``Net``.

    >>> Net(*Side((4, 6), (1, 2), 6), num_classes=5).fc.out_features
    5
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]  # (): not of ``Net`` but of ``TokenNet``
    d: int


@dataclass(frozen=True)
class Toy:
    """A teacher-student pair that methods are tried on.

    >>> [toy.name for toy in TOYS]
    ['alike', 'unlike', 'twin']
    """

    name: str
    student: Side
    teacher: Side


_TEACHER = Side((6, 8, 12, 16), (1, 1, 2, 2), 16)
#: Maps of the same sides on both sides, as within one family of networks.
ALIKE = Toy("alike", Side((4, 4, 6, 10), (1, 1, 2, 2), 10), _TEACHER)
#: Four stages against three, other sides, and a last map that is no tap, as between two families.
UNLIKE = Toy("unlike", Side((4, 6, 6, 8, 10), (2, 1, 2, 2, 1), 14), _TEACHER)
#: Maps of equal sides and channels, for methods that compare them without a projection.
TWIN = Toy("twin", _TEACHER, _TEACHER)
TOYS = (ALIKE, UNLIKE, TWIN)
#: A student of tokens, for what methods do with these; as maps they are no other than anybody's.
TOKENS = Toy("tokens", Side((8,) * 4, (), 8), _TEACHER)


def _net(side: Side, num_classes: int) -> Net | TokenNet:
    """In the memory format that the engine trains in: a ``view`` of a map fails there, ``flatten`` does not."""
    if not side.strides:
        return TokenNet(side.d, len(side.widths) - 1, num_classes)
    net: Net = Net(*side, num_classes).to(memory_format=torch.channels_last)
    return net


class Broken(AssertionError):
    """A rule of the contract is not kept; the message is a sentence for the method's author.

    >>> issubclass(Broken, AssertionError)
    True
    """


def require(kept: object, sentence: str) -> None:
    """Raise ``Broken`` with the sentence unless the rule is kept.

    >>> require(1 + 1 == 2, "two")
    >>> require([], "there is nothing")
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: there is nothing
    """
    if not kept:
        raise Broken(sentence)


def said(error: BaseException, cls: type[Distiller]) -> str:
    """The error as a sentence, with the line of the method's file that it passed through.

    >>> said(Broken("it counts"), Distiller), said(KeyError("bank"), Distiller)
    ('it counts', "KeyError: 'bank'")
    """
    text = words(error, 2000)
    if isinstance(error, Broken):
        return text
    own = getattr(sys.modules.get(cls.__module__), "__file__", None) or inspect.getfile(cls)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    where = f" (line {lines[-1]} of its file)" if lines else ""
    return f"{type(error).__name__}{where}: {text[:600]}"


class Problem:
    """A toy pair with its teacher and its data, always the same.

    >>> problem = Problem(ALIKE)
    >>> problem.pair.num_train, [len(batch.label) for batch in problem.batches(0, 2, views=1)]
    (27, [8, 8, 8, 3])
    """

    def __init__(self, toy: Toy, num_classes: int = 5, images: int = N, batch_size: int = B) -> None:
        self.toy, self.num_classes, self.batch_size = toy, num_classes, batch_size
        with seeded(20):
            self.image = torch.randn(images, 3, SIDE, SIDE)
            self.label = torch.arange(images) % num_classes
            self.teacher = _net(toy.teacher, num_classes)
            self.teacher(self.image)  # moves the running statistics
            student = self.student()(self.image[:2])
        self.teacher.eval().requires_grad_(False)
        teacher = self.show(self.image[:2])
        _, *norms = (norm for norm in self.teacher.modules() if isinstance(norm, nn.BatchNorm2d))
        self.pair = Pair(
            student.shapes(),
            teacher.shapes(),
            lambda last: self.teacher.fc(last.mean(dim=(2, 3))),
            num_classes,
            self.label.clone(),
            batch_size,
            teacher_norms=tuple((norm.weight.detach(), norm.bias.detach()) for norm in norms),
        )

    def facts(self) -> dict[str, Tensor]:
        """Copies of what no method may change."""
        named = {f"the teacher's {name}": t for name, t in self.teacher.state_dict().items()}
        named |= {"pair.train_labels": self.pair.train_labels, "the images": self.image, "the labels": self.label}
        return {name: t.detach().clone() for name, t in named.items()}

    def student(self) -> Net | TokenNet:
        """A new student."""
        return _net(self.toy.student, self.num_classes)

    @torch.no_grad()
    def show(self, image: Tensor) -> Outputs:
        """The teacher's outputs."""
        seen: Outputs = self.teacher(image)
        return seen._replace(logits=seen.logits.float())

    def batches(self, epoch: int, total: int, views: int, *, stray: bool = False) -> Iterator[Batch]:
        """One epoch of ``views`` views per image; ``stray`` ones come in another order."""
        order = torch.randperm(len(self.label), generator=torch.Generator().manual_seed(100 * stray + epoch))
        parts = order.split(self.batch_size)
        for number, idx in enumerate(parts):
            image = torch.cat([torch.rot90(self.image[idx], quarters, (2, 3)) for quarters in range(views)])
            image = image.contiguous(memory_format=torch.channels_last)
            progress = torch.tensor((epoch + number / len(parts)) / total)
            yield Batch(image, self.label[idx], idx.repeat(views), progress)


def refusal(cls: type[Distiller], toy: Toy) -> str:
    """The method's sentence about a pair it cannot serve; empty when it can.

    >>> from kdbench import registry
    >>> refusal(registry.get("fitnet"), TWIN), refusal(registry.get("fsp"), ALIKE)[:40]
    ('', 'fsp: the taps must have equal channels; ')
    """
    return _refusal(cls, toy)  # type: ignore[arg-type]  # mypy doubts that a class of modules can be hashed


@lru_cache(maxsize=64)
def _refusal(cls: type[Distiller], toy: Toy) -> str:
    try:
        with seeded(0):
            cls.build(Problem(toy).pair)
    except ValueError as error:
        return " ".join(str(error).split()) or "ValueError without a sentence"
    return ""


def candidates(cls: type[Distiller]) -> list[dict[str, Any]]:
    """What tuning tries of a method; none where that cannot be told, which one check alone has to say.

    >>> candidates(Distiller)
    []
    """
    try:
        return cls.search_space({})
    except ValueError:
        return []


def served(cls: type[Distiller], toys: Sequence[Toy]) -> list[Toy]:
    """Those that the method does not refuse.

    >>> from kdbench import registry
    >>> [toy.name for toy in served(registry.get("fsp"), TOYS)]
    ['twin']
    """
    return [toy for toy in toys if not refusal(cls, toy)]


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit-identical, or only there once.

    >>> one = torch.tensor([1.0, torch.nan])
    >>> differing({"a": one, "b": one}, {"a": one.clone(), "b": one + 1e-7, "c": one})
    ['b', 'c']
    """
    return [
        name
        for name in dict.fromkeys((*one, *other))
        if name not in one or name not in other or not _same(one[name], other[name])
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The default generator starts from ``seed`` inside and is put back after.

    >>> with seeded(3):
    ...     one = torch.rand(())
    >>> with seeded(3):
    ...     bool(torch.rand(()) == one)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
