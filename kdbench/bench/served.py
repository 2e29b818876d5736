"""Which method serves which kind of network: every method on every network, as a student and as a teacher, one step.

A transformer's tokens are shown to methods as the maps that they make (``kdbench.models.timm_taps``), and as tokens to
those that ask for them, which stand in the table with that choice (``VARIANTS``); a method that cannot use what a pair
shows refuses in a sentence. ``python -m kdbench.bench.served`` writes the table
``results/served.md``; nothing may crash.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from kdbench import models, registry
from kdbench.data.views import VIEWS
from kdbench.distiller import Batch, Distiller
from kdbench.engine.errors import said
from kdbench.utils.files import atomic_write

#: Pixels of an image, images of a batch, classes. A ViT makes 4 x 4 tokens of such an image.
SIDE, BATCH, CLASSES = 64, 4, 10
#: By family; small ones, since the shapes of what they show are those of the large.
NETWORKS = {
    "CNN (zoo)": "resnet8x4",
    "ResNet": "timm/test_resnet",
    "ViT": "timm/test_vit",
    "DeiT": "timm/deit_tiny_patch16_224",
    "DeiT, distilled": "timm/deit_tiny_distilled_patch16_224",
    "Swin": "timm/swin_pico_patch4_window7_224",
    "ConvNeXt": "timm/test_convnext",
    "Mixer": "timm/gmixer_12_224",
    "ResMLP": "timm/resmlp_12_224",
    "EfficientNet": "timm/test_efficientnet",
    "MobileNetV3": "timm/mobilenetv3_small_050",
    "MobileNetV4": "timm/mobilenetv4_conv_small_035",
}
#: Choices of a method that read something else than its default does.
VARIANTS = ("ofa[exits=tokens]",)
#: What stands on the other side.
TEACHER, STUDENT = "resnet8x4", "resnet8x4"


class Outcome(NamedTuple):
    """Of one method on one pair."""

    verdict: str  # served, refused or crashed
    sentence: str = ""


def network(name: str) -> models.Tapped:
    """Fresh, with weights of its own seed."""
    torch.manual_seed(len(name))
    return models.create(name, CLASSES, image_size=SIDE)


def outcome(method: str, student: models.Tapped, teacher: models.Tapped) -> Outcome:
    """Build a method for a pair and take the gradients of its loss in every stage that it has."""
    (spec,) = registry.parse(method)
    cls = registry.get(spec.name)
    labels = torch.arange(4 * BATCH) % CLASSES
    try:
        torch.manual_seed(0)
        pair = models.make_pair(
            student,
            teacher,
            image_shape=(3, SIDE, SIDE),
            num_classes=CLASSES,
            train_labels=labels,
            batch_size=BATCH,
        )
        made = cls.build(pair, **dict(spec.hyper))
    except ValueError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("crashed", f"{type(error).__name__}: {said(error)}")
    try:
        for stage in ("pretrain", "train"):
            if stage == "pretrain" and not cls.pretrain_epochs:
                continue
            made.train()
            made.on_stage(stage)
            _step(made, stage, student, teacher, labels)
    except Exception as error:
        return Outcome("crashed", f"{type(error).__name__}: {said(error)}")
    return Outcome("served")


def _step(made: Distiller, stage: str, student: models.Tapped, teacher: models.Tapped, labels: torch.Tensor) -> None:
    image = torch.randn(BATCH, 3, SIDE, SIDE)
    views = [image] + [_view(view, image) for view in made.views]
    image = torch.cat(views)
    student.train()
    with torch.no_grad():
        says = teacher.eval()(image)
    seen = student(image)
    batch = Batch(image, labels[:BATCH], torch.arange(BATCH), torch.tensor(0.5))
    loss = made.loss if stage == "train" else made.pretrain_terms
    total = torch.stack([term.float() for term in loss(seen, says, batch).values()]).sum()
    total.backward()
    if not total.isfinite():
        raise ArithmeticError(f"the loss is {total.item()}")
    made.predict(seen)


def _view(name: str, image: torch.Tensor) -> torch.Tensor:
    seeds = torch.arange(len(image))
    return VIEWS[name]((image * 50 + 128).clamp(0, 255).to(torch.uint8), seeds).float() / 50 - 2.5


Found = dict[tuple[str, str, str], Outcome]


def survey(methods: Sequence[str], name: str) -> Found:
    """(method, network, "student" or "teacher") -> what came of it, for one network."""
    torch.set_num_threads(1)
    roles = (("student", network(name), network(TEACHER)), ("teacher", network(STUDENT), network(name)))
    return {(method, name, role): outcome(method, s, t) for role, s, t in roles for method in methods}


def table(found: Found, methods: Sequence[str]) -> str:
    """Markdown: a row for each method, two signs for each network, and every sentence of a refusal below."""
    sentences: dict[str, int] = {}
    lines = [
        "# Which methods serve which networks",
        "",
        f"Each method on each network, as a student of `{TEACHER}` and as the teacher of `{STUDENT}` (in this order),"
        f" images of {SIDE} px:",
        "built, its loss computed and its gradients taken. + served; a number: refused, with the sentence of that"
        " number below. Made by `make served`.",
        "",
        f"| method | {' | '.join(NETWORKS)} |",
        f"|---|{'---|' * len(NETWORKS)}",
    ]

    def sign(one: Outcome) -> str:
        if one.verdict == "served":
            return "+"
        if one.verdict == "crashed":
            return f"**crash** {one.sentence}"
        return str(sentences.setdefault(one.sentence, len(sentences) + 1))

    for method in methods:
        cells = [
            " ".join(sign(found[method, name, role]) for role in ("student", "teacher")) for name in NETWORKS.values()
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {sentence}" for sentence, number in sentences.items())]
    names = ", ".join(f"{family} `{name}`" for family, name in NETWORKS.items())
    return "\n".join([*lines, "", f"Networks: {names}.", ""])


def main(words: Sequence[str] | None = None) -> int:
    """The table of all methods; 1 where one crashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/served.md"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    out, methods = asked.out, sorted([*registry.names(), *VARIANTS])
    found: Found = {}
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        names = NETWORKS.values()
        for name, part in zip(names, pool.map(partial(survey, methods), names), strict=True):
            found |= part
            print(f"{name}: looked at", file=sys.stderr)
    with atomic_write(out, "w") as file:
        file.write(table(found, methods))
    crashed = [key for key, one in found.items() if one.verdict == "crashed"]
    for key in crashed:
        print(f"{' '.join(key)}: {found[key].sentence}", file=sys.stderr)
    print(f"wrote {out}: {len(found)} cases, {len(crashed)} crashed", file=sys.stderr)
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
