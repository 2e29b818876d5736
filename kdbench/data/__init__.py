"""Data sets, in memory, packed or as files, and the loader that makes batches of them."""

from kdbench.data.errors import DataMissing
from kdbench.data.identity import DataIdentity, difference
from kdbench.data.loader import Loader
from kdbench.data.names import safe_name
from kdbench.data.protocol import trained_count, trained_on
from kdbench.data.selection import choose
from kdbench.data.sets import Dataset, limit, load
from kdbench.data.source import DataSource
from kdbench.data.split import HeldOut, held_out_count, hold_out

__all__ = [
    "DataIdentity",
    "DataMissing",
    "DataSource",
    "Dataset",
    "HeldOut",
    "Loader",
    "choose",
    "difference",
    "held_out_count",
    "hold_out",
    "limit",
    "load",
    "safe_name",
    "trained_count",
    "trained_on",
]
