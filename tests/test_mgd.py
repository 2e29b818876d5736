"""MGD equals the released code under its masks, and serves maps of other sides."""

import pytest
import torch
from toys import MAPS, Shape, batch, bears_maps, outputs, pair

from golden import Case, cases
from kdbench.methods.mgd import MGD


def rename(name: str) -> str:
    return name.replace("conv1.", "0.").replace("conv2.", "2.")


@cases("mgd")
def test_golden(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    alpha = hyper["alpha_mgd"] or 1.0  # out.loss is without it
    method = MGD(case.pair(student, teacher), alpha=alpha, lam=hyper["lambda_mgd"])
    renamed = case.load(method, rename)
    assert len(renamed) == len(list(method.parameters()))
    mask = case["in.mask"].to(case.dtype)  # 0 is below lambda and drops, 1 keeps
    asked: list[tuple[int, ...]] = []

    def rand(*size: int, **_: object) -> torch.Tensor:
        asked.append(size)
        return mask

    monkeypatch.setattr(torch, "rand", rand)
    term = method.terms(student, teacher, case.batch())["generated"]
    assert asked == [tuple(mask.shape)]
    case.check(term / alpha, method, renamed)


def test_whole_channels_are_dropped_at_the_rate_of_lambda() -> None:
    student = outputs((40, 4, 4), b=50)
    seen: list[torch.Tensor] = []
    method = MGD(pair(student, student), lam=0.3).double()
    method.generation.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for _ in range(2):
        method.terms(student, student, batch(50))
    dropped = [(masked == 0).all(dim=(2, 3)) for masked in seen]
    assert all(0.25 < share.double().mean() < 0.35 for share in dropped)
    assert not torch.equal(*dropped), "every step draws a mask of its own"
    kept = ~dropped[0][:, :, None, None]
    torch.testing.assert_close(seen[0], student.last * kept)  # not rescaled


@pytest.mark.parametrize(("lam", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_all_or_none_may_be_dropped(lam: float, share: float) -> None:
    student = outputs((8, 4, 4), grad=True)
    seen: list[torch.Tensor] = []
    method = MGD(pair(student, student), lam=lam).double()
    method.generation.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.terms(student, student, batch())["generated"].backward()
    assert (seen[0] == 0).double().mean() == share
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("theirs", MAPS)
@pytest.mark.parametrize("ours", MAPS)
def test_finite_in_float32(ours: str, theirs: str) -> None:
    bears_maps(MGD, ours, theirs)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 8, 8), (6, 4, 4)), ((4, 3, 3), (6, 8, 8)), ((4, 1, 1), (4, 7, 7))]
)
def test_other_sides_meet_at_the_smaller_and_one_image_is_enough(student: Shape, teacher: Shape) -> None:
    ours, theirs = outputs(student, b=1), outputs(teacher, b=1, seed=1)
    seen: list[torch.Tensor] = []
    method = MGD(pair(ours, theirs)).double()
    method.generation.register_forward_hook(lambda *given: seen.append(given[2]))
    assert method.terms(ours, theirs, batch(1))["generated"].isfinite()
    assert seen[0].shape[2:] == (min(student[1], teacher[1]),) * 2


def test_the_map_is_the_one_that_the_head_pools() -> None:
    """In a WRN the deepest tap lies before the last batch norm."""
    ours, theirs = outputs((4, 4, 4), grad=True), outputs((4, 4, 4), seed=1)
    other = torch.zeros(6, 9, 2, 2, dtype=torch.float64)
    ours, theirs = (side._replace(feats=(*side.feats, other)) for side in (ours, theirs))
    MGD(pair(ours, theirs)).double().terms(ours, theirs, batch())["generated"].backward()
    assert ours.last.grad is not None


def test_a_map_too_wide_is_refused_and_can_be_asked_for() -> None:
    student, wide = outputs((4, 1, 1)), outputs((1025, 1, 1))
    with pytest.raises(
        ValueError, match=r"1025 channels takes 18,911,250 weights, and widest=1024 allows.*widest=1025"
    ):
        MGD(pair(student, wide))
    MGD(pair(student, wide), widest=1025)
    for lam in (-0.1, 1.5):
        with pytest.raises(ValueError, match="no share"):
            MGD(pair(student, student), lam=lam)


def test_kd_stands_beside_it_where_the_convention_says_so() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    made = pair(student, teacher)
    assert list(MGD(made).double().loss(student, teacher, batch())) == ["ce", "generated"]
    assert list(MGD(made, kd_weight=1.0).double().loss(student, teacher, batch())) == ["ce", "kd", "generated"]
