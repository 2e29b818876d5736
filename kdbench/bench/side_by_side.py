"""Many students of one architecture on one batch: in a row, on parallel streams, or stacked in one kernel per layer.

Each way computes the same gradients of a plain cross-entropy; methods, teacher and optimizer are left
out. A stack cannot have all that a lane has: methods would have to be stacked, too, random numbers
(dropout) would be shared, and all activations are alive at once. Batch-norm statistics it keeps.
Streams and graphs need CUDA, and have not run on hardware yet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from kdbench import models
from kdbench.bench.clock import timed
from kdbench.bench.result import Ratio, SideBySide
from kdbench.bench.work import Work
from kdbench.engine.errors import out_of_memory, said
from kdbench.engine.precision import Precision

STUDENTS = 12
STREAMS = (2, 4, 6, 8)
#: Runs before a graph is recorded.
REHEARSALS = 3

#: Gradients of every student, by the parameter's name.
Grads = list[dict[str, Tensor]]


def students(work: Work, count: int) -> list[nn.Module]:
    """Students of a piece of work in training mode, on its device, each with weights of its own."""
    made: list[nn.Module] = []
    for number in range(count):
        torch.manual_seed(number)
        net = models.create(work.student_name, work.pixels.num_classes, image_size=work.image_shape[-1])
        made.append(net.train().to(work.device).to(memory_format=torch.channels_last))
    return made


def one_row(nets: Sequence[nn.Module], image: Tensor, label: Tensor, precision: Precision) -> Grads:
    """One student after another. image (B, C, H, W), label (B,)."""
    return [_gradients(net, image, label, precision) for net in nets]


def on_streams(
    nets: Sequence[nn.Module], image: Tensor, label: Tensor, precision: Precision, streams: Sequence[torch.cuda.Stream]
) -> Grads:
    """Student i on stream i modulo their number; the current stream waits for all of them. CUDA only."""
    trunk = torch.cuda.current_stream(image.device)
    for stream in streams:
        stream.wait_stream(trunk)
    found = []
    for number, net in enumerate(nets):
        with torch.cuda.stream(streams[number % len(streams)]):
            found.append(_gradients(net, image, label, precision))
    for stream in streams:
        trunk.wait_stream(stream)
    return found


class Stack:
    """Students as one, with a leading axis for them; convolutions become grouped ones.

    Raises:
        RuntimeError: the networks do something that cannot be stacked.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        self.parameters, self.buffers = stack_module_state(list(nets))
        self._one = copy.deepcopy(nets[0]).to("meta")

    def gradients(self, image: Tensor, label: Tensor, precision: Precision) -> dict[str, Tensor]:
        """By the parameter's name, (students, ...) each."""

        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(functional_call(self._one, (parameters, buffers), (image,)).logits.float(), label)

        with precision.autocast(image.device):
            total = torch.vmap(loss)(self.parameters, self.buffers).sum()
        names = list(self.parameters)
        return dict(zip(names, torch.autograd.grad(total, [self.parameters[name] for name in names]), strict=True))


def _gradients(net: nn.Module, image: Tensor, label: Tensor, precision: Precision) -> dict[str, Tensor]:
    with precision.autocast(image.device):
        loss = F.cross_entropy(net(image).logits.float(), label)
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def measure(work: Work, repeat: int, count: int = STUDENTS) -> SideBySide:
    """Time every way that the device has, in turn; on CUDA each is a graph of its own."""
    work.precision.prepare(work.device)
    image, label, _ = next(work.batches())
    refused: dict[str, str] = {}
    ways: dict[str, Callable[[], object]] = {}
    for name, make in _ways(work, image, label, count).items():
        try:
            step = make()
            ways[name] = _recorded(step, work.device) if work.device.type == "cuda" else step
            ways[name]()
        except Exception as error:  # a network that cannot be stacked may raise anything
            if name == "row":
                raise
            ways.pop(name, None)
            refused[name] = "not enough memory" if out_of_memory(error) else said(error)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, step in ways.items():
            seconds[name].append(timed(step, work.device).cost)
    ratios = {
        name: Ratio.of([row / own for row, own in zip(seconds["row"], costs, strict=True)])
        for name, costs in seconds.items()
        if name != "row"
    }
    return SideBySide(students=count, seconds=seconds, ratios=ratios, refused=refused)


def _ways(work: Work, image: Tensor, label: Tensor, count: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """By name, what makes a way to do one step of all students."""
    nets = students(work, count)

    def row() -> Callable[[], object]:
        return lambda: one_row(nets, image, label, work.precision)

    def branches(number: int) -> Callable[[], object]:
        streams = [torch.cuda.Stream(work.device) for _ in range(number)]
        return lambda: on_streams(nets, image, label, work.precision, streams)

    def stacked() -> Callable[[], object]:
        stack = Stack(nets)
        return lambda: stack.gradients(image, label, work.precision)

    parallel = STREAMS if work.device.type == "cuda" else ()
    return {"row": row, **{f"{k} streams": partial(branches, k) for k in parallel}, "stacked": stacked}


def _recorded(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A CUDA graph of a step."""
    main = torch.cuda.Stream(device)
    main.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(main):
        for _ in range(REHEARSALS):
            step()
    torch.cuda.current_stream(device).wait_stream(main)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=main):
        kept = step()

    def replay() -> object:
        graph.replay()
        return kept

    return replay
