"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    envvar="KDBENCH_OUT",
    show_default=True,
    help="Folder of records, teachers and leaderboards.",
)


PLUGIN = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE.py", help="A method in a file of yours; may be repeated."
)


DATA = click.option(
    "--data-dir", type=click.Path(path_type=Path), envvar="KDBENCH_DATA", help="Where data sets lie or are put."
)


CHOSEN = click.option(
    "--suite", "-s", "chosen", multiple=True, help="Only this suite; may be repeated. Default: all that have records."
)


DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")


PRECISION = click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, tf32 (CUDA), bf16, fp16 (CUDA) or amp (fp16 on CUDA, bf16 on the CPU).",
)


GRAPHS = click.option(
    "--graphs",
    default="auto",
    show_default=True,
    help="auto captures whole steps in CUDA graphs; off launches every kernel by itself.",
)


TABLE = click.option(
    "--table",
    default="auto",
    show_default=True,
    help="auto keeps the teacher's logits and pooled vectors of every crop and flip on disk where"
    " the run visits over half of them, and uses what is kept; off always asks the live teacher.",
)


WEIGHTS = click.option(
    "--weights",
    default="published",
    show_default=True,
    help="tuned: those that `kdbench tune` has found, in place of the convention's; the rows say so.",
)


_TUNING = (
    click.option("--methods", "-m", help="As for `kdbench run`, without values. Default: the suite's."),
    click.option("--pairs", "-p", default="all", show_default=True, help="As for `kdbench run`."),
    click.option("--suite", "-s", default="auto", show_default=True, help="As for `kdbench run`."),
    click.option("--trials", type=int, default=6, show_default=True, help="Candidates of every method, 2 to 6."),
    click.option("--epochs", type=int, help="Length of a trial. Default: the suite's."),
    click.option(
        "--seeds", type=int, default=1, show_default=True, help="So many seeds of every candidate, from 1000 up."
    ),
    click.option("--limit-train", type=int, metavar="N", help="As for `kdbench run`."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for `kdbench run`."),
    click.option("--lanes", type=int, help="As for `kdbench run`."),
    GRAPHS,
    TABLE,
    click.option("--retry-failed", is_flag=True, help="Try again the trials that failed."),
)


def TUNING(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `kdbench tune` that no other verb has."""
    return reduce(lambda made, option: option(made), reversed(_TUNING), command)
