"""KD-SVD equals both released versions, once its singular vectors have their signs."""

from typing import Any

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.kdsvd import KDSVD


def with_signs_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.linalg.svd returns the vectors of the case: signs are the routine's choice, and the loss sees them."""
    plain = torch.linalg.svd
    known = [v for name, v in case.tensors.items() if name.startswith("aux.svd") and name.endswith(".v")]

    def svd(matrix: torch.Tensor, *, full_matrices: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        u, s, v_t = plain(matrix, full_matrices=full_matrices)
        found = v_t.detach()
        like = [v for v in known if v.shape[1] == found.shape[2]]
        overlap = [torch.einsum("bnc,bcn->bn", found[:, : v.shape[2]], v.to(found)) for v in like]
        nearest = max(overlap, key=lambda o: o.abs().min().item())
        assert nearest.abs().min() > 0.99
        sign = torch.ones_like(s)
        sign[:, : nearest.shape[1]] = nearest.sign()
        return u * sign[:, None], s, v_t * sign[:, :, None]

    monkeypatch.setattr(torch.linalg, "svd", svd)


@cases("kdsvd")
def test_golden(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    rows = "lines" if "mdistiller" in case.meta["source"]["repo"] else "positions"
    method = KDSVD(case.pair(student, teacher), beta=1.0, k=case.meta["hyper"]["k"], rows=rows)  # type: ignore[arg-type]
    with_signs_of(case, monkeypatch)
    case.check(method.terms(student, teacher, case.batch())["svd"])


@pytest.mark.parametrize("kind", ["zero", "constant", "rank one"])
def test_equal_singular_values_give_a_finite_gradient(kind: str) -> None:
    given = outputs((3, 4, 4), (5, 4, 4), (6, 4, 4), b=2)

    def degenerate(feat: Any) -> torch.Tensor:
        value = {
            "zero": torch.zeros_like(feat),
            "constant": torch.ones_like(feat),
            "rank one": feat[:, :1].expand_as(feat).clone(),
        }[kind]
        leaf: torch.Tensor = value.float().requires_grad_(True)
        return leaf

    student = given._replace(feats=tuple(degenerate(f) for f in given.feats))
    teacher = given._replace(feats=tuple(f.float() for f in given.feats))
    loss = KDSVD(pair(student, teacher)).terms(student, teacher, batch(2))["svd"]
    loss.backward()
    assert loss.isfinite()
    for feat in student.feats[1:]:
        assert feat.grad is not None
        assert feat.grad.isfinite().all()


def test_a_map_that_diverged_does_not_stop_the_run() -> None:
    given = outputs((3, 4, 4), (5, 4, 4), (6, 4, 4), b=2)
    broken = given._replace(feats=tuple(f * torch.nan for f in given.feats))
    KDSVD(pair(given, given)).terms(broken, given, batch(2))


@pytest.mark.parametrize(
    ("taps", "rows", "sentence"),
    [
        (((3, 4, 4), (5, 4, 4), (7, 4, 4)), "positions", "5:5, 7:6"),
        (((3, 8, 8), (5, 8, 8), (6, 4, 4)), "lines", "8:4, 4:4"),
        (((3, 4, 4), (5, 4, 4)), "positions", "fewer than two"),
        (((3, 4, 4), (5, 4, 4), (6, 4, 4)), "columns", "neither positions nor lines"),
    ],
)
def test_a_pair_it_cannot_serve_is_refused(taps: Any, rows: str, sentence: str) -> None:
    student, teacher = outputs(*taps), outputs((3, 4, 4), (5, 4, 4), (6, 4, 4))
    with pytest.raises(ValueError, match=sentence):
        KDSVD(pair(student, teacher), rows=rows)  # type: ignore[arg-type]
