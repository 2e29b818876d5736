"""Small lanes for tests of the engine: students on a few digits, how they train, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kdbench import data, models, registry
from kdbench.bench import measure
from kdbench.data import Loader
from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.compiled import Compiler
from kdbench.engine.fit import Setting, fit
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan

CPU = torch.device("cpu")
BATCH, EPOCHS, IMAGES = 16, 3, 56  # a tail batch of 8
PLAN = Plan(EPOCHS, 0.05, milestones=(2,))
COMBINATIONS = ["crd+mag", "crd+semckd", "kd+lskd"]
#: A bench of seconds.
TINY = measure.Request(
    pairs=("resnet14:resnet8",),
    methods="kd,crd[nce_k=20]",
    repeat=2,
    steps=1,
    batch_size=4,
    images=80,
    side=8,
    num_classes=5,
)


# -- who teaches, and on what -------------------------------------------------------------------------


@cache
def images(count: int = IMAGES) -> data.Dataset:
    return data.limit(data.load("digits"), count)


def loader(count: int = IMAGES, **changes: Any) -> Loader:
    """The training batches."""
    one = images(count)
    given: dict[str, Any] = {
        "batch_size": BATCH,
        "mean": (0.3,) * 3,
        "std": (0.4,) * 3,
        "crop_padding": 1,
        "seed": 5,
    }
    return Loader(one.train_images, one.train_labels, **(given | changes))


def scored() -> Iterable[tuple[Tensor, Tensor]]:
    """The images that students are evaluated on."""
    one = images()
    return Loader(one.test_images[:64], one.test_labels[:64], batch_size=64, mean=(0.3,) * 3, std=(0.4,) * 3).plain(64)


@cache
def teacher() -> models.Tapped:
    torch.manual_seed(0)
    return models.create("resnet14", 10, image_size=8).eval().requires_grad_(False)


# -- a lane -------------------------------------------------------------------------------------------


def pair_of(student: nn.Module, who: models.Tapped | None = None, labels: Tensor | None = None) -> Pair:
    """What a method is built for: a student of digits under ``who``."""
    assert isinstance(student, models.Tapped)
    return models.make_pair(
        student,
        teacher() if who is None else who,
        image_shape=(3, 8, 8),
        num_classes=10,
        train_labels=images().train_labels if labels is None else labels,
        batch_size=BATCH,
    )


def lane_of(
    key: str,
    student: nn.Module,
    method: Distiller,
    folder: Path,
    *,
    plan: Plan = PLAN,
    device: torch.device = CPU,
    precision: Precision | str = "fp32",
    compiler: Compiler | None = None,
) -> Lane:
    """A lane with a seed, settings and a teacher as all lanes of these tests have."""
    return Lane(
        key,
        student,
        method,
        plan,
        seed=3,
        path=folder / f"{key}.ckpt",
        settings="s" * 8,
        teacher="t" * 8,
        device=device,
        precision=Precision(precision) if isinstance(precision, str) else precision,
        compiler=compiler,
    )


def lane(name: str, folder: Path, *, student: str = "resnet8", labels: Tensor | None = None, **hyper: object) -> Lane:
    """A lane of a registered method; ``labels`` are those of the training images, where they are others."""
    torch.manual_seed(1)
    net = models.create(student, 10, image_size=8)
    pair = pair_of(net, labels=labels)
    torch.manual_seed(2)
    return lane_of(f"{name}-{student}", net, registry.get(name).build(pair, **hyper), folder)


def supported(name: str, folder: Path, **words: Any) -> Lane:
    """``lane``; a method that refuses the pair skips the test."""
    try:
        return lane(name, folder, **words)
    except ValueError as error:
        pytest.skip(f"the method refuses the pair: {error}")


class Burst(Distiller):
    """Cross-entropy, and in some steps a term so heavy that its gradient overflows in fp16; it stays finite itself.

    ``steps`` are those of the whole run.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        at: tuple[int, ...] = (),
        weight: float = 1e9,
        steps: int = EPOCHS * -(-IMAGES // BATCH),
    ) -> None:
        super().__init__(pair)
        self.at, self.weight, self.steps = at, weight, steps

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        near = [((batch.progress * self.steps - step).abs() < 0.5).float() for step in self.at]
        return {"burst": self.weight * sum(near) * student.logits.square().mean()}


# -- its training -------------------------------------------------------------------------------------


class Silent:
    """A watcher that can stop the run after so many finished epochs, as a kill would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.left = stop_after

    def step(self, lanes: int) -> None:
        pass

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


def nothing(*_: object) -> None:
    """What is to be done where nothing is: with a sentence, with a lane that is finished."""


def setting(feed: Loader | None = None, **changes: Any) -> Setting:
    """What lanes of digits share."""
    return replace(Setting(models.fold(teacher()), feed or loader(), scored, CPU, Precision()), **changes)


def train(lanes: Sequence[Lane], shared: Setting | None = None, *, stop_after: int | None = None) -> None:
    """Train lanes to their end, or until they are stopped."""
    shared = setting(loader(views=lanes[0].method.views)) if shared is None else shared
    fit(shared, lanes, Silent(stop_after), nothing)


# -- what becomes of it -------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a finished lane is, to the bit; two can be compared by ``==``."""

    state: dict[str, bytes]
    curve: list[dict[str, Any]]
    report: dict[str, float]


def result(one: Lane) -> Result:
    """Of a lane that is done and has not failed; without the time that it took."""
    assert one.failure is None, one.failure
    assert one.done
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in one.curve]
    return Result({name: _bits(tensor) for name, tensor in state(one).items()}, curve, one.report)


def state(one: Lane) -> dict[str, Tensor]:
    """Weights and buffers of student and method."""
    return {**one.student.state_dict(), **{f"method.{k}": v for k, v in one.method.state_dict().items()}}


def _bits(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def assert_same(ours: Result, theirs: Result) -> None:
    """The same bits; else it says which tensors differ."""
    assert [name for name, bits in theirs.state.items() if ours.state.get(name) != bits] == []
    assert ours == theirs
