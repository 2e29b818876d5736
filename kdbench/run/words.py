"""Checks of a request's words that need no training: numbers within bounds, networks and weights that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kdbench import registry
from kdbench.registry.hyper import check
from kdbench.suites import Convention, Suite
from kdbench.suites.kinds import EPOCHS, SEED, SEEDS
from kdbench.utils.wording import count, quoted

#: Cells of one command; images of a training set.
CELLS, IMAGES = 200_000, 10**9
#: Processes that make batches, at most.
DATA_WORKERS = 256
_COMMON = {"ce_weight", "kd_weight", "tau"}


def number(option: str, value: int | None, least: int, most: int, what: str = "") -> None:
    """Raises: ValueError: a number is not within its bounds.

    >>> number("--lanes", 3, 1, 8)
    >>> number("--lanes", 0, 1, 8)
    Traceback (most recent call last):
    ValueError: --lanes must be 1 or more, not 0
    """
    if value is None or least <= value <= most:
        return
    bounds = f"{least} or more" if value < least else f"at most {most:,}"
    raise ValueError(f"{option} must be {bounds}{what}, not {value if abs(value) < 10**18 else 'that much'}")


def minutes(between: float | None) -> None:
    """Raises: ValueError: that is no time between two checkpoints.

    >>> minutes(5)
    >>> minutes(-1)
    Traceback (most recent call last):
    ValueError: --checkpoint-minutes takes 0 (after every epoch) to 1440 minutes, not -1
    """
    plain = isinstance(between, int | float) and not isinstance(between, bool)
    if between is not None and not (plain and 0 <= between <= 1440):
        raise ValueError(f"--checkpoint-minutes takes 0 (after every epoch) to 1440 minutes, not {between!r}")


def command(notify: str | None) -> None:
    """Raises: ValueError: there is nothing in it that a shell could run; said before a run, not after it.

    >>> command("echo done")
    >>> command(" ")
    Traceback (most recent call last):
    ValueError: --notify takes a command for the shell, not ''
    """
    if notify is not None and (not notify.strip() or "\0" in notify):
        raise ValueError(f"--notify takes a command for the shell, not {quoted(notify)}")


def length(epochs: int | None, limit_train: int | None, lanes: int | None) -> None:
    """Raises: ValueError: a number of the command line is not within its bounds.

    >>> length(240, None, 4)
    >>> length(0, None, None)
    Traceback (most recent call last):
    ValueError: --epochs must be 1 or more, not 0
    """
    number("--epochs", epochs, 1, EPOCHS)
    number("--limit-train", limit_train, 2, IMAGES, " images")
    number("--lanes", lanes, 1, CELLS)


def seeds(wanted: str | None, default: Sequence[int]) -> list[int]:
    """``3`` means seeds 0, 1, 2; ``0,4`` means those; ``4,`` means seed 4 alone.

    Raises:
        ValueError: not whole numbers, none, or more than anybody trains.

    >>> seeds("3", (0,)), seeds("4,", (0,)), seeds(None, (0, 1))
    ([0, 1, 2], [4], [0, 1])
    """
    if wanted is None:
        return list(default)
    parts = [part.strip() for part in wanted.split(",")]
    said = [part for part in parts if part]
    if not said or not all(re.fullmatch("[+-]?[0-9]+", part) for part in said):
        raise ValueError(f"--seeds takes a count such as 3 or a list such as 0,1,2, not {quoted(wanted)}")
    if max(map(len, said)) > 20:
        raise ValueError(f"--seeds takes seeds below 2^63, not {quoted(max(said, key=len))}")
    numbers = [int(part) for part in said]
    counted = len(parts) == 1
    if min(numbers) < 0 or (counted and numbers[0] < 1):
        one = "; with a comma behind it, 0 is that one seed" if numbers == [0] else ""
        raise ValueError(f"--seeds takes a count of 1 or more or a list of seeds from 0 up, not {quoted(wanted)}{one}")
    if max(numbers) >= SEED:
        raise ValueError(f"--seeds takes seeds below 2^63, not {max(numbers)}")
    if (many := numbers[0] if counted else len(numbers)) > SEEDS:
        one = f"; with a comma behind it, {many} is that one seed" if counted else ""
        raise ValueError(f"--seeds asks for {many:,} seeds, and {SEEDS:,} are the most{one}")
    return list(range(many)) if counted else list(dict.fromkeys(numbers))


def shard(text: str) -> tuple[int, int]:
    """``1/4`` -> 1, 4.

    Raises:
        ValueError: it is not written so.

    >>> shard("1/4")
    (1, 4)
    """
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard takes i/n with 1 <= i <= n, such as 1/4, not {quoted(text)}")
    return int(match[1]), int(match[2])


def networks(suite: Suite, pairs: Iterable[tuple[str, str]]) -> None:
    """Raises: ValueError: a network of a suite's pair is none; before a teacher is trained for the others."""
    from kdbench import models

    for name in dict.fromkeys(name for pair in pairs for name in pair):
        try:
            models.resolve(name)
        except ValueError as error:
            raise ValueError(f"suite {suite.name}: {error}") from error


def methods(text: str | None, suite: Suite) -> list[registry.Spec]:
    """What is written, or the suite's own.

    Raises:
        ValueError: see ``registry.parse``.
    """
    if text is not None:
        return registry.parse(text)
    try:
        return registry.parse(",".join(suite.default_methods))
    except ValueError as error:
        raise ValueError(f"suite {suite.name}, default_methods: {error}") from error


def weights(convention: Convention, specs: Iterable[registry.Spec], pairs: Iterable[tuple[str, str]]) -> None:
    """Raises: ValueError: a convention gives a method a value that it cannot have, or one that it has no name for."""
    pairs = list(pairs)
    for name in dict.fromkeys(spec.name for spec in specs):
        cls = registry.get(name)
        known = cls.hyperparameters()
        own = [convention.methods.get(name, {}), *(of.get(name, {}) for of in convention.pairs.values())]
        for key in {key for table in own for key in table if key not in known and key not in _COMMON}:
            raise ValueError(
                f"convention {convention.name}: method {name!r} has no hyper-parameter {quoted(key)};"
                f" it has {', '.join(known)}"
            )
        for teacher, student in pairs:
            for key, value in convention.hyper(name, f"{teacher}:{student}", known).items():
                check(cls, key, value, f"convention {convention.name}: {name}[{key}]")


def weights_of_others(suite: Suite, specs: Sequence[registry.Spec], asked: str) -> str:
    """A sentence where data of the user's own are trained on with weights that were chosen on other data; else "".

    Args:
        suite: whose data it is.
        specs: the methods; one with values of its own is the user's choice.
        asked: how the suite was named, for the command that finds others.

    >>> from kdbench import suites
    >>> weights_of_others(suites.load("semckd"), registry.parse("crd"), "semckd")
    ''
    """
    from kdbench.data import names

    own = names.image_folder(suite.dataset) or names.hub(suite.dataset)
    plain = dict.fromkeys(spec.name for spec in specs if not spec.hyper and registry.get(spec.name).search != {})
    if not own or not plain:
        return ""
    whose = ", ".join(plain) if len(plain) < 6 else count(len(plain), "method")
    return (
        f"the weights of {whose} are those of the convention {suite.convention}, chosen on CIFAR-100 or ImageNet, not"
        f" on these pictures; `kdbench tune --suite {asked}` finds some, `--weights tuned` takes them"
    )


def size(specs: int, pairs: int, seeds: int) -> None:
    """Raises: ValueError: a grid has more cells than anybody trains."""
    if (cells := specs * pairs * seeds) > CELLS:
        raise ValueError(
            f"{count(specs, 'method')} on {count(pairs, 'pair')} with {count(seeds, 'seed')} are {cells:,} cells, and"
            f" {CELLS:,} are the most of one command; ask for fewer"
        )
