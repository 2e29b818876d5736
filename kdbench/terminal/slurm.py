"""`kdbench slurm`: the words of `kdbench run`, or of `kdbench tune`, as a script for Slurm."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kdbench.terminal.guard import sentences
from kdbench.terminal.options import FOLDER, WHOLE, option
from kdbench.utils.wording import count, quoted

if TYPE_CHECKING:
    from kdbench.run.session import Job
    from kdbench.run.slurm import Slurm

#: Of the verbs: what asks somebody or only shows something, and what the script says itself.
_NOT_HERE = {"dry_run", "device_memory", "budget", "yes", "shard"}
_RAYS = ("executor", "ray_address")
#: Jobs of the array, where nobody says how many.
USUAL = 8

_OPTIONS = (
    option("--array", "form", flag_value="array", default="array", help="An array of jobs, a shard each; the default."),
    option("--ray", "form", flag_value="ray", help="One job of --nodes nodes, which Ray makes one machine of."),
    option("--jobs", type=WHOLE, metavar="N", help=f"Jobs of the array. Default: one for each group, {USUAL} at most."),
    option("--nodes", type=WHOLE, metavar="N", help="Nodes, with --ray. Default: 2."),
    option("--time", metavar="TIME", help="As sbatch takes it. Default: twice the estimate, where there is one."),
    option("--partition", help="As sbatch takes it; so are --account, --mem and --gpus."),
    option("--account", help="Who pays."),
    option("--gpus", metavar="N|TYPE:N", help="GPUs of each job of the array, or of each node under Ray."),
    option("--cpus", type=WHOLE, metavar="N", help="Cores, likewise."),
    option("--mem", metavar="SIZE", help="Memory, likewise; such as 32G."),
    option("--sbatch", "more", multiple=True, metavar="OPTION", help="Another, as --qos=long; may be repeated."),
    option("--setup", multiple=True, metavar="LINE", help="A line of bash to begin with, as 'module load cuda'."),
    option("--python", metavar="PATH", help="Interpreter on the nodes. Default: this one."),
    option("--to", type=FOLDER, metavar="FILE", help="Write the script there. Default: print it."),
)


class _Slurm(click.Command):
    """Of one verb; a first word that names another gives the rest of the line to that one's."""

    verbs: Mapping[str, click.Command] = MappingProxyType({})

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        verb = args[0] if args else ""
        if verb in self.verbs:
            return self.verbs[verb].make_context(f"{info_name} {verb}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def slurm(run: click.Command, tune: click.Command) -> click.Command:
    """The command, which takes every word of ``run`` that a script can hold; behind the word ``tune`` those of that."""
    made = _command("run", run)
    made.verbs = {"run": _command("run", run), "tune": _command("tune", tune)}
    return made


def _command(verb: str, of: click.Command) -> _Slurm:
    @click.command(name="slurm", cls=_Slurm)
    @click.pass_context
    @sentences
    def command(context: click.Context, /, *, form: str, to: Path | None, **words: Any) -> int:
        """Print a Slurm script that trains a grid, or that tunes.

        \b
        kdbench slurm tune --jobs 8 --gpus 1 --methods all --to tune.sh
        kdbench slurm --jobs 8 --gpus 1 --methods all --weights tuned --to grid.sh
        sbatch grid.sh

        Beside its own options it takes those of `kdbench run`, or behind the word tune those of `kdbench tune`, and
        looks at them as these do. The script may be given to sbatch again: what is finished is kept, and what Slurm
        has ended goes on.
        """
        from kdbench.run.slurm import script

        usual = words["jobs"] is None
        asked = _asked(form, words)
        said = _words(context, of)
        given = {name for name in words if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
        if words["force"]:
            raise ValueError(
                "a script goes on where Slurm ended it, and --force would begin anew each time; choose"
                " another --out, or remove what is to be trained anew"
            )
        if asked.nodes is not None and (twice := given & set(_RAYS)):
            raise ValueError(f"--ray says --{min(twice).replace('_', '-')} itself; leave it out")
        job, more, notes = _job(verb, asked, words)
        asked, told = _timed(asked, job, usual=usual)
        text = script(asked, [*said, *more], job.suite.name, len(job.cells), [*notes, *told], verb=verb)
        for sentence in (*job.notes, *notes, *told):
            print(sentence, file=sys.stderr)
        if to is None:
            sys.stdout.write(text)
            return 0
        from kdbench.utils.files import atomic_write

        with atomic_write(to, "w") as file:
            file.write(text)
        print(f"wrote {to}; give it to sbatch")
        return 0

    for one in _OPTIONS:
        command = one(command)
    command.params += [one for one in of.params if one.name not in _NOT_HERE]
    assert isinstance(command, _Slurm)
    return command


def _asked(form: str, words: dict[str, Any]) -> Slurm:
    """What is asked of Slurm; its words are taken out of ``words``."""
    from kdbench.run.slurm import Slurm

    jobs, nodes, python = (words.pop(name) for name in ("jobs", "nodes", "python"))
    if form == "ray" and jobs is not None:
        raise ValueError("--jobs goes with --array; with --ray there is one job, of --nodes nodes")
    if form == "array" and nodes is not None:
        raise ValueError("--nodes goes with --ray; each job of an array has one node, and --jobs says how many jobs")
    asked = Slurm(
        python=python or sys.executable or "python3",
        folder=os.getcwd(),
        jobs=jobs if form == "array" else None,
        nodes=(2 if nodes is None else nodes) if form == "ray" else None,
        **{name: words.pop(name) for name in ("time", "partition", "account", "gpus", "cpus", "mem", "more", "setup")},
    )
    asked.check()
    return asked if form == "ray" or jobs is not None else replace(asked, jobs=USUAL)


def _words(context: click.Context, run: click.Command) -> list[str]:
    """The words of the run that were said, by the command line or by the environment."""
    said: list[str] = []
    for one in run.params:
        source = context.get_parameter_source(one.name or "")
        if source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            continue
        value, flag = context.params[one.name or ""], max(one.opts, key=len)
        if isinstance(value, bool):
            said.append(flag if value else max(one.secondary_opts, key=len))
            continue
        for each in value if isinstance(value, tuple) else (value,):
            text = str(each)
            said += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return said


def _job(verb: str, asked: Slurm, words: dict[str, Any]) -> tuple[Job, list[str], list[str]]:
    """The grid or the trials as the nodes will have them, the words that they need beside those said, and sentences."""
    from kdbench.run import devices, plugins, session

    for plugin in words.pop("plugins"):
        plugins.load(plugin)
    counts = {name: words.pop(name) for name in ("trials", "seeds")} if verb == "tune" else {}
    request, more, notes = session.Request(**words), [], []
    wanted = request.device
    if wanted.startswith("cuda") and not asked.cuda:
        raise ValueError(f"--device {wanted} needs GPUs of Slurm; --gpus N asks for them")
    if asked.nodes is not None and wanted not in (devices.AUTO, "cpu", "cuda"):
        raise ValueError(f"under Ray --device takes auto, cpu or cuda, not {quoted(wanted)}: Ray chooses the GPUs")
    if request.suite == devices.AUTO:
        request = replace(request, suite="semckd" if asked.cuda else "digits")
        more += ["--suite", request.suite]
        notes.append(f"suite {request.suite}, because {'GPUs' if asked.cuda else 'no GPUs'} are asked for")
    if wanted == devices.AUTO and asked.jobs is not None and asked.several:
        more += ["--device", "cuda"]
    if verb == "run":
        return session.resolve(request, _elsewhere(asked.cuda)), more, notes
    from kdbench.tuning import plan as planning

    plan = planning.resolve(request, **counts, find=_elsewhere(asked.cuda))
    if not plan.questions:
        raise ValueError("; ".join(plan.notes) or "there is nothing to choose")
    return replace(plan.job, notes=list(plan.notes)), more, notes


def _elsewhere(cuda: bool) -> Callable[[str], str]:
    """Names of devices that this machine need not have."""

    def find(wanted: str) -> str:
        if wanted in ("auto", "cuda") and cuda:
            return "cuda:0"
        if wanted in ("auto", "cpu"):
            return "cpu"
        if not wanted.removeprefix("cuda:").isdecimal():
            raise ValueError(f"no device {quoted(wanted)}; write cpu, cuda or cuda:N")
        return wanted

    return find


def _timed(asked: Slurm, job: Job, *, usual: bool) -> tuple[Slurm, list[str]]:
    """With no more jobs than have something to do, and a time; and what is to be said of both.

    ``usual``: nobody has said how many jobs, so no group is cut for one.
    """
    from kdbench.run import grid
    from kdbench.run.shards import shards
    from kdbench.run.slurm import fewer, proposed
    from kdbench.utils.wording import duration

    said = []
    if asked.jobs is not None:
        most = len(grid.groups(job.cells)) if usual else sum(map(bool, shards(job.cells, asked.jobs)))
        if (now := fewer(asked, most)) != asked and not usual:
            said.append(f"{count(now.jobs or 1, 'job')}, for more would end no sooner")
        asked = now
    if asked.time is not None:
        return asked, said
    seconds, why = _estimate(job, asked.jobs or asked.nodes or 1)
    if seconds is None:
        return asked, [*said, f"no --time: {why}; the partition's default holds unless you write one"]
    time = proposed(seconds)
    return replace(asked, time=time), [
        *said,
        f"--time={time} is twice the estimate of {duration(seconds)}, made on the machine where this was written",
    ]


def _estimate(job: Job, parts: int) -> tuple[float | None, str]:
    """Seconds of the longest part; None, and why, where nothing can be said."""
    import torch

    from kdbench.run.estimate import Estimator
    from kdbench.run.outcome import one_line
    from kdbench.run.shards import shards
    from kdbench.terminal.ahead import todo

    if job.device.startswith("cuda") and not torch.cuda.is_available():
        return None, "there is no GPU here on which it could be estimated"
    alone = replace(job, hands=job.hands.alone)
    try:
        estimator, longest = Estimator(alone), 0.0
        left = set(todo(alone))
        for part in shards(alone.cells, parts):
            if cells := [cell for cell in part if cell in left]:
                longest = max(longest, estimator.of(replace(alone, cells=cells), cells).seconds)
    except Exception as error:  # a network that the suite's images do not fit, say; its cells will say so
        return None, f"no estimate ({one_line(error)})"
    return longest, ""


__all__ = ["slurm"]
