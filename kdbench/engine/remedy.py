"""What to try when a lane diverged: its method's weight, the clip of the gradients, the learning rate."""

from __future__ import annotations

from kdbench.distiller import Distiller


def weights(method: Distiller) -> list[str]:
    """Names of the hyper-parameters that weigh a method's own losses; none where it has nothing to weigh."""
    known, found = method.hyperparameters(), list[str]()
    for part in method.components():
        names = [part.main_weight] if part.search is None else list(part.search)
        # A combination names what its parts would both claim after the part.
        full = (f"{_name(part)}.{name}" if f"{_name(part)}.{name}" in known else name for name in names)
        found += [name for name in full if name in known and _scales(known[name].default)]
    return list(dict.fromkeys(found))


def remedy(method: Distiller, *, clipped: float = 0.0, recipe: str = "recipe") -> str:
    """A phrase: "a smaller beta, recipe.clip_grad=5 or a lower recipe.lr".

    Args:
        method: of the lane.
        clipped: the clip of its gradients' norm; 0: none.
        recipe: where the suite has its recipe.
    """
    tries = [f"a smaller {name}" for name in weights(method)]
    tries.append(f"{recipe}.clip_grad below {clipped:g}" if clipped else f"{recipe}.clip_grad=5")
    tries.append(f"a lower {recipe}.lr")
    return f"{', '.join(tries[:-1])} or {tries[-1]}"


def _name(part: type[Distiller]) -> str:
    return part.__module__.rpartition(".")[2]


def _scales(default: object) -> bool:
    """A float is a weight; whether a layer or a variant is meant, nobody can make smaller."""
    return isinstance(default, float)
