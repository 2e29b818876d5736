"""What the benchmark found, as it is saved."""

from __future__ import annotations

from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict

FORMAT = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ratio(_Frozen):
    """Reference over engine, of each alternation."""

    median: float
    least: float
    most: float
    raw: list[float]

    @classmethod
    def of(cls, raw: list[float]) -> Ratio:
        """From the ratio of every alternation."""
        return cls(median=median(raw), least=min(raw), most=max(raw), raw=raw)


class Side(_Frozen):
    """One of the two loops. Lists hold one entry per alternation, in seconds."""

    cpu: list[float]
    system: list[float]  # the part of cpu that the kernel took, mostly for memory
    wall: list[float]
    device: list[float] | None = None  # between CUDA events
    images_per_second: float  # student-images: images x methods, by median cost
    peak_mb: float | None = None  # largest memory while it ran, both sides loaded


class Compared(_Frozen):
    """Reference and engine on the same work.

    >>> loop, engine = (Side(cpu=[t], system=[0.0], wall=[t], images_per_second=64 / t) for t in (3.0, 1.0))
    >>> Compared(reference=loop, engine=engine, ratio=Ratio.of([3.0])).ratio.median
    3.0
    """

    reference: Side
    engine: Side
    ratio: Ratio  # of CPU seconds; on CUDA of the device's


class LaneFit(_Frozen):
    """Seconds of a step against the number of lanes n: intercept + slope n."""

    method: str
    lanes: list[int]
    seconds: list[list[float]]  # per number of lanes, raw
    intercept: float
    slope: float
    r2: float
    teacher_forward: float
    student_step: float  # with its loss
    intercept_in_teachers: float
    slope_in_steps: float


class Overhead(_Frozen):
    """Seconds beside the training steps, for all lanes."""

    epoch_meters: float  # per epoch
    epoch_checkpoints: float  # per epoch
    run_records: float  # per run
    share: float  # of the whole time, for runs of `epochs` epochs of `epoch_steps` steps
    epochs: int
    epoch_steps: int


class Guarding(_Frozen):
    """CPU seconds of the guard around the methods, in the plain loop."""

    lane_step: float  # per lane and step
    lane_epoch: float  # per lane and epoch: the thorough look in its first step
    share: float  # of a step of all lanes, the thorough look spread over the steps of an epoch
    epoch_steps: int


class OnTable(_Frozen):
    """Reference with its live teacher, and engine with a table of the teacher that was ready before."""

    method: str
    steps: int  # per alternation
    compared: Compared


class SideBySide(_Frozen):
    """Seconds of forward and backward pass of so many students on one batch, one entry per alternation.

    >>> seconds = {"row": [2.0], "stacked": [1.0]}
    >>> one = SideBySide(students=2, seconds=seconds, ratios={}, refused={"streams": "no CUDA"})
    >>> one.refused
    {'streams': 'no CUDA'}
    """

    students: int
    seconds: dict[str, list[float]]  # by the way it is done: row, k streams, stacked
    ratios: dict[str, Ratio]  # row over the other ways
    refused: dict[str, str]  # why a way cannot be gone


class PairResult(_Frozen):
    """One pair with its methods.

    >>> PairResult.model_json_schema()["required"][:5]
    ['pair', 'methods', 'steps', 'batch_size', 'compared']
    """

    pair: str
    methods: list[str]
    steps: int  # of every method, per alternation
    batch_size: int
    compared: Compared
    split: dict[str, float]  # seconds of a step by part, from a pass of its own
    step_gflop: float  # of the engine's step
    gflops: float
    share_of_peak: float
    overhead: Overhead
    guard: Guarding | None = None
    lane_fit: LaneFit | None = None
    captured: int = 0  # lanes in the engine's captured step; where there is one, its loop gave split, FLOP, memory
    notes: list[str] = []  # what the engine said, such as which lane stayed outside a graph
    on_table: OnTable | None = None
    no_table: str = ""  # why there is none
    side_by_side: SideBySide | None = None


class Result(_Frozen):
    """One call of the benchmark.

    >>> Result.model_json_schema()["required"][:5]
    ['precision', 'device', 'repeat', 'images', 'num_images']
    """

    format: int = FORMAT
    precision: str
    device: str
    repeat: int
    images: str  # cifar100 or random
    num_images: int
    peak_gflops: dict[str, float]  # of a matrix product, by dtype
    peak_copy_gbs: float
    pipeline: Compared  # input alone; its Side.images_per_second counts images
    pairs: list[PairResult]
    code: dict[str, Any]
    environment: dict[str, Any]
    warning: str = ""  # why the figures are not what they could be
    finished: str
