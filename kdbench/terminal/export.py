"""`kdbench export`: its words; what was written, and how near it is to the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import DATA, FOLDER, PLUGIN, RESULTS, argument, option


@click.command()
@argument("cell", nargs=-1, required=True, metavar="CELL")
@option(
    "--to",
    type=click.Choice(["torch", "timm", "torch-export", "onnx", "hub"]),
    default="torch",
    show_default=True,
    help="safetensors; a folder for timm; a .pt2 program; ONNX; or a folder for Hugging Face.",
)
@option("--out", type=FOLDER, metavar="FILE", help="The file, or the folder. Default: named after the run, here.")
@RESULTS
@option("--licence", help="Of the weights, such as apache-2.0; it is for you to state.")
@option("--upload", is_flag=True, help="Send the folder of --to hub to --repo, where you are logged in.")
@option("--repo", metavar="OWNER/NAME", help="At Hugging Face.")
@PLUGIN
@DATA
@sentences
def export(*, plugins: tuple[str, ...], cell: tuple[str, ...], **words: Any) -> int:
    """Write a kept student for others, with a model card.

    CELL is the path of a record, or words that one run alone has: method, student or TEACHER:STUDENT, suite, seed.
    The student is written as it is deployed, and the file's logits are compared with its own.
    """
    from kdbench.export.make import export as make
    from kdbench.run.plugins import load
    from kdbench.terminal import console

    for plugin in plugins:
        load(plugin)
    screen, made = console.out(), make(cell, **words)
    for sentence in made.notes:
        screen.print(sentence, markup=False)
    folders: dict[Path, list[str]] = {}
    for path in made.files:
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        where = "" if folder == Path() else f"{folder / ''}: "
        screen.print(f"wrote {where}{', '.join(names)}", markup=False)
    return 0
