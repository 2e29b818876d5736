"""Whole training steps on tensors without values, where the host can read nothing and a GPU is not needed.

On "meta" tensors torch's own engine runs the backward pass. Fake CUDA tensors also take the branches of code that
ask for "cuda", and autocast casts them as on CUDA; torch's engine asks the driver about their device, so their
backward pass is walked in Python (``walk``). What neither shows: what a library does inside an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from training import lane_of as of

from kdbench.data import Loader
from kdbench.data.views import DRAWING
from kdbench.distiller import Distiller
from kdbench.engine.fit import Setting, look
from kdbench.engine.graph.backend import Eager
from kdbench.engine.graph.train_step import Captured
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.testing.strays import Strays, leaves, on_meta
from kdbench.testing.toys import SIDE, Problem, Toy, seeded

META, CUDA = torch.device("meta"), torch.device("cuda", 0)
BATCH, TAIL = 8, 3

_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
#: Of ``torch.linalg``, those that ask no solver, whose error codes the host reads.
_NO_SOLVER = {"linalg_vector_norm", "linalg_cross"}
#: Operators whose floating-point tensors must be of one dtype; not every kernel for tensors without values says so.
_ALIKE = {
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "addbmm",
    "mv",
    "addmv",
    "dot",
    "convolution",
    "convolution_backward",
    "index_copy",
    "index_copy_",
    "index_add",
    "index_add_",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
    "masked_scatter",
    "lerp",
    "lerp_",
    "_cdist_forward",
    "_cdist_backward",
    "_fused_sgd_",
}
#: They have no kernel for tensors without values: their arguments are looked at, and that is all.
_NO_KERNEL = {"_fused_sgd_"}


class Watch(Strays):
    """Notes what would wait for the device, mix devices or mix dtypes.

    ``names`` are the operators that were called, ``terms`` the dtypes of what the method gave.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.names: set[str] = set()
        self.terms: dict[str, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name)
        tensors = [value for value in leaves((args, kwargs)) if isinstance(value, Tensor)]
        by_index = name.startswith(("index", "_index")) and isinstance(args[1], list | tuple)
        if by_index and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.note(f"{name} by a mask")
        if (_WAITS & set(func.tags) and not by_index) or ("linalg" in name and name not in _NO_SOLVER):
            self.note(f"{name} waits for the device")
        dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if name in _ALIKE and len(dtypes) > 1:
            self.note(f"{name} of {' and '.join(sorted(map(str, dtypes)))}")
        if name in _NO_KERNEL:
            self._look(func, (args, kwargs))
            return None
        return super().__torch_dispatch__(func, types, args, kwargs)


class Still(Eager):
    """Calls the steps with no random state around them, which would be on the CPU: the watched device draws nothing."""

    def branches(self, lanes: Sequence[Lane], work: Callable[[Lane], None]) -> None:
        for lane in lanes:
            work(lane)


@cache
def no_fake_cuda() -> str:
    """Why fake CUDA tensors cannot be used here; "" where they can."""
    try:
        with FakeTensorMode():
            torch.zeros(2, device=CUDA)[0]
    except RuntimeError as error:  # torch 2.9, made for CUDA, asks the driver
        return f"this torch asks for a CUDA driver even where tensors are fake: {str(error).splitlines()[0]}"
    return ""


@contextmanager
def place(device: torch.device) -> Iterator[None]:
    """Inside, tensors can be made on ``device`` (``META`` or ``CUDA``), trained and cast there."""
    with ExitStack() as stack:
        if device.type == "meta":
            stack.enter_context(on_meta())
        else:
            if reason := no_fake_cuda():
                pytest.skip(reason)
            stack.enter_context(FakeTensorMode())
            stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
            stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", walk))
            stack.enter_context(patch.object(torch.optim, "SGD", _sgd))
        # The step itself is called; what is tried out before it, and put back with the host's help, is left out.
        stack.enter_context(patch.object(Captured, "_look_ahead", lambda *_: {}))
        stack.enter_context(patch.object(Captured, "_rehearse", lambda *_: None))
        yield


def lane_of(student: nn.Module, method: Distiller) -> Lane:
    """A lane on the CPU."""
    return of("one", student, method, Path(), plan=Plan(240, 0.05))


def settle(one: Lane, device: torch.device, precision: str) -> None:
    """The lane goes to ``device``, where it begins anew; inside ``place``."""
    move(one.student, device)
    move(one.method, device)
    one.device, one.precision = device, Precision(precision)
    one.enter(one.stage)


def move(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with tensors of the same shapes, strides and dtypes on ``device``."""
    moved: nn.Module = module._apply(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device))
    return moved


def steps(
    one: Lane, teacher: nn.Module, side: int, *, views: tuple[str, ...] = (), sizes: Sequence[int] = (BATCH, TAIL)
) -> Watch:
    """What is found in steps on batches of ``sizes``, a whole and an epoch's shorter last one, in every stage."""
    device, images = one.device, BATCH + TAIL
    pixels, labels = torch.zeros(images, 3, side, side, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    data = Loader(
        pixels,
        labels,
        batch_size=BATCH,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        crop_padding=1,
        flip=True,
        device=device,
        views=views,
    )
    setting, watch = Setting(teacher, data, lambda: [], device, one.precision), Watch(device)
    show = partial(look, setting) if one.method.needs_teacher else None
    losses = one.terms

    def noted(*given: Any) -> dict[str, Tensor]:
        found = losses(*given)
        watch.terms |= {name: term.dtype for name, term in found.items()}
        return found

    one.terms = noted  # type: ignore[assignment, method-assign]
    while True:
        one.start_epoch()
        captured = Captured(data, [one], one.stage, show=show, machine=Still(), note=watch.note)
        for size in sizes:
            try:
                with watch:
                    captured._step(size)
            except Exception as error:  # what the host cannot read raises in its own way
                watch.note(f"{one.stage}, {size} images: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        if one.stage == "train":
            return watch
        one.enter("train")


def watched(
    cls: type[Distiller],
    toy: Toy,
    device: torch.device,
    precision: str,
    *,
    sizes: Sequence[int] = (BATCH, TAIL),
    **hyper: Any,
) -> Watch:
    """``steps`` of a method on a toy pair."""
    problem = Problem(toy)
    with seeded(0):
        one = lane_of(problem.student(), cls.build(problem.pair, **hyper))
    with place(device):
        settle(one, device, precision)
        # A view that draws is made by the host; such a group runs without a graph, its steps are the same.
        views = tuple("rot180" if view in DRAWING else view for view in cls.views)
        return steps(one, move(problem.teacher, device), SIDE, views=views, sizes=sizes)


# -- the backward pass of fake tensors --------------------------------------------------------------


def walk(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None = None,
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
) -> tuple[Tensor | None, ...]:
    """torch's backward pass, node by node: sums, shapes and dtypes of gradients as its engine makes them."""
    roots = [get_gradient_edge(output) for output in outputs]
    wanted = [(edge.node, edge.output_nr) for edge in map(get_gradient_edge, inputs or ())]
    waiting: dict[Any, int] = {}  # node -> edges that still lead to it
    stack = [edge.node for edge in roots]
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] = waiting.get(node, 0) + 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    arrived: dict[Any, list[Tensor | None]] = {}

    def add(node: Any, slot: int, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        slots, meta = arrived.setdefault(node, [None] * len(node._input_metadata)), node._input_metadata[slot]
        if gradient.shape != meta.shape:
            gradient = gradient.sum_to_size(meta.shape)
        if gradient.dtype != meta.dtype:
            gradient = gradient.to(meta.dtype)
        before = slots[slot]
        slots[slot] = gradient if before is None else before + gradient

    for edge, gradient in zip(roots, gradients, strict=True):
        add(edge.node, edge.output_nr, gradient)
    ready = [node for node in {edge.node: None for edge in roots} if not waiting.get(node)]
    found: dict[tuple[Any, int], Tensor | None] = {}
    with torch.set_grad_enabled(create_graph):
        while ready:
            node = ready.pop()
            slots = arrived.pop(node, None)
            found |= {key: slots[key[1]] for key in wanted if slots and key[0] == node}
            passed: Any = (None,) * len(node.next_functions)
            if slots and (accumulate_grad or type(node).__name__ != "AccumulateGrad"):
                run: Any = node if callable(node) else node.apply  # type: ignore[attr-defined]  # torch's own, or Python's
                passed = run(*slots)
                passed = passed if isinstance(passed, tuple) else (passed,)
            for (following, slot), gradient in zip(node.next_functions, passed, strict=False):
                if following is not None:
                    add(following, slot, gradient)
                    waiting[following] -= 1
                    if not waiting[following]:
                        ready.append(following)
    return tuple(found.get(key) for key in wanted)


_SGD = torch.optim.SGD


def _sgd(parameters: Any, lr: float | Tensor, **rest: Any) -> torch.optim.Optimizer:
    """torch.optim.SGD, which looks whether its rate is negative before it takes it."""
    made = _SGD(parameters, lr=0.0, **rest)
    for group in made.param_groups:
        group["lr"] = lr
    return made
