"""`kdbench teacher train|import|table|verify`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kdbench import data, models
from kdbench.engine import fit as engine
from kdbench.engine.evaluate import measure, predictions
from kdbench.engine.precision import Precision, canonical
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.models import teachers
from kdbench.models.teachers import TeacherCard
from kdbench.run import batches, choices, normalisation, words
from kdbench.run import teacher_cache as tables
from kdbench.run import teachers as teaching
from kdbench.suites import Suite
from kdbench.terminal import console
from kdbench.terminal.taught import taught
from kdbench.utils import environment
from kdbench.utils.files import check_writable
from kdbench.utils.wording import count, printable

#: A kept teacher whose accuracy moves by more than this (in points) is not what its card says.
TOLERANCE = 0.05


def train(
    screen: Console, *, name: str, suite: str, epochs: int | None, data_dir: Path | None, out: Path, device: str
) -> int:
    """Train a teacher with the suite's recipe; says so when it is there already."""
    chosen, where = _setting(suite, device)
    usual = chosen.teacher.epochs
    name = models.resolve(name)
    words.length(epochs, None, None)
    if epochs is not None:
        chosen = chosen.set("teacher.epochs", str(epochs))
    wanted = teaching.recipe(chosen, name, None, None)
    stored = teachers.path(out / "teachers", chosen.dataset, name, "")
    if stored.exists():
        screen.print(f"{stored} is there already; `kdbench teacher verify {name}` measures it again", markup=False)
        return 0
    images = batches.images(chosen, data_dir)
    check_writable(out)
    if wanted["epochs"] < usual:
        screen.print(
            f"{wanted['epochs']} of the {count(usual, 'epoch')} of its recipe; every later run on {out} takes"
            " this teacher",
            markup=False,
        )
    with taught(screen, name, images, wanted) as told:
        teaching.get(out / "teachers", chosen, name, images, wanted, device=where, **told)
    return 0


def import_(screen: Console, **words: Any) -> int:
    """Take over a checkpoint as the teacher of a suite's data set; see ``take_over``."""
    take_over(screen, **words)
    return 0


def take_over(
    screen: Console,
    *,
    file: Path,
    name: str,
    suite: str,
    part: str,
    no_verify: bool,
    replace: bool,
    data_dir: Path | None,
    out: Path,
    device: str,
    ema: bool = False,
    prefix: str | None = None,
    trained_with: str = "auto",
    origin: str = "",
) -> TeacherCard:
    """Take over a checkpoint as the teacher of a suite's data set, measure it unless told not to, and say so.

    ``ema`` and ``prefix`` as for ``read_checkpoint``; ``trained_with`` is the normalisation that the
    network was trained with, as ``normalisation.asked`` reads it; ``origin`` where it comes from, by default the
    file's name.
    """
    chosen, where = _setting(suite, device)
    name = models.resolve(name)
    stored = teachers.path(out / "teachers", chosen.dataset, name)
    if stored.exists() and not replace:
        raise ValueError(f"{stored} is there already, and records may rest on it; --replace puts this one in its place")
    say = partial(screen.print, markup=False)
    net = models.create(name, chosen.num_classes, image_size=chosen.image_size, pretrained=False)
    read = teachers.read_checkpoint(file, part=part, ema=ema, prefix=prefix, note=say)
    net.net.load_state_dict(teachers.match(read, net, note=say))
    wanted = normalisation.asked(trained_with, name, chosen)
    images = None if no_verify else batches.images(chosen, data_dir)
    check_writable(out)
    own = normalisation.choose(net, wanted, chosen, images, where, say)
    net.show_in_own_terms(normalisation.of(chosen), own)
    top1 = None if images is None else _top1(net, chosen, images, where)
    card = teachers.store(
        out / "teachers",
        net,
        dataset=chosen.dataset,
        name=name,
        num_classes=chosen.num_classes,
        image_size=chosen.image_size,
        top1=top1,
        source="imported",
        origin=origin or printable(file.name),
        half=False,
        recipe={},
        data=None if images is None else teaching.identity(images),
        mean=own.mean,
        std=own.std,
        precision=None if images is None else Precision().name,
    )
    measured = "accuracy not measured (--no-verify)" if top1 is None else f"{top1:.2f}% on the test set"
    screen.print(f"teacher {name} for {chosen.dataset}: {measured}, sha256 {card.sha256[:12]}", markup=False)
    return card


def verify(screen: Console, *, name: str, suite: str, data_dir: Path | None, out: Path, device: str) -> int:
    """Check hash and shapes, measure again, compare with the card."""
    chosen, where = _setting(suite, device)
    name = models.resolve(name)
    given = normalisation.of(chosen)
    # Whether there is one at all is said before data are fetched for it.
    teachers.load(out / "teachers", chosen.dataset, name, image_size=chosen.image_size)
    images = batches.images(chosen, data_dir)
    seen = teaching.identity(images)
    net, card = teachers.load(
        out / "teachers", chosen.dataset, name, image_size=chosen.image_size, normalisation=given, data=seen
    )
    measured_in = Precision(canonical(card.precision or Precision().name))
    measured_in.check(where)
    top1 = _top1(net, chosen, images, where, measured_in)
    screen.print(
        f"teacher {name} for {chosen.dataset}: sha256 as on its card, {top1:.2f}% on the test set", markup=False
    )
    if card.top1 is not None and abs(card.top1 - top1) > TOLERANCE:
        screen.print(f"[red]but its card says {card.top1:.2f}%[/]: other data, or another preprocessing")
        return 1
    if not card.sealed:
        own = card.normalisation or given
        known = {"top1": top1, "data": seen, "mean": own.mean, "std": own.std, "precision": measured_in.name}
        teachers.reseal(out / "teachers", card, known)
        screen.print(f"its card, of kdbench {card.kdbench}, is sealed now", markup=False)
    return 0


def table(
    screen: Console,
    *,
    name: str,
    suite: str,
    keep: str,
    precision: str,
    data_dir: Path | None,
    out: Path,
    device: str,
) -> int:
    """Fill the table of a teacher's outputs for the suite's crops and flips."""
    chosen, where = _setting(suite, device)
    name = models.resolve(name)
    torch.set_num_threads(environment.threads())  # as in a run: bits may depend on it
    exactly = Precision(precision)
    exactly.check(where)
    exactly.prepare(where)
    if slow := exactly.warning(where):
        screen.print(slow, markup=False)
    teachers.load(out / "teachers", chosen.dataset, name, image_size=chosen.image_size)
    images, recipe = batches.images(chosen, data_dir), chosen.recipe.model_dump()
    net, _ = teachers.load(
        out / "teachers",
        chosen.dataset,
        name,
        image_size=chosen.image_size,
        normalisation=normalisation.of(chosen),
        data=teaching.identity(images),
        note=partial(screen.print, markup=False),
    )
    check_writable(out)
    loader = batches.make_loader(images, recipe, seed=0, device=where)
    setting = engine.Setting(models.fold(net).to(where), loader, lambda: [], where, exactly)
    assert setting.teacher is not None
    place = tables.where(out, name, images, recipe, setting.teacher, exactly, setting.device)
    with console.Progress(screen) as watch:
        filled = TeacherTable.opened(place, loader, partial(engine.look, setting), watch.note, create=keep)
        if filled is None or not filled.fills:
            raise ValueError(f"another kdbench process is filling the table of {name}; try again when it is done")
        try:
            everything = filled.images * filled.views
            left = len(filled.missing(None, keep))
            watch.group(f"table of {name}", left, 1, epochs=False)
            for made in filled.fill_all(keep):
                watch.step(made)
        finally:
            filled.close()
    screen.print(f"table of teacher {name}: {left:,} answers made, {everything:,} are there", markup=False)
    return 0


def _setting(suite: str, device: str) -> tuple[Suite, torch.device]:
    where = choices.choose_device(device)
    torch.set_num_threads(1)
    return choices.choose_suite(suite, where)[0], torch.device(where)


def _top1(
    net: models.Tapped,
    suite: Suite,
    images: data.Dataset,
    device: torch.device,
    precision: Precision = Precision(),  # noqa: B008
) -> float:
    test = batches.test_batches(images, suite.teacher.model_dump(), device)
    net = net.eval().to(device).to(memory_format=torch.channels_last)
    return measure(*predictions(net, test, precision))["top1"]
