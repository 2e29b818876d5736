"""`kdbench data`: its words; what they do is in ``packing``, which loads torch."""

from __future__ import annotations

from typing import Any

import click

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import DATA, FOLDER, argument, option


@click.group()
def data() -> None:
    """Data sets: pack one for fast reading."""


@data.command("pack")
@argument("name", metavar="NAME|imagefolder:PATH@SIZE")
@option(
    "--out",
    "folder",
    type=FOLDER,
    help="Where the pack is put. Default: packed/NAME in the folder of the data sets, where runs look for it.",
)
@DATA
@sentences
def data_pack(**words: Any) -> int:
    """Decode a data set once into flat files of bytes.

    NAME is that of a suite's data set: cinic10, imagenet, imagenet@256, cub200, tinyimagenet, cifar100 ... A command
    that was stopped goes on; one whose pack is there looks at every byte again and makes anew what is damaged.
    """
    from kdbench.terminal import console, packing

    return packing.pack(console.out(), **words)
