"""Transfer: how well a linear classifier on a frozen student's pooled vector does on other data.

Protocol ``logistic`` is multinomial logistic regression with an L2 penalty, as in Kornblith, Shlens, Le. Do Better
ImageNet Models Transfer Better? CVPR 2019. https://arxiv.org/abs/1805.08974. ``sgd`` and ``mag`` are the recipes by
which distillation papers train a new last layer (as CRD has): ``sgd`` that of giakoumoglou/distillers, ``mag`` that of
Shao and Chen. Multi-Granularity for Knowledge Distillation. https://arxiv.org/abs/2108.06681. Both releases crop and
flip the images and take the best test epoch, and MAG goes on changing the batch statistics; here the network is
frozen, in eval mode, sees the plain images, and the last epoch counts.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from kdbench.data import Dataset
from kdbench.data.stratified import stratified
from kdbench.probes import checked
from kdbench.probes.other_data import USUAL, canonical_names, fetch, short
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.utils.seeding import stable_seed
from kdbench.utils.wording import count, quoted

Protocol = Literal["logistic", "sgd", "mag"]
#: Inverse penalties (scikit-learn's C, per summed loss) that are tried on vectors of unit variance, strong to weak.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Share of the training part on which the penalty is chosen, and steps that a fit may take.
HELD_OUT, STEPS = 0.2, 1000


class Sgd(NamedTuple):
    """A recipe for the new last layer: SGD with momentum .9, rate times .1 at the milestones."""

    epochs: int
    lr: float
    light_lr: float
    milestones: tuple[int, ...]
    batch: int = 64
    weight_decay: float = 5e-4


RECIPES = {"sgd": Sgd(120, 0.05, 0.01, (30, 60, 90)), "mag": Sgd(50, 0.02, 0.01, (20, 25))}
#: Networks that take ``light_lr``.
LIGHT = ("mobilenet*", "shuffle*")


class TransferSettings(Settings):
    """Data sets and protocols, each with each.

    ``limit_train``: so many training images at most, each class its share; 0: all. ``seed``: of splits and batches.
    """

    data: tuple[str, ...] = USUAL
    protocol: tuple[Protocol, ...] = ("logistic",)
    limit_train: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    _names = field_validator("data")(canonical_names)


@dataclass(frozen=True)
class Transfer:
    """``top1`` and the mean over classes in percent; ``penalty``: the chosen C; ``notes``: what went not as planned."""

    top1: float
    per_class: float
    penalty: float | None = None
    held_out_top1: float | None = None  # of the chosen penalty, where it was chosen
    notes: tuple[str, ...] = ()


def transfer(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    protocol: Protocol = "logistic",
    seed: int = 0,
    light: bool = False,
    doubled: bool = False,
) -> Transfer:
    """Fit a linear classifier on frozen vectors and score it.

    Args:
        train: (N, D) pooled vectors.
        train_labels: (N,) int64.
        test: (M, D).
        test_labels: (M,).
        protocol: ``logistic``, ``sgd`` or ``mag``.
        seed: of the split that the penalty is chosen on, or of first weights and batches.
        light: a light network, which the SGD recipes train at a lower rate.
        doubled: ``mag`` has batches of 128 and twice the rate, as for Tiny ImageNet.

    Raises:
        ValueError: fewer than two classes, vectors that are not finite, not as many labels as vectors, no vectors, or
            no such protocol.

    >>> vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(20, 1)
    >>> labels = torch.tensor([0, 1]).repeat(20)
    >>> transfer(vectors, labels, vectors, labels).top1
    100.0
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"no protocol {quoted(protocol)}; there are {', '.join(get_args(Protocol))}")
    train_labels = checked.classes(train_labels, len(train))
    test_labels = checked.classes(test_labels, len(test))
    if len(train_labels.unique()) < 2:
        raise ValueError("a classifier takes training images of two classes or more")
    for vectors in (train, test):
        checked.finite(vectors, "its pooled vectors")
    if protocol == "logistic":
        return _logistic(train, train_labels, test, test_labels, seed)
    recipe = RECIPES[protocol]
    if doubled and protocol == "mag":
        recipe = recipe._replace(batch=128, lr=2 * recipe.lr, light_lr=2 * recipe.light_lr)
    logits = _sgd(
        train, train_labels, test, max(int(train_labels.max()), int(test_labels.max())) + 1, recipe, seed, light
    )
    return Transfer(*_scores(logits.argmax(dim=1), test_labels))


def _logistic(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, seed: int) -> Transfer:
    kept = stratified(train_labels, round((1 - HELD_OUT) * len(train_labels)), stable_seed(seed, "transfer"))
    others = torch.ones(len(train_labels), dtype=torch.bool)
    others[kept] = False
    notes: list[str] = []
    x, y = train.double().numpy(), train_labels.numpy()
    scores = []
    for penalty in GRID if others.any() else (1.0,):
        fitted = _fit(x[kept.numpy()], y[kept.numpy()], penalty, notes)
        scores.append((float(fitted.score(x[others.numpy()], y[others.numpy()])) if others.any() else 0.0, penalty))
    # The strongest penalty among equals.
    best, penalty = max(scores, key=lambda one: (one[0], -one[1]))
    whole = _fit(x, y, penalty, notes)
    if len(scores) > 1 and penalty in (GRID[0], GRID[-1]):
        notes.append(f"the chosen penalty C={penalty:g} lies at the end of what was tried")
    predicted = torch.from_numpy(np.asarray(whole.predict(test.double().numpy()), dtype=np.int64))
    return Transfer(*_scores(predicted, test_labels), penalty, 100 * best, tuple(dict.fromkeys(notes)))


def _fit(x: np.ndarray, y: np.ndarray, penalty: float, notes: list[str]):  # type: ignore[no-untyped-def]
    """A fitted pipeline: unit variance, then the regression."""
    made = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return made.fit(x, y)
        except ConvergenceWarning:
            notes.append(f"the fit at C={penalty:g} had not settled after {count(STEPS, 'step')}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(x, y)


def _sgd(train: Tensor, labels: Tensor, test: Tensor, classes: int, recipe: Sgd, seed: int, light: bool) -> Tensor:
    """(M, K) logits of a layer trained by a recipe; draws nothing from torch's default generator."""
    generator = torch.Generator().manual_seed(stable_seed(seed, "transfer"))
    layer = nn.utils.skip_init(nn.Linear, train.shape[1], classes)
    bound = train.shape[1] ** -0.5  # as torch's own layers begin
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    rate = recipe.light_lr if light else recipe.lr
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, weight_decay=recipe.weight_decay)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones))
    train = train.float()
    with torch.enable_grad():
        for _ in range(recipe.epochs):
            for part in torch.randperm(len(labels), generator=generator).split(recipe.batch):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(layer(train[part]), labels[part]).backward()
                optimizer.step()
            falls.step()
    with torch.no_grad():
        logits: Tensor = layer(test.float())
    return logits


def _scores(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1, and its mean over the classes that have test images, in percent."""
    right = (predicted == labels).double()
    classes = labels.unique()
    return 100 * float(right.mean()), 100 * float(sum(right[labels == one].mean() for one in classes)) / len(classes)


def vectors(subject: Subject, images: Tensor) -> Tensor:
    """(N, D) pooled vectors on the CPU of (N, 3, H, W) uint8 images."""
    batches = subject.batches(images, torch.zeros(len(images), dtype=torch.int64))
    return torch.cat([seen.pooled.flatten(1).cpu() for seen, _, _, _ in subject.look(batches)])


def is_light(name: str) -> bool:
    """Whether the releases train at the lower rate.

    >>> is_light("MobileNetV2"), is_light("resnet8x4")
    (True, False)
    """
    bare = name.lower().removeprefix("timm/")
    return any(fnmatchcase(bare, pattern) for pattern in LIGHT)


def _measure(subject: Subject, settings: TransferSettings, context: Context) -> Found:
    other = _data(settings, subject, context)
    found = transfer(
        vectors(subject, other.train_images),
        other.train_labels,
        vectors(subject, other.test_images),
        other.test_labels,
        protocol=settings.protocol[0],
        seed=settings.seed,
        light=is_light(subject.net.name),
        doubled=settings.data[0] == "tinyimagenet",
    )
    summary = {"top-1 (%)": found.top1, "mean per class (%)": found.per_class, "penalty C": found.penalty}
    size: dict[str, float | None] = {"training images": len(other.train_labels), "test images": len(other.test_labels)}
    rows = [{"measure": name, "value": value} for name, value in (summary | size).items()]
    return Found(summary, rows, notes=found.notes)


def _data(settings: TransferSettings, subject: Subject, context: Context) -> Dataset:
    side = subject.images.image_shape[-1]
    return fetch(settings.data[0], "transfer.data", side, settings.limit_train, context)


def _spread(settings: TransferSettings, context: Context) -> list[TransferSettings]:
    """One measurement for each data set and protocol."""
    each = itertools.product(settings.data, settings.protocol)
    return [settings.model_copy(update={"data": (name,), "protocol": (how,)}) for name, how in each]


PROBE = Probe(
    "transfer",
    TransferSettings,
    _measure,
    spread=_spread,
    rests_on=lambda settings, subject, context: {"transfer data": _data(settings, subject, context).fingerprint},
    variant=lambda settings: f"{short(settings.data[0])}, {settings.protocol[0]}",
)
