"""What ``--executor ray`` asks for: which cluster, how many tasks at once, on which kind of device."""

from __future__ import annotations

from kdbench.run.devices import AUTO, Hands, known, number
from kdbench.run.executors.cluster import connect
from kdbench.utils import environment
from kdbench.utils.wording import count, quoted


def check(executor: str, address: str | None) -> bool:
    """Whether Ray is asked for.

    Raises:
        ValueError: there is no such executor, or an address that nobody needs.

    >>> check("ray", "auto"), check("auto", None)
    (True, False)
    >>> check("processes", "auto")
    Traceback (most recent call last):
    ValueError: --ray-address names a Ray cluster, and --executor is processes; write --executor ray beside it
    """
    known(executor)
    if address is not None and executor != "ray":
        raise ValueError(
            f"--ray-address names a Ray cluster, and --executor is {executor}; write --executor ray beside it"
        )
    return executor == "ray"


def hands(address: str | None, workers: str, device: str) -> tuple[Hands, list[str]]:
    """Who trains, and sentences where it is not what was asked for.

    Raises:
        ValueError: Ray is not installed, no cluster answers, or it has not what is asked for.
    """
    asked, threads = number(workers), environment.threads()
    if device not in (AUTO, "cpu", "cuda"):
        raise ValueError(
            f"with --executor ray --device takes auto, cpu or cuda, not {quoted(device)}: Ray chooses the GPUs"
        )
    connect.installed()
    where = connect.chosen(address)
    nodes = connect.nodes_of(where)
    named = f"the Ray cluster at {where}" if where else "this machine"
    gpus = sum(node.places("cuda", threads) for node in nodes)
    kind = ("cuda" if gpus else "cpu") if device == AUTO else device
    there = sum(node.places(kind, threads) for node in nodes)
    if kind == "cuda" and not gpus:
        raise ValueError(
            f"device 'cuda' was asked for, but {named} has no GPU with a processor beside it; try --device cpu"
        )
    if not there:
        most = max((node.cpus for node in nodes), default=0)
        raise ValueError(
            f"{named} has no room for a worker of {count(threads, 'thread')}: a node has {most:g} CPUs at most"
        )
    notes = []
    if asked is not None and where is not None and kind == "cpu" and asked > there:
        notes.append(f"{named} has room for {count(there, 'worker')}, and {asked} were asked for")
        asked = there
    return Hands("ray", asked or there, ("cuda:0" if kind == "cuda" else "cpu",), address=where), notes
