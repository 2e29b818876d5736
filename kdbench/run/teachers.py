"""The teacher of a group: the stored one, or one trained now and stored for every later run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kdbench import models, registry
from kdbench.data import Dataset, trained_on
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign
from kdbench.engine.evaluate import measure, predictions
from kdbench.engine.fit import Setting, Watcher, fit
from kdbench.engine.graph.backend import machine_for
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.models import Tapped, entered, teachers
from kdbench.models.teachers import DataIdentity, TeacherCard
from kdbench.run import batches
from kdbench.run.lanes import plan
from kdbench.run.networks import guarded, network
from kdbench.suites import Suite
from kdbench.suites.published_teachers import hint
from kdbench.utils.seeding import stable_seed
from kdbench.utils.wording import count


class TeacherFailed(Exception):
    """The teacher could not be trained; its cells cannot run.

    >>> raise TeacherFailed("teacher resnet20: ce is nan in epoch 1")
    Traceback (most recent call last):
    kdbench.run.teachers.TeacherFailed: teacher resnet20: ce is nan in epoch 1
    """


def recipe(suite: Suite, name: str, epochs: int | None, limit_train: int | None) -> dict[str, Any]:
    """What the teacher ``name`` is trained with; short when the run itself is a short look.

    >>> from kdbench import suites
    >>> wanted = recipe(suites.load("semckd"), "resnet32x4", None, None)
    >>> wanted["epochs"], wanted["milestones"], wanted["quick"]
    (240, [150, 180, 210], False)
    """
    own = suite.teacher
    full = own.epochs
    length = full if epochs is None or epochs >= suite.recipe.epochs else min(full, epochs)
    from kdbench.run.session import scaled

    return {
        **own.facts_for(name, length),
        **scaled(suite),
        "epochs": length,
        "limit_train": limit_train,
        "quick": length < full or limit_train is not None,
    }


def variant(wanted: dict[str, Any]) -> str:
    """Suffix of a short teacher's file; the full one has none and is always preferred.

    One that learns noisy labels is another network: its file says so, and the clean one never stands in for it.
    """
    if not wanted["quick"]:
        return _noise(wanted)
    return f"{_noise(wanted)}-quick-{_hash(wanted)}"


def _noise(wanted: dict[str, Any]) -> str:
    """Suffix of the file of a teacher that learns noisy labels."""
    said: dict[str, Any] = {name: wanted[name] for name in ("label_noise", "label_noise_map", "draw") if name in wanted}
    return f"-noisy-{_hash(said)}" if said else ""


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def there(folder: Path, suite: Suite, name: str, wanted: dict[str, Any]) -> str | None:
    """Suffix of the stored teacher that a run with this recipe uses; None: it must be trained.

    >>> from kdbench import suites
    >>> suite = suites.load("digits")
    >>> there(Path("results/teachers"), suite, "resnet20", recipe(suite, "resnet20", None, None)) is None
    True
    """
    for suffix in dict.fromkeys((_noise(wanted), variant(wanted))):
        if teachers.path(folder, suite.dataset, name, suffix).exists():
            return suffix
    return None


def steps(folder: Path, suite: Suite, name: str, wanted: dict[str, Any], images: int) -> int:
    """Batches that a teacher's own training takes; 0 when it is stored."""
    if there(folder, suite, name, wanted) is not None:
        return 0
    return int(wanted["epochs"]) * -(-images // int(wanted["batch_size"]))


def get(
    folder: Path,
    suite: Suite,
    name: str,
    data: Dataset,
    wanted: dict[str, Any],
    *,
    device: torch.device,
    watch: Watcher,
    note: Callable[[str], None],
    graphs: str = "auto",
    every: float | None = None,
) -> tuple[Tapped, TeacherCard]:
    """Load the teacher, training it first when there is none; ``every`` as for ``train``.

    Raises:
        ValueError: the stored file is damaged or does not fit.
        TeacherFailed: training diverged.

    >>> from kdbench import suites
    >>> from kdbench.run.batches import images
    >>> from kdbench.run.outcome import Teller
    >>> suite, said = suites.load("digits"), []
    >>> data, wanted = images(suite, None, 64), recipe(suite, "resnet8", epochs=1, limit_train=64)
    >>> how = {"device": torch.device("cpu"), "watch": Teller(said.append), "note": said.append}
    >>> net, card = get(Path("teachers"), suite, "resnet8", data, wanted, **how)
    >>> card.name, net.training
    ('resnet8', False)
    """
    suffix = variant(wanted)
    lock = teachers.path(folder, suite.dataset, name, suffix).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        note(f"another kdbench run is training the teacher {name}; waiting for it")
        held.acquire()
    try:
        stored = there(folder, suite, name, wanted)
        if stored is None:
            train(folder, suite, name, data, wanted, device=device, watch=watch, note=note, graphs=graphs, every=every)
            stored = suffix
    finally:
        held.release()
    load = partial(
        teachers.load,
        folder,
        suite.dataset,
        name,
        variant=stored,
        image_size=data.image_shape[-1],
        normalisation=(suite.recipe.mean, suite.recipe.std),
        # A short look on a part of the images may have the teacher of all of them.
        data=identity(data, part=wanted["limit_train"] is not None and stored == _noise(wanted)),
        note=_once(note),
    )
    return guarded(name, load)


def identity(data: Dataset, *, part: bool = False) -> DataIdentity:
    """Which data these are; ``part``: some of the training images, so only what is not of them is compared.

    >>> from kdbench.data import load
    >>> identity(load("digits")).counts
    {'train': 1000, 'test': 797}
    """
    counts = {"train": len(data.train_labels), "test": len(data.test_labels)}
    if part:
        del counts["train"]
    return DataIdentity(fingerprint=None if part else data.fingerprint, classes=data.classes, counts=counts)


_told: set[str] = set()


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """A teacher is loaded for every group of cells; what there is to say of it is said once."""

    def say(sentence: str) -> None:
        if sentence not in _told:
            _told.add(sentence)
            note(sentence)

    return say


def train(
    folder: Path,
    suite: Suite,
    name: str,
    data: Dataset,
    wanted: dict[str, Any],
    *,
    device: torch.device,
    watch: Watcher,
    note: Callable[[str], None],
    seed: int = 0,
    graphs: str = "auto",
    every: float | None = None,
    start: Callable[[], Tapped] | None = None,
) -> TeacherCard:
    """Train one teacher with plain cross-entropy; resumes its own checkpoint.

    ``start`` makes what it starts from; ``every`` are seconds between two checkpoints, see ``engine.Setting``.

    The finished weights are rounded to fp16 *before* they are measured and used, so that the
    small file is exactly the teacher that every student saw.

    Raises:
        TeacherFailed: training diverged.

    >>> from kdbench import suites
    >>> from kdbench.data import limit, load
    >>> from kdbench.run.outcome import Teller
    >>> suite, cpu = suites.load("digits"), torch.device("cpu")
    >>> wanted, images, watch = recipe(suite, "resnet8", 1, 64), limit(load("digits"), 64), Teller(lambda event: None)
    >>> card = train(Path("teachers"), suite, "resnet8", images, wanted, device=cpu, watch=watch, note=list)
    >>> card.name, 0 <= card.top1 <= 100
    ('resnet8', True)
    """
    note(f"no teacher {name} for {suite.dataset} yet: training it for {count(wanted['epochs'], 'epoch')}")
    if published := hint(name, suite.dataset, suite.name):
        note(published)
    torch.manual_seed(stable_seed(seed, "teacher", name))
    drop_path = wanted.get("drop_path", 0.0)
    side = data.image_shape[-1]
    net = start() if start else network(name, data.num_classes, image_size=side, drop_path=drop_path)
    if net.pretrained and entered.find(name) is None:  # else it names the code of a network of the user's
        note(f"teacher {name} starts from its pretrained weights ({net.pretrained[:8]})")
    checkpoint = teachers.path(folder, suite.dataset, name, variant(wanted)).with_suffix(".ckpt")
    lane = _lane(net, data, wanted, checkpoint, seed=stable_seed(seed, "teacher lane", name), device=device, note=note)
    learned, _ = trained_on(data, wanted)  # all images; its labels are noisy where the recipe says so
    loader = batches.make_loader(learned, wanted, seed=stable_seed(seed, "teacher data"), device=device)
    test = batches.test_batches(data, wanted, device)
    precision = Precision()  # whatever the run's: its card says so, and every student of every run is taught by it
    setting = Setting(
        None,
        loader,
        lambda: test,
        device,
        precision,
        machine=machine_for(device, graphs),
        note=note,
        fold=models.fold,
        every=every,
    )
    if not lane.done:
        with precision.switched(device):
            fit(setting, [lane], watch, finish=_keep)
    if lane.failure:
        raise TeacherFailed(f"the teacher {name} could not be trained: {lane.failure}")
    teachers.round_half(net)
    top1 = measure(*predictions(net.eval(), setting.test(), precision))["top1"]
    card = teachers.store(
        folder,
        net,
        dataset=suite.dataset,
        name=name,
        variant=variant(wanted),
        num_classes=data.num_classes,
        image_size=data.image_shape[-1],
        top1=top1,
        source="trained",
        recipe={k: v for k, v in wanted.items() if k != "quick"},
        data=identity(data),
        mean=wanted["mean"],
        std=wanted["std"],
        precision=precision.name,
        pretrained=net.pretrained,
    )
    checkpoint.unlink(missing_ok=True)
    note(f"teacher {name}: {top1:.2f}% on the test set, kept in {checkpoint.parent}")
    return card


def _lane(
    net: Tapped,
    data: Dataset,
    wanted: dict[str, Any],
    checkpoint: Path,
    *,
    seed: int,
    device: torch.device,
    note: Callable[[str], None],
) -> Lane:
    """A teacher under training, as far as its checkpoint is."""
    pair = models.make_pair(
        net,
        net,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        train_labels=data.train_labels,
        batch_size=wanted["batch_size"],
    )
    recipe = plan(wanted["epochs"], wanted | {"eval_every": wanted["epochs"]})
    text = json.dumps(wanted, sort_keys=True) + data.fingerprint + net.pretrained
    lane = Lane(
        f"teacher {net.name}",
        net,
        registry.get("student")(pair),
        recipe,
        seed=seed,
        path=checkpoint,
        settings=hashlib.sha256(text.encode()).hexdigest(),
        teacher="",
        device=device,
        precision=Precision(),
        recipe="teacher",
    )
    try:
        lane.resume()
    except (CheckpointDamaged, CheckpointForeign) as error:
        os.replace(checkpoint, checkpoint.with_suffix(".ckpt.damaged"))
        note(f"{error}; put aside, the teacher is trained anew")
    return lane


def _keep(lane: Lane) -> None:
    """A finished teacher's last checkpoint stays until its file is written."""
    if not lane.failure:
        lane.save()
