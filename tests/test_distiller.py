"""The contract's own types: what a forward pass shows, walked in one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from kdbench import Batch, Distiller, Outputs, Shapes
from kdbench.testing.toys import TWIN, Problem

FEATS = tuple(torch.full((2, c, 4, 3), float(c)) for c in (3, 5))
HEAD = torch.full((7, 5), 10.0), torch.full((7,), 11.0)
WHOLE = Outputs(FEATS, FEATS[-1], torch.full((2, 5), 8.0), torch.full((2, 7), 9.0), FEATS[::-1], HEAD)
KINDS = {
    "whole": WHOLE,
    "no bias": WHOLE._replace(classifier=(HEAD[0], None)),
    "no classifier": WHOLE._replace(classifier=None),
    "no taps before the ReLUs": WHOLE._replace(preacts=None),
    "tokens": WHOLE._replace(tokens=(torch.full((2, 12, 3), 12.0), torch.full((2, 13, 5), 13.0))),
    "heads": WHOLE._replace(heads=(torch.full((2, 7), 14.0), torch.full((2, 7), 15.0))),
    "no stage": WHOLE._replace(feats=(), preacts=()),
    "bare": Outputs(FEATS, *WHOLE[1:4]),
}
every_kind = pytest.mark.parametrize("seen", KINDS.values(), ids=KINDS)


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))


@every_kind
def test_tensors_are_all_there_is_in_the_order_of_the_fields(seen: Outputs) -> None:
    """Whatever fields there are: torch's own walk over the tuple finds no other."""
    there = [leaf for leaf in tree_leaves(seen) if isinstance(leaf, Tensor)]
    assert same(list(seen.tensors().values()), there)


def test_paths_say_where_a_tensor_lies() -> None:
    paths = ["feats[0]", "feats[1]", "last", "pooled", "logits", "preacts[0]", "preacts[1]", "classifier[0]"]
    assert list(WHOLE.tensors()) == [*paths, "classifier[1]"]
    assert list(KINDS["no bias"].tensors()) == paths
    assert all(eval(f"seen.{path}", {"seen": WHOLE}) is tensor for path, tensor in WHOLE.tensors().items())


@every_kind
@pytest.mark.parametrize("change", [torch.neg, Tensor.detach, lambda t: t[:1]])
def test_map_changes_every_tensor_and_nothing_else(seen: Outputs, change: Callable[[Tensor], Tensor]) -> None:
    changed = seen.map(change)
    assert type(changed) is Outputs
    (ours, structure), (theirs, wanted) = tree_flatten(changed), tree_flatten(seen)
    assert structure == wanted, "what was None or empty stays so"
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None and b is None) or torch.equal(a, change(b))


def test_map_asks_in_the_order_of_tensors() -> None:
    asked: list[Tensor] = []
    WHOLE.map(lambda tensor: asked.append(tensor) or tensor)  # type: ignore[func-returns-value]
    assert same(asked, list(WHOLE.tensors().values()))


def test_shapes_are_those_of_one_image() -> None:
    assert WHOLE.shapes() == Shapes(((3, 4, 3), (5, 4, 3)), (5, 4, 3), 5)
    assert KINDS["tokens"].shapes().tokens == ((12, 3), (13, 5))


def test_further_views_leave_the_cross_entropy_to_the_plain_one() -> None:
    """Labels are those of the first of the views; KD and the method's own terms see all."""

    class Turned(Distiller):
        views = ("rot90",)

        def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
            return {"rows": torch.tensor(float(len(student.logits)))}

    problem = Problem(TWIN)
    batch = next(problem.batches(epoch=0, total=1, views=2))
    seen = problem.show(batch.image)
    found = Turned.build(problem.pair, kd_weight=1.0).loss(seen, seen, batch)
    many = len(batch.label)
    assert torch.equal(found["ce"], F.cross_entropy(seen.logits[:many], batch.label))
    assert found["rows"] == len(seen.logits) == 2 * many
