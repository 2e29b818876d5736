"""A plain loop with ``kdbench.attach`` ends with the engine's bits: student, method, terms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from telling import fast
from torch import Tensor, nn

import kdbench
from kdbench import data, models, registry
from kdbench.data import Loader
from kdbench.engine.fit import Setting, train_epoch
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.library.attached import Attached
from kdbench.library.create import hyper
from kdbench.models import Tapped

CPU = torch.device("cpu")
BATCH, IMAGES, CLASSES = 8, 20, 10  # two whole batches and one of four images
METHODS = (
    "ab",
    "at",
    "crd",
    "crd+mag",
    "ctkd",
    "dkd",
    "fitnet",
    "ft",
    "kd",
    "pkt",
    "reviewkd",
    "rkd",
    "semckd",
    "simkd",
    "sp",
    "sskd",
    "student",
    "vid",
)


def loader(views: tuple[str, ...]) -> Loader:
    one = data.limit(data.load("digits"), IMAGES)
    return Loader(
        one.train_images,
        one.train_labels,
        batch_size=BATCH,
        mean=(0.3,) * 3,
        std=(0.4,) * 3,
        crop_padding=1,
        seed=5,
        views=views,
    )


def networks() -> tuple[Tapped, Tapped]:
    torch.manual_seed(0)
    teacher = models.create("resnet14", CLASSES, image_size=8).eval().requires_grad_(False)
    with torch.no_grad():
        teacher.net.fc.weight.mul_(5)  # type: ignore[union-attr,operator]
    torch.manual_seed(1)
    return models.create("resnet8", CLASSES, image_size=8), teacher


def by_the_engine(name: str, batches: Loader, epochs: int) -> Lane:
    student, teacher = networks()
    pair = models.make_pair(
        student,
        teacher,
        image_shape=(3, 8, 8),
        num_classes=CLASSES,
        train_labels=batches.labels,
        batch_size=BATCH,
    )
    cls = registry.get(name)
    torch.manual_seed(2)
    method = cls.build(pair, **hyper(name, cls, "semckd", "resnet14:resnet8", {}))
    plan = Plan(epochs, 0.01)
    lane = Lane(
        name, student, method, plan, seed=3, path=Path(), settings="", teacher="", device=CPU, precision=Precision()
    )
    setting = Setting(models.fold(teacher), batches, lambda: [], CPU, Precision())

    class Silent:
        def step(self, lanes: int) -> None: ...
        def epoch(self, stage: str, lanes: object) -> None: ...

    while not lane.done:
        train_epoch(setting, [lane], lane.stage, lane.epoch, Silent())
        assert not lane.failure, lane.failure
    return lane


def by_a_plain_loop(name: str, batches: Loader, epochs: int) -> tuple[nn.Module, Attached]:
    student, teacher = networks()
    student.to(memory_format=torch.channels_last)
    torch.manual_seed(2)
    d = kdbench.attach(student, teacher, name, labels=batches.labels, batch_size=BATCH, image_size=8)
    torch.manual_seed(3)
    for stage in d.stages:
        d.on_stage(stage)
        student.train()
        length = Plan(epochs, 0.01).pretrain_epochs(d.method) if stage == "pretrain" else epochs
        rate = d.method.pretrain_lr or 0.01 if stage == "pretrain" else 0.01
        trained = [*student.parameters(), *d.parameters()] if d.trains_student else [*d.parameters()]
        optimizer = torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=5e-4)
        for epoch in range(length):
            for number, (image, label, idx) in enumerate(batches.epoch(epoch, stage=stage)):
                d.progress = (epoch + number / len(batches)) / length
                optimizer.zero_grad()
                d(image, label, idx).backward()
                optimizer.step()
    return student, d


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("name", fast(METHODS))
def test_a_plain_loop_gives_the_bits_of_the_engine(name: str) -> None:
    cls = registry.get(name)
    batches = loader(cls.views)
    lane = by_the_engine(name, batches, 2)
    student, d = by_a_plain_loop(name, batches, 2)
    assert same(student.state_dict(), lane.student.state_dict()) == []
    assert same(d.method.state_dict(), lane.method.state_dict()) == []
    assert list(d.terms) == list(lane.curve[-1]["terms"])
    lane.student.eval()
    lane.method.eval()
    image = next(iter(batches.plain(8)))[0]
    with torch.no_grad():
        assert torch.equal(d.predict(image), lane.method.predict(lane.student(image)))


def test_there_are_enough_of_them() -> None:
    assert len(METHODS) >= 10
    assert {"semckd", "crd", "kd", "fitnet", "at", "sp", "vid", "rkd", "pkt", "dkd", "reviewkd", "simkd"} <= {*METHODS}
