"""A student's training pass as compiled code, made once for an architecture and shared by all its lanes.

torch.compile makes of the forward and the backward pass fewer, fused kernels: batch norm, ReLU and
sums in one sweep over the memory. What is compiled is a function of a module and its images, so
modules, state dicts and checkpoints are what they were, and evaluation runs the module itself. Sums
are taken in another order, so the last bits are others: it is a setting of the cell.

A compiled backward pass gives every parameter a gradient, zeros where the loss does not reach it.
Eager leaves None there, and the optimizer lets such a parameter alone; zeros it would decay.
``Pass.drop_unreached`` makes them None again.

What is compiled is the body, and not the methods' losses. Of resnet8x4 the eager passes are 104 operators, in
generated code 17 kernels beside the convolutions. The losses of kd, at, sp and vid are 29, 141, 62 and 135 operators;
compiled together with one of them, body and loss are 18 to 24 kernels, compiled apart 19 to 27: little is fused across
the border (torch 2.14, code for the CPU). A body is compiled once for all methods and holds nearly all of a step's
bytes. A loss would be compiled for each method, minutes for a dozen, to spare kernels that are small and run beside
those of other lanes; and a method may do whatever Python can.

On the CPU it gains next to nothing and is off by default. On CUDA it is on where there is Triton: the step is captured
as a whole, so torch.compile captures nothing itself, and convolutions stay the library's, so that every process has
the same kernels. Before a compiled step is trusted it is compared with the step as it is written (``graph.proof``).
Nobody has run or timed that on a GPU yet: what the tests prove, they prove on the CPU.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.engine.errors import OutOfMemory, holds, said, text
from kdbench.engine.precision import Precision


class CannotCompile(ValueError):
    """Why a student's training pass cannot be compiled, in a sentence.

    >>> raise CannotCompile("resnet8 cannot be compiled: it branches on a value; leave out --compile")
    Traceback (most recent call last):
    kdbench.engine.compiled.CannotCompile: resnet8 cannot be compiled: it branches on a value; leave out --compile
    """


@dataclass(frozen=True)
class Compiler:
    """How training passes are compiled.

    Args:
        device: where the lanes are.
        backend: torch.compile's, by its name or as a function.

    >>> from kdbench.testing.examples import lanes
    >>> compiler = Compiler(torch.device("cpu"), backend="eager")
    >>> isinstance(compiler.of(lanes("kd")[0].student), Pass)
    True
    """

    device: torch.device
    backend: str | Callable[..., Any] = "inductor"

    @property
    def mode(self) -> str | None:
        """torch.compile's. None, its default, fuses and captures nothing; others choose kernels by the clock."""
        return None

    def prepare(
        self, student: nn.Module, images: Sequence[Tensor], precision: Precision, note: Callable[[str], None]
    ) -> None:
        """Compile for batches like these ahead, so that no lane waits for it; on a copy of the student.

        Raises:
            CannotCompile: why, and what to do.
            OutOfMemory: one of it does not fit.
        """
        program = _program(self, *_architecture(student))
        if program.broken:
            raise CannotCompile(program.broken)
        missing = [image for image in images if (image.shape, precision.name) not in program.ready]
        if not missing:
            return
        note(f"compiling {program.name} for batches of {' and '.join(str(len(image)) for image in missing)}")
        started = time.perf_counter()
        with _apart(self.device), precision.autocast(self.device):
            try:
                with holds(f"the compilation of {program.name}", self.device):
                    trial = copy.deepcopy(student).train()
                    program.learn(trial, missing[0])
                    for image in missing:
                        seen = [tensor for tensor in program(trial, image).tensors().values() if tensor.requires_grad]
                        torch.stack([tensor.float().sum() for tensor in seen]).sum().backward()
                        program.ready.add((image.shape, precision.name))
            except OutOfMemory:
                raise
            except Exception as error:  # whatever tracing, code generation or a C++ compiler raises
                program.broken = f"{program.name} cannot be compiled here: {_cause(error)}; run with --no-compile"
                raise CannotCompile(program.broken) from error
        note(f"{program.name} compiled in {time.perf_counter() - started:.0f} s, for all its lanes")

    def of(self, student: nn.Module) -> Pass:
        """The training pass of one student; what is not prepared is compiled when it is first needed."""
        return Pass(student, _program(self, *_architecture(student)))


class Program:
    """The compiled code of one architecture: a graph for each shape of batches."""

    def __init__(self, compiler: Compiler, name: str) -> None:
        self.broken = ""  # why it cannot be compiled
        self.ready: set[tuple[torch.Size, str]] = set()  # what was compiled ahead, with its precision
        self._compiler, self.name = compiler, name
        self._graphs: dict[torch.Size, Callable[[nn.Module, Tensor], Outputs]] = {}
        self._reached: list[frozenset[int]] = []  # by output: numbers of the parameters its gradient reaches
        self._parameters = 0

    def __call__(self, student: nn.Module, image: Tensor) -> Outputs:
        """One training pass."""
        if not self._reached:
            with _apart(self._compiler.device):
                self.learn(copy.deepcopy(student), image)
        if image.shape not in self._graphs:
            self._graphs[image.shape] = self._compile(image.shape)
        return self._graphs[image.shape](student, image)

    def _compile(self, shape: torch.Size) -> Callable[[nn.Module, Tensor], Outputs]:
        # torch keeps what it compiled with the code object, and only so much with one: each graph has its own.
        code = _see.__code__.replace(co_name=f"see_{self.name}_{shape[0]}")
        compiler = self._compiler
        return torch.compile(
            FunctionType(code, _see.__globals__),
            fullgraph=True,
            dynamic=False,
            backend=compiler.backend,
            mode=compiler.mode,
        )

    def learn(self, student: nn.Module, image: Tensor) -> None:
        """Find what the gradient of each output reaches, on two images; changes the student's statistics."""
        parameters = [*student.parameters()]
        found = []
        for tensor in student(image[:2]).tensors().values():
            grads: Sequence[Tensor | None] = []
            if tensor.requires_grad:
                grads = torch.autograd.grad(tensor.sum(), parameters, retain_graph=True, allow_unused=True)
            found.append(frozenset(number for number, grad in enumerate(grads) if grad is not None))
        self._reached, self._parameters = found, len(parameters)

    def unreached(self, outputs: set[int]) -> list[int]:
        """Numbers of the parameters that the gradients of these outputs do not reach."""
        reached = frozenset[int]().union(*(self._reached[output] for output in outputs))
        return [number for number in range(self._parameters) if number not in reached]


class Pass:
    """The training pass of one student: compiled where it is trained, else the module itself."""

    def __init__(self, student: nn.Module, program: Program) -> None:
        self._student, self._program = student, program
        self._used: set[int] | None = None  # outputs that the loss had a gradient for; None: not compiled

    def __call__(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""
        if not (self._student.training and torch.is_grad_enabled()):
            self._used = None
            return cast(Outputs, self._student(image))
        seen = self._program(self._student, image)
        if seen.classifier is not None:  # the parameters themselves, which have gradients from everywhere
            weight, bias = seen.classifier
            seen = seen._replace(classifier=(weight.view_as(weight), None if bias is None else bias.view_as(bias)))
        used = self._used = set[int]()
        for number, tensor in enumerate(seen.tensors().values()):
            if tensor.requires_grad:
                tensor.register_hook(partial(_note, used, number))
        return seen

    def drop_unreached(self) -> None:
        """To be called after each backward pass: no gradient where eager would have none."""
        if self._used is None:
            return
        parameters = [*self._student.parameters()]
        for number in self._program.unreached(self._used):
            parameters[number].grad = None


def _see(student: nn.Module, image: Tensor) -> Outputs:
    if not torch.compiler.is_compiling():  # never silently eager
        raise CannotCompile("torch.compile is switched off in this process")
    return cast(Outputs, student(image))


def _note(used: set[int], number: int, grad: Tensor | None) -> None:
    if grad is not None:
        used.add(number)


@cache
def _program(compiler: Compiler, name: str, *structure: Hashable) -> Program:
    return Program(compiler, name)


def _architecture(student: nn.Module) -> tuple[str, Any, Hashable]:
    """Its name, and what else tells it from others of that name."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in student.named_parameters())
    return str(getattr(student, "name", type(student).__name__)), type(student), shapes


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Gradients on, random numbers put back after, and no word on that fp32 leaves the tensor cores idle."""
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        yield


def _cause(error: BaseException) -> str:
    """The first cause, on one line."""
    while error.__cause__ or error.__context__:
        error = cast(BaseException, error.__cause__ or error.__context__)
    return text(error) if isinstance(error, CannotCompile) else said(error)
