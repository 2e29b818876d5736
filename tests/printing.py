"""A paper that takes the tables of a report as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compiled(folder: Path, path: Path, name: str) -> str:
    """The log of a two-column paper with the tables of ``path``, made by pdflatex in ``folder``."""
    source = r"\documentclass[twocolumn]{article}\usepackage[a4paper]{geometry}\usepackage{booktabs}"
    source += rf"\begin{{document}}Text.\input{{{path}}}\clearpage\end{{document}}"
    (folder / f"{name}.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{name}.tex"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert made.returncode == 0, made.stdout[-2000:]
    return (folder / f"{name}.log").read_text(errors="replace")
