"""`kdbench teacher`: its words; what they do is in ``verbs``, which loads torch."""

from __future__ import annotations

from typing import Any

import click

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import (
    DATA,
    DATA_SOURCE,
    DATA_WORKERS,
    DEVICE,
    FOLDER,
    OUT,
    PLUGIN,
    WHOLE,
    argument,
    option,
)


@click.group()
def teacher() -> None:
    """Teachers: train, fetch or import published ones, verify."""


@teacher.command("train")
@argument("name")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set and recipe.")
@option("--epochs", type=WHOLE, help="Default: the suite's recipe for teachers.")
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def teacher_train(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Train the teacher NAME with a suite's recipe and keep it."""
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    load_plugins(plugins)
    return teacher_verbs.train(console.out(), **words)


@teacher.command("finetune")
@argument("name")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set and recipe for teachers.")
@option("--weights", type=FOLDER, help="Start from this file, of the same network with any number of classes.")
@option("--epochs", type=WHOLE, help="Default: the suite's recipe for teachers.")
@option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for `kdbench run`, e.g. teacher.lr=1e-4.")
@PLUGIN
@DATA
@DATA_SOURCE
@DATA_WORKERS
@OUT
@DEVICE
@sentences
def teacher_finetune(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Train on from pretrained weights, with a fresh head.

    Its own head stays where it has the right number of classes. NAME is timm/NETWORK.TAG, which says which weights,
    or a network with --weights FILE. The teacher is kept under the network's bare name, as pairs have it. Its learning
    rate is that of the suite's teachers; a smaller one is usual: --set teacher.lr=1e-3.
    """
    from kdbench.terminal import console
    from kdbench.terminal import finetune as screen

    load_plugins(plugins)
    return screen.finetune(console.out(), **words)


def load_plugins(plugins: tuple[str, ...]) -> None:
    """Raises: ValueError: one cannot be imported."""
    from kdbench.run.plugins import load

    for path in plugins:
        load(path)


@teacher.command("import")
@argument("file", type=FOLDER)
@option("--name", required=True, help="The network it is, e.g. resnet32x4.")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set it was trained on.")
@option(
    "--part",
    type=click.Choice(["auto", "student", "teacher"]),
    default="auto",
    show_default=True,
    help="Which network of a checkpoint that holds two.",
)
@option("--ema", is_flag=True, help="Read the averaged weights, where there are plain and averaged ones.")
@option("--prefix", help="What the keys of the network start with, where it lies among others.")
@option(
    "--normalisation",
    "trained_with",
    default="auto",
    show_default=True,
    help="What it was trained with: suite, timm (as timm trains it) or numbers, .5,.5,.5/.25,.25,.25; auto: see below.",
)
@option("--no-verify", is_flag=True, help="Do not measure the accuracy (the card then says so).")
@option("--replace", is_flag=True, help="Put it in the place of a teacher that is there.")
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def teacher_import(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Take over a published checkpoint; never runs code from it.

    FILE is RepDistiller's or mdistiller's container, a Lightning checkpoint, a state dict, a safetensors file, a
    student that kdbench kept. A teacher goes on seeing images in the normalisation that it was trained with; where
    timm's for the network is not the suite's, some training images show which it was.
    """
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    load_plugins(plugins)
    return teacher_verbs.import_(console.out(), **words)


@teacher.command("fetch")
@argument("name")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set it is for.")
@option("--from", "given", type=FOLDER, metavar="FILE", help="Take this file; nothing is downloaded.")
@option("--table", metavar="FILE.toml", help="Look in a table of yours, written as kdbench/suites/teachers.toml.")
@option("--no-verify", is_flag=True, help="Do not measure the accuracy (the card then says so).")
@option("--replace", is_flag=True, help="Put it in the place of a teacher that is there.")
@DATA
@OUT
@DEVICE
@sentences
def teacher_fetch(**words: Any) -> int:
    """Bring a published teacher, verify and measure it.

    NAME is a network, or a teacher of `kdbench list teachers`. Size and sha256 must be those of the table; the
    accuracy is compared with what its publisher states.
    """
    from kdbench.terminal import console
    from kdbench.terminal import fetch as fetching

    return fetching.fetch_teacher(console.out(), **words)


@teacher.command("table")
@argument("name")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set, crops and flips.")
@option(
    "--keep",
    type=click.Choice(["logits", "pooled"]),
    default="logits",
    show_default=True,
    help="pooled: the pooled vectors, too, which relation and contrastive methods read.",
)
@option("--precision", default="fp32", show_default=True, help="That of the runs to come.")
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def teacher_table(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Ask a kept teacher about every view ahead.

    Later runs on the same device take its answers for every crop and flip from the table and need no pass of it.
    """
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    load_plugins(plugins)
    return teacher_verbs.table(console.out(), **words)


@teacher.command("verify")
@argument("name")
@option("--suite", "-s", default="auto", show_default=True, help="Whose data set and recipe.")
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def teacher_verify(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Check a kept teacher's hash, measure it again."""
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    load_plugins(plugins)
    return teacher_verbs.verify(console.out(), **words)
