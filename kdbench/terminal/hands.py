"""The options of who trains: how many processes, on which devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from kdbench.terminal.options import option

_HANDS = (
    option(
        "--workers",
        default="auto",
        show_default=True,
        metavar="N|auto",
        help="Processes that train side by side, each with one thread on the CPU and one device on CUDA. auto: one for"
        " each physical core or named device, and this process alone where the estimate is under a minute. A group"
        " that is cut for them repeats its teacher pass. Results do not depend on it.",
    ),
    option(
        "--executor",
        default="auto",
        show_default=True,
        help="here (this process), processes, or ray (tasks of a Ray cluster: docs/scale.md); auto: as --workers says.",
    ),
    option(
        "--ray-address",
        metavar="ADDRESS",
        help="With --executor ray, the cluster: auto (this machine is one of it) or HOST:PORT. Default: RAY_ADDRESS,"
        " else a cluster of this machine alone that ends with the run.",
    ),
    option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda (every visible device, a worker each), cuda:N, cuda:N,M or auto (the first, else the CPU).",
    ),
)


def HANDS(command: Callable[..., Any]) -> Callable[..., Any]:
    """Who trains, for `kdbench run` and `kdbench tune`."""
    return reduce(lambda made, option: option(made), reversed(_HANDS), command)
