"""What is wanted of a cluster, whoever speaks with Ray: this process, or a driver of its own."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.data import Dataset


@dataclass(frozen=True, eq=False)
class Wanted:
    """What an executor on a cluster is made of."""

    images: Dataset  # of all units
    address: str | None  # of the cluster; None: one of this machine, for this run
    workers: int  # units at once
    device: str  # cpu or cuda:0
