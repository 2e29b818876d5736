"""Options that several verbs share, and what all options refuse: empty texts, numbers that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.terminal.guard import Failure
from kdbench.utils.files import expanded
from kdbench.utils.wording import quoted

if TYPE_CHECKING:  # says what it converts to since click 8.4 only
    _Number = click.ParamType[int]
    _Place = click.ParamType[Path]
else:
    _Number = _Place = click.ParamType


class Whole(_Number):
    """A whole number as a person writes it; what it may be is the verb's matter."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        if not re.fullmatch("[+-]?[0-9]{1,9}", value):
            self.fail(f"{quoted(value)} is no whole number of at most nine digits.", param, ctx)
        return int(value)


class Folder(_Place):
    """A folder, or a file; ``~`` is the user's own."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        if isinstance(value, Path):
            return value
        try:
            return expanded(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _text(parameter: click.Parameter, value: Any) -> None:
    """Raises: Failure: an empty text, or one that no file and no record can hold."""
    name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(click.Context(_NONE))
    for one in value if isinstance(value, tuple | list) else (value,):
        if not isinstance(one, str):
            continue
        if not one.strip():
            raise Failure(f"{name} was given an empty text; leave it out, or write what it takes (see --help)")
        path = isinstance(parameter.type, Folder)
        if "\0" in one or (not path and any("\ud800" <= sign <= "\udfff" for sign in one)):
            raise Failure(f"{name} was given {quoted(one)}, which has signs that are no text; write it in UTF-8")


_NONE = click.Command("none")


class Option(click.Option):
    """An option that no empty text passes."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click's."""
        _text(self, value)
        return super().type_cast_value(ctx, value)


class Argument(click.Argument):
    """An argument that no empty text passes."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click's."""
        _text(self, value)
        return super().type_cast_value(ctx, value)


option = partial(click.option, cls=Option)
argument = partial(click.argument, cls=Argument)
WHOLE, FOLDER = Whole(), Folder()

OUT = option(
    "--out",
    type=FOLDER,
    default=Path("results"),
    envvar="KDBENCH_OUT",
    show_default=True,
    help="Folder of records, teachers and leaderboards.",
)


PLUGIN = option(
    "--plugin", "plugins", multiple=True, metavar="FILE.py", help="A method in a file of yours; may be repeated."
)


DATA = option(
    "--data-dir", type=FOLDER, envvar="KDBENCH_DATA", help="Where data sets lie or are put. Default: ~/.cache/kdbench."
)


DATA_SOURCE = option(
    "--data-source",
    default="auto",
    show_default=True,
    envvar="KDBENCH_DATA_SOURCE",
    help="Where pictures are read from: resident (memory), packed (see `kdbench data pack`; packed:FOLDER where it"
    " lies elsewhere), streamed (files, decoded by workers). auto: memory where the pictures take at most half of"
    " what is free, else a pack where there is one, else files. Results do not depend on it.",
)


DATA_WORKERS = option(
    "--data-workers",
    type=WHOLE,
    metavar="N",
    help="Processes that make batches ahead. Default: one less than cores (at most 8) for streamed, else 0. Results"
    " do not depend on it.",
)


CHOSEN = option(
    "--suite", "-s", "chosen", multiple=True, help="Only this suite; may be repeated. Default: all that have records."
)


RESULTS = option(
    "--results",
    type=FOLDER,
    default=Path("results"),
    envvar="KDBENCH_OUT",
    show_default=True,
    help="Folder of records and students.",
)


DEVICE = option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")


PRECISION = option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, tf32 (CUDA), bf16, fp16 (CUDA) or amp (fp16 on CUDA, bf16 on the CPU).",
)


GRAPHS = option(
    "--graphs",
    default="auto",
    show_default=True,
    help="auto captures whole steps in CUDA graphs; off launches every kernel by itself.",
)


VERIFY = option(
    "--verify",
    is_flag=True,
    help="On CUDA: train an epoch of one student of each group step by step, too, and compare the curves.",
)


TABLE = option(
    "--table",
    default="auto",
    show_default=True,
    help="auto keeps the teacher's logits and pooled vectors of every crop and flip on disk where"
    " the run visits over half of them, and uses what is kept; off always asks the live teacher.",
)


COMPILE = option(
    "--compile/--no-compile",
    "compile",
    default=None,
    help="Compile the students' training passes with torch.compile, once per architecture; the last bits of"
    " the results change. Default: on CUDA with Triton yes, where every compiled step is compared with the"
    " step as it is written; on the CPU no, where it gained next to nothing. Nobody has timed it on a GPU yet.",
)


WEIGHTS = option(
    "--weights",
    default="published",
    show_default=True,
    help="tuned: those that `kdbench tune` has found, in place of the convention's; the rows say so.",
)


BUDGET = option(
    "--budget",
    metavar="TIME",
    help="Propose the pairs, seeds, epochs and methods that fit into a time such as 45m, 4h or 1h30m.",
)


DRY = option("--dry-run", is_flag=True, help="Show what would be trained and how long it may take.")


YES = option("--yes", "-y", is_flag=True, help="Answer yes: to a run of more than two hours on a CPU, to a proposal.")


_FOLLOWING = (
    option(
        "--checkpoint-minutes",
        type=float,
        metavar="MINUTES",
        help="Time between two checkpoints, in mid-epoch, too: what a kill costs at most; results do not depend on it."
        " 0: one after every epoch. Default: 3, on CUDA half a minute.",
    ),
    option(
        "--track",
        metavar="NAMES",
        help="Write the curves as the run goes on, to OUT/track: csv, tensorboard, wandb, or several with commas"
        " between. A tracker that is broken never stops a run.",
    ),
    option(
        "--notify",
        metavar="COMMAND",
        help="Run this by the shell when it ends, however it ends; KDBENCH_STATE is done, missing, failed or"
        " interrupted, KDBENCH_SENTENCE what to say (docs/tracking.md).",
    ),
)


def FOLLOWING(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `kdbench run` and `kdbench tune` keep and tell while they go on, and when they end."""
    return reduce(lambda made, option: option(made), reversed(_FOLLOWING), command)


WATCH = option(
    "--watch",
    type=WHOLE,
    is_flag=False,
    flag_value=5,
    metavar="[SECONDS]",
    help="Show what is being trained, where, how fast and how long still, every 5 or so many seconds; where there is no"
    " terminal, a line a minute. Ends when nothing is missing and nobody works.",
)


def PLACES(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where data come from and results go, for verbs that train."""
    return reduce(lambda made, option: option(made), (OUT, DATA_WORKERS, DATA_SOURCE, DATA), command)


_TUNING = (
    option(
        "--methods",
        "-m",
        help="As for `kdbench run`; in brackets stands what is not tuned, e.g. kd[tau=2]. Default: the suite's.",
    ),
    option("--pairs", "-p", default="all", show_default=True, help="As for `kdbench run`."),
    option("--suite", "-s", default="auto", show_default=True, help="As for `kdbench run`."),
    option("--trials", type=WHOLE, default=6, show_default=True, help="Candidates of every method, 2 to 6."),
    option("--epochs", type=WHOLE, help="Length of a trial. Default: the suite's."),
    option("--seeds", type=WHOLE, default=1, show_default=True, help="So many seeds of every candidate, from 1000 up."),
    option("--limit-train", type=WHOLE, metavar="N", help="As for `kdbench run`."),
    option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for `kdbench run`."),
    option("--lanes", type=WHOLE, help="As for `kdbench run`."),
    GRAPHS,
    TABLE,
    COMPILE,
    option("--shard", metavar="I/N", help="This process trains part I of N of the trials; the last to end chooses."),
    option("--force", is_flag=True, help="Train again the trials that are already there."),
    option("--retry-failed", is_flag=True, help="Try again the trials that failed."),
)


def TUNING(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `kdbench tune` that no other verb has."""
    return reduce(lambda made, option: option(made), reversed(_TUNING), command)


_PROBING = (
    option("--methods", "-m", default="all", show_default=True, help="Of the kept students: a,b | all | fit*."),
    option("--pairs", "-p", default="all", show_default=True, help="all | TEACHER:STUDENT,... | globs."),
    option("--seeds", help="A count (3) or a list (0,1,2). Default: all that are there."),
    option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PROBE.KEY=VALUE",
        help="Change a probe, e.g. transfer.data=imagefolder:PATH@64 or robustness.corruptions=blur,jpeg.",
    ),
    option("--cifar-c", type=FOLDER, metavar="DIR", help="Where the .npy files of CIFAR-10-C or CIFAR-100-C lie."),
    option("--force", is_flag=True, help="Measure again what is already there."),
)


def PROBING(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `kdbench probe` that no other verb has."""
    return reduce(lambda made, option: option(made), reversed(_PROBING), command)
