"""The acceptance run: twelve methods on one pair for 240 epochs, on an H200-class GPU in 20 minutes and 8 GB.

It is `kdbench run`, whole and under a clock. The teacher's own training is not part of it. `make acceptance` calls
it; its judgement lies in ``<out>/acceptance.json``. `make gpu-acceptance` runs twelve epochs of it on random data and
projects: that shows where a machine stands, and is no acceptance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench import record
from kdbench.bench import random_data
from kdbench.record import Record
from kdbench.run import grid, session
from kdbench.run import teachers as teaching
from kdbench.run.outcome import Watcher
from kdbench.run.session import Request
from kdbench.utils import environment

METHODS = "kd,fitnet,at,sp,cc,vid,rkd,pkt,nst,ft,crd,dkd"
PAIR = "resnet32x4:resnet8x4"


@dataclass(frozen=True)
class Gate:
    """What is asked of a run.

    >>> Gate().seconds / 60, Gate().bytes / 1e9
    (20.0, 8.0)
    """

    seconds: float = 20 * 60.0
    bytes: float = 8e9
    methods: int = 12
    epochs: int = 240


@dataclass(frozen=True)
class Measured:
    """One run under the clock.

    >>> one = Measured(900.0, 850.0, 6e9, 7e9, ["kd", "semckd"], {}, 240, "NVIDIA H200")
    >>> all(met for met, _ in judge(one, Gate(methods=2)))
    True
    """

    wall_seconds: float  # of the whole command, without the teacher's training
    train_seconds: float  # of it in the training loop, by the records
    peak_bytes: float  # the largest that was allocated
    reserved_bytes: float | None  # the largest that torch took from the device; None on the CPU
    done: list[str]
    missing: dict[str, str]  # label -> reason
    epochs: int  # the fewest of a record
    device: str  # its name, or cpu


def accept(request: Request, watch: Watcher, *, random: bool = False) -> Measured:
    """Run a request that has not begun, from its first step to its last record.

    ``random``: on random pictures under a teacher of random weights, which it makes: what a machine without data or
    network can measure.

    Raises:
        ValueError: some of it is there already, or its teacher is not.
        runner.Stop: see there.

    >>> from kdbench.run.outcome import Teller
    >>> request = Request("kd", "resnet20:resnet8", "digits", device="cpu")
    >>> accept(request, Teller(print))
    Traceback (most recent call last):
    ValueError: there is no teacher resnet20 in results, and its training is not to be timed; first ...
    """
    from kdbench.run import runner

    job = session.resolve(request)
    begun = [str(cell) for cell, state in job.states().items() if state != "missing"]
    if begun:
        raise ValueError(
            f"{begun[0]} has begun or ended in {request.out}; acceptance times a whole run: choose another"
            " folder with the teacher, or remove its runs"
        )
    images = random_data.pictures(job.suite) if random else None
    for name in dict.fromkeys(cell.teacher for cell in job.cells if cell.teacher):
        wanted = teaching.recipe(job.suite, name, request.epochs, request.limit_train)
        if images is not None:
            random_data.keep_teacher(request.out, job.suite, name, images)
        if teaching.there(request.out / "teachers", job.suite, name, wanted) is None:
            raise ValueError(
                f"there is no teacher {name} in {request.out}, and its training is not to be timed; first"
                f" `kdbench teacher train {name} --suite {job.suite.name} --out {request.out}`"
            )
    started = time.perf_counter()
    outcome = runner.run(job, watch, images)
    seconds = time.perf_counter() - started
    missing = {cell.label: reason for cell, reason in outcome.failed.items()}
    missing |= {cell.label: "it refuses the pair" for cell in outcome.unsupported}
    missing |= {cell.label: "another process has it" for cell in outcome.elsewhere}
    found = [
        record.read(path) for path in (grid.files(request.out, cell).record for cell in job.cells) if path.exists()
    ]
    peak = environment.peak_memory_mb(job.device) * 2**20
    return measured(found, seconds, missing, device=job.device, peak=peak, reserved=_reserved(job.device))


def measured(
    records: Sequence[Record],
    seconds: float,
    missing: dict[str, str],
    *,
    device: str,
    peak: float,
    reserved: float | None,
) -> Measured:
    """The figures of a run that took so many seconds, from its records; ``peak`` and ``reserved`` in bytes."""
    return Measured(
        wall_seconds=seconds,
        train_seconds=sum((one.group_seconds or 0.0) / (one.group_lanes or 1) for one in records),
        peak_bytes=peak,
        reserved_bytes=reserved,
        done=[one.method for one in records],
        missing=missing,
        epochs=min((one.epochs for one in records), default=0),
        device=records[0].environment.get("gpu", device) if records else device,
    )


def projected(found: Measured, epochs: int) -> float:
    """Wall seconds of a run of so many epochs, from a shorter one: the loop's time grows with them, the rest stays.

    A short run evaluates a larger share of its epochs than a long one, so this is rather too much.

    >>> twelve = Measured(100.0, 60.0, 6e9, 7e9, ["kd"], {}, 12, "NVIDIA H200")
    >>> projected(twelve, 240)  # 40 s beside the loop, and 5 s an epoch
    1240.0
    """
    return found.wall_seconds + found.train_seconds * (epochs / max(1, found.epochs) - 1)


def judge(found: Measured, gate: Gate) -> list[tuple[bool, str]]:
    """Sentences with whether each is as the gate asks; it is met where all are.

    >>> one = Measured(1500.0, 1450.0, 6e9, 7e9, ["kd", "semckd"], {}, 240, "NVIDIA H200")
    >>> [said for met, said in judge(one, Gate(methods=2)) if not met]
    ["1500.0 s of 1200 s of wall time without the teacher's training (1450 s of it in the training loop)"]
    """
    wall = found.wall_seconds
    why = "".join(f"; {label}: {reason}" for label, reason in found.missing.items())
    memory = max(found.peak_bytes, found.reserved_bytes or 0.0)
    reserved = "" if found.reserved_bytes is None else f", {found.reserved_bytes / 1e9:.2f} GB reserved"
    return [
        (found.device != "cpu", f"ran on {found.device}"),
        (
            len(found.done) >= gate.methods and not found.missing,
            f"{len(found.done)} of {gate.methods} methods finished{why}",
        ),
        (found.epochs >= gate.epochs, f"{found.epochs} of {gate.epochs} epochs"),
        (
            wall <= gate.seconds,
            f"{wall:.1f} s of {gate.seconds:.0f} s of wall time without the teacher's training"
            f" ({found.train_seconds:.0f} s of it in the training loop)",
        ),
        (memory <= gate.bytes, f"{found.peak_bytes / 1e9:.2f} GB allocated{reserved}, of {gate.bytes / 1e9:.0f} GB"),
    ]


def _reserved(device: str) -> float | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return float(torch.cuda.max_memory_reserved(device))
