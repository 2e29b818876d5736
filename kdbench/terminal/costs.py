"""The measured costs of methods, as the rows that a report shows."""

from __future__ import annotations

from typing import Protocol, TypeVar

from kdbench.suites import costs

Row = TypeVar("Row", covariant=True)


class Maker(Protocol[Row]):
    """``kdbench.report.cost.Cost`` is one."""

    def __call__(
        self,
        *,
        method: str,
        pair: str,
        condition: str,
        extra_ms: float | None,
        extra_mb: float | None,
        params: int | None,
        macs: int | None,
    ) -> Row:
        """A row of the report's table."""


def rows(make: Maker[Row]) -> list[Row]:
    """One row for each method that was measured; none where the table is not there.

    Raises:
        ValueError: the table cannot be read.
    """
    if not costs.TABLE.is_file():
        return []
    return [
        make(
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
