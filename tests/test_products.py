"""fp32 products on the CPU: oneDNN's where a probe finds them exact, with gradients, and no switch left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import registry
from kdbench.methods import _products
from kdbench.methods._layers import gram
from kdbench.methods._products import by_onednn, exact, matmul
from kdbench.testing.toys import TWIN, Problem

SHAPES = [((64, 128), (128, 300)), ((5, 3), (3, 4)), ((3, 40, 70), (3, 70, 20))]
switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
needs_switch = pytest.mark.skipif(not hasattr(switch, "fp32_precision"), reason="this torch has no switch for oneDNN")


def factors(a: tuple[int, ...], b: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in (a, b))
    return one.requires_grad_(), other.requires_grad_()


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_gradients_are_right_to_the_digits_of_fp32(shapes: Any, transposed: bool) -> None:
    a, b = factors(*shapes)
    other = b.mT.contiguous().mT if transposed else b
    wide = [one.detach().double().requires_grad_() for one in (a, b)]
    ours, theirs = matmul(a, other), wide[0] @ wide[1]
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6 * float(theirs.detach().abs().max()))
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(ours, (a, b), weights)
    for our, their in zip(grads, torch.autograd.grad(theirs, wide, weights.double()), strict=True):
        torch.testing.assert_close(our.double(), their, rtol=0, atol=2e-6 * float(their.abs().max()))


def test_gradients_of_gradients_are_right() -> None:
    a, b = factors((2, 3, 4), (2, 4, 2), torch.float64)
    assert torch.autograd.gradcheck(matmul, (a, b))
    assert torch.autograd.gradgradcheck(matmul, (a, b))
    assert torch.autograd.gradcheck(lambda x: gram(x).square(), (a[0].detach().requires_grad_(),))
    assert matmul(a.detach(), b).grad_fn is not None
    assert torch.autograd.grad(matmul(a.detach(), b).sum(), b)[0].shape == b.shape


def test_what_is_not_fp32_on_the_cpu_is_torchs_product() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        a, b = factors((64, 128), (128, 300), dtype)
        assert torch.equal(matmul(a, b), a @ b)
    empty = matmul(torch.empty(2, 3, device="meta"), torch.empty(3, 4, device="meta"))
    assert empty.shape == (2, 4)


def test_it_is_compiled_mapped_and_traced() -> None:
    a, b = factors((40, 70), (70, 20))
    compiled = torch.compile(lambda a, b: matmul(a, b).square().sum(), fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(a, b), (a, b))
    torch.testing.assert_close(ours, torch.autograd.grad((a @ b).square().sum(), (a, b)))
    mapped = torch.vmap(matmul)(*factors((3, 40, 70), (3, 70, 20)))
    torch.testing.assert_close(mapped, torch.matmul(*factors((3, 40, 70), (3, 70, 20))))


@needs_switch
def test_the_switch_is_as_it_was_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_products, "EXACT", True)
    before, told = switch.fp32_precision, torch.get_float32_matmul_precision()
    like = torch.zeros(1)
    seen: list[str] = []

    def fail() -> None:
        with by_onednn(like):
            seen.append(switch.fp32_precision)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == ["bf16"]
    assert (switch.fp32_precision, torch.get_float32_matmul_precision()) == (before, told)
    for other in (like.double(), like.to("meta"), like.bfloat16()):
        with by_onednn(other):
            assert switch.fp32_precision == before
    monkeypatch.setattr(_products, "EXACT", False)
    with by_onednn(like):
        assert switch.fp32_precision == before


@needs_switch
@pytest.mark.parametrize("rounding", [torch.bfloat16, "tf32"])
def test_a_library_that_rounds_is_found_out(rounding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose left or right factors lose digits, as with units for bf16 or tf32."""
    usual = Tensor.__matmul__

    def rounded(x: Tensor) -> Tensor:
        if rounding == "tf32":
            return (x.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)
        return x.to(rounding).float()

    for side in (0, 1):

        def product(a: Tensor, b: Tensor, side: int = side) -> Tensor:
            return usual(a if side else rounded(a.contiguous()), rounded(b.contiguous()) if side else b)

        monkeypatch.setattr(Tensor, "__matmul__", product)
        before = switch.fp32_precision
        assert not exact()
        assert switch.fp32_precision == before


@needs_switch
def test_units_for_bf16_matrices_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert not exact()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not exact()


def test_torch_before_the_switch_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        """torch.backends.mkldnn as it was."""

        @staticmethod
        def is_available() -> bool:
            return True

    monkeypatch.setattr(torch.backends, "mkldnn", Old)
    assert not exact()


@needs_switch
@pytest.mark.parametrize("name", ["crd", "nst", "sp", "semckd"])
def test_methods_leave_the_switch_to_the_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own products are oneDNN's forward and backward; what runs between and after is not."""
    monkeypatch.setattr(_products, "EXACT", True)
    used: list[str] = []

    def noted(like: Tensor) -> Any:
        used.append("")
        return by_onednn(like)

    monkeypatch.setattr(_products, "by_onednn", noted)
    problem = Problem(TWIN)
    batch = next(problem.batches(epoch=0, total=1, views=1))
    seen = problem.show(batch.image).map(Tensor.detach)
    student = seen.map(lambda tensor: tensor.clone().requires_grad_())
    method = registry.get(name).build(problem.pair)
    before = switch.fp32_precision
    loss = torch.stack(list(method.terms(student, seen, batch).values())).sum()
    forward = len(used)
    assert forward >= 2
    assert switch.fp32_precision == before
    loss.backward()
    assert len(used) > forward or name == "crd"  # which has its gradient at once
    assert switch.fp32_precision == before
