"""ReviewKD equals mdistiller's port."""

import pytest
import torch

from golden import Case, cases, shapes
from kdbench import Batch, Outputs, Pair
from kdbench.methods.reviewkd import ReviewKD


def rename(name: str) -> str:
    for theirs, ours in (
        ("conv1", "inward.0"),
        ("bn1", "inward.1"),
        ("conv2", "outward.0"),
        ("bn2", "outward.1"),
        (".att.", ".attention."),
    ):
        name = name.replace(theirs, ours)
    return name


@cases("reviewkd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student", shift=1), case.outputs("teacher")
    teacher = teacher._replace(preacts=teacher.feats, feats=tuple(f.relu() for f in teacher.feats))
    hyper = case.meta["hyper"]
    method = ReviewKD(case.pair(student, teacher), beta=hyper["weight"], warmup=hyper["warmup_epochs"] / 240)
    renamed = case.load(method, rename)
    loss = method.terms(student, teacher, case.batch(progress=hyper["epoch"] / 240))["review"]
    case.check(loss, method, renamed)
    case.check_buffers(method, rename)


def sized(*channels: int) -> Outputs:
    feats = tuple(torch.randn(2, c, 4, 4) for c in channels)
    return Outputs(feats, feats[-1], torch.randn(2, 3), torch.randn(2, 5))


def test_the_weight_grows_over_the_warm_up_and_stays() -> None:
    student, teacher = sized(3, 4, 5), sized(3, 6, 7, 8)  # unequal numbers of stages, no pre-ReLU taps
    pair = Pair(shapes(student), shapes(teacher), lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    method = ReviewKD(pair, warmup=0.1)

    def at(progress: float) -> float:
        empty = torch.zeros(2, dtype=torch.int64)
        batch = Batch(torch.zeros(2, 3, 1, 1), empty, empty, torch.tensor(progress))
        return method.terms(student, teacher, batch)["review"].item()

    assert at(0.0) == 0
    assert at(0.05) == pytest.approx(at(0.1) / 2, rel=1e-5)
    assert at(0.1) == pytest.approx(at(0.9), rel=1e-5)
