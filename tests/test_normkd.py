"""NormKD equals the paper's formula: a temperature per image, twice the spread of its logits."""

import torch
from toys import batch, outputs, pair

from kdbench.methods.normkd import NormKD
from kdbench.registry import get


def test_formula_and_gradient() -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    z = (3 * student.logits).detach().requires_grad_(True)
    found = NormKD(pair(student, teacher), beta=1.5, T=2.0).terms(student._replace(logits=z), teacher, batch())[
        "normalised"
    ]

    def tau(row: torch.Tensor) -> torch.Tensor:
        return 2 * ((row - row.mean()).square().sum() / (len(row) - 1)).sqrt()

    expected = torch.zeros((), dtype=torch.float64)
    for s, t in zip(z, teacher.logits, strict=True):
        p_s, p_t = (s / tau(s)).exp(), (t / tau(t)).exp()
        p_s, p_t = p_s / p_s.sum(), p_t / p_t.sum()
        expected = expected + 1.5 * tau(t) ** 2 * (p_t * (p_t / p_s).log()).sum() / 6
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    (ours,), (theirs,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_defaults_and_that_there_is_no_second_kd_term() -> None:
    known = {name: hyper.default for name, hyper in get("normkd").hyperparameters().items()}
    assert known == {"beta": 0.9, "T": 2.0, "ce_weight": 0.1}


def test_rows_without_spread_and_large_logits_stay_finite() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    for flat, other in ((0.0, 1e3), (1e3, 0.0), (0.0, 0.0)):
        z = (flat * student.logits.float()).detach().requires_grad_(True)
        sides = student._replace(logits=z), teacher._replace(logits=other * teacher.logits.float())
        loss = NormKD(pair(student, teacher)).terms(*sides, batch())["normalised"]
        loss.backward()
        assert loss.isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()
