"""TTM equals the paper's formula: a power transform of the teacher's probabilities, normalised."""

import torch
from toys import batch, outputs, pair

from golden import total
from kdbench.methods.ttm import TTM
from kdbench.registry import get


def test_formula_and_gradient() -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    z = (3 * student.logits).detach().requires_grad_(True)
    found = TTM(pair(student, teacher), beta=2.5, gamma=0.3).terms(student._replace(logits=z), teacher, batch())[
        "transformed"
    ]
    p_s, p_t = z.softmax(1), teacher.logits.softmax(1) ** 0.3
    p_t = p_t / p_t.sum(1, keepdim=True)
    expected = 2.5 * torch.stack([(p_t[i] * (p_t[i] / p_s[i]).log()).sum() for i in range(6)]).sum() / 6
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    (ours,), (theirs,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_large_logits_stay_finite_and_there_is_no_kd_term() -> None:
    student, teacher = outputs((4, 4, 4), k=2), outputs((4, 4, 4), k=2, seed=1)
    z = (1e3 * student.logits.float()).detach().requires_grad_(True)
    sides = student._replace(logits=z), teacher._replace(logits=1e3 * teacher.logits.float())
    named = TTM(pair(student, teacher)).loss(*sides, batch(k=2))
    assert set(named) == {"ce", "transformed"}
    assert "kd_weight" not in get("ttm").hyperparameters()
    (grad,) = torch.autograd.grad(total(named), z)
    assert grad.isfinite().all()
