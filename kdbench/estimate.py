"""How long a grid may take: from finished records where there are any, else from one timed step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from kdbench import record
from kdbench.console import duration
from kdbench.grid import Cell, files
from kdbench.session import Job


def sentence(job: Job, todo: Sequence[Cell]) -> str:
    """An estimate for the dry run, and what it rests on."""
    per_epoch = _from_records(job)
    known = [cell for cell in todo if (cell.pair, cell.label) in per_epoch]
    seconds = sum(per_epoch[cell.pair, cell.label] * cell.epochs for cell in known)
    basis = []
    if known:
        basis.append(f"{len(known)} cells from finished records of this folder")
    rest = [cell for cell in todo if (cell.pair, cell.label) not in per_epoch]
    if rest:
        seconds += _from_steps(job, rest)
        basis.append(f"{len(rest)} from one timed step of each pair, without the methods' own cost")
    return f"about {duration(seconds)} on {job.device} ({'; '.join(basis)}; teachers that must be trained come on top)"


def _from_records(job: Job) -> dict[tuple[str, str], float]:
    """Seconds per epoch of (pair, method)."""
    folders = {files(job.request.out, cell).record.parent for cell in job.cells}
    found: dict[tuple[str, str], list[float]] = {}
    for folder in sorted(folders):
        if folder.is_dir():
            for one in record.read_all(folder)[0]:
                comparable = one.settings["limit_train"] == job.request.limit_train
                same_device = str(one.environment.get("device", "")).split(":")[0] == job.device.split(":")[0]
                if one.status == "done" and one.train_seconds and comparable and same_device:
                    found.setdefault((f"{one.teacher}:{one.student}", one.method), []).append(one.train_seconds / one.epochs)
    return {key: median(values) for key, values in found.items()}


def _images(job: Job) -> int:
    """Training images of the suite; CIFAR's number where the data are not there yet."""
    from kdbench import data

    try:
        return len(data.load(job.suite.dataset, job.request.data_dir, download=False).train_labels)
    except ValueError:
        return 50_000


def _from_steps(job: Job, cells: Sequence[Cell]) -> float:
    """Seconds of these cells, the teacher's pass shared by the lanes of a group."""
    import torch

    from kdbench import grid, models

    size, device = job.suite.image_size, torch.device(job.device)
    batch = job.suite.recipe.batch_size
    images = job.request.limit_train or _images(job)
    torch.set_num_threads(1)
    timed: dict[tuple[str, bool], float] = {}

    def step(name: str, learns: bool) -> float:
        if (name, learns) not in timed:
            net = models.create(name, job.suite.num_classes, image_size=size).to(device).train(learns)
            image = torch.randn(batch, 3, size, size, device=device)
            for _ in range(2):  # the first one warms up
                started = time.perf_counter()
                with torch.set_grad_enabled(learns):
                    logits = net(image).logits
                    if learns:
                        logits.sum().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
            timed[name, learns] = time.perf_counter() - started
        return timed[name, learns]

    seconds = 0.0
    for group in grid.groups(cells):
        steps = -(-images // batch) * group[0].epochs
        seconds += steps * (step(group[0].teacher, False) + sum(step(cell.student, True) for cell in group))
    return seconds
