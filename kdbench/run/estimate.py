"""How long a grid may take: from finished records where there are any, else from one timed step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kdbench import record, registry
from kdbench.run import assistants
from kdbench.run.grid import Cell, files
from kdbench.run.session import Job
from kdbench.utils.wording import count, duration

#: Training images of a data set that is not there yet: CIFAR's number.
GUESS = 50_000
#: Pictures of a folder that a dry run reads; more are counted only.
READ = 5_000


def sentences(job: Job, todo: Sequence[Cell]) -> list[str]:
    """An estimate for the dry run, what it rests on, and what must be fetched or trained first."""
    images, missing = _images(job)
    helpers = assistants.missing(job.request.out, todo, retry_failed=job.request.retry_failed)
    todo = [*helpers, *todo]
    per_epoch = _from_records(job)
    known = [cell for cell in todo if (cell.pair, cell.label) in per_epoch]
    rest = [cell for cell in todo if (cell.pair, cell.label) not in per_epoch]
    teachers = _teachers(job, todo)
    seconds = sum(per_epoch[cell.pair, cell.label] * cell.epochs for cell in known)
    basis = [f"{count(len(known), 'cell')} from finished records of this folder"] if known else []
    guessed = ""
    if rest or teachers:
        try:
            more, untimed = _from_steps(job, rest, teachers, images)
        except ValueError as error:  # a model that the suite's images do not fit; its cells will say so
            return [f"no estimate: {error}", *missing]
        seconds += more
        guessed = f", {count(untimed, 'network')} guessed from the others" if untimed else ""
    if rest:
        timed = "from one timed step of each pair, without the methods' own cost"
        basis.append(f"{count(len(rest), 'cell')} {timed}{guessed}")
    said = [f"about {duration(seconds)} on {job.device} ({'; '.join(basis)})"]
    if teachers:
        said.append(
            f"trained first, and counted in: {'teacher' if len(teachers) == 1 else 'teachers'} " + ", ".join(teachers)
        )
    if helpers:
        networks = dict.fromkeys(f"{cell.student} of {cell.teacher}" for cell in helpers)
        said.append(f"trained first, and counted in: {count(len(helpers), 'teacher assistant')}, {', '.join(networks)}")
    return said + missing


def _teachers(job: Job, todo: Sequence[Cell]) -> dict[str, int]:
    """Teachers that are not stored yet, and the epochs of their training."""
    from kdbench.run import teachers as teaching

    found = {}
    for name in dict.fromkeys(cell.teacher for cell in todo if cell.teacher):
        wanted = teaching.recipe(job.suite, name, job.request.epochs, job.request.limit_train)
        if teaching.there(job.request.teachers, job.suite, name, wanted) is None:
            found[name] = int(wanted["epochs"])
    return found


def _from_records(job: Job) -> dict[tuple[str, str], float]:
    """Seconds per epoch of (pair, method)."""
    folders = {files(job.request.out, cell).record.parent for cell in job.cells}
    found: dict[tuple[str, str], list[float]] = {}
    for folder in sorted(folders):
        if folder.is_dir():
            for one in record.read_all(folder)[0]:
                comparable = one.settings.limit_train == job.request.limit_train
                same_device = str(one.environment.get("device", "")).split(":")[0] == job.device.split(":")[0]
                if one.status == "done" and one.group_seconds and one.group_lanes and comparable and same_device:
                    found.setdefault((one.pair, one.method), []).append(
                        one.group_seconds / one.group_lanes / one.epochs
                    )
    return {key: median(values) for key, values in found.items()}


def _images(job: Job) -> tuple[int, list[str]]:
    """Training images of the suite, and a sentence where the data are not there yet."""
    from kdbench import data

    try:
        if (many := _pictures(job)) > READ:
            return many, []
        if job.request.data_source.startswith("packed"):
            found = data.choose(job.suite.dataset, job.request.data_dir, source=job.request.data_source)
            return len(found.train_labels), []
        return len(data.load(job.suite.dataset, job.request.data_dir, download=False).train_labels), []
    except ValueError as error:
        return GUESS, [f"the data are not there yet: {error}"]


def _pictures(job: Job) -> int:
    """Pictures of a training folder, counted and not read; 0 where there is no such folder, or it will be refused."""
    from kdbench.data.selection import listed

    try:
        found = listed(job.suite.dataset, job.request.data_dir)
    except (ValueError, OSError):
        return 0
    return len(found[0].train) if found else 0


def _from_steps(job: Job, cells: Sequence[Cell], teachers: dict[str, int], images: int) -> tuple[float, int]:
    """Seconds of these cells, the teacher's pass shared by the lanes of a group, and of teachers to be trained.

    Beside it how many networks were guessed, because there was no time to try them.
    """
    import torch

    from kdbench.run import grid
    from kdbench.run.stopwatch import Stopwatch

    images = min(images, job.request.limit_train or images)
    torch.set_num_threads(1)
    watch = Stopwatch(
        size=job.suite.image_size,
        classes=job.suite.num_classes,
        batch=job.suite.recipe.batch_size,
        device=torch.device(job.device),
    )
    groups = grid.groups(cells)
    tutors = [group[0].assistant.student if group[0].assistant else group[0].teacher for group in groups]
    watch.measure(
        [
            *((name, True) for name in teachers),
            *((cell.student, True) for cell in cells),
            *((name, False) for name in tutors if name),
        ]
    )
    steps = -(-images // watch.batch)
    seconds = sum(steps * epochs * watch.step(name, True) for name, epochs in teachers.items())
    kept: dict[str, float] = {}
    for group, tutor in zip(groups, tutors, strict=True):
        lanes = sum(watch.step(cell.student, True) for cell in group)
        asked = watch.step(tutor, False) * _asked(job, group, kept) if tutor else 0.0
        seconds += steps * group[0].epochs * (asked + lanes)
    return seconds, len(watch.guessed)


def _asked(job: Job, group: Sequence[Cell], kept: dict[str, float]) -> float:
    """Share of a group's batches that the teacher itself is asked about, the others lie in its table.

    ``kept``: by teacher, the share of all entries that its table has by then; moved on.
    """
    from kdbench.distiller import READS
    from kdbench.engine.teacher_cache.place import count_views
    from kdbench.run import teacher_cache as tables

    first, recipe = group[0], group[0].recipe
    methods = [registry.get(cell.method) for cell in group]
    reads = [method.reads for method in methods if method.needs_teacher]
    if not reads:
        return 0.0
    drawn = any(recipe.get(name) for name in ("augment", "mixup", "cutmix", "random_erasing"))
    if job.request.table == "off" or first.assistant or methods[0].views or "maps" in reads or drawn:
        return 1.0
    views = count_views(recipe["crop_padding"], recipe["flip"])
    if first.teacher not in kept:
        widest = max(reads, key=READS.index)
        there = tables.kept_share(
            job.request.out, job.suite.dataset, first.teacher, job.request.precision, recipe["batch_size"], widest
        )
        seeds = {cell.seed for cell in job.cells if cell.teacher == first.teacher}
        if there is None and first.epochs * len(seeds) <= views / 2:
            return 1.0  # no table is begun
        kept[first.teacher] = there or 0.0
    before = kept[first.teacher]
    # Every epoch draws one view of each image; what is not there yet is drawn less and less often.
    kept[first.teacher] = 1 - (1 - before) * (1 - 1 / views) ** first.epochs
    return (kept[first.teacher] - before) * views / first.epochs
