"""What methods cost beside their student, as measured by ``kdbench.bench.costs`` and kept in cost.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.suites._files import sentence
from kdbench.utils.files import atomic_write

#: Images of a batch in every measurement.
BATCH = 64
#: Share of the student's step above which a method is expensive.
LIMIT = 0.25
TABLE = Path(__file__).parent / "cost.csv"


#: Methods whose loss costs more than ``LIMIT`` of the student's step, and why that stays.
EXPENSIVE: dict[str, str] = {
    "afd_se": "every map of student and teacher is normalised channel by channel, bound by memory",
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
    """One row of the table: one method on one pair, and the condition under which it was measured.

    Milliseconds are of the CPU (of the GPU on CUDA). Memory is in 10^6 bytes: what is kept between steps and what
    the step takes at its highest, gradients with it; the images and the teacher's outputs, which all methods
    share, are left out. On the CPU the bytes of tensors are counted, so that it is no matter of the machine. MACs are
    the multiply-accumulates of matrix products and convolutions in a forward pass, per image; the backward pass
    takes about twice as many.

    >>> semckd = load()["semckd"]
    >>> semckd.pair, semckd.batch, semckd.extra_infer_params
    ('resnet32x4:resnet8x4', 64, 0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    # the condition
    pair: str  # teacher:student
    batch: int  # images
    px: int  # side of an image
    train_images: int  # memory banks grow with it
    classes: int
    precision: str
    device: str  # cpu or cuda
    processor: str
    threads: int
    torch: str
    kdbench: str
    commit: str
    measured: str  # when the row's series began: rows of one series were measured together
    n: int  # timings of which each median was taken
    # time of a step
    student_step_ms: float  # forward, cross-entropy, backward, optimizer
    extra_ms: float  # of the method beside it
    share: float  # extra_ms / student_step_ms
    # memory
    student_memory_mb: float
    extra_memory_mb: float  # student with method, minus student
    extra_standing_mb: float  # of these between steps: parameters, buffers, momenta
    # parameters
    extra_train_params: int
    extra_infer_params: int
    # arithmetic, forward, per image
    student_macs: int
    extra_macs: int
    # the evaluated network, one batch
    latency_1_ms: float  # of one image
    latency_batch_ms: float  # of ``batch`` images

    @property
    def condition(self) -> str:
        """What rows must share to be compared, as a sentence would name it."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"{self.processor}, {self.precision}, batch {self.batch}, {self.px} px, {threads}, torch {self.torch},"
            f" median of {self.n}, begun {self.measured}"
        )


def load() -> dict[str, Cost]:
    """The kept table: method -> its row.

    Raises:
        ValueError: the table is not there or cannot be read.

    >>> {"semckd", "crd", "kd"} <= load().keys()
    True
    """
    try:
        table = csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())
        rows = list(table)
        if wrong := set(Cost.model_fields) ^ set(table.fieldnames or ()):
            raise ValueError(f"columns lack or are unknown ({', '.join(sorted(wrong))}); `make costs` measures anew")
        return {row["method"]: Cost.model_validate(row) for row in rows}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ValueError(f"the table of measured costs, {TABLE.name}, cannot be read: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return sentence(error)
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return getattr(error, "strerror", None) or str(error)


def save(costs: Iterable[Cost], table: Path | None = None) -> None:
    """Write the table, in order of the names; ``table`` is the kept one where none is given.

    >>> save([load()["kd"], load()["crd"]], Path("cost.csv"))
    >>> [line.split(",")[0] for line in Path("cost.csv").read_text().splitlines()]
    ['method', 'crd', 'kd']
    """
    with atomic_write(table or TABLE, "w", newline="") as file:
        writer = csv.DictWriter(file, list(Cost.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cost.model_dump() for cost in sorted(costs, key=lambda cost: cost.method))
