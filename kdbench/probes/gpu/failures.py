"""Checks 14 and 15: captures that fail, and a memory that is too small."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from kdbench.engine.graph import capture
from kdbench.engine.graph.backend import Graphs
from kdbench.probes.gpu.table import demand

#: Seconds after which a process of its own has hung.
PATIENCE = 120


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
    """Check 15."""
    from kdbench.run import session
    from kdbench.run.group import run_group
    from kdbench.run.outcome import Done, Note
    from kdbench.run.runner import _common

    notes: list[str] = []

    def emit(event: object) -> None:
        notes.extend([event.sentence] if isinstance(event, Note) else [])

    def run(folder: str) -> Done:
        request = session.Request(
            methods="kd,crd,fitnet,vid",
            pairs="resnet14:resnet8",
            suite="digits",
            seeds="1",
            epochs=1,
            limit_train=256,
            out=Path(folder),
            device=str(device),
        )
        job = session.resolve(request)
        return run_group(replace(_common(job), cells=tuple(job.cells)), emit)

    index, whole = capture.index_of(device), torch.cuda.get_device_properties(device).total_memory
    with tempfile.TemporaryDirectory() as folder:
        run(folder)  # starts the libraries and trains the teacher
    gc.collect()
    torch.cuda.empty_cache()
    begun = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        run(folder)
    most = torch.cuda.max_memory_reserved(device)
    gc.collect()
    torch.cuda.empty_cache()
    notes.clear()
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * most / whole, index)
        with tempfile.TemporaryDirectory() as folder:
            done = run(folder)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
    gc.collect()
    torch.cuda.empty_cache()
    after = torch.cuda.memory_allocated(device)
    halved = [note for note in notes if "at once" in note]
    why = [*notes, *dict.fromkeys(filter(None, [done.stopped, done.untaught, *done.failed.values()]))]
    demand(len(done.of("done")) == 4, f"{len(done.of('done'))} of 4 cells finished; {'; '.join(why)}")
    demand(bool(halved), "the memory was not too small")
    return demand(
        after <= 1.05 * begun + 2**25, f"{halved[0]}; {after / 2**20:.0f} MiB after it, {begun / 2**20:.0f} before"
    )


if __name__ == "__main__":
    print(json.dumps({"wrong": two_failures(torch.device(sys.argv[1]))}))
