"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path

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
