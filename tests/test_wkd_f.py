"""WKD-F equals the released code: both terms, every gradient, every running statistic; what gave NaN is refused."""

from typing import Any

import pytest
import torch
from toys import MAPS, Shape, batch, bears_maps, outputs, pair

from golden import Case, cases, unweighted
from kdbench.methods.wkd_f import WKDF, cells, gaussians


def rename(name: str) -> str:
    return name.replace(".conv.", ".0.").replace(".bn.", ".1.")


@cases("wkd_f")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    assert hyper["projector"] == "conv1x1", "the class has no other projector, and its card says so"
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = WKDF(
        case.pair(student, teacher),
        beta=1.0,
        ratio=hyper["mean_cov_ratio"],
        grid=hyper["spatial_grid"],
        eps=hyper["eps"],
    )
    renamed = case.load(method, rename)
    assert len(renamed) == len(list(method.parameters()))
    mean, std = method.terms(student, teacher, case.batch()).values()
    case.check(mean + std, method, renamed, **unweighted(mean=(mean, hyper["mean_cov_ratio"]), std=(std, 1.0)))
    case.check_buffers(method, rename)


def test_cells_are_those_of_adaptive_pooling() -> None:
    feat = outputs((3, 7, 5)).last
    for grid in (1, 2, 3, 4):
        mean, std = gaussians(feat, grid, 0.0)
        want = torch.nn.functional.adaptive_avg_pool2d(feat, grid).flatten(2)
        torch.testing.assert_close(mean, want)
        assert (std >= 0).all()
    assert cells(5, 2) == [slice(0, 3), slice(2, 5)]


@pytest.mark.parametrize("theirs", MAPS)
@pytest.mark.parametrize("ours", MAPS)
def test_finite_in_float32(ours: str, theirs: str) -> None:
    bears_maps(WKDF, ours, theirs, grid=2)


def test_one_image_is_enough() -> None:
    student, teacher = outputs((4, 8, 8), b=1, grad=True), outputs((4, 8, 8), b=1, seed=1)
    terms = WKDF(pair(student, teacher)).double().terms(student, teacher, batch(1))
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((4, 8, 8), (6, 4, 4)),
        ((4, 4, 4), (6, 8, 8)),
        ((4, 6, 7), (6, 4, 5)),
        ((4, 5, 5), (6, 5, 5)),
        ((4, 6, 7), (6, 5, 5)),
        ((4, 8, 6), (6, 4, 4)),
        ((4, 2, 4), (6, 1, 3)),
    ],
)
def test_the_student_meets_the_side_of_the_teacher(student: Shape, teacher: Shape) -> None:
    ours, theirs = outputs(student), outputs(teacher, seed=1)
    method = WKDF(pair(ours, theirs)).double()
    assert method.regressor(ours.last).shape == theirs.last.shape
    assert all(term.isfinite() for term in method.terms(ours, theirs, batch()).values())


@pytest.mark.parametrize(
    ("student", "teacher", "hyper", "words"),
    [
        ((4, 4, 4), (6, 4, 4), {"grid": 4}, "one position.*take grid=3"),
        ((4, 8, 8), (6, 8, 8), {"grid": 9}, "one position"),
        ((4, 8, 8), (6, 8, 8), {"grid": 2**31 - 1}, "one position.*take grid=7"),
        ((4, 1, 1), (6, 1, 1), {}, "nothing to fit"),
        ((4, 2, 2), (6, 2, 2), {"grid": 4}, "one position"),
        ((4, 8, 8), (6, 8, 8), {"grid": 0}, "grid=0"),
        ((4, 3, 3), (6, 8, 8), {}, "3x3 map to the teacher's 8x8"),
        ((4, 5, 5), (6, 8, 8), {}, "no kernel"),
        ((4, 8, 3), (6, 4, 4), {}, "no kernel"),
        ((4, 2, 8), (6, 4, 4), {}, "no kernel"),
    ],
)
def test_what_cannot_be_served_is_refused(student: Shape, teacher: Shape, hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WKDF(pair(outputs(student), outputs(teacher, seed=1)), **hyper)


def test_a_grid_that_leaves_two_positions_is_served() -> None:
    student, teacher = outputs((4, 5, 5)), outputs((4, 5, 5), seed=1)
    assert all(
        t.isfinite() for t in WKDF(pair(student, teacher), grid=4).double().terms(student, teacher, batch()).values()
    )


def test_the_weight_falls_over_the_last_part_and_kd_stands_beside_it() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    method = WKDF(pair(student, teacher), kd_weight=1.0).double()

    def named(progress: float) -> dict[str, torch.Tensor]:
        return method.loss(student, teacher, batch()._replace(progress=torch.tensor(progress)))

    early, half, end = named(0.3), named(195 / 240), named(1.0)
    assert list(early) == ["ce", "kd", "mean", "std"]
    for name in ("mean", "std"):
        torch.testing.assert_close(half[name], early[name] / 2, rtol=1e-5, atol=0)
        assert end[name].abs() < 1e-6 * early[name]
    assert end["kd"] == early["kd"]
