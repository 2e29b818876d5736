"""What a run has left, loaded again: records as a frame, students and teachers as networks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from kdbench.library.words import Place, folder, out_folder, texts

if TYPE_CHECKING:
    from kdbench.export.deployed import Deployed
    from kdbench.models import Tapped
    from kdbench.report.frames import DataFrame


def load_records(out: Place = None, *, suite: str | None = None) -> DataFrame:
    """Every run of an output folder, one row each, with the columns of ``<out>/<suite>.csv``.

    Args:
        out: folder that ``run`` wrote to; None: ``$KDBENCH_OUT`` or "results".
        suite: only its runs.

    Raises:
        ValueError: there are none. A file that is no record, or was edited, is left out with a warning.

    >>> import kdbench
    >>> kdbench.load_records("nowhere")
    Traceback (most recent call last):
    ValueError: no run records under nowhere/runs; `kdbench run` makes some
    """
    from kdbench.report.gather import gather
    from kdbench.report.runs_csv import long_form

    if suite is not None:
        texts(suite=suite)
    where = out_folder(out) / "runs"
    found, problems = gather(where)
    for problem in problems:
        warnings.warn(f"left out: {problem}", stacklevel=2)
    if not found:
        raise ValueError(f"no run records under {where}; `kdbench run` makes some")
    chosen = [one for one in found if suite in (None, one.suite)]
    if not chosen:
        there = ", ".join(sorted({one.suite for one in found}))
        raise ValueError(f"no run records of suite {suite!r} under {where}; there are some of {there}")
    return long_form(chosen)


def load_student(cell: Any, *, out: Place = None, data_dir: Place = None) -> Deployed:
    """A kept student as it is deployed: normalised images (B, C, H, W) -> logits (B, K), in eval mode, on the CPU.

    Args:
        cell: a ``Record``; the path of a record or of a kept student; or words that one cell alone has, such as
            ``"semckd resnet20:resnet8 0"``: method, networks, suite, seed.
        out: folder that ``run`` wrote to.
        data_dir: where data sets lie, for methods that change the network.

    Returns:
        a module with ``record``, ``classes``, ``image_shape``, ``mean`` and ``std``; ``student`` is the network
        alone, which ``attach`` takes as a teacher, too.

    Raises:
        ValueError: no such cell, several, no kept student, or other weights than the record's.

    >>> import kdbench
    >>> kdbench.load_student("kd resnet20:resnet8 0", out="nowhere")
    Traceback (most recent call last):
    ValueError: no finished run under nowhere/runs; `kdbench run` trains some
    """
    from kdbench.export.cells import find
    from kdbench.export.deployed import load

    return load(*find(cell, out_folder(out)), folder(data_dir, "KDBENCH_DATA"))


def load_teacher(name: str, suite: str = "digits", *, out: Place = None) -> Tapped:
    """A stored teacher: eval mode, frozen, on the CPU; it takes images in the normalisation of the suite.

    Called, it gives ``kdbench.Outputs``; ``net`` is the network itself, which gives logits.

    Args:
        name: of the network, such as "resnet20".
        suite: for whose data it was trained.
        out: folder that ``run`` or ``kdbench teacher`` wrote to.

    Raises:
        ValueError: no such network, suite or teacher, or its file is damaged.

    >>> import kdbench
    >>> kdbench.load_teacher("resnet20", out="nowhere")
    Traceback (most recent call last):
    ValueError: no teacher resnet20 for digits in nowhere/teachers; `kdbench teacher train resnet20` makes one ...
    """
    from kdbench import models, suites
    from kdbench.models import teachers

    texts(name=name, suite=suite)
    chosen, name = suites.load(str(suite)), models.resolve(str(name))
    try:
        return teachers.load(
            out_folder(out) / "teachers",
            chosen.dataset,
            name,
            image_size=chosen.image_size,
            normalisation=(chosen.recipe.mean, chosen.recipe.std),
        )[0]
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
