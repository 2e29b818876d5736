"""Checks 14 and 15: captures that fail, and a memory that is too small."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdbench.engine.graph import capture
from kdbench.engine.graph.backend import Graphs
from kdbench.probes.gpu.table import demand

if TYPE_CHECKING:
    from kdbench.run.outcome import Done

#: Seconds after which a process of its own has hung.
PATIENCE = 120
MIB = 2**20
#: Bytes that four lanes must take beyond one for check 15.
APART = 32 * MIB
METHODS = ("kd", "crd", "fitnet", "vid")


def captures_that_fail(device: torch.device) -> str:
    """Check 14, in a process of its own: what a failed capture breaks, it breaks there."""
    words = [sys.executable, "-m", "kdbench.probes.gpu.failures", str(device)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"its process did not end within {PATIENCE} s") from None
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise AssertionError(f"its process ended with {done.returncode}: {last}") from None
    return demand(
        not found["wrong"], "; ".join(found["wrong"] or ["captures, memory and stream work after two failures"])
    )


def two_failures(device: torch.device) -> list[str]:
    """What does not work after a capture that an error of Python ended, and one that waited for the device."""
    machine, wrong = Graphs(device), list[str]()
    x = torch.zeros(1, device=device)
    before = torch.cuda.current_stream(device)

    def raises() -> None:
        x.add_(1)
        raise ValueError("on purpose")

    def waits() -> None:
        x.add_(1).item()

    for name, step in (("an error", raises), ("a wait", waits)):
        try:
            machine.record(step)
            wrong.append(f"a capture with {name} did not fail")
        except Exception as error:  # what it is depends on the driver
            if step is raises and not isinstance(error, ValueError):
                wrong.append(f"the error of a step became {type(error).__name__}")
        if machine.over:
            return [*wrong, machine.over]
        if torch.cuda.current_stream(device) != before:
            wrong.append(f"after {name} another stream is the current one")
    torch.cuda.empty_cache()
    x.zero_()
    replay, _ = machine.record(lambda: x.add_(1))
    replay()
    if x.item() != 1:
        wrong.append(f"a later graph counts {x.item():g}, not 1")
    return wrong


def small_memory(device: torch.device) -> str:
    """Check 15: four lanes, in memory that is halfway between what one of them takes and what all do."""
    index, whole = capture.index_of(device), torch.cuda.get_device_properties(device).total_memory
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _grid(device, folder / "begin", folder)  # starts the libraries and trains the teacher
        begun = _left(device)
        few, _, _ = _highest(device, partial(_grid, device, folder / "one", folder, lanes=1))
        many, _, _ = _highest(device, partial(_grid, device, folder / "all", folder))
        demand(many > few + APART, f"one lane takes {few / MIB:.0f} MiB, four {many / MIB:.0f}: too near to tell")
        try:
            torch.cuda.set_per_process_memory_fraction((few + many) / 2 / whole, index)
            most, done, notes = _highest(device, partial(_grid, device, folder / "small", folder))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)
    halved = [note for note in notes if "at once" in note]
    why = [*notes, *dict.fromkeys(filter(None, [done.stopped, done.untaught, *done.failed.values()]))]
    sizes = f"one lane {few / MIB:.0f} MiB, four {many / MIB:.0f}, here {most / MIB:.0f}"
    demand(
        len(done.of("done")) == len(METHODS), f"{len(done.of('done'))} of 4 cells finished ({sizes}); {'; '.join(why)}"
    )
    demand(bool(halved), f"the memory was not too small ({sizes})")
    after = _left(device)
    return demand(
        after <= 1.05 * begun + 2**25, f"{halved[0]}; {sizes}; {after / MIB:.0f} MiB after it, {begun / MIB:.0f} before"
    )


def _grid(device: torch.device, out: Path, home: Path, lanes: int | None = None) -> tuple[Done, list[str]]:
    """Train four lanes of an epoch of two steps; how they ended, and what was said.

    A batch of all images makes maps that outweigh what the libraries keep, however many lanes there are.
    """
    from kdbench.run import session
    from kdbench.run.group import run_group
    from kdbench.run.outcome import Note
    from kdbench.run.runner import _common

    notes: list[str] = []
    request = session.Request(
        methods=",".join(METHODS),
        pairs="resnet14:resnet8",
        suite="digits",
        seeds="1",
        epochs=1,
        limit_train=1024,
        overrides=("recipe.batch_size=512", "recipe.lr=0.001"),
        out=out,
        home=home,
        device=str(device),
        lanes=lanes,
    )
    job = session.resolve(request)
    done = run_group(
        replace(_common(job), cells=tuple(job.cells)),
        lambda event: notes.extend([event.sentence] if isinstance(event, Note) else []),
    )
    return done, notes


def _highest(device: torch.device, run: Callable[[], tuple[Done, list[str]]]) -> tuple[int, Done, list[str]]:
    """Bytes that the allocator held at most in ``run``, and what that returned."""
    _left(device)
    torch.cuda.reset_peak_memory_stats(device)
    done, notes = run()
    return torch.cuda.max_memory_reserved(device), done, notes


def _left(device: torch.device) -> int:
    """Bytes that are allocated when all has been given back that can be."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


if __name__ == "__main__":
    print(json.dumps({"wrong": two_failures(torch.device(sys.argv[1]))}))
