"""A method for a pair: by name, with the weights of a convention."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from kdbench import registry, suites
from kdbench.distiller import Distiller, Pair
from kdbench.registry.hyper import check


def create(
    method: str | type[Distiller],
    pair: Pair,
    *,
    convention: str | None = "semckd",
    networks: str = "",
    **weights: Any,
) -> Distiller:
    """A method's instance for a pair, as ``kdbench run`` builds it.

    Args:
        method: name, combination (``"mag+crd"``), name with values (``"semckd[beta=200]"``), or a class of yours.
        pair: shapes and facts of the two networks.
        convention: whose loss weights, those of CE and KD among them; a name or a .toml file. None: the class's own
            defaults.
        networks: ``"teacher:student"``, where the convention has weights for some pairs of names.
        **weights: hyper-parameters that are to be otherwise; ``**{"crd.beta": 1.0}`` where two parts share a name.

    Raises:
        ValueError: no such method, convention or hyper-parameter; a value that it cannot have; or the method cannot
            serve the pair.

    >>> import torch, kdbench
    >>> sizes = kdbench.Shapes(((4, 8, 8), (6, 4, 4)), (6, 4, 4), 6)
    >>> pair = kdbench.Pair(sizes, sizes, lambda last: last, 10, torch.arange(20) % 10, batch_size=8)
    >>> kdbench.create("fitnet", pair, tap=1, convention="crd").kd_weight
    0.0
    >>> kdbench.create("fitnet", pair, taps=1)
    Traceback (most recent call last):
    ValueError: fitnet has no hyper-parameter 'taps'; did you mean tap?
    """
    name, cls, said = choose(method)
    if not isinstance(pair, Pair):
        raise ValueError(f"a pair is a kdbench.Pair, shapes and facts of two networks, not {type(pair).__name__}")
    return cls.build(pair, **hyper(name, cls, convention, networks, said | weights))


def choose(method: str | type[Distiller]) -> tuple[str, type[Distiller], dict[str, Any]]:
    """Name, class and the values in brackets of one method.

    Raises:
        ValueError: there is none, or several are named.

    >>> choose("semckd[beta=200]")[0::2]
    ('semckd', {'beta': 200.0})
    """
    if inspect.isclass(method) and issubclass(method, Distiller):
        try:
            return registry.name_of(method), method, {}
        except ValueError:
            return method.__name__, method, {}
    if not isinstance(method, str):
        raise ValueError(f"a method is a name or a subclass of kdbench.Distiller, not {method!r}")
    specs = registry.parse(method)
    if len(specs) != 1:
        raise ValueError(
            f"{method!r} names {len(specs)} methods ({', '.join(map(str, specs[:4]))}); one loss is one method, and"
            " a + between two makes them one"
        )
    return specs[0].name, registry.get(specs[0].name), dict(specs[0].hyper)


def hyper(
    name: str, cls: type[Distiller], convention: str | None, networks: str, said: dict[str, Any]
) -> dict[str, Any]:
    """Every hyper-parameter: the class's defaults, the convention's, and what was ``said``, the later beating the
    earlier.

    Raises:
        ValueError: a name that the method does not have, or a value that it cannot.

    >>> hyper(*choose("kd")[:2], "crd", "", {})["kd_weight"]
    0.9
    """
    known = cls.hyperparameters()
    for key, value in said.items():
        if key not in known:
            near = get_close_matches(key, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known) or 'none'}"
            raise ValueError(f"{name} has no hyper-parameter {key!r}; {hint}")
        check(cls, key, value, f"{name}[{key}]")
    values = {key: found.default for key, found in known.items()}
    if convention is not None:
        if not isinstance(networks, str):
            raise ValueError(f"networks are written teacher:student, such as resnet20:resnet8, not {networks!r}")
        if not isinstance(convention, str):
            raise ValueError(f"a convention is a name or the path of a .toml file, not {convention!r}")
        values |= suites.convention(convention).hyper(name, networks, known)
    return values | said
