"""The type of the tables that pandas holds, for those who only hand them on: it is loaded where reports are."""

from pandas import DataFrame

__all__ = ["DataFrame"]
