"""The measured costs of methods, as the rows that a report shows."""

from kdbench.library.costs import rows

__all__ = ["rows"]
