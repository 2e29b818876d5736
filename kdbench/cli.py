"""The command line: parses, prints, decides nothing. torch is imported by the verbs that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdbench.terminal.guard import Ended, Interruptible, sentences
from kdbench.terminal.options import CHOSEN, DATA, DEVICE, GRAPHS, OUT, PLUGIN, PRECISION, TABLE, TUNING, WEIGHTS
from kdbench.version import __version__


@click.group(cls=Interruptible, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdbench")
def main() -> None:
    """Compare knowledge-distillation methods: fairly, fast and with evidence.

    \b
    kdbench run --methods semckd,crd,fitnet --pairs all
    kdbench report
    kdbench VERB --help
    """


@main.command()
@click.option("--methods", "-m", help="a,b | all | fit* | semckd[beta=200,400] | mag+crd. Default: the suite's.")
@click.option(
    "--pairs",
    "-p",
    default="all",
    show_default=True,
    help="all | TEACHER:STUDENT,... | globs; timm/NAME is any model of timm.",
)
@click.option(
    "--suite",
    "-s",
    default="auto",
    show_default=True,
    help="Data, pairs and recipe: a name or a .toml file of yours; auto is semckd on CUDA, else digits.",
)
@click.option("--seeds", help="A count (3) or a list (0,1,2). Default: the suite's.")
@click.option("--epochs", type=int, help="Length of a run; the drops of the learning rate move in proportion.")
@click.option("--limit-train", type=int, metavar="N", help="Train on N images only, a quick look.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the suite, e.g. recipe.lr=0.1 or teacher.epochs=10; may be repeated.",
)
@PRECISION
@click.option("--lanes", type=int, help="At most so many students side by side. Default: as many as fit.")
@GRAPHS
@TABLE
@click.option(
    "--compile",
    is_flag=True,
    help="Compile the students' training passes with torch.compile, once per architecture; the last bits of"
    " the results change. Off by default: measured on a CPU it gained next to nothing, and on a GPU"
    " nobody has measured it yet.",
)
@WEIGHTS
@click.option("--shard", metavar="I/N", help="This process trains part I of N of the grid.")
@click.option("--force", is_flag=True, help="Train again what is already there.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first cell that fails.")
@click.option("--dry-run", is_flag=True, help="Show what would be trained and how long it may take.")
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def run(*, plugins: tuple[str, ...], dry_run: bool, **words: Any) -> int:
    """Train methods x pairs x seeds; goes on where it stopped."""
    from kdbench.run import session
    from kdbench.terminal import console, screens

    broken = load_plugins(plugins)
    job = session.resolve(session.Request(**words))
    out = console.out()
    for sentence in job.notes + broken:
        out.print(sentence, markup=False)
    if dry_run:
        screens.show_plan(job, out)
        return 1 if broken else 0
    from kdbench.run import runner

    with console.Progress(out) as watch:
        try:
            outcome = runner.run(job, watch)
        except runner.Stop as stop:
            raise Ended(str(stop)) from stop
    screens.show_outcome(job, outcome, out)
    return outcome.exit_code or (1 if broken else 0)


def load_plugins(plugins: tuple[str, ...]) -> list[str]:
    """Import plug-in files; a broken one is a sentence, the rest is loaded."""
    from kdbench import registry

    broken = []
    for path in plugins:
        try:
            registry.load_plugin(path)
        except ValueError as error:
            broken.append(str(error))
    return broken


@main.command()
@TUNING
@PRECISION
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def tune(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Find each method's weights on held-out images."""
    from kdbench.terminal import console
    from kdbench.terminal import tune as screen

    broken = load_plugins(plugins)
    return screen.tune(words, broken, console.out())


@main.command()
@CHOSEN
@click.option("--methods", "-m", help="Only these rows (comma separated labels).")
@click.option("--baseline", default="student", show_default=True, help="Row that gains are measured against.")
@click.option("--formats", default="csv,md,tex,html,png,svg", show_default=True, help="Files to write.")
@OUT
@sentences
def report(*, out: Path, chosen: tuple[str, ...], methods: str | None, baseline: str, formats: str) -> int:
    """Leaderboards: terminal, CSV, Markdown, LaTeX, HTML, plots."""
    from kdbench import report as reporting
    from kdbench import suites
    from kdbench.terminal import console
    from kdbench.terminal.report import print_report

    screen = console.out()
    reports = reporting.report(
        out,
        suites=list(chosen) or None,
        baseline=baseline,
        methods=methods.split(",") if methods else None,
        published={name: suites.published(suites.load(name)) for name in suites.names()},
        formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
    )
    for one in reports:
        print_report(one, screen)
    return 0


@main.command("list")
@click.argument("what", type=click.Choice(["methods", "pairs", "suites", "models"]), default="methods")
@click.option("--suite", "-s", default="auto", show_default=True, help="Whose pairs.")
@click.option("--plain", is_flag=True, help="One line each, tabs between the columns; the default in a pipe.")
@PLUGIN
@sentences
def list_(*, what: str, suite: str, plain: bool, plugins: tuple[str, ...]) -> int:
    """Methods, pairs, suites or models that there are."""
    from kdbench.terminal import console, screens

    broken = load_plugins(plugins)
    screens.show_list(what, suite, plain, broken, console.out(), console.out(stderr=True))
    return 1 if broken else 0


@main.command()
@click.argument("method")
@click.option("--pair", "-p", metavar="TEACHER:STUDENT", help="Also count the method's parameters on this pair.")
@PLUGIN
@sentences
def info(*, method: str, pair: str | None, plugins: tuple[str, ...]) -> int:
    """The card of a method: formula, source, evidence.

    Idea, formula, citation, family, what it was proven against, deviations from the paper, hyper-parameters,
    cost and published numbers.
    """
    from kdbench.terminal import console, screens

    for sentence in load_plugins(plugins):
        raise ValueError(sentence)
    screens.show_card(method, pair, console.out())
    return 0


@main.command()
@OUT
@sentences
def status(*, out: Path) -> int:
    """What lies in the output folder: cells, teachers."""
    from kdbench.terminal import console, screens

    return screens.show_status(out, console.out())


@main.command("eval")
@CHOSEN
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def eval_(*, chosen: tuple[str, ...], plugins: tuple[str, ...], data_dir: Path | None, out: Path, device: str) -> int:
    """Measure kept students again, compare with their records.

    Weights must have the recorded hash; the accuracy must be the recorded one, bit for bit where device and
    torch are the same.
    """
    from kdbench.terminal import console, screens

    for sentence in load_plugins(plugins):
        raise ValueError(sentence)
    return screens.show_eval(out, chosen, data_dir, device, console.out())


@main.command()
@click.argument("methods", nargs=-1, required=True, metavar="NAME|FILE.py|all...")
@click.option("--verbose", "-v", is_flag=True, help="Show the checks that pass, too.")
@sentences
def check(*, methods: tuple[str, ...], verbose: bool) -> int:
    """Prove that a method keeps the contract, in sentences."""
    from kdbench import registry
    from kdbench.terminal import console, screens

    names: list[str] = []
    for word in methods:
        if word == "all":
            names += registry.names()
        elif word.endswith(".py"):
            names.append(registry.load_plugin(word))
        else:
            registry.get(word)
            names.append(word)
    return screens.show_check(list(dict.fromkeys(names)), verbose, console.out())


@main.command()
@DATA
@OUT
@sentences
def doctor(*, data_dir: Path | None, out: Path) -> int:
    """Look at the installation: versions, device, data, folders."""
    from kdbench.terminal import console, screens

    return screens.show_doctor(data_dir, out, console.out())


@main.command()
@click.option(
    "--pair",
    "-p",
    "pairs",
    multiple=True,
    default=("resnet56:resnet20",),
    show_default=True,
    metavar="TEACHER:STUDENT",
    help="May be repeated.",
)
@click.option("--methods", "-m", default="kd,fitnet,at,sp,vid,crd", show_default=True, help="As for `kdbench run`.")
@PRECISION
@click.option("--repeat", type=int, default=5, show_default=True, help="Alternations of reference and engine.")
@click.option("--steps", type=int, help="Steps of every method per alternation. Default: as many as a minute holds.")
@click.option("--no-table", "table", is_flag=True, flag_value=False, default=True, help="No row for a ready table.")
@click.option("--lanes-fit", is_flag=True, help="Also measure the cost of a step with 1, 4, 8 and 12 lanes.")
@click.option("--side-by-side", is_flag=True, help="Also time 12 students in a row, on streams (CUDA) and stacked.")
@click.option("--graphs", default="auto", show_default=True, help="As for `kdbench run`.")
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Save every raw number there.",
)
@DATA
@DEVICE
@sentences
def bench(**words: Any) -> int:
    """Time the engine against a plain training loop.

    Both do the same work, in turn: the loop is the one that a researcher writes today. One more row: kd alone, its
    teacher's logits kept in a table that is ready.
    """
    from kdbench.bench import measure
    from kdbench.terminal import bench as show
    from kdbench.terminal import console

    out = console.out()
    show.show(measure.bench(measure.Request(**words), lambda sentence: out.print(f"... {sentence}", markup=False)), out)
    return 0


@main.group()
def teacher() -> None:
    """Teachers: train, import published checkpoints, verify."""


@teacher.command("train")
@click.argument("name")
@click.option("--suite", "-s", default="auto", show_default=True, help="Whose data set and recipe.")
@click.option("--epochs", type=int, help="Default: the suite's recipe for teachers.")
@DATA
@OUT
@DEVICE
@sentences
def teacher_train(**words: Any) -> int:
    """Train the teacher NAME with a suite's recipe and keep it."""
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    return teacher_verbs.train(console.out(), **words)


@teacher.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The network it is, e.g. resnet32x4.")
@click.option("--suite", "-s", default="auto", show_default=True, help="Whose data set it was trained on.")
@click.option(
    "--part",
    type=click.Choice(["auto", "student", "teacher"]),
    default="auto",
    show_default=True,
    help="Which network of a checkpoint that holds two.",
)
@click.option("--ema", is_flag=True, help="Read the averaged weights, where there are plain and averaged ones.")
@click.option("--prefix", help="What the keys of the network start with, where it lies among others.")
@click.option(
    "--normalisation",
    "trained_with",
    default="auto",
    show_default=True,
    help="What it was trained with: suite, timm (as timm trains it) or numbers, .5,.5,.5/.25,.25,.25; auto: see below.",
)
@click.option("--no-verify", is_flag=True, help="Do not measure the accuracy (the card then says so).")
@click.option("--replace", is_flag=True, help="Put it in the place of a teacher that is there.")
@DATA
@OUT
@DEVICE
@sentences
def teacher_import(**words: Any) -> int:
    """Take over a published checkpoint; never runs code from it.

    FILE is RepDistiller's or mdistiller's container, a Lightning checkpoint, a state dict, a safetensors file, a
    student that kdbench kept. A teacher goes on seeing images in the normalisation that it was trained with; where
    timm's for the network is not the suite's, some training images show which it was.
    """
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    return teacher_verbs.import_(console.out(), **words)


@teacher.command("table")
@click.argument("name")
@click.option("--suite", "-s", default="auto", show_default=True, help="Whose data set, crops and flips.")
@click.option(
    "--keep",
    type=click.Choice(["logits", "pooled"]),
    default="logits",
    show_default=True,
    help="pooled: the pooled vectors, too, which relation and contrastive methods read.",
)
@click.option("--precision", default="fp32", show_default=True, help="That of the runs to come.")
@DATA
@OUT
@DEVICE
@sentences
def teacher_table(**words: Any) -> int:
    """Ask a kept teacher about every view ahead.

    Later runs on the same device take its answers for every crop and flip from the table and need no pass of it.
    """
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    return teacher_verbs.table(console.out(), **words)


@teacher.command("verify")
@click.argument("name")
@click.option("--suite", "-s", default="auto", show_default=True, help="Whose data set and recipe.")
@DATA
@OUT
@DEVICE
@sentences
def teacher_verify(**words: Any) -> int:
    """Check a kept teacher's hash, measure it again."""
    from kdbench.terminal import console
    from kdbench.terminal import verbs as teacher_verbs

    return teacher_verbs.verify(console.out(), **words)
