"""`kdbench teacher finetune`: a pretrained network becomes the teacher of a suite's data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from kdbench import models
from kdbench.data.selection import check as check_source
from kdbench.engine.optimizers import prove
from kdbench.models import fresh_head, teachers
from kdbench.run import batches, choices, words
from kdbench.run import teachers as teaching
from kdbench.terminal.taught import taught
from kdbench.utils.files import check_writable


def finetune(
    screen: Console,
    *,
    name: str,
    suite: str,
    weights: Path | None,
    epochs: int | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    data_source: str,
    data_workers: int | None,
    out: Path,
    device: str,
) -> int:
    """Fine-tune, measure and keep it; says so when a teacher of the name is there already.

    Raises:
        ValueError: the weights are another network's or cannot be had.
        Ended: training diverged.
    """
    where = torch.device(choices.choose_device(device))
    torch.set_num_threads(1)
    chosen = choices.choose_suite(suite, str(where))[0]
    for setting in overrides:
        key, _, value = setting.partition("=")
        chosen = chosen.set(key.strip(), value.strip())
    words.length(epochs, None, None)
    check_source(data_source)
    words.number("--data-workers", data_workers, 0, 256)
    if epochs is not None:
        chosen = chosen.set("teacher.epochs", str(epochs))
    prove(chosen.teacher.optimizer)
    name = models.resolve(name)
    bare = name.partition(".")[0] if name.startswith("timm/") else name
    stored = teachers.path(out / "teachers", chosen.dataset, bare)
    if stored.exists():
        screen.print(f"{stored} is there already; `kdbench teacher verify {bare}` measures it again", markup=False)
        return 0
    # Whether there are weights at all is said before the data are read.
    begin = partial(fresh_head.start, name, chosen.num_classes, image_size=chosen.image_size, weights=weights)
    begin()
    say = partial(screen.print, markup=False)
    images = batches.images(chosen, data_dir, source=data_source, workers=data_workers, say=say)
    check_writable(out)
    wanted = teaching.recipe(chosen, bare, None, None)
    with taught(screen, bare, images, wanted) as told:
        teaching.train(out / "teachers", chosen, bare, images, wanted, device=where, start=begin, **told)
    return 0
