"""`kdbench data`: its words; what they do is in ``packing``, which loads torch."""

from __future__ import annotations

from typing import Any

import click

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import DATA, FOLDER, WHOLE, argument, option


@click.group()
def data() -> None:
    """Data sets: pack one for fast reading, measure how fast."""


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


@data.command("bench")
@argument("name", metavar="[NAME|imagefolder:PATH@SIZE]", required=False)
@option("--data-source", "sources", default="resident,packed,streamed", show_default=True, help="What is measured.")
@option("--data-workers", "workers", default="0", show_default=True, help="Processes that make batches, as 0,2.")
@option("--pictures", type=WHOLE, default=2000, show_default=True, help="How many are made where no NAME is given.")
@option("--side", type=WHOLE, default=224, show_default=True, help="Pixels of a side of what networks would see.")
@option("--batch", "batch_size", type=WHOLE, default=64, show_default=True, help="Pictures of a batch.")
@option("--steps", type=WHOLE, default=20, show_default=True, help="Batches of a measurement.")
@option("--repeat", type=WHOLE, default=3, show_default=True, help="Measurements of each row, in turn.")
@option("--out", "file", type=FOLDER, metavar="FILE.json", help="Save every raw number there.")
@DATA
@sentences
def data_bench(**words: Any) -> int:
    """Measure pictures per second and memory of data sources.

    The same training batches are made from memory, from a pack and from files, without a network. Pictures are made
    for this in a temporary folder where no NAME is given.
    """
    from kdbench.terminal import console, data_bench

    return data_bench.bench(console.out(), **words)
