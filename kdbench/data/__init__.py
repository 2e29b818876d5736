"""Data sets as resident tensors, and the loader that makes batches of them."""

from kdbench.data.errors import DataMissing
from kdbench.data.identity import DataIdentity, difference
from kdbench.data.loader import Loader
from kdbench.data.names import safe_name
from kdbench.data.sets import Dataset, limit, load
from kdbench.data.split import HeldOut, held_out_count, hold_out

__all__ = [
    "DataIdentity",
    "DataMissing",
    "Dataset",
    "HeldOut",
    "Loader",
    "difference",
    "held_out_count",
    "hold_out",
    "limit",
    "load",
    "safe_name",
]
