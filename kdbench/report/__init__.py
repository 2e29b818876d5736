"""Leaderboards from run records: tables, figures, one HTML page.

The only place that loads pandas, matplotlib and scipy. Nothing here trains, and nothing here
knows more than the records say.
"""

import os

# Figures are files here, whatever screen the environment names: a wrong name would end the import of matplotlib.
_BACKEND = os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402, F401

if _BACKEND is not None:
    os.environ["MPLBACKEND"] = _BACKEND

from kdbench.report.cost import Cost  # noqa: E402
from kdbench.report.make import FORMATS, SuiteReport, report  # noqa: E402
from kdbench.utils.wing import also_a_function  # noqa: E402

__all__ = ["FORMATS", "Cost", "SuiteReport", "report"]

also_a_function(__name__, "kdbench.library.verbs")  # ``kdbench.report(out="results")``
