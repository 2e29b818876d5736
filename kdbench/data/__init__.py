"""Data sets as resident tensors, and the loader that makes batches of them."""

from kdbench.data.errors import DataMissing
from kdbench.data.identity import DataIdentity, difference
from kdbench.data.loader import Loader
from kdbench.data.names import safe_name
from kdbench.data.sets import Dataset, limit, load

__all__ = ["DataIdentity", "DataMissing", "Dataset", "Loader", "difference", "limit", "load", "safe_name"]
