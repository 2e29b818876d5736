"""Cost of the evaluated network: parameters, multiply-adds, and latency under one stated condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdbench.bench import flops
from kdbench.bench.clock import timed
from kdbench.engine.counting import used_in_prediction
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.utils import environment


class CostSettings(Settings):
    """``batch``: images of the large batch; ``repeat``: timings of which the median is taken."""

    batch: Annotated[int, Field(ge=2, le=65536)] = 64
    repeat: Annotated[int, Field(ge=1, le=10_000)] = 21


@dataclass(frozen=True)
class Expense:
    """Multiply-adds of one image; milliseconds of a whole batch: CPU time of one thread, or the device's on CUDA."""

    macs: int
    latency_1_ms: float
    latency_batch_ms: float


def cost(
    answer: Callable[[Tensor], object],
    image_shape: tuple[int, int, int],
    *,
    batch: int = 64,
    repeat: int = 21,
    device: torch.device | str = "cpu",
) -> Expense:
    """Measure a forward pass on one thread: products and convolutions counted, batches of 1 and ``batch`` in turn.

    Args:
        answer: normalised (B, 3, H, W) images on ``device`` -> anything.
        image_shape: (3, H, W).
        batch: images of the large batch.
        repeat: timings of which the median is taken.
        device: where the network is.

    >>> found = cost(torch.nn.Conv2d(3, 2, 1, bias=False), (3, 4, 4), repeat=1)
    >>> found.macs  # 4 x 4 places, 3 channels in, 2 out
    96
    """
    where, threads = torch.device(device), torch.get_num_threads()
    images = {size: torch.zeros(size, *image_shape).to(where, memory_format=torch.channels_last) for size in (1, batch)}
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for shown in images.values():
                answer(shown)  # what is done once only
            macs = flops.count(lambda: answer(images[batch])) // 2 // batch
            spent: dict[int, list[float]] = {size: [] for size in images}
            for _ in range(repeat):
                for size, shown in images.items():
                    spent[size].append(1000 * timed(lambda shown=shown: answer(shown), where).cost)  # type: ignore[misc]
    finally:
        torch.set_num_threads(threads)
    return Expense(macs, median(spent[1]), median(spent[batch]))


def _measure(subject: Subject, settings: CostSettings, context: Context) -> Found:
    net, method = subject.folded, subject.method

    def answer(image: Tensor) -> Tensor:
        seen = net(image)
        logits: Tensor = seen.logits if method is None else method.predict(seen)
        return logits

    params = sum(one.numel() for one in subject.net.parameters())
    if method is not None:
        example = torch.zeros(2, *subject.images.image_shape, device=subject.device)
        params += used_in_prediction(subject.net, method, example)
    found = cost(
        answer, subject.images.image_shape, batch=settings.batch, repeat=settings.repeat, device=subject.device
    )
    summary: dict[str, float | None] = {
        "parameters": params,
        "MACs": found.macs,
        "latency 1 (ms)": found.latency_1_ms,
        f"latency {settings.batch} (ms)": found.latency_batch_ms,
    }
    told = environment.describe(str(subject.device))
    where = told.get("gpu") or f"{told['cpu']} ({told['instructions']}), one thread, CPU time"
    note = f"fp32, batch norms folded where they can be, median of {settings.repeat}, {where}, torch {told['torch']}"
    return Found(summary, [{"measure": name, "value": value} for name, value in summary.items()], notes=[note])


def _condition(settings: CostSettings, subject: Subject, context: Context) -> dict[str, str]:
    """Times of another machine are measured anew: a table has one condition."""
    told = environment.describe(str(subject.device))
    names = ("cpu", "instructions", "gpu", "device", "torch")
    return {"condition": ", ".join(str(told[name]) for name in names if name in told)}


PROBE = Probe("cost", CostSettings, _measure, rests_on=_condition)
