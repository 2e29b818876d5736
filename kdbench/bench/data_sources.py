"""Pictures per second and memory of data sources: the same training batches from memory, a pack and files.

Each measurement is made in a process of its own, which opens the data set and makes batches of random resized crops
as training does; no network runs. Memory is what the process and its workers hold beyond what the process held before
it opened the data, highest of samples; the system's cache of files is nobody's and is not in it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from kdbench.run.words import DATA_WORKERS
from kdbench.utils import environment, memory
from kdbench.utils.files import atomic_write

FORMAT = 1
SOURCES = ("resident", "packed", "streamed")
#: Classes of made pictures, and how many of every hundred are for the test.
CLASSES, TESTS = 10, 2
#: Steps before the clock starts: workers begin, kernels are made.
WARM_UP = 2
#: Seconds between two looks at the memory.
PERIOD = 0.02
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is measured.

    >>> Asked().side, Asked().sources
    (224, ('resident', 'packed', 'streamed'))
    """

    name: str | None = None  # a data set; None: pictures are made
    data_dir: Path | None = None
    sources: tuple[str, ...] = SOURCES
    workers: tuple[int, ...] = (0,)
    pictures: int = 2000
    side: int = 224
    batch_size: int = 64
    steps: int = 20
    repeat: int = 3
    file: Path | None = None


class Row(BaseModel):
    """One source with one number of workers; lists hold an entry per repetition.

    >>> Row(source="packed", workers=2, opened_s=[0.1], per_second=[5400], cpu_ms=[0.2], memory_mb=[None]).per_second
    [5400.0]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    workers: int
    opened_s: list[float]
    per_second: list[float]  # pictures, by the clock on the wall
    cpu_ms: list[float]  # of a picture, workers included
    memory_mb: list[float | None]  # beyond the process's own; None: the system does not tell


class Found(BaseModel):
    """All rows, and what they were measured on.

    >>> known = {"dataset": "digits", "train": 1000, "test": 797, "stored": (3, 8, 8), "side": 8, "batch_size": 64}
    >>> rest = {"steps": 1, "packed_s": None, "rows": [], "load": 0.5, "code": {}, "environment": {}, "finished": ""}
    >>> f"{Found(**known, **rest).whole_mb:.2f}"
    '0.33'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    dataset: str
    train: int
    test: int
    stored: tuple[int, int, int]  # of a picture
    side: int
    batch_size: int
    steps: int
    packed_s: float | None  # making the pack; None: it was there
    rows: list[Row]
    load: float | None  # others' and ours, average of the last minute at the end
    code: dict[str, str]
    environment: dict[str, Any]
    finished: str

    @property
    def whole_mb(self) -> float:
        """Bytes of all pixels, which a resident data set holds."""
        return (self.train + self.test) * float(np.prod(self.stored)) / 2**20


def measure(asked: Asked, say: Say = lambda sentence: None) -> Found:
    """Measure every source with every number of workers, in turn, ``repeat`` times.

    Raises:
        ValueError: no such source or data set, or numbers that make no measurement.

    >>> found = measure(Asked(pictures=100, side=16, steps=1, repeat=1, batch_size=8, sources=("packed",)))
    >>> found.train, found.rows[0].source, found.rows[0].per_second[0] > 0
    (90, 'packed', True)
    """
    _check(asked)
    with TemporaryDirectory(prefix="kdbench-data-") as made:
        word, root = asked.name, asked.data_dir
        if word is None:
            say(f"making {asked.pictures:,} pictures of {asked.side} px")
            make_pictures(Path(made) / "pictures", asked.pictures, asked.side)
            word, root = f"imagefolder:{Path(made) / 'pictures'}@{asked.side}", Path(made)
        packed = _pack(word, root, say) if "packed" in asked.sources else None
        kinds = [(source, workers) for source in asked.sources for workers in asked.workers]
        seen: dict[tuple[str, int], list[_Seen]] = {kind: [] for kind in kinds}
        for turn in range(asked.repeat):
            for source, workers in kinds:
                say(f"{source}, {workers} worker(s), {turn + 1} of {asked.repeat}")
                seen[source, workers].append(_apart(word, root, source, workers, asked))
    first = next(iter(seen.values()))[0]
    found = Found(
        dataset=asked.name or f"{asked.pictures:,} pictures made for this",
        train=first.train,
        test=first.test,
        stored=first.stored,
        side=asked.side,
        batch_size=asked.batch_size,
        steps=asked.steps,
        packed_s=packed,
        rows=[_row(*kind, each) for kind, each in seen.items()],
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        code=environment.code(),
        environment=environment.describe("cpu"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if asked.file is not None:
        with atomic_write(asked.file, "w") as file:
            file.write(found.model_dump_json(indent=1) + "\n")
    return found


def make_pictures(folder: Path, count: int, side: int) -> None:
    """A picture folder of smooth colours with some noise, as JPEG: no two alike, the same ones every time.

    >>> with TemporaryDirectory() as home:
    ...     make_pictures(Path(home), 100, 16)
    ...     len(list(Path(home).glob("train/*/*.jpg"))), len(list(Path(home).glob("test/*/*.jpg")))
    (90, 10)
    """
    test = max(CLASSES, count * TESTS // 100)
    for part, first, last in (("train", 0, count - test), ("test", count - test, count)):
        for number in range(CLASSES):
            (folder / part / f"{number:02}").mkdir(parents=True, exist_ok=True)
        for at in range(first, last):
            draw = np.random.default_rng(at)
            coarse = Image.fromarray(draw.integers(0, 256, (7, 7, 3), dtype=np.uint8))
            noise = draw.integers(0, 24, (side, side, 1), dtype=np.uint8)
            smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) // 10 * 9
            whole = Image.fromarray((smooth + noise).astype(np.uint8))
            whole.save(folder / part / f"{at % CLASSES:02}" / f"{at:07}.jpg", quality=85)


class _Seen(BaseModel):
    train: int
    test: int
    stored: tuple[int, int, int]
    opened_s: float
    per_second: float
    cpu_ms: float
    memory_mb: float | None


def _check(asked: Asked) -> None:
    if strange := [source for source in asked.sources if source not in SOURCES]:
        raise ValueError(f"no data source {strange[0]!r}; there are {', '.join(SOURCES)}")
    least = {"--pictures": (asked.pictures, 100), "--side": (asked.side, 8), "--batch": (asked.batch_size, 2)}
    least |= {"--steps": (asked.steps, 1), "--repeat": (asked.repeat, 1)}
    for word, (value, lowest) in least.items():
        if value < lowest:
            raise ValueError(f"{word} takes {lowest} or more, not {value}")
    if any(not 0 <= workers <= DATA_WORKERS for workers in asked.workers) or not asked.workers or not asked.sources:
        raise ValueError(f"--data-workers takes numbers from 0 to {DATA_WORKERS}, as 0,2")


def _pack(word: str, root: Path | None, say: Say) -> float | None:
    from kdbench.data import names
    from kdbench.data.pack import pack
    from kdbench.data.packed import is_pack
    from kdbench.data.selection import listed, pack_folder

    where = pack_folder(word, root)
    if is_pack(where):
        return None
    pictures = listed(word, root)
    if pictures is None:
        raise ValueError(f"{word} is no folder of pictures and has no pack; `kdbench data pack {word}` makes it")
    say(f"packing into {where}")
    started = time.monotonic()
    pack(pictures[0], names.canonical(word), pictures[1], where)
    return time.monotonic() - started


def _apart(word: str, root: Path | None, source: str, workers: int, asked: Asked) -> _Seen:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_look, word, root, source, workers, asked).result()


def _look(word: str, root: Path | None, source: str, workers: int, asked: Asked) -> _Seen:
    """One measurement, in a process that does nothing else."""
    import torch

    from kdbench.data import Loader
    from kdbench.data.selection import choose

    torch.set_num_threads(1)
    memory.trim()
    with _highest() as most:
        started = time.monotonic()
        data = choose(word, root, source=source, workers=workers, download=False)
        opened = time.monotonic() - started
        loader = Loader(
            data.train_images,
            data.train_labels,
            batch_size=asked.batch_size,
            mean=[0.5] * 3,
            std=[0.25] * 3,
            flip=True,
            size=asked.side,
            augment="rrc",
            workers=data.workers,
        )
        if len(loader) < 1:
            raise ValueError(f"{len(data.train_labels)} pictures make no batch of {asked.batch_size}")
        batches = _endless(loader)
        for _ in range(WARM_UP):
            next(batches)
        before, started = _cpu(), time.monotonic()
        done = sum(len(next(batches)[0]) for _ in range(asked.steps))
        seconds, cpu = time.monotonic() - started, _cpu() - before
        batches.close()
        loader.close()
    return _Seen(
        train=len(data.train_labels),
        test=len(data.test_labels),
        stored=data.image_shape,
        opened_s=opened,
        per_second=done / seconds,
        cpu_ms=cpu / done * 1e3,
        memory_mb=None if most[0] is None else most[0] / 2**20,
    )


def _endless(loader: Any) -> Any:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _family() -> list[Any]:
    import psutil

    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _cpu() -> float:
    """CPU seconds of this process and its workers."""
    import psutil

    total = 0.0
    for one in _family():
        try:
            times = one.cpu_times()
        except psutil.Error:  # it has ended
            continue
        total += times.user + times.system
    return total


def _held() -> int | None:
    """Bytes of main memory of this process and its workers that are no file's."""
    found = [memory.held(one.pid) for one in _family()]
    told = [one for one in found if one is not None]
    return sum(told) if told else None


@contextmanager
def _highest() -> Iterator[list[int | None]]:
    """The most that was held beyond what was held before, as the one element of a list, filled at the end."""
    before, most, over = _held(), list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD):
            most.append(_held() or 0)

    found: list[int | None] = [None]
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        most.append(_held() or 0)
        over.set()
        thread.join()
        found[0] = None if before is None else max(0, max(most) - before)


def _row(source: str, workers: int, each: Sequence[_Seen]) -> Row:
    return Row(
        source=source,
        workers=workers,
        opened_s=[one.opened_s for one in each],
        per_second=[one.per_second for one in each],
        cpu_ms=[one.cpu_ms for one in each],
        memory_mb=[one.memory_mb for one in each],
    )
