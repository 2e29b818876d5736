"""WTTM equals the paper's formula: TTM, each image weighted by the power sum of its teacher."""

import pytest
import torch
from toys import batch, outputs, pair

from kdbench.methods.wttm import WTTM, power_sum


def test_formula_and_gradient() -> None:
    student, teacher = outputs((4, 4, 4), k=7), outputs((4, 4, 4), k=7, seed=1)
    z = (3 * student.logits).detach().requires_grad_(True)
    found = WTTM(pair(student, teacher), beta=2.5, gamma=0.3).terms(student._replace(logits=z), teacher, batch())[
        "transformed"
    ]
    p_s, powers = z.softmax(1), teacher.logits.softmax(1) ** 0.3
    u = powers.sum(1)
    p_t = powers / u[:, None]
    expected = 2.5 * torch.stack([u[i] * (p_t[i] * (p_t[i] / p_s[i]).log()).sum() for i in range(6)]).sum() / 6
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    (ours,), (theirs,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_power_sum_runs_from_one_hot_to_uniform() -> None:
    z = torch.tensor([[1e3, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    assert power_sum(z, 0.1).tolist() == pytest.approx([1.0, 4**0.9])
