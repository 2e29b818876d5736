"""From a checkpoint to a lane: what it holds is looked at before a bit of the lane is changed.

A checkpoint's digest says that the file is as it was written, not that it was written by this lane: a plug-in's layer
may have changed since, or a file may come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdbench.engine.averaging import Average
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign, stranger
from kdbench.engine.errors import holds, out_of_memory, said
from kdbench.engine.meter import Meter
from kdbench.engine.meter import strange as strange_meter
from kdbench.engine.optimizers import resume
from kdbench.engine.precision import Scaler
from kdbench.engine.schedule import Plan, fill_momentum
from kdbench.engine.shared import tensors_of
from kdbench.utils.wording import printable

#: What a lane is evaluated by.
MEASURES = {"top1", "top5", "nll", "ece"}

#: What every checkpoint has, and the type of it.
_PARTS: dict[str, type] = {
    "stage": str,
    "epoch": int,
    "student": dict,
    "method": dict,
    "optimizer": dict,
    "rng": dict,
    "curve": list,
    "seconds": float,
    "images": int,
    "report": dict,
}
_SCALES = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


class Lane(Protocol):
    """What is set or asked of a lane; ``engine.lane`` has it, and imports this file."""

    key: str
    path: Path
    plan: Plan
    device: torch.device
    student: nn.Module
    method: Any
    optimizer: torch.optim.Optimizer
    scaler: Scaler
    average: Average | None
    stage: str
    epoch: int
    pretrain_total: int
    rng: dict[str, Tensor]
    curve: list[dict[str, Any]]
    report: dict[str, float]
    seconds: float
    images: int
    begun: int
    needs_teacher: bool
    meter: Meter

    def enter(self, stage: str) -> None:
        """Begin a stage."""


def restore(lane: Lane, state: Mapping[str, Any]) -> None:
    """Continue from what the ``state`` of such a lane gave, perhaps on another device or in another process.

    Raises:
        CheckpointDamaged: it is not what a lane gives.
        CheckpointForeign: it is of another network or method. After either the lane can begin anew.
    """
    check(state, lane)
    first = lane.stage
    try:
        with holds(f"the checkpoint of {lane.key}", lane.device), _put_back(lane):
            lane.enter(state["stage"])
            check_optimizer(state, lane)
            _load(lane, state)
    except (CheckpointDamaged, CheckpointForeign):
        lane.enter(first)
        raise
    # The momenta are the checkpoint's; how to step is the plan's, whatever device wrote the file.
    resume(lane.optimizer, state["optimizer"])
    if lane.optimizer.defaults.get("fused"):
        fill_momentum(lane.optimizer)  # the loop that wrote the file may have made fewer
    lane.scaler.load_state_dict(state.get("scaler", {}))  # older files have none
    if lane.average is not None:
        lane.average.load(state["ema"])
    lane.epoch, lane.rng = state["epoch"], state["rng"]
    lane.curve, lane.report = state["curve"], state["report"]
    lane.seconds, lane.images = state["seconds"], state["images"]
    if "partial" in state:
        _go_on(lane, state["partial"])


def partial(lane: Lane) -> dict[str, Any]:
    """What a checkpoint in mid-epoch has beside all others; no gradient may wait for a step."""
    return {
        "batches": lane.begun,
        "needs_teacher": lane.needs_teacher,
        "scale": lane.scaler.began,
        "meter": lane.meter.state(),
    }


def _go_on(lane: Lane, state: Mapping[str, Any]) -> None:
    lane.begun, lane.needs_teacher = state["batches"], state["needs_teacher"]
    lane.scaler.began = state["scale"]
    lane.meter = Meter()
    lane.meter.load(state["meter"], lane.device)


def _partial(state: Mapping[str, Any], lane: Lane) -> Iterator[str]:
    if "partial" not in state:
        return
    found = state["partial"]
    if type(found) is not dict:
        yield "what it has of an epoch is no dict"
    if type(found.get("batches")) is not int or not 0 < found["batches"] < 10**9:
        yield "it does not say how many batches of an epoch are behind it"
    if type(found.get("needs_teacher")) is not bool or not _is_number(found.get("scale")):
        yield "it does not say how its epoch began"
    if why := strange_meter(found.get("meter")):
        yield why
    if state["epoch"] >= (lane.pretrain_total if state["stage"] == "pretrain" else lane.plan.epochs):
        yield "it has begun an epoch after its last"


def _load(lane: Lane, state: Mapping[str, Any]) -> None:
    try:
        lane.student.load_state_dict(state["student"])
        lane.method.load_state_dict(state["method"])
    except Exception as error:  # a method may load its state in a way of its own
        if out_of_memory(error):
            raise
        raise foreign(lane.path.name, said(error)) from None


@contextmanager
def _put_back(lane: Lane) -> Iterator[None]:
    """The lane's tensors have their values again after an error."""
    tensors = [*tensors_of(lane.student), *tensors_of(lane.method)]
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        raise


def check(state: Mapping[str, Any], lane: Lane) -> None:
    """Look at all but the optimizer's part.

    Raises:
        CheckpointDamaged: a part is missing or of another type, or its values cannot be; kdbench did not write it.
        CheckpointForeign: it is of another network.
    """
    name = lane.path.name
    _first(name, _types(state))
    _first(name, _clock(state, lane))
    _first(name, _curve(state))
    _first(name, _partial(state, lane))
    _first(name, _random(state["rng"]))
    _first(name, _scale(state.get("scaler", {})))
    _network(name, state["student"], lane.student.state_dict())
    if lane.average is not None:
        if type(state.get("ema")) is not dict:
            raise _damaged(name, "it has no averaged weights")
        _network(name, state["ema"], lane.student.state_dict())
    # A method may load its state in a way of its own, and says itself what it cannot take; but torch casts silently.
    ours = lane.method.state_dict()
    for key, value in state["method"].items():
        mine = ours.get(key)
        if isinstance(value, Tensor) and isinstance(mine, Tensor) and value.dtype != mine.dtype:
            raise foreign(name, f"the method's {printable(str(key), 80)} is {value.dtype}, here {mine.dtype}")


def check_results(state: Mapping[str, Any], lane: Lane) -> None:
    """Look for the results of a lane that has no epoch before it.

    Raises:
        CheckpointDamaged: one is missing.
    """
    try:
        done = state["stage"] == "train" and state["epoch"] == lane.plan.epochs
        missing = done and not (state["report"].keys() >= MEASURES and "top1" in state["curve"][-1])
    except (KeyError, IndexError, TypeError, AttributeError):
        return  # ``check`` says what is wrong with it
    if missing:
        raise _damaged(lane.path.name, "all its epochs are there, and no accuracy")


def check_optimizer(state: Mapping[str, Any], lane: Lane) -> None:
    """Look at the momenta, once the lane stands in the checkpoint's stage.

    Raises:
        CheckpointDamaged: they are not those of an optimizer.
        CheckpointForeign: they are of other parameters.
    """
    momenta = state["optimizer"].get("state")
    if type(momenta) is not dict:
        raise _damaged(lane.path.name, "the optimizer's state is no dict")
    trained = [parameter for group in lane.optimizer.param_groups for parameter in group["params"]]
    for number, own in momenta.items():
        if type(number) is not int or type(own) is not dict:
            raise _damaged(lane.path.name, "the optimizer's state is not by the number of a parameter")
        if not 0 <= number < len(trained):
            raise foreign(lane.path.name, f"it has a momentum of parameter {number}, and {len(trained)} are trained")
        for what, value in own.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != trained[number].shape:
                ours, theirs = tuple(trained[number].shape), tuple(value.shape)
                raise foreign(lane.path.name, f"the momentum of parameter {number} is {theirs}, the parameter {ours}")
            if what == "momentum_buffer" and not (value is None or _is_like(value, trained[number])):
                raise _damaged(lane.path.name, f"the momentum of parameter {number} is no tensor like it")


def foreign(name: str, why: str) -> CheckpointForeign:
    """That a checkpoint is of another network or method."""
    whole = f"checkpoint {name} is of another network or method: {why}; --force trains the cell anew"
    return CheckpointForeign(whole, "content")


def _damaged(name: str, why: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"checkpoint {name} was not written by kdbench: {why}")


def _first(name: str, problems: Iterator[str]) -> None:
    """Raises: CheckpointDamaged: with the first of the problems."""
    for why in problems:
        raise _damaged(name, why)


def _types(state: Mapping[str, Any]) -> Iterator[str]:
    for part, kind in _PARTS.items():
        if part not in state:
            yield f"it has no {part}"
        found = state[part]
        fits = isinstance(found, dict) if kind is dict else type(found) is kind
        if kind is float:
            fits = type(found) in (int, float)
        if not fits:
            yield f"its {part} is of type {printable(type(found).__name__, 40)}, not {kind.__name__}"
    if strange := stranger(dict(state)):
        yield f"it holds {strange}"


def _clock(state: Mapping[str, Any], lane: Lane) -> Iterator[str]:
    stages = {"train": lane.plan.epochs} | ({"pretrain": lane.pretrain_total} if lane.pretrain_total else {})
    stage, epoch = state["stage"], state["epoch"]
    if stage not in stages:
        yield f"there is no stage {printable(stage, 40)!r}"
    # The end of the first stage is the beginning of the main one.
    last = stages[stage] - (stage == "pretrain")
    if not 0 <= epoch <= last:
        yield f"it stands at epoch {epoch if abs(epoch) < 10**9 else 'number without bounds'} of {last}"
    if not (_is_number(state["seconds"]) and state["seconds"] >= 0):
        yield "its seconds are no time"
    if not 0 <= state["images"] < 2**63:
        yield "its number of images is none"


def _curve(state: Mapping[str, Any]) -> Iterator[str]:
    curve, epochs = state["curve"], state["epoch"] if state["stage"] == "train" else 0
    if len(curve) != epochs:
        yield f"its curve has {len(curve)} points after {epochs} epochs"
    for number, point in enumerate(curve, 1):
        if type(point) is not dict or point.get("epoch") != number:
            yield f"point {number} of its curve is none"
        terms = point.get("terms")
        named = type(terms) is dict and all(type(key) is str and _is_number(value) for key, value in terms.items())
        if not named or not all(_is_number(point.get(key)) for key in ("lr", "seconds")):
            yield f"point {number} of its curve is none"
        if not all(_is_number(point[key]) for key in ("top1", "val_top1", "ema_top1") if key in point):
            yield f"the accuracy of point {number} of its curve is none"
    if not all(type(key) is str and type(value) in (int, float) for key, value in state["report"].items()):
        yield "its last evaluation is not made of named numbers"


def _random(rng: Mapping[str, Any]) -> Iterator[str]:
    if "cpu" not in rng:
        yield "it has no random numbers of the CPU"
    for kind, numbers in rng.items():
        if not (isinstance(numbers, Tensor) and numbers.dtype is torch.uint8 and numbers.ndim == 1):
            yield f"its random numbers of {printable(str(kind), 40)} are no bytes"
    try:
        torch.Generator().set_state(rng["cpu"])
    except (RuntimeError, TypeError):
        yield "its random numbers of the CPU are not those of a generator"
    if "cuda" in rng and len(rng["cuda"]) != 16:
        yield "its random numbers of CUDA are not those of a generator"


def _scale(scaler: Any) -> Iterator[str]:
    if type(scaler) is not dict:
        yield "its loss scale is no dict"
    if not scaler:
        return
    if not all(key in scaler and _is_number(scaler[key]) and scaler[key] >= 0 for key in _SCALES):
        yield "its loss scale is not made of numbers"
    if scaler["backoff_factor"] >= 1 or scaler["growth_factor"] <= 1 or not scaler["growth_interval"]:
        yield "its loss scale cannot rise and fall"


def _network(name: str, theirs: Mapping[Any, Any], ours: Mapping[str, Any]) -> None:
    """Raises: CheckpointForeign: the student's values have other names, shapes or dtypes."""
    for key, value in theirs.items():
        path, mine = printable(str(key), 80), ours.get(key)
        if not isinstance(value, Tensor):
            raise _damaged(name, f"the student's {path} is no tensor")
        if isinstance(mine, Tensor) and not _is_like(value, mine):
            raise foreign(name, f"the student's {path} is {_kind(value)}, here {_kind(mine)}")
    if theirs.keys() != ours.keys():
        missing, more = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
        verb, key = ("lacks", min(missing)) if missing else ("has", min(map(str, more)))
        raise foreign(name, f"it {verb} the student's {printable(key, 80)}")


def _is_like(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and (value.shape, value.dtype) == (other.shape, other.dtype)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
