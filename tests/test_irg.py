"""IRG equals the SemCKD repository's version."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.irg import edges
from kdbench.registry import get


@cases("irg")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    layers = case.meta["hyper"]["transform_layers_student"]
    assert layers == case.meta["hyper"]["transform_layers_teacher"]
    transform = "/".join(f"{a}-{b}" for a, b in zip(layers[::2], layers[1::2], strict=True))
    method = get("irg")(case.pair(student, teacher), beta=1.0, transform=transform)
    terms = method.terms(student, teacher, case.batch())
    case.check(sum(terms.values()), vertex_and_edge=terms["edge"] + terms.get("vertex", torch.tensor(0.0)))


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        ("2", "write pairs of taps"),
        ("1-2/x", "write pairs of taps"),
        ("1-3", "shares taps 0 to 2"),
    ],
)
def test_transform_that_cannot_be_is_refused(transform: str, sentence: str) -> None:
    given = outputs((3, 4, 4), (3, 4, 4), (5, 2, 2))
    with pytest.raises(ValueError, match=sentence):
        get("irg")(pair(given, given), transform=transform)


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.ones(4, 3)])
def test_equal_vectors_have_no_edges_and_a_finite_gradient(x: torch.Tensor) -> None:
    x = x.clone().requires_grad_(True)
    found = edges(x)
    found.sum().backward()
    assert not found.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_beta_weighs_every_term() -> None:
    student, teacher = outputs((3, 4, 4), (3, 4, 4)), outputs((3, 4, 4), (3, 4, 4), seed=1)
    one, three = (
        get("irg")(pair(student, teacher), beta=beta, transform="0-1").terms(student, teacher, batch())
        for beta in (1.0, 3.0)
    )
    assert list(one) == ["edge", "vertex", "transform"]
    torch.testing.assert_close({k: 3 * v for k, v in one.items()}, three)
