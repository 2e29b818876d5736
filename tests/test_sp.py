"""SP equals the released code."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.sp import SP, similarity


@cases("sp")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.listed("student"), case.listed("teacher")
    taps = "/".join(map(str, range(len(student.feats))))
    method = SP(case.pair(student, teacher), beta=1.0, taps=taps)
    stages = {
        f"stage.{i}": torch.nn.functional.mse_loss(similarity(f_s), similarity(f_t))
        for i, f_s, f_t in zip(
            case.meta["features_used"]["student_feature_maps"], student.feats, teacher.feats, strict=True
        )
    }
    case.check(method.terms(student, teacher, case.batch())["similarity"], method, **stages)


def test_only_the_deepest_stage_counts_whatever_the_shapes() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6), (5, 3, 3), grad=True), outputs((3, 8, 8), (7, 5, 5), seed=1)
    SP(pair(student, teacher)).terms(student, teacher, batch())["similarity"].backward()
    assert [feat.grad is not None for feat in student.feats] == [False, False, True]


def test_order_of_channels_and_beta() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (4, 6, 6), seed=1)
    made = pair(student, teacher)
    usual = SP(made).terms(student, teacher, batch())["similarity"]
    turned = student._replace(feats=tuple(-feat.flip(1, 2) for feat in student.feats))
    torch.testing.assert_close(SP(made).terms(turned, teacher, batch())["similarity"], usual)
    torch.testing.assert_close(SP(made, beta=1.0).terms(turned, teacher, batch())["similarity"] * 3000, usual)


def test_large_maps_survive_half_precision() -> None:
    feat = outputs((4, 16, 16)).feats[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = similarity(feat.half() * 512)  # sums of squares pass 65504
    assert got.dtype is torch.float32
    torch.testing.assert_close(got.double(), similarity(feat.half().double()), atol=1e-6, rtol=1e-5)


def test_it_compiles_as_one_graph() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (4, 4, 4), seed=1)
    method = SP(pair(student, teacher))
    got = torch.compile(method.terms, fullgraph=True, backend="eager")(student, teacher, batch())
    torch.testing.assert_close(got, method.terms(student, teacher, batch()))


def test_taps_can_be_named_and_are_summed() -> None:
    maps = ((3, 8, 8), (4, 6, 6), (5, 3, 3))
    student, teacher = outputs(*maps, grad=True), outputs(*maps, seed=1)
    made = pair(student, teacher)

    def loss(taps: str) -> torch.Tensor:
        return SP(made, taps=taps).terms(student, teacher, batch())["similarity"]

    torch.testing.assert_close(loss("1/2"), loss("1") + loss("2"))
    torch.testing.assert_close(loss("2"), loss(""))
    loss("0/1").backward()
    assert [feat.grad is not None for feat in student.feats] == [True, True, False]
    for taps in ("3", "-1", "1-2", "1/"):
        with pytest.raises(ValueError, match="shares taps 0 to 2"):
            SP(made, taps=taps)


def test_batches_of_one_image_are_refused() -> None:
    student = outputs((3, 8, 8), (4, 6, 6))
    with pytest.raises(ValueError, match="2 or more"):
        SP(pair(student, student, batch_size=1))
