"""FitNet equals the released code."""

import pytest
import torch

from golden import Case, cases
from kdbench import Batch, Outputs, Pair
from kdbench.distiller import Shapes
from kdbench.methods.fitnet import FitNet, regressor
from kdbench.run.grid import Cell
from kdbench.run.session import Request, resolve


def rename(name: str) -> str:
    return name.replace("regressor.conv", "regressor.0").replace("regressor.bn", "regressor.1")


@cases("fitnet")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    hyper = case.meta["hyper"]
    method = FitNet(case.pair(student, teacher), tap=hyper["hint_layer"], relu=hyper["use_relu"], beta=1.0)
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["hint"], method, renamed)
    case.check_buffers(method, rename)


def test_a_tap_that_is_not_there_is_refused() -> None:
    from golden import shapes

    feats = tuple(torch.zeros(2, 3, 4, 4) for _ in range(3))
    sizes = shapes(Outputs(feats, feats[-1], torch.zeros(2, 3), torch.zeros(2, 5)))
    pair = Pair(sizes, sizes, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="taps 0 to 2"):
        FitNet(pair, tap=3)


def couple(tap: int, teacher_tap: int) -> FitNet:
    """Three taps of the student, four of the teacher, no two of one shape."""
    sizes = Shapes(((4, 16, 16), (5, 8, 8), (6, 4, 4)), (6, 4, 4), 6)
    theirs = Shapes(((7, 16, 16), (8, 8, 8), (9, 4, 4), (10, 2, 2)), (10, 2, 2), 10)
    return FitNet(
        Pair(sizes, theirs, lambda x: x, 5, torch.zeros(8, dtype=torch.int64), 2), tap=tap, teacher_tap=teacher_tap
    )


def seen(sizes: Shapes) -> Outputs:
    feats = tuple(torch.randn(2, *size) for size in sizes.feats)
    return Outputs(feats, feats[-1], feats[-1].mean(dim=(2, 3)), torch.zeros(2, 5))


@pytest.mark.parametrize("tap", range(3))
@pytest.mark.parametrize("teacher_tap", range(4))
def test_every_couple_of_taps_can_be_asked_for(tap: int, teacher_tap: int) -> None:
    method = couple(tap=tap, teacher_tap=teacher_tap)
    student, teacher = (
        seen(Shapes(sizes, sizes[-1], sizes[-1][0]))
        for sizes in (((4, 16, 16), (5, 8, 8), (6, 4, 4)), ((7, 16, 16), (8, 8, 8), (9, 4, 4), (10, 2, 2)))
    )
    batch = Batch(torch.zeros(2, 3, 16, 16), torch.zeros(2), torch.zeros(2), torch.tensor(0.0))
    assert method.regressor(student.feats[tap]).shape[1] == teacher.feats[teacher_tap].shape[1]
    before = method.terms(student, teacher, batch)["hint"]
    other = tuple(feat + (at == teacher_tap) for at, feat in enumerate(teacher.feats))
    assert method.terms(student, teacher._replace(feats=other), batch)["hint"] != before
    rest = tuple(feat + (at != teacher_tap) for at, feat in enumerate(teacher.feats))
    method.eval()
    before = method.terms(student, teacher, batch)["hint"]
    assert method.terms(student, teacher._replace(feats=rest), batch)["hint"] == before


@pytest.mark.parametrize(("height", "width"), [(6, 7), (8, 6), (5, 10), (10, 10), (5, 5)])
def test_the_regressor_meets_the_teachers_height_and_its_width(height: int, width: int) -> None:
    reached = regressor((3, height, width), (4, 5, 5))(torch.randn(2, 3, height, width))
    assert reached.shape == (2, 4, 5, 5)


def test_a_couple_that_is_not_there_is_refused() -> None:
    for tap, teacher_tap in ((3, 1), (1, 4)):
        with pytest.raises(ValueError, match="the student has taps 0 to 2, the teacher 0 to 3"):
            couple(tap, teacher_tap)


@pytest.mark.parametrize(("name", "said"), [("fitnet", "7083491b"), ("fitnet+at", None)])
def test_what_came_later_is_no_part_of_the_settings_unless_it_is_set(name: str, said: str | None) -> None:
    def cell(word: str) -> Cell:
        return resolve(Request(word, "resnet20:resnet8", "digits", "1", device="cpu")).cells[0]

    plain, off, on = (cell(name + inside) for inside in ("", "[teacher_tap=-1]", "[teacher_tap=1]"))
    assert plain.hash == off.hash
    assert said in (None, plain.hash)
    assert "teacher_tap" not in plain.settings.hyper
    assert on.hash != plain.hash
    assert on.settings.hyper["teacher_tap"] == 1
    assert on.label.endswith("[teacher_tap=1]")
