"""Options that several verbs share, and what all options refuse: empty texts, numbers that are none."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from kdbench.terminal.guard import Failure
from kdbench.utils.files import expanded
from kdbench.utils.wording import quoted


class Whole(click.ParamType):
    """A whole number as a person writes it; what it may be is the verb's matter."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        if not re.fullmatch("[+-]?[0-9]{1,9}", value):
            self.fail(f"{quoted(value)} is no whole number of at most nine digits.", param, ctx)
        return int(value)


class Folder(click.ParamType):
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


DATA = option("--data-dir", type=FOLDER, envvar="KDBENCH_DATA", help="Where data sets lie or are put.")


CHOSEN = option(
    "--suite", "-s", "chosen", multiple=True, help="Only this suite; may be repeated. Default: all that have records."
)


DEVICE = option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")


PRECISION = option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, tf32 (CUDA), bf16, fp16 (CUDA) or amp (fp16 on CUDA, bf16 on the CPU).",
)
