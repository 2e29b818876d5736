"""``kdbench.attach``: a method on a student and a teacher of any make."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kdbench.distiller import Distiller
from kdbench.library.attached import Attached
from kdbench.library.create import choose, hyper
from kdbench.library.facts import Facts, labels_of
from kdbench.library.networks import Networks
from kdbench.library.numbers import whole_number
from kdbench.library.preparing import steps_of
from kdbench.library.sides import Side, Taps, dtype_of, taps_of
from kdbench.library.untouched import plain_torch, untouched
from kdbench.models import double, make_pair
from kdbench.models.tapped import measure
from kdbench.utils.wording import printable, quoted

_LARGEST = 2**14  # px
_MOST = 10**10  # training images


def attach(
    student: nn.Module,
    teacher: nn.Module | None,
    method: str | type[Distiller],
    *,
    labels: Any = None,
    num_train: int | None = None,
    batch_size: int,
    image_size: int | tuple[int, ...],
    taps: Taps = None,
    device: str | torch.device | None = None,
    convention: str | None = "semckd",
    steps: int | None = None,
    **weights: Any,
) -> Attached:
    """A method's loss for a training loop of your own: ``loss = d(images, labels, idx)``.

    The loss is the one that ``kdbench run`` trains with, CE and KD included with the weights of the convention.
    Student and teacher are any networks that map images to logits: of kdbench's zoo, of timm, of torchvision, your
    own. What is seen inside them is seen by forward hooks, which ``d.detach()`` removes. The teacher answers in eval
    mode and without gradients; of one of the zoo or of timm a copy does, its batch norms folded into its convolutions,
    as in the engine. Teacher and method go to the student's device.

    Args:
        student: the network under training. Its optimizer, its mode and its memory format are yours; for the engine's
            bits on the CPU it is channels last, and trained by SGD on the same batches.
        teacher: None where the method needs none.
        method: as ``kdbench.create`` takes it.
        labels: classes of the training images, in the order that ``idx`` counts.
        num_train: number of training images, where a method must know it but not their labels.
        batch_size: images of a batch; the last of an epoch may be shorter.
        image_size: side of the square images in px, or (H, W), or (C, H, W).
        taps: paths of modules whose outputs stand for the stem and the stages, shallow to deep, of both networks, or
            of each in ``{"student": [...], "teacher": [...]}``. None: they are found.
        device: moves student, teacher and method there; None: to where the student is.
        convention: whose loss weights; "semckd" is CE + KD + b L, "crd" CE + b L; None: the class's own defaults.
        steps: calls that the main stage will have, for methods that change with the time.
        **weights: hyper-parameters that are to be otherwise.

    Raises:
        ValueError: one sentence: no such method or weight, networks that do not fit each other or cannot be looked
            into, or a fact that the method needs and nobody has said.

    >>> import torch, kdbench
    >>> from kdbench import models
    >>> student, teacher = models.create("resnet8", 10), models.create("resnet14", 10)
    >>> d = kdbench.attach(student, teacher, "fitnet", batch_size=4, image_size=32)
    >>> optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05)
    >>> loss = d(torch.randn(4, 3, 32, 32), torch.tensor([1, 0, 3, 2]))
    >>> loss.backward()
    >>> list(d.terms), d.predict(torch.randn(4, 3, 32, 32)).shape
    (['ce', 'kd', 'hint'], torch.Size([4, 10]))
    >>> kdbench.attach(student, None, "fitnet", batch_size=4, image_size=32)
    Traceback (most recent call last):
    ValueError: fitnet needs a teacher, and none was given
    """
    name, cls, said = choose(method)
    if teacher is None and cls.needs_teacher:
        raise ValueError(f"{name} needs a teacher, and none was given")
    if teacher is student:
        raise ValueError(f"{name} was given one network as student and teacher; nobody learns from themselves")
    shape = _shape(image_size)
    size, steps = whole_number(batch_size), steps_of(steps)
    if size is None or size < 2:
        raise ValueError(f"batch_size is a whole number of images, 2 or more, not {batch_size!r}")
    _apart(student, teacher)
    nets = [net for net in (student, teacher) if isinstance(net, nn.Module)]
    sides: list[Side] = []
    with plain_torch():
        try:
            with untouched(nets):
                sides.append(Side(student, "student", shape, taps_of(taps, "student")))
                if teacher is not None:
                    sides.append(Side(teacher, "teacher", shape, taps_of(taps, "teacher")))
                _readable(name, cls, sides)
                facts = _facts(sides, shape, labels, num_train, size, name)
            _settle(device, sides)
            networks = f"{sides[-1].tapped.name}:{sides[0].tapped.name}"
            values = hyper(name, cls, convention, networks, {**said, **weights})
            built = cls.build(facts, **values)
            _assisted(name, cls, sides)
            if dtype_of(student) is not torch.float32:
                built.to(dtype_of(student))
            held = Networks(sides[0], sides[1] if teacher is not None else None)
            held.follow(built)
            return Attached(built, name, held, facts, shape, steps)
        except BaseException:
            for side in sides:
                side.detach()
            raise


def _apart(student: nn.Module, teacher: nn.Module | None) -> None:
    """Raises: ValueError: a weight is the student's and the teacher's; one would train it, the other freeze it."""
    if not isinstance(student, nn.Module) or not isinstance(teacher, nn.Module):
        return
    theirs = {id(p): name for name, p in teacher.named_parameters()}
    shared = next(((name, theirs[id(p)]) for name, p in student.named_parameters() if id(p) in theirs), None)
    if shared is not None:
        raise ValueError(
            f"the student's {shared[0]} is the teacher's {shared[1]}; give the teacher weights of its own, such as"
            " copy.deepcopy(teacher)"
        )


def _shape(image_size: int | tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W); three channels where nobody says."""
    listed = image_size if isinstance(image_size, list | tuple) else (image_size, image_size)
    sizes = [size for size in map(whole_number, listed) if size is not None and 0 < size <= _LARGEST]
    if len(sizes) not in (2, 3) or len(sizes) != len(listed):
        given = printable(repr(image_size), 60)
        raise ValueError(f"image_size is a side in px, (H, W) or (C, H, W), not {given}; {_LARGEST:,} px at most")
    c, h, w = sizes if len(sizes) == 3 else (3, *sizes)
    return c, h, w


def _readable(name: str, cls: type[Distiller], sides: Sequence[Side]) -> None:
    """Raises: ValueError: a network does not show what the method may read, or the two compute in different formats."""
    for role, side in zip(("student", "teacher"), sides, strict=False):
        if not side.linear and cls.reads != "logits":
            raise ValueError(
                f"the logits of the {role} {side.tapped.name} come from no linear layer, so the vector before it, which"
                f" {name} may read, is not known; end the network in torch.nn.Linear, or let it return kdbench.Outputs"
            )
        if not side.maps and cls.reads == "maps":
            raise ValueError(
                f"the {role} {side.tapped.name} shows no maps that could be stages, and {name} reads some; name its"
                " modules in taps, the stem first"
            )
    formats = [dtype_of(side.given) for side in sides]
    if formats[0] != formats[-1]:
        raise ValueError(f"the student's weights are {formats[0]}, the teacher's {formats[-1]}; give both one format")


def _facts(
    sides: Sequence[Side], shape: tuple[int, int, int], labels: Any, num_train: int | None, batch_size: int, name: str
) -> Facts:
    """What the method may know of the pair; what nobody has said is a sentence when it is read."""
    num_classes = measure(sides[0].tapped, shape).logits.shape[1]
    if num_classes < 2:
        raise ValueError(f"the student {sides[0].tapped.name} gives one logit; a distribution over classes needs two")
    if labels is not None:
        found = labels_of(labels, num_classes)
        if num_train not in (None, len(found)):
            raise ValueError(f"labels are those of {len(found):,} images, and num_train says {num_train!r}")
    else:
        number = None if num_train is None else whole_number(num_train)
        if num_train is not None and (number is None or not 1 <= number <= _MOST):
            raise ValueError(f"num_train is the number of training images, 1 to {_MOST:,}, not {num_train!r}")
        found = torch.zeros((), dtype=torch.int64).expand(number or 0)
    pair = make_pair(
        sides[0].tapped,
        sides[-1].tapped,
        image_shape=shape,
        num_classes=num_classes,
        train_labels=found,
        batch_size=batch_size,
    )
    facts = Facts(**vars(pair))
    unsaid: dict[str, str] = {}
    if labels is None:
        unsaid["train_labels"] = f"{name} must know the labels of all training images; give them as labels="
        if num_train is None:
            unsaid["num_train"] = f"{name} must know how many training images there are; give labels= or num_train="
    facts.lacks(**unsaid)
    return facts


def _settle(device: str | torch.device | None, sides: Sequence[Side]) -> None:
    """Raises: ValueError: there is no such device."""
    if device is None:
        return
    try:
        where = torch.device(device)
        if where.type == "meta":
            raise ValueError("it holds no values")
        for side in sides:
            side.given.to(where)
    except TypeError:
        raise ValueError(f"device is a name such as 'cpu' or 'cuda:0', not {quoted(device)}") from None
    except (RuntimeError, AssertionError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"device {quoted(device)} cannot be used: {said}") from error


def _assisted(name: str, cls: type[Distiller], sides: Sequence[Side]) -> None:
    """Warn who gives a method another teacher than the one that it is made for."""
    if cls.assistant is None:
        return
    by, _ = cls.assistant
    student, teacher = sides[0].tapped.name, sides[-1].tapped.name
    try:
        wanted = double(student)
    except ValueError:
        wanted = ""
    if teacher != wanted:
        warnings.warn(
            f"{name} learns from an assistant, the student's network at twice its width, distilled from the teacher by"
            f" {by}; it takes {teacher}, which it was given, for that",
            stacklevel=3,
        )
