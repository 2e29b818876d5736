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
    """Reference and engine on the same work."""

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


class PairResult(_Frozen):
    """One pair with its methods."""

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
    lane_fit: LaneFit | None = None


class Result(_Frozen):
    """One call of the benchmark."""

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
    finished: str
