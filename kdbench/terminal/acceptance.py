"""The acceptance run as a command: ``python -m kdbench.terminal.acceptance``, which `make acceptance` calls."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from kdbench.bench.acceptance import METHODS, PAIR, Gate, Measured, accept, judge, projected
from kdbench.run.session import Request
from kdbench.terminal import console


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Has the teacher, and no run of it yet.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="KDBENCH_DATA", help="Where CIFAR-100 lies.")
@click.option("--precision", default="amp", show_default=True, help="As for `kdbench run`.")
@click.option("--random-data", is_flag=True, help="Random pictures and a teacher of random weights; needs nothing.")
@click.option("--epochs", type=click.IntRange(1, 240), help="Shorter, and projected to 240; accepts nothing.")
@click.option("--device", default="cuda", show_default=True, help="As for `kdbench run`.")
@click.option("--methods", default=METHODS, show_default=True, help="As for `kdbench run`.")
@click.option("--pairs", default=PAIR, show_default=True, help="As for `kdbench run`.")
def main(
    *,
    out: Path,
    data_dir: Path | None,
    precision: str,
    random_data: bool,
    epochs: int | None,
    device: str,
    methods: str,
    pairs: str,
) -> None:
    """Run the acceptance on CUDA and say whether its gate is met (exit code 0) or not (1).

    With --epochs nothing is accepted: what 240 epochs may take is projected, and the exit code is 0 where all finished.
    """
    from kdbench.run.outcome import Stop

    screen = console.out()
    request = Request(
        methods=methods,
        pairs=pairs,
        suite="semckd",
        seeds="1",
        out=out,
        data_dir=data_dir,
        device=device,
        precision=precision,
        epochs=epochs,
    )
    try:
        with console.Progress(screen) as watch:
            found = accept(request, watch, random=random_data)
    except (ValueError, Stop) as error:
        screen.print(f"Error: {error}", markup=False)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    sys.exit(conclude(found, Gate(), out) if epochs is None else project(found, Gate(), out))


def project(found: Measured, gate: Gate, out: Path) -> int:
    """Write down and print what a short run lets expect of the whole one; 0 where all of it finished."""
    seconds = projected(found, gate.epochs)
    whole = {"projected_seconds": seconds, "gate": asdict(gate), "measured": asdict(found)}
    (out / "acceptance.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    screen = console.out()
    for _, sentence in judge(found, gate):
        screen.print(sentence, markup=False)
    minutes, most = seconds / 60, gate.seconds / 60
    sentence = f"projected, not measured: {gate.epochs} epochs in {minutes:.1f} min (the gate is {most:.0f} min)"
    screen.print(sentence, markup=False)
    return 1 if found.missing or not found.done else 0


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
