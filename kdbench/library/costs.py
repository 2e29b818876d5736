"""The measured costs of methods, as the rows that a report shows."""

from __future__ import annotations

from kdbench.report.cost import Cost
from kdbench.suites import costs


def rows() -> tuple[list[Cost], str]:
    """One row for each method that was measured, and a sentence where the table cannot be read: a report goes on.

    >>> rows()[1]
    ''
    """
    if not costs.TABLE.is_file():
        return [], ""
    try:
        measured = costs.load()
    except ValueError as error:
        return [], str(error)
    return [
        Cost(
            method=one.method,
            pair=one.pair,
            condition=one.condition,
            extra_ms=one.extra_ms,
            extra_mb=one.extra_memory_mb,
            params=one.extra_train_params,
            macs=one.extra_macs,
        )
        for one in measured.values()
    ], ""
