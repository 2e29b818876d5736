"""Leaderboards from run records: tables, figures, one HTML page.

The only place that loads pandas, matplotlib and scipy. Nothing here trains, and nothing here
knows more than the records say.
"""

from kdbench.report.make import FORMATS, SuiteReport, report

__all__ = ["FORMATS", "SuiteReport", "report"]
