"""``kdbench export``: one kept student into a file or a folder of the chosen kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.export import hub
from kdbench.export.cells import find, title
from kdbench.export.deployed import load
from kdbench.export.facts import compared
from kdbench.export.place import CONFIG, WEIGHTS, free
from kdbench.record import Record
from kdbench.utils.files import apart, check_writable, expanded
from kdbench.utils.wording import quoted

#: Kinds, and the endings of their files; "": a folder.
KINDS = {"torch": ".safetensors", "timm": "", "torch-export": ".pt2", "onnx": ".onnx", "hub": ""}

_LETTERS = 100  # of a licence's name


@dataclass
class Exported:
    """What was written.

    Attributes:
        record: the run that it is of.
        kind: as asked for.
        files: weights or program first, then what stands beside it.
        difference: largest distance of logits from the student's; None: not compared.
        notes: sentences for who asked.
    """

    record: Record
    kind: str
    files: list[Path]
    difference: float | None
    notes: list[str] = field(default_factory=list)


def export(
    cell: Any,
    to: str = "torch",
    *,
    out: str | Path | None = None,
    results: str | Path | None = None,
    licence: str | None = None,
    data_dir: str | Path | None = None,
    upload: bool = False,
    repo: str | None = None,
) -> Exported:
    """Write a kept student for others to use, with a model card beside it.

    The student is written as it is deployed: of a method that changes the network, such as simkd, with the parts
    that prediction needs. The file is loaded again, and its logits are compared with the student's.

    Args:
        cell: as for ``kdbench.load_student``.
        to: "torch" (safetensors under the network's own keys), "timm" (a folder), "torch-export" (.pt2), "onnx", or
            "hub" (a folder for Hugging Face).
        out: the file, or the folder; None: named after the run, in the current folder.
        results: folder that ``run`` wrote to; None: ``$KDBENCH_OUT`` or "results".
        licence: of the weights, such as "apache-2.0"; it is for you to state.
        data_dir: where data sets lie, for methods that change the network.
        upload: send the folder of "hub" to ``repo``, where you are logged in.
        repo: OWNER/NAME at Hugging Face.

    Raises:
        ValueError: one sentence: no such cell or kind, a package that is missing, a network that cannot be written so.
        OSError: a file cannot be written.

    >>> import kdbench
    >>> kdbench.export("kd resnet8 0", to="tflite")
    Traceback (most recent call last):
    ValueError: no export to 'tflite'; there are torch, timm, torch-export, onnx, hub
    """
    if to not in KINDS:
        raise ValueError(f"no export to {to!r}; there are {', '.join(KINDS)}")
    if upload and to != "hub":
        raise ValueError(f"--upload goes with --to hub, not with --to {to}")
    if repo is not None and not upload:
        raise ValueError("--repo says where --upload sends the folder; leave it out, or say --upload, too")
    if licence and not (licence.isprintable() and len(licence) <= _LETTERS):
        raise ValueError(f"--licence is a name such as apache-2.0, on one line, not {quoted(licence)}")
    where = hub.check(repo) if upload else None
    one, home = find(cell, expanded(results or os.environ.get("KDBENCH_OUT") or "results"))
    target = expanded(out) if out is not None else Path(_stem(one) + (KINDS[to] or f"-{to}"))
    _fits(target, to)
    apart(target, home)
    free([target] if KINDS[to] else [target / WEIGHTS, target / CONFIG])
    data = data_dir or os.environ.get("KDBENCH_DATA")
    licence = licence or ""
    deployed = load(one, home, None if data is None else expanded(data))
    check_writable(target.parent)
    notes: list[str] = []
    off: float | None
    if to == "timm":
        from kdbench.export.files import to_timm

        files, off = to_timm(deployed, target, licence)
    elif to == "hub":
        from kdbench.export.files import to_hub

        files, off = to_hub(deployed, target, home, licence)
    elif to == "torch":
        from kdbench.export.files import to_torch

        files, off = to_torch(deployed, target, home, licence)
    elif to == "torch-export":
        from kdbench.export.programs import to_program

        files, off = to_program(deployed, target, licence)
    else:
        from kdbench.export.programs import to_onnx

        files, off = to_onnx(deployed, target, licence)
    notes.append(f"{title(one)}: {compared(off)}")
    if not licence:
        notes.append("the licence of the weights is not stated; --licence says it")
    if to == "hub":
        notes.append(
            f"uploaded to {hub.upload(target, where or '')}"
            if upload
            else f"{target} is prepared, not uploaded; --upload --repo OWNER/NAME does that where you are logged in"
        )
    return Exported(one, to, files, off, notes)


def _stem(one: Record) -> str:
    pair = record.safe_name(one.pair.replace(":", "-").replace("/", "-"))
    return f"{pair}-{record.cell_stem(one.method, one.seed, one.settings_hash)}"


def _fits(target: Path, to: str) -> None:
    """Raises: ValueError: a folder is where a file is to be, or the other way round."""
    if KINDS[to] and target.is_dir():
        raise ValueError(f"--out {target} is a folder, and --to {to} writes one file; name it")
    if not KINDS[to] and target.exists() and not target.is_dir():
        raise ValueError(f"--out {target} is a file, and --to {to} writes a folder")
