"""What would wait for the device, or be copied to it from the host, found on the CPU by the names of operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from training import loader, setting

from kdbench.engine.fit import look
from kdbench.engine.graph.backend import Eager, Machine
from kdbench.engine.graph.train_step import Captures
from kdbench.engine.lane import Lane
from kdbench.engine.torch_private import TorchDispatchMode

#: Operators that wait for the device, or that only the host can do.
ASKING = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_svd",
    "_linalg_eigh",
    "_linalg_solve_ex",
    "linalg_inv_ex",
    "linalg_cholesky_ex",
    "linalg_qr",
    "linalg_lu_factor_ex",
    "lift_fresh",  # torch.tensor(...): a copy from the host
}


class Asking(TorchDispatchMode):
    """Names of the operators in ``ASKING`` and of indexing by masks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ASKING:
            self.found.add(name)
        if (
            name.startswith("index")
            and isinstance(args[1], list | tuple)
            and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        ):
            self.found.add(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


class Listening(Eager):
    """Its strict steps make tensors without a named device on another one, and name what asks the host."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def apart(self) -> Machine:
        return self

    @contextmanager
    def strict(self) -> Iterator[None]:
        asking = Asking()
        with asking, torch.device("meta"):
            yield
        self.found |= asking.found


def asked(one: Lane) -> tuple[set[str], list[str]]:
    """What a lane's steps of both sizes ask the host in every stage, and the notes of their capture."""
    machine, notes = Listening(), list[str]()
    shared = setting(loader(views=one.method.views))
    while True:
        one.start_epoch()
        captures = Captures(machine, notes.append)
        captures.of(shared.train, [one], one.stage, partial(look, shared))
        if one.stage == "train":
            return machine.found, notes
        one.enter("train")
