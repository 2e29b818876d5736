"""Pairs of other families: every method that is compared on them trains on real pictures, or refuses in a sentence.

The networks are those of the suites, at their size; the pictures lie beside the checkout (``../shared/data``).
"""

from __future__ import annotations

import copy
import sys
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import lane_of

from kdbench import models, registry, suites
from kdbench.distiller import Batch, Outputs
from kdbench.run.lanes import plan, refuse_recipe
from kdbench.run.session import published_hyper
from kdbench.suites import Suite

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
METHODS = ["kd", "fitnet", "at", "crd", "rkd", "cc", "dkd", "dist", "ofa", "ctkd", "nkd", "lskd"]
SUITES = ["tiny-transformers", "heterogeneous", "heterogeneous-tokens"]
PAIRS = [(name, pair) for name in SUITES for pair in suites.load(name).pairs]
STEPS, BATCH = 2, 2

#: What may refuse, and a part of its sentence.
MIXED = "needs one label for each image"
REFUSED = {("heterogeneous-tokens", name): MIXED for name in ("crd", "dkd", "ofa", "ctkd", "nkd")}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no pictures beside the checkout (../shared/data)")


@cache
def unpack() -> Any:
    sys.path.insert(0, str(DATA))
    try:
        return import_module("unpack")
    finally:
        sys.path.remove(str(DATA))


@cache
def labels() -> Tensor:
    """(N,), of all training images of CIFAR-100."""
    import numpy as np

    return torch.from_numpy(np.load(DATA / "cifar100" / "index.npz")["train_y"].astype("int64"))


@cache
def pictures(side: int) -> Tensor:
    """(STEPS * BATCH, 3, side, side) uint8: CIFAR-100's, and Imagenette's where they are large."""
    import io

    import numpy as np
    from PIL import Image

    count = STEPS * BATCH
    if side == 32:
        _, found = next(iter(unpack().parts("cifar100", "train")))
        return torch.from_numpy(found[:count].copy()).permute(0, 3, 1, 2)
    blobs = [blob for _, _, blob in islice(unpack().jpegs("imagenette224", "train"), count)]
    made = [np.asarray(Image.open(io.BytesIO(blob)).convert("RGB").resize((side, side))) for blob in blobs]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def batches(suite: Suite) -> list[Batch]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (suite.recipe.mean, suite.recipe.std))
    image = ((pictures(suite.image_size) / 255 - mean) / std).to(memory_format=torch.channels_last)
    made = []
    for at in range(0, STEPS * BATCH, BATCH):
        idx = torch.arange(at, at + BATCH)
        target = None
        if suite.recipe.mixup:
            one, other = (
                torch.nn.functional.one_hot(labels()[i], suite.num_classes).float() for i in (idx, idx.flip(0))
            )
            target = 0.7 * one + 0.3 * other
        made.append(Batch(image[idx], labels()[idx], idx, torch.tensor(at / (STEPS * BATCH)), target))
    return made


def network(name: str, suite: Suite, seed: int) -> models.Tapped:
    torch.manual_seed(seed)
    return models.create(name, suite.num_classes, image_size=suite.image_size)


def trained(method: str, suite: Suite, pair: tuple[str, str], lent: dict[str, Any], folder: Path) -> str:
    """Trains a few steps; the sentence of one who refuses, else ""."""
    recipe = suite.recipe.facts_for(pair[1], 2)
    student = copy.deepcopy(lent["student"])
    try:
        refuse_recipe(method, recipe)
        facts = models.make_pair(
            student,
            lent["teacher"],
            image_shape=(3, suite.image_size, suite.image_size),
            num_classes=suite.num_classes,
            train_labels=labels(),
            batch_size=BATCH,
        )
        values = published_hyper(suites.convention(suite.convention), method, *pair)
        built = registry.get(method).build(facts, **values)
        one = lane_of(f"{method}-{pair[1].replace('/', '_')}", student, built, folder, plan=plan(2, recipe))
    except ValueError as error:
        return str(error)
    before = [weight.detach().clone() for weight in student.parameters()]
    one.start_epoch()
    for batch, shown in zip(batches(suite), lent["shown"], strict=True):
        one.step(shown, batch)
    one.end_epoch(0.0)  # raises where a term is not finite
    moved = sum(not torch.equal(a, b) for a, b in zip(student.parameters(), before, strict=True))
    assert moved > 0.9 * len(before), f"{method}: {moved} of {len(before)} weights moved"
    assert all(weight.isfinite().all() for weight in student.parameters())
    assert one.curve[0]["terms"]["ce"] > 0
    return ""


def lend(suite: Suite, pair: tuple[str, str]) -> dict[str, Any]:
    teacher = network(pair[0], suite, 1).eval().requires_grad_(False)
    with torch.no_grad():
        shown: list[Outputs] = [teacher(batch.image) for batch in batches(suite)]
    return {"teacher": teacher, "shown": shown, "student": network(pair[1], suite, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), PAIRS, ids=[f"{name}-{':'.join(pair)}" for name, pair in PAIRS])
def test_every_method_trains_or_refuses(name: str, pair: tuple[str, str], tmp_path: Path) -> None:
    suite = suites.load(name)
    lent = lend(suite, pair)
    said = {method: trained(method, suite, pair, lent, tmp_path) for method in METHODS}
    wanted = {method: REFUSED.get((name, method), "") for method in METHODS}
    assert {method: sentence for method, sentence in said.items() if bool(sentence) != bool(wanted[method])} == {}
    for method, sentence in said.items():
        assert wanted[method] in sentence
        assert "\n" not in sentence


def test_one_pair_in_a_second(tmp_path: Path) -> None:
    suite, pair = suites.load("tiny-transformers"), ("resnet8", "timm/convnext_atto")
    lent = lend(suite, pair)
    assert [trained(method, suite, pair, lent, tmp_path) for method in ("kd", "at", "ofa")] == ["", "", ""]
