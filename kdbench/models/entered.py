"""Names of the user's own networks, and what each stands for; ``kdbench.models.own`` enters them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

Make = Callable[..., nn.Module]


@dataclass(frozen=True)
class Own:
    """What was registered.

    >>> Own(nn.Identity, ("stem",), "fc", file="net.py", read="0123").sha256
    '0123'
    """

    make: Make
    stages: tuple[str, ...]
    classifier: str
    file: str
    read: str = ""  # sha256 of the file as it was when the network was registered; "": there is none

    @classmethod
    def of(cls, make: Make, stages: tuple[str, ...], classifier: str) -> Own:
        """What a function that builds a network stands for.

        >>> len(Own.of(Own, (), "").read)  # of this file
        64
        """
        file = inspect.getsourcefile(make) or "" if inspect.isfunction(make) or inspect.isclass(make) else ""
        try:
            read = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError:
            read = ""
        return cls(make, stages, classifier, file, read)

    @property
    def sha256(self) -> str:
        """Of its code: as a name of weights would, it tells one network of this name from another.

        That of its file, or of the function where there is none, as in a notebook, once ``codes_by`` has told how.
        """
        return self.read or "".join(code(self.make) for code in _codes)

    @property
    def in_a_notebook(self) -> bool:
        """Whether it was written where code is written again and again: a notebook, a console."""
        return getattr(self.make, "__module__", "") == "__main__" and not Path(self.file).is_file()


ENTERED: dict[str, Own] = {}
_codes: list[Callable[[object], str]] = []


def codes_by(code: Callable[[object], str]) -> None:
    """Tell how code without a file is known: as that of methods is, of which this wing of the house knows nothing.

    >>> from kdbench.registry.code import of_function
    >>> codes_by(of_function)
    """
    _codes[:] = [code]


def names() -> list[str]:
    """What was registered.

    >>> "resnet20" in names()  # the zoo's are elsewhere
    False
    """
    return sorted(ENTERED)


def as_it_was(name: str, sha256: str, what: str) -> None:
    """A network of the user's is built by the code of then: weights alone do not say what is done with them.

    Args:
        name: of the network; nothing is asked of others.
        sha256: of its code when ``what`` was made; "": not known.
        what: that was made of it, for the sentence.

    Raises:
        ValueError: the code has changed since.

    >>> as_it_was("resnet20", "0" * 64, "the teacher resnet20")
    """
    own = find(name)
    if own is not None and sha256 and own.sha256 and own.sha256 != sha256:
        raise ValueError(
            f"{what} is of another code of the network {name} (sha256 {sha256[:8]}, now {own.sha256[:8]}): restore the"
            " file that builds it, or make it anew with another --out"
        )


def find(name: str) -> Own | None:
    """What a name stands for; None: it is no network of the user's.

    >>> find("resnet20") is None
    True
    """
    return ENTERED.get(name)
