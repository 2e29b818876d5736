"""The words of ``recipe.gradients``: parts of a loss that have momenta of their own, and how far these are apart."""

from __future__ import annotations

import math
from typing import NamedTuple

#: The rule of every recipe that says nothing: one gradient, that of the sum of all terms.
SUM = "sum"
#: What is let go of sooner, by rule: all else is kept longer.
_QUICK = {"dot": "task", "deepkd": "target"}
#: Published for CIFAR-100 by both; DOT takes 0.09 on ImageNet.
GAP = 0.075
_SCALED = "-scaled"
KNOWN = (SUM, *(f"{name}{end}" for name in _QUICK for end in ("", _SCALED)))


class Rule(NamedTuple):
    """A rule that treats two parts of a loss apart.

    >>> rule = parse("dot")
    >>> str(rule), rule.quick
    ('dot:0.075', 'task')
    >>> [round(part, 3) for part in rule.momenta(0.9)], [round(part, 3) for part in rule.gains(0.9)]
    ([0.825, 0.975], [0.571, 4.0])
    """

    name: str  # dot or deepkd
    gap: float
    scaled: bool = False  # a control: the parts weigh what the momenta would make of them, under one momentum

    def __str__(self) -> str:
        return f"{self.name}{_SCALED * self.scaled}:{self.gap:g}"

    @property
    def quick(self) -> str:
        """The role of the terms (``Distiller.roles``) with the smaller momentum."""
        return _QUICK[self.name]

    def momenta(self, momentum: float) -> tuple[float, float]:
        """Of the quick part and of the slow one, around the recipe's momentum."""
        return momentum - self.gap, momentum + self.gap

    def gains(self, momentum: float) -> tuple[float, float]:
        """What a steady gradient of the quick and of the slow part moves the weights by, one momentum's being 1."""
        return 1 / (1 + self.gap / (1 - momentum)), 1 / (1 - self.gap / (1 - momentum))


def parse(text: str) -> Rule | None:
    """``dot``, ``dot:0.09``, ``deepkd-scaled`` -> the rule; None: ``sum``.

    Raises:
        ValueError: it is none of the rules, or its gap is no number between 0 and 1.

    >>> parse("deepkd:0.05"), parse("sum")
    (Rule(name='deepkd', gap=0.05, scaled=False), None)
    >>> parse("dots")
    Traceback (most recent call last):
    ValueError: gradients is one of sum, dot, dot-scaled, deepkd, deepkd-scaled, with a gap as in dot:0.075, not ...
    """
    word, colon, number = text.strip().partition(":")
    if word == SUM and not colon:
        return None
    try:
        gap = float(number) if colon else GAP
    except ValueError:
        gap = math.nan
    name, scaled = word.removesuffix(_SCALED), word.endswith(_SCALED)
    if word not in KNOWN or word == SUM or not 0 < gap < 1:
        said = text if len(text) < 40 and text.isprintable() else text[:40].encode("unicode_escape").decode()
        raise ValueError(f"gradients is one of {', '.join(KNOWN)}, with a gap as in dot:{GAP:g}, not {said!r}")
    return Rule(name, float(f"{gap:g}"), scaled)


def checked(text: str, momentum: float, *, nesterov: bool, optimizer: str) -> str:
    """A rule as it is written in a record; ``dot`` has its gap behind it.

    Raises:
        ValueError: there is no such rule, or the rest of the recipe leaves no room for two momenta.

    >>> checked("dot", 0.9, nesterov=False, optimizer="sgd"), checked("sum", 0.9, nesterov=True, optimizer="lamb")
    ('dot:0.075', 'sum')
    >>> checked("dot", 0.9, nesterov=True, optimizer="sgd")
    Traceback (most recent call last):
    ValueError: gradients=dot:0.075 has two momenta of its own and no Nesterov step; set nesterov to false
    """
    rule = parse(text)
    if rule is None:
        return SUM
    if optimizer != "sgd":
        raise ValueError(f"gradients={rule} has the momenta of sgd; the optimizer {optimizer} has others")
    if nesterov:
        raise ValueError(f"gradients={rule} has two momenta of its own and no Nesterov step; set nesterov to false")
    low, high = rule.momenta(momentum)
    if not (low >= 0 and high < 1):
        raise ValueError(
            f"gradients={rule} around a momentum of {momentum:g} gives {low:g} and {high:g}; both must lie from 0"
            " to below 1"
        )
    return str(rule)
