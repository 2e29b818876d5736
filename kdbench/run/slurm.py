"""Slurm scripts for a grid: an array of jobs, each with a shard of it, or one job of many nodes under Ray.

A script is plain bash. It goes to the folder from which it was made, so that paths mean there what they meant here.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdbench.utils.wording import count, quoted
from kdbench.version import __version__

#: Seconds before the end of its time at which Slurm asks a job to end: it writes checkpoints, and goes on another time.
NOTICE = 120
#: A proposed time is so many times the estimate, and at least so many seconds.
MARGIN, LEAST = 2.0, 600
#: Jobs of an array, nodes of a job.
MOST = 10_000
_WORD = re.compile(r"[A-Za-z0-9_.,:@%+=/*&|()\[\]-]+")
_TIME = re.compile(r"[0-9]+|[0-9]+(:[0-9]+){1,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}")


@dataclass(frozen=True)
class Slurm:
    """What is asked of Slurm; texts are as ``sbatch`` takes them.

    >>> Slurm(python="/usr/bin/python3", folder="/data/my grid", partition="gpu").lines()
    ['--partition=gpu']
    """

    python: str  # interpreter on the nodes
    folder: str  # where the script goes
    jobs: int | None = None  # of the array; None: there is none
    nodes: int | None = None  # under Ray; None: no Ray
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    gpus: str | None = None  # of each job of the array, or of each node
    cpus: int | None = None  # likewise
    mem: str | None = None  # likewise
    more: tuple[str, ...] = ()  # further options of sbatch, as they are
    setup: tuple[str, ...] = ()  # lines of bash that come first

    @property
    def cuda(self) -> bool:
        """Whether its nodes are asked for GPUs."""
        return (self.gpus or "0") != "0" or any(re.match("--(gres|gpus)", word) for word in self.more)

    @property
    def several(self) -> bool:
        """Whether a job has more than one GPU."""
        return (self.gpus or "").rpartition(":")[2] not in ("", "0", "1")

    def check(self) -> None:
        """Raises: ValueError: a word is none that a script can hold."""
        for name in ("partition", "account", "gpus", "mem"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                raise ValueError(f"--{name} takes a word as sbatch has it, not {quoted(value)}")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise ValueError(f"--time takes a time as Slurm has it, such as 4:00:00 or 1-12, not {quoted(self.time)}")
        for word in self.more:
            if not word.startswith("--") or not _WORD.fullmatch(word):
                raise ValueError(f"--sbatch takes one option of sbatch, such as --qos=long, not {quoted(word)}")
        for name in ("jobs", "nodes", "cpus"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise ValueError(f"--{name} takes a number from 1 to {MOST:,}, not {value}")
        for line in self.setup:
            _check_setup(line)
        for what, text in (("the present folder", self.folder), ("--python", self.python)):
            check_word(what, text)

    def lines(self) -> list[str]:
        """The options of sbatch that were asked for."""
        found = []
        for name, value in (("partition", self.partition), ("account", self.account), ("time", self.time)):
            found += [f"--{name}={value}"] if value is not None else []
        if self.gpus is not None and self.gpus != "0":
            found.append(f"--gpus{'' if self.nodes is None else '-per-node'}={self.gpus}")
        found += [f"--cpus-per-task={self.cpus}"] if self.cpus is not None else []
        found += [f"--mem={self.mem}"] if self.mem is not None else []
        return [*found, *self.more]


def check_word(what: str, text: str) -> None:
    """Raises: ValueError: a text has a line break or another sign that no line of a script holds.

    >>> check_word("--out", "my results")
    >>> check_word("--out", "two" + chr(10) + "lines")
    Traceback (most recent call last):
    ValueError: --out is 'two lines', and a line of a script holds neither line breaks nor signs without a shape
    """
    if any(not sign.isprintable() for sign in text):
        raise ValueError(
            f"{what} is {quoted(text)}, and a line of a script holds neither line breaks nor signs without a shape"
        )


def _check_setup(line: str) -> None:
    check_word("--setup", line)
    if (bash := shutil.which("bash")) is None:
        wrong = line.rstrip().endswith("\\")
    else:  # a warning, too: a here-document that nothing ends would swallow the rest
        told = subprocess.run([bash, "-n"], input=line + "\n", capture_output=True, text=True, check=False)
        wrong = bool(told.returncode or told.stderr) or line.endswith("\\")
    if wrong:
        raise ValueError(f"--setup takes a whole line of bash, such as 'module load cuda', not {quoted(line)}")


def proposed(seconds: float) -> str:
    """The time that is asked of Slurm for an estimate: with a margin, in steps of ten minutes.

    >>> proposed(60.0), proposed(3600.0), proposed(90000.0)
    ('0:10:00', '2:00:00', '2-02:00:00')
    """
    minutes = 10 * math.ceil(max(LEAST, MARGIN * seconds) / 600)
    days, minutes = divmod(minutes, 24 * 60)
    hours = f"{minutes // 60:02}" if days else f"{minutes // 60}"
    return f"{f'{days}-' if days else ''}{hours}:{minutes % 60:02}:00"


def script(
    asked: Slurm, words: Sequence[str], suite: str, cells: int, notes: Sequence[str] = (), *, verb: str = "run"
) -> str:
    """The script, to be given to ``sbatch``.

    Args:
        asked: of Slurm; either ``jobs`` or ``nodes`` is set.
        words: of the verb, without those that say who trains which part.
        suite: its name.
        cells: of the grid, of which the script's first line tells.
        notes: sentences for further comments.
        verb: ``run``, or ``tune``, whose cells are trials.

    Raises:
        ValueError: a word is none that a script can hold.

    >>> text = script(Slurm("python3", "/data", jobs=4), ["--methods", "semckd[beta=40]"], "digits", 12)
    >>> print(text.splitlines()[-1])
    exec python3 -m kdbench run --methods 'semckd[beta=40]' --yes --shard "$SLURM_ARRAY_TASK_ID/4"
    """
    asked.check()
    for word in words:
        check_word("a word of the run", word)
    name = f"kdbench-{'' if verb == 'run' else f'{verb}-'}{re.sub('[^A-Za-z0-9_.-]+', '-', suite)}"
    what = count(cells, "cell" if verb == "run" else "trial")
    parts = count(asked.jobs, "job") if asked.jobs is not None else f"one job of {count(asked.nodes or 1, 'node')}"
    head = ["#!/bin/bash", f"# kdbench {__version__}: {what} in {parts}; what is finished is kept."]
    head += [f"# {note}" for note in notes]
    options = [f"--job-name={name}"]
    if asked.jobs is not None:
        options += [f"--array=1-{asked.jobs}", "--nodes=1", "--ntasks=1"]
    else:
        options += [f"--nodes={asked.nodes}", "--ntasks-per-node=1"]
    options += [*asked.lines(), "--requeue", "--open-mode=append", f"--signal=B:TERM@{NOTICE}"]
    begin = ["", "set -e", f"cd -- {shlex.quote(asked.folder)}", *asked.setup]
    run = f"exec {shlex.quote(asked.python)} -m kdbench {verb} {shlex.join([*words, '--yes'])}"
    if asked.jobs is not None:
        body = [f'{run} --shard "$SLURM_ARRAY_TASK_ID/{asked.jobs}"']
    else:
        body = [*_ray(asked), f'{run} --executor ray --ray-address "$address"']
    return "\n".join([*head, *(f"#SBATCH {option}" for option in options), *begin, *body, ""])


#: Waits until so many nodes have joined; arguments: address, nodes, seconds.
_WAIT = """import sys, time, ray
address, nodes, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + int(sys.argv[3])
while time.monotonic() < end:
    try:
        ray.init(address, log_to_driver=False)
        while sum(node["Alive"] for node in ray.nodes()) < nodes and time.monotonic() < end:
            time.sleep(1)
        sys.exit(sum(node["Alive"] for node in ray.nodes()) < nodes)
    except ConnectionError:
        time.sleep(1)
sys.exit(1)"""


def _ray(asked: Slurm) -> list[str]:
    """Ray's head on the first node, a worker on each of the others; ``address`` is where the head listens."""
    python = shlex.quote(asked.python)
    ray = f"{python} -m ray.scripts.scripts start --disable-usage-stats --block"
    ray += f" --num-cpus={asked.cpus}" if asked.cpus is not None else ""
    gpus = f" --gpus-per-node={asked.gpus}" if asked.gpus is not None and asked.gpus != "0" else ""
    step = f"srun --overlap --ntasks-per-node=1{gpus}"
    step += f" --cpus-per-task={asked.cpus}" if asked.cpus is not None else ""
    return [
        'nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "head=${nodes%%$'\\n'*}",
        'ip=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)',
        "ip=${ip%% *}",
        "port=$((20000 + SLURM_JOB_ID % 10000))",
        'address="$ip:$port"',
        # A secret of this job's own, which srun hands on: a cluster without one is open to all who reach the port.
        f"RAY_AUTH_TOKEN=$({python} -c 'import secrets; print(secrets.token_hex(32))')",
        "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token",
        f"wait_for={shlex.quote(_WAIT)}",
        f'{step} --nodes=1 --nodelist="$head" {ray} --head --node-ip-address="$ip" --port="$port" &',
        f'{python} -c "$wait_for" "$address" 1 300',
        'if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then',
        f'  {step} --nodes="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" {ray} --address="$address" &',
        f'  {python} -c "$wait_for" "$address" "$SLURM_JOB_NUM_NODES" 300',
        "fi",
    ]


def fewer(asked: Slurm, most: int) -> Slurm:
    """As asked, with no more than ``most`` jobs: for others nothing would be left.

    >>> fewer(Slurm("python3", "/data", jobs=9), most=6).jobs
    6
    """
    return asked if asked.jobs is None else replace(asked, jobs=max(1, min(asked.jobs, most)))
