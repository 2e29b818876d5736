"""The command line: parses, prints, decides nothing. torch is imported by the verbs that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdbench.terminal.data import data
from kdbench.terminal.export import export
from kdbench.terminal.guard import Interruptible, sentences
from kdbench.terminal.hands import HANDS
from kdbench.terminal.options import (
    BUDGET,
    CHOSEN,
    COMPILE,
    DATA,
    DEVICE,
    DRY,
    FOLDER,
    FOLLOWING,
    GRAPHS,
    OUT,
    PLACES,
    PLUGIN,
    PRECISION,
    PROBING,
    TABLE,
    TUNING,
    VERIFY,
    WATCH,
    WEIGHTS,
    WHOLE,
    YES,
    argument,
    option,
)
from kdbench.terminal.site import site
from kdbench.terminal.slurm import slurm
from kdbench.terminal.teacher import teacher
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
@option("--methods", "-m", help="a,b | all | fit* | semckd[beta=200,400] | mag+crd. Default: the suite's.")
@option(
    "--pairs",
    "-p",
    default="all",
    show_default=True,
    help="all | TEACHER:STUDENT,... | globs; timm/NAME is any model of timm.",
)
@option(
    "--suite",
    "-s",
    default="auto",
    show_default=True,
    help="Data, pairs and recipe: a name or a .toml file of yours; auto is semckd on CUDA, else digits.",
)
@option("--seeds", help="A count (3) or a list (0,1,2). Default: the suite's.")
@option("--epochs", type=WHOLE, help="Length of a run; the drops of the learning rate move in proportion.")
@option("--limit-train", type=WHOLE, metavar="N", help="Train on N images only, a quick look.")
@option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the suite, e.g. recipe.lr=0.1 or teacher.epochs=10; may be repeated.",
)
@PRECISION
@option("--lanes", type=WHOLE, help="At most so many students side by side. Default: as many as fit.")
@GRAPHS
@VERIFY
@TABLE
@COMPILE
@WEIGHTS
@option("--shard", metavar="I/N", help="This process trains part I of N of the grid.")
@option("--force", is_flag=True, help="Train again what is already there.")
@option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@option("--fail-fast", is_flag=True, help="Stop at the first cell that fails.")
@DRY
@option(
    "--device-memory",
    metavar="SIZE",
    help="With --dry-run: how many lanes a GPU with so much memory would hold at once, e.g. 24GB or 8,24,80.",
)
@BUDGET
@YES
@FOLLOWING
@PLUGIN
@PLACES
@HANDS
@sentences
def run(
    *, plugins: tuple[str, ...], dry_run: bool, device_memory: str | None, budget: str | None, yes: bool, **words: Any
) -> int:
    """Train methods x pairs x seeds; goes on where it stopped."""
    from kdbench.terminal import console
    from kdbench.terminal import run as screen

    if device_memory is not None and not dry_run:
        raise ValueError("--device-memory goes with --dry-run; a run looks at the memory of its own device")
    broken = load_plugins(plugins)
    return screen.run(
        words, plugins, broken, console.out(), dry=dry_run, budget=budget, yes=yes, device_memory=device_memory
    )


def load_plugins(plugins: tuple[str, ...]) -> list[str]:
    """Import plug-in files; a broken one is a sentence, the rest is loaded."""
    if not plugins:  # torch is imported by the verbs that need it
        return []
    from kdbench.run.plugins import load

    broken = []
    for path in plugins:
        try:
            load(path)
        except ValueError as error:
            broken.append(str(error))
    return broken


@main.command()
@TUNING
@DRY
@BUDGET
@YES
@FOLLOWING
@PRECISION
@PLUGIN
@PLACES
@HANDS
@sentences
def tune(*, plugins: tuple[str, ...], dry_run: bool, budget: str | None, yes: bool, **words: Any) -> int:
    """Find each method's weights on held-out images."""
    from kdbench.terminal import console
    from kdbench.terminal import tune as screen

    broken = load_plugins(plugins)
    return screen.tune(words, plugins, broken, console.out(), dry=dry_run, budget=budget, yes=yes)


@main.command()
@CHOSEN
@option("--methods", "-m", help="Only these rows: labels or globs, comma separated.")
@option("--pairs", "-p", help="Only these columns: globs over TEACHER:STUDENT, comma separated.")
@option("--top", type=int, metavar="N", help="Only the N best rows, the baseline and the teacher.")
@option(
    "--select",
    type=click.Choice(["last", "val", "oracle"]),
    default="last",
    show_default=True,
    help="The epoch that ranks: the last, the best on the validation split, or the best on the test set (an oracle).",
)
@option("--baseline", default="student", show_default=True, help="Row that gains are measured against.")
@option("--formats", default="csv,md,tex,html,png,svg", show_default=True, help="Files to write.")
@OUT
@sentences
def report(
    *,
    out: Path,
    chosen: tuple[str, ...],
    methods: str | None,
    pairs: str | None,
    top: int | None,
    select: str,
    baseline: str,
    formats: str,
) -> int:
    """Leaderboards: terminal, CSV, Markdown, LaTeX, HTML, plots."""
    from kdbench.library.boards import boards
    from kdbench.terminal import console
    from kdbench.terminal.report import print_report

    screen = console.out()
    reports = boards(
        out,
        lambda sentence: screen.print(sentence, markup=False),
        suites=list(chosen) or None,
        baseline=baseline,
        methods=None if methods is None else methods.split(","),
        pairs=None if pairs is None else pairs.split(","),
        top=top,
        select=select,
        formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
    )
    for one in reports:
        print_report(one, screen)
    return 0


@main.command("list")
@argument(
    "what", type=click.Choice(["methods", "pairs", "suites", "models", "teachers", "published"]), default="methods"
)
@option("--suite", "-s", default="auto", show_default=True, help="Whose pairs; of published numbers auto means all.")
@option("--plain", is_flag=True, help="One line each, tabs between the columns; the default in a pipe.")
@PLUGIN
@sentences
def list_(*, what: str, suite: str, plain: bool, plugins: tuple[str, ...]) -> int:
    """Methods, pairs, suites, models, teachers or published numbers."""
    from kdbench.terminal import console, screens

    broken = load_plugins(plugins)
    screens.show_list(what, suite, plain, broken, console.out(), console.out(stderr=True))
    return 1 if broken else 0


@main.command()
@argument("method")
@option("--pair", "-p", metavar="TEACHER:STUDENT", help="Also count the method's parameters on this pair.")
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
@WATCH
@OUT
@sentences
def status(*, out: Path, watch: int | None) -> int:
    """What lies in the output folder, and who works there."""
    from kdbench.terminal import console, screens, watching

    if watch is not None:
        return watching.watch(out, watch, console.out())
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
@argument("probes", nargs=-1, required=True, metavar="NAMES|all")
@CHOSEN
@PROBING
@PLUGIN
@DATA
@OUT
@DEVICE
@sentences
def probe(*, plugins: tuple[str, ...], **words: Any) -> int:
    """Look into kept students and their teachers.

    \b
    calibration  reliability diagram, ECE, Brier, NLL; after scaling, too
    agreement    with the teacher: equal predictions, KL, on its errors
    similarity   CKA of every layer against every layer of the teacher
    attention    which of the teacher's stages guided which (SemCKD)
    cost         parameters, multiply-adds, latency
    robustness   noise, blur, contrast, JPEG, occlusion; CIFAR-C
    transfer     a linear classifier on the frozen student, on other data
    finetune     the whole student, trained on other data

    What is there already is kept. kdbench report shows what was found.
    """
    from kdbench.terminal import console
    from kdbench.terminal import probe as screen

    for sentence in load_plugins(plugins):
        raise ValueError(sentence)
    return screen.probe(words, console.out())


@main.command()
@argument("methods", nargs=-1, required=True, metavar="NAME|FILE.py|all...")
@option("--verbose", "-v", is_flag=True, help="Show the checks that pass, too.")
@sentences
def check(*, methods: tuple[str, ...], verbose: bool) -> int:
    """Prove that a method keeps the contract, in sentences."""
    from kdbench import registry
    from kdbench.registry import Spec
    from kdbench.run.plugins import load
    from kdbench.terminal import console, screens

    specs = [
        spec for word in methods for spec in ([Spec(load(word))] if word.endswith(".py") else registry.parse(word))
    ]
    return screens.show_check(list(dict.fromkeys(specs)), verbose, console.out())


@main.command()
@option("--gpu", is_flag=True, help="Try in two minutes whether this GPU, driver and torch do what graphs rest on.")
@option("--json", "file", type=FOLDER, metavar="FILE.json", help="With --gpu: also write the checks there.")
@DEVICE
@DATA
@OUT
@sentences
def doctor(*, gpu: bool, file: Path | None, device: str, data_dir: Path | None, out: Path) -> int:
    """Look at the installation: versions, device, data, folders.

    With --gpu sixteen checks are made instead; exit code 1 at the first that fails. On a CPU those are made that need
    no CUDA.
    """
    from kdbench.terminal import console, doctor_gpu, screens

    if gpu:
        return doctor_gpu.show(device, file, console.out())
    if file is not None or device != "auto":
        raise ValueError(f"{'--json' if file is not None else '--device'} goes with --gpu: kdbench doctor --gpu")
    return screens.show_doctor(data_dir, out, console.out())


@main.command()
@option(
    "--pair",
    "-p",
    "pairs",
    multiple=True,
    default=("resnet56:resnet20",),
    show_default=True,
    metavar="TEACHER:STUDENT",
    help="May be repeated.",
)
@option("--methods", "-m", default="kd,fitnet,at,sp,vid,crd", show_default=True, help="As for `kdbench run`.")
@PRECISION
@option("--repeat", type=WHOLE, default=5, show_default=True, help="Alternations of reference and engine.")
@option("--steps", type=WHOLE, help="Steps of every method per alternation. Default: as many as a minute holds.")
@option("--no-table", "table", is_flag=True, flag_value=False, default=True, help="No row for a ready table.")
@option("--lanes-fit", is_flag=True, help="Also measure the cost of a step with 1, 4, 8 and 12 lanes.")
@option("--side-by-side", is_flag=True, help="Also time 12 students in a row, on streams (CUDA) and stacked.")
@option("--scaling", is_flag=True, help="Only how speed grows with workers and lanes, in a few minutes.")
@option("--graphs", default="auto", show_default=True, help="As for `kdbench run`.")
@option(
    "--out",
    "file",
    type=FOLDER,
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
    from kdbench.terminal import bench as screen
    from kdbench.terminal import console

    return screen.bench(words, console.out())


main.add_command(export)
main.add_command(site)
main.add_command(slurm(run, tune))
main.add_command(teacher)
main.add_command(data)
