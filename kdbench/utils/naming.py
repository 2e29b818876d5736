"""Where the files of a cell lie: names of suites, networks and methods as parts of a path."""

from __future__ import annotations

import re
from pathlib import Path


def cell_stem(method: str, seed: int, settings_hash: str) -> str:
    """``<method>-s<seed>-<hash>``; ``semckd[beta=200,tau=2]`` becomes ``semckd_beta-200_tau-2``.

    >>> cell_stem("semckd[beta=200,tau=2]", 0, "0123abcd")
    'semckd_beta-200_tau-2-s0-0123abcd'
    """
    readable = method.replace("]", "").replace("[", "_").replace(",", "_").replace("=", "-")
    return f"{safe_name(readable)[:100]}-{cell_key(seed, settings_hash)}"


def cell_key(seed: int, settings_hash: str) -> str:
    """What no two cells of an output folder share: the end of the names of their files.

    >>> cell_key(0, "0123abcd")
    's0-0123abcd'
    """
    return f"s{seed}-{settings_hash}"


def key_of(file: str) -> str:
    """The key of the cell whose file has that name; of other files something that is no cell's.

    >>> key_of("semckd_beta-200_tau-2-s0-0123abcd.failed.json")
    's0-0123abcd'
    """
    return "-".join(file.removesuffix(".json").removesuffix(".failed").rsplit("-", 2)[1:])


def runs_folder(out: Path, suite: str, teacher: str, student: str) -> Path:
    """Where the records of a pair lie; those of methods without a teacher lie in a folder of the student's.

    >>> runs_folder(Path("results"), "semckd", "resnet32x4", "resnet8x4").as_posix()
    'results/runs/semckd/resnet32x4-resnet8x4'
    """
    pair = "-".join(safe_name(name)[:100] for name in (teacher, student) if name)
    return out / "runs" / safe_name(suite)[:100] / pair


def safe_name(name: str) -> str:
    """A name as one part of a path: other signs than letters, digits and ``._+-`` become ``_``.

    >>> safe_name("../../x")
    '_.._x'
    """
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".") or "_"
