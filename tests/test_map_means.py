"""Means of squares over maps: the numbers and gradients of the plain formula, in the layout of the maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import registry
from kdbench.methods._layers import mean_square, mse
from kdbench.testing.toys import TWIN, Problem

#: Of (B, H, W, C): over channels (AT), over all but channels (VID), of each image (SemCKD); and in (B, C, H, W).
DIMS = {(3,): (1,), (0, 1, 2): (0, 2, 3), (1, 2, 3): (1, 2, 3), (-1,): (1,)}
LAYOUTS = [torch.channels_last, torch.contiguous_format]


def maps(layout: torch.memory_format, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    made = torch.randn(5, 7, 6, 3, generator=rng, dtype=torch.float64).to(dtype)
    return made.to(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["last", "first"])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("pairs", [False, True])
def test_value_and_gradients_are_those_of_the_formula(
    layout: torch.memory_format, dims: tuple[int, ...], pairs: bool
) -> None:
    x, y = maps(layout), maps(layout, seed=1)
    given = (x, y) if pairs else (x,)
    ours = mean_square(x, dims, y if pairs else None)
    plain = (x - y if pairs else x).square().mean(dim=DIMS[dims])
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    for our, their in zip(
        torch.autograd.grad(ours, given, weights), torch.autograd.grad(plain, given, weights), strict=True
    ):
        assert torch.equal(our, their)  # the same products in the same order: no sum is in them
        assert our.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dims", DIMS)
def test_it_can_be_differentiated_twice(dims: tuple[int, ...]) -> None:
    x, y = (maps(torch.channels_last, torch.float64, seed)[:2, :3, :2, :2] for seed in (0, 1))

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return mean_square(x, dims, y), mean_square(y, dims)

    leaves = [one.detach().requires_grad_() for one in (x, y)]
    assert torch.autograd.gradcheck(both, leaves)
    assert torch.autograd.gradgradcheck(both, leaves)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_it_is_subtracted(half: torch.dtype) -> None:
    x, y = maps(torch.channels_last, half), maps(torch.channels_last, half, seed=1)
    found = mean_square(x, (3,), y)
    assert found.dtype is torch.float32
    assert torch.equal(found, mean_square(x.float(), (3,), y.float()))
    grads = torch.autograd.grad(found.sum(), (x, y))
    wide = [one.detach().float().requires_grad_() for one in (x, y)]
    for ours, theirs in zip(grads, torch.autograd.grad(mean_square(wide[0], (3,), wide[1]).sum(), wide), strict=True):
        assert ours.dtype is half
        assert torch.equal(ours, theirs.to(half))


def test_only_what_needs_a_gradient_has_one() -> None:
    x, y = maps(torch.channels_last), maps(torch.channels_last, seed=1)
    mean_square(x.detach(), (1, 2, 3), y).sum().backward()
    assert x.grad is None
    assert y.grad is not None
    assert not mean_square(x.detach(), (3,)).requires_grad


def test_it_is_compiled_mapped_and_traced() -> None:
    x, y = maps(torch.channels_last), maps(torch.channels_last, seed=1)
    compiled = torch.compile(lambda x, y: mean_square(x, (3,), y).sum(), fullgraph=True, backend="aot_eager")
    ours, theirs = (
        torch.autograd.grad(f(x, y), (x, y)) for f in (compiled, lambda x, y: mean_square(x, (3,), y).sum())
    )
    torch.testing.assert_close(ours, theirs)
    mapped = torch.vmap(lambda x: mean_square(x, (1, 2, 3)))(torch.stack([x.detach(), y.detach()]))
    torch.testing.assert_close(mapped[1], mean_square(y, (1, 2, 3)).detach())
    sloped = torch.func.grad(lambda x: mean_square(x, (1, 2, 3)).sum())(x.detach())
    torch.testing.assert_close(sloped, torch.autograd.grad(mean_square(x, (1, 2, 3)).sum(), x)[0])
    assert mean_square(torch.empty(2, 3, 4, 5, device="meta"), (0, 1, 2)).shape == (3,)


def test_the_error_is_that_of_torch_bit_for_bit() -> None:
    for layout in LAYOUTS:
        x, y = maps(layout), maps(layout, seed=1)
        ours, theirs = mse(x, y), F.mse_loss(x, y)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        for one, other in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(theirs, (x, y)), strict=True):
            assert torch.equal(one, other)
            assert one.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", ["at", "afd"])
def test_what_goes_back_into_the_student_has_the_layout_of_its_maps(name: str) -> None:
    """Where one gradient is laid out otherwise, every layer of the student's backward pass mixes two layouts."""
    problem = Problem(TWIN)
    batch = next(problem.batches(epoch=0, total=1, views=1))
    seen = problem.show(batch.image)
    slopes: list[Tensor] = []

    def shown(tensor: Tensor) -> Tensor:
        made = tensor.detach().clone()
        if made.dim() == 4:
            made = made.to(memory_format=torch.channels_last)
        made.requires_grad_().register_hook(slopes.append)  # what a leaf keeps is laid out as the leaf
        return made

    student, teacher = seen.map(shown), seen.map(Tensor.detach)
    torch.manual_seed(0)
    method = registry.get(name).build(problem.pair)
    method.on_stage("train")
    sum(method.terms(student, teacher, batch).values()).backward()  # type: ignore[union-attr]
    found = [slope for slope in slopes if slope.dim() == 4 and min(slope.shape[1:3]) > 1]
    assert found
    assert all(slope.is_contiguous(memory_format=torch.channels_last) for slope in found)
