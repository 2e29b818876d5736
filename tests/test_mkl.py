"""MKL equals its formula, typed anew here, over both published rows of factors."""

import pytest
import torch
from toys import batch, outputs, pair

from kdbench.methods.mkl import MKL


@pytest.mark.parametrize(
    ("lowest", "factors"), [(0.0, [2, 1.5, 1, 0.5, 0]), (-1.0, [2, 1.5, 1, 0.5, 0, -0.5, -1]), (2.0, [2])]
)
def test_formula_and_gradient(lowest: float, factors: list[float]) -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    z_s = (3 * student.logits).detach().requires_grad_(True)
    shown = batch()._replace(progress=torch.tensor(1 / 24))  # half of the warm-up
    method = MKL(pair(student, teacher), weight=8.0, lowest=lowest)
    found = method.terms(student._replace(logits=z_s), teacher, shown)["margins"]
    total = torch.zeros((), dtype=z_s.dtype)
    for i, label in enumerate(shown.label.tolist()):
        z_t = teacher.logits[i]
        first, second = sorted(z_t.tolist())[::-1][:2]
        for phi in factors:
            ours, theirs = z_s[i].clone(), z_t.clone()
            ours[label] = ours[label] - phi * (first - second)
            theirs[z_t.argmax()] -= phi * (first - second)
            p, q = (theirs / 4).softmax(0), (ours / 4).softmax(0)
            total = total + 16 * (p * (p / q).log()).sum()
    expected = 0.5 * 8 * total / len(factors) / len(shown.label)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (ours,), (theirs,) = torch.autograd.grad(found, z_s), torch.autograd.grad(expected, z_s)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_factors_that_do_not_meet_are_refused() -> None:
    both = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7)
    for lowest in (0.3, 3.0, -1e6):
        with pytest.raises(ValueError, match="are no whole number of halves apart"):
            MKL(pair(*both), lowest=lowest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_widened(dtype: torch.dtype) -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    half_s, half_t = (one._replace(logits=one.logits.to(dtype)) for one in (student, teacher))
    wide_s, wide_t = (one._replace(logits=one.logits.float()) for one in (half_s, half_t))
    method = MKL(pair(student, teacher))
    assert method.terms(half_s, half_t, batch())["margins"] == method.terms(wide_s, wide_t, batch())["margins"]
