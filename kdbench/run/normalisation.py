"""In which normalisation an imported teacher was trained: as it is told, or as its answers show."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kdbench import models
from kdbench.data import Dataset, Loader
from kdbench.engine.evaluate import measure, predictions
from kdbench.engine.precision import Precision
from kdbench.models import Normalisation
from kdbench.suites import Suite

#: Training images that show it, at most.
LOOK = 1000


def of(suite: Suite) -> Normalisation:
    """The suite's own, in which every student sees its images.

    >>> from kdbench import suites
    >>> of(suites.load("semckd")).mean
    (0.5071, 0.4867, 0.4408)
    """
    return Normalisation.of(suite.recipe.mean, suite.recipe.std)


def asked(words: str, name: str, suite: Suite) -> Normalisation | None:
    """``auto`` (None), ``suite``, ``timm``, or numbers: three means and three stds, ``.5,.5,.5/.25,.25,.25``.

    Raises:
        ValueError: none of these, or timm says nothing of a network of this name.

    >>> from kdbench import suites
    >>> asked(".5,.5,.5/.25,.25,.25", "resnet20", suites.load("semckd")).std
    (0.25, 0.25, 0.25)
    >>> asked("auto", "resnet20", suites.load("semckd")) is None
    True
    """
    if words == "auto":
        return None
    if words == "suite":
        return of(suite)
    if words == "timm":
        if found := models.usual_normalisation(name):
            return found
        raise ValueError(
            f"timm does not say with which normalisation it trains {name}; write MEAN,MEAN,MEAN/STD,STD,STD"
        )
    mean, _, std = words.partition("/")
    try:
        made = Normalisation.of([float(part) for part in mean.split(",")], [float(part) for part in std.split(",")])
        if len(made.mean) != 3 or not all(abs(m) < float("inf") for m in made.mean):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--normalisation takes auto, suite, timm or three means and three stds above 0, such as"
            f" .5,.5,.5/.25,.25,.25, not {words!r}"
        ) from None
    return made


def choose(
    net: models.Tapped,
    wanted: Normalisation | None,
    suite: Suite,
    images: Dataset | None,
    device: torch.device,
    say: Callable[[str], object],
) -> Normalisation:
    """The network's own normalisation.

    Where nobody says and timm's for a network of this name is not the suite's, that of the two in which some
    training images are likelier; test images choose nothing. Without images a tag's is timm's, any other the suite's.

    >>> from kdbench import suites
    >>> net, suite = models.create("resnet8", 100), suites.load("semckd")
    >>> choose(net, None, suite, None, torch.device("cpu"), print) == of(suite)
    True
    """
    given, usual = of(suite), models.usual_normalisation(net.name)
    if wanted is not None or usual is None or usual == given:
        return wanted or given
    if images is None:
        taken, word = (usual, "timm") if "." in net.name else (given, "suite")
        say(f"{net.name} is taken to be trained in the normalisation of the {word}; --normalisation says otherwise")
        return taken
    found = {}
    for word, own in (("suite", given), ("timm", usual)):
        net.show_in_own_terms(given, own)
        found[word] = _look(net, suite, images, device)
    word = min(found, key=lambda word: found[word]["nll"])
    other = "timm" if word == "suite" else "suite"
    say(
        f"{net.name} was trained in the normalisation of {'timm' if word == 'timm' else 'the suite'}, as some training"
        f" images show: {found[word]['top1']:.1f}% of them right, {found[other]['top1']:.1f}% in that of the other;"
        f" --normalisation {other} says otherwise"
    )
    return usual if word == "timm" else given


def _look(net: models.Tapped, suite: Suite, images: Dataset, device: torch.device) -> dict[str, float]:
    step = max(1, len(images.train_labels) // LOOK)
    some = slice(0, step * LOOK, step)
    loader = Loader(
        images.train_images[some],
        images.train_labels[some],
        batch_size=64,
        mean=suite.recipe.mean,
        std=suite.recipe.std,
        device=device,
        size=images.side,
        augment="crop" if images.side is None or images.side <= images.train_images.shape[-1] else "rrc",
    )
    return measure(*predictions(net.eval().to(device), loader.plain(64), Precision()))
