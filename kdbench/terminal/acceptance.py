"""The acceptance run as a command: ``python -m kdbench.terminal.acceptance``, which `make acceptance` calls."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from kdbench.bench.acceptance import METHODS, PAIR, Gate, Measured, accept, judge
from kdbench.run.session import Request
from kdbench.terminal import console


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Has the teacher, and no run of it yet.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="KDBENCH_DATA", help="Where CIFAR-100 lies.")
@click.option("--precision", default="amp", show_default=True, help="As for `kdbench run`.")
def main(*, out: Path, data_dir: Path | None, precision: str) -> None:
    """Run the acceptance on CUDA and say whether its gate is met (exit code 0) or not (1)."""
    from kdbench.run.outcome import Stop

    screen = console.out()
    request = Request(
        methods=METHODS,
        pairs=PAIR,
        suite="semckd",
        seeds="1",
        out=out,
        data_dir=data_dir,
        device="cuda",
        precision=precision,
    )
    try:
        with console.Progress(screen) as watch:
            found = accept(request, watch)
    except (ValueError, Stop) as error:
        screen.print(f"Error: {error}", markup=False)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    sys.exit(conclude(found, Gate(), out))


def conclude(found: Measured, gate: Gate, out: Path) -> int:
    """Write the judgement down and print it; 0 where the gate is met, else 1."""
    lines = judge(found, gate)
    met = all(good for good, _ in lines)
    whole = {"met": met, "gate": asdict(gate), "measured": asdict(found)}
    (out / "acceptance.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    screen = console.out()
    for good, sentence in lines:
        screen.print(f"{'yes' if good else 'NO '}  {sentence}", markup=False)
    screen.print(f"gate {'met' if met else 'NOT met'}", markup=False)
    return 0 if met else 1


if __name__ == "__main__":
    main()
