"""IRG equals the SemCKD repository's version."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Outputs
from kdbench.methods.irg import IRG, edges


@cases("irg")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    layers = [hyper[f"transform_layers_{side}"] for side in ("student", "teacher")]
    if layers[0]:  # map i of one list belongs to map i of the other
        student, teacher = (
            side._replace(feats=tuple(side.feats[i] for i in of))
            for side, of in zip((student, teacher), layers, strict=True)
        )
    transform = "/".join(f"{i}-{i + 1}" for i in range(0, len(layers[0]) - 1, 2))
    method = IRG(case.pair(student, teacher), beta=1.0, transform=transform, transform_edges=hyper["edge_transform"])
    terms = method.terms(student, teacher, case.batch())
    case.check(total(terms), vertex_and_edge=terms["edge"] + terms.get("vertex", torch.tensor(0.0)))


def test_without_edges_only_vertices_are_followed() -> None:
    maps = ((3, 4, 4), (3, 4, 4), (5, 2, 2))
    student, teacher = outputs(*maps, grad=True), outputs(*maps, seed=1)
    made = pair(student, teacher)

    def transformation(transform: str, **hyper: bool) -> torch.Tensor | None:
        method = IRG(made, beta=1.0, transform=transform, **hyper)
        return method.terms(student, teacher, batch()).get("transform")

    def gap(outputs: Outputs) -> torch.Tensor:
        return (outputs.feats[1] - outputs.feats[0]).square().mean()

    want = (gap(student) - gap(teacher)).square()
    torch.testing.assert_close(transformation("0-1/1-2", transform_edges=False), want)
    assert transformation("1-2", transform_edges=False) is None  # shapes that no vertex has in common
    assert IRG(made, transform="1-2", transform_edges=False).reads == "pooled"
    both, edges_too = transformation("0-1"), transformation("1-2")
    assert both is not None
    assert edges_too is not None
    assert both > want


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
        IRG(pair(given, given), transform=transform)


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
        IRG(pair(student, teacher), beta=beta, transform="0-1").terms(student, teacher, batch()) for beta in (1.0, 3.0)
    )
    assert list(one) == ["edge", "vertex", "transform"]
    torch.testing.assert_close({k: 3 * v for k, v in one.items()}, three)
