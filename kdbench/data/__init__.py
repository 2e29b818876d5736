"""Data sets as resident tensors, and the loader that makes batches of them."""

from kdbench.data.loader import Loader
from kdbench.data.sets import DataMissing, Dataset, limit, load

__all__ = ["DataMissing", "Dataset", "Loader", "limit", "load"]
