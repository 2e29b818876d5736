"""What methods cost beside their student, as measured by ``kdbench.bench.costs`` and kept in cost.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

#: Images of a batch in every measurement.
BATCH = 64
#: Share of the student's step above which a method is expensive.
LIMIT = 0.25
TABLE = Path(__file__).parent / "cost.csv"


#: Methods whose loss costs more than ``LIMIT`` of the student's step, and why that stays.
EXPENSIVE: dict[str, str] = {
    "dskd": "auxiliary branches of 3x3 convolutions on every shallow stage are a third of the student's arithmetic",
    "ft": "translator and paraphraser are three 3x3 convolutions each, half as much arithmetic as the student's",
    "kdsvd": "singular vectors of every image's maps",
    "mgd": "two 3x3 convolutions of the teacher's width generate its last map",
    "mlkd": "a second view of every image goes through the student",
    "reviewkd": "3x3 convolutions to the teacher's width at every stage",
    "semckd": "a projector with a 3x3 convolution for each pair of a student's and a teacher's stage",
    "sskd": "three further views of every image go through the student",
    "vid": "three 1x1 convolutions at every stage are a fifth of the student's arithmetic, and bound by memory",
}


class Cost(BaseModel):
    """One row of the table. Milliseconds are CPU time, medians of ``n``; ``share`` is extra over student step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    pair: str
    student_step_ms: float
    extra_ms: float
    share: float
    extra_train_params: int
    extra_infer_params: int
    n: int
    cpu: str
    torch: str
    threads: int
    commit: str


def load() -> dict[str, Cost]:
    """The kept table: method -> its row.

    Raises:
        ValueError: the table is not there or cannot be read.
    """
    try:
        rows = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
        return {row["method"]: Cost.model_validate(row) for row in rows}
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"the table of measured costs, {TABLE.name}, cannot be read: {error}") from error


def save(costs: Iterable[Cost]) -> None:
    """Write the table, in order of the names."""
    with open(TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Cost.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cost.model_dump() for cost in sorted(costs, key=lambda cost: cost.method))
