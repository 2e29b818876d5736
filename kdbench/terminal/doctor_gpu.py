"""`kdbench doctor --gpu`: the checks as a table, and as JSON for a bug report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_COLOURS = {"ok": "green", "FAIL": "red"}


def show(device: str, file: Path | None, screen: Console) -> int:
    """Make the checks; 1 at the first that fails. On a CPU those are made that need no CUDA."""
    import torch

    from kdbench.probes.gpu.checks import CHECKS
    from kdbench.probes.gpu.table import Row, rows
    from kdbench.run import choices
    from kdbench.utils import environment

    where = choices.choose_device(device)
    found: list[Row] = []
    for row in rows(CHECKS, torch.device(where)):
        found.append(row)
        screen.print(f"{row.number:2} of {len(CHECKS)}: {row.what}: {row.verdict}", markup=False, highlight=False)
    table = Table("", "what", "verdict", "expected", "found", "s", box=None, pad_edge=False)
    for row in found:
        colour = _COLOURS.get(row.verdict, "yellow")
        cells = escape(row.what), f"[{colour}]{row.verdict}[/]", escape(row.expected), escape(row.found)
        table.add_row(str(row.number), *cells, f"{row.seconds:.1f}")
    screen.print(table)
    failed = any(row.verdict == "FAIL" for row in found)
    untried = sum(row.verdict == "needs CUDA" for row in found)
    if untried:
        screen.print(f"{untried} of {len(found)} checks need CUDA and were not made on {where}", markup=False)
    if file is not None:
        whole = {
            "passed": not failed and not untried,
            "code": environment.code(),
            "environment": environment.describe(where),
            "checks": [asdict(row) for row in found],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        screen.print(f"wrote {file}", markup=False)
    return 1 if failed else 0
