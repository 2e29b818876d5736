"""The measured costs of methods, as the rows that a report shows."""

from __future__ import annotations

from kdbench.report.cost import Cost
from kdbench.suites import costs


def rows() -> list[Cost]:
    """One row for each method that was measured; none where the table is not there.

    Raises:
        ValueError: the table cannot be read.
    """
    if not costs.TABLE.is_file():
        return []
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
        for one in costs.load().values()
    ]
