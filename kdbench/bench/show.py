"""The benchmark on a terminal: two small tables for each pair."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kdbench.bench.result import Compared, PairResult, Result


def show(result: Result, out: Console) -> None:
    """Print a result; fits 100 columns."""
    found = result.environment
    out.print(f"{found.get('gpu', found['cpu'])}, torch {found['torch']}, {found['threads']} thread(s),"
              f" precision {result.precision}, {result.images} images")
    peaks = ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in result.peak_gflops.items())
    out.print(f"peak measured in this run: {peaks}, copy {result.peak_copy_gbs:.1f} GB/s")
    clock = "CPU time" if result.device == "cpu" else "device time"
    table = Table(title=f"reference loop over engine, {clock}, {result.repeat} alternations", title_justify="left")
    table.add_column("work", overflow="fold")
    for column in ("reference img/s", "engine img/s", r"ratio \[least, most]"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in result.pairs:
        table.add_row(f"{pair.pair}\n{', '.join(pair.methods)}", *_compared(pair.compared))
    table.add_row("input pipeline alone", *_compared(result.pipeline))
    out.print(table)
    for pair in result.pairs:
        _pair(pair, out)


def _compared(compared: Compared) -> tuple[str, str, str]:
    ratio = compared.ratio
    return (
        f"{compared.reference.images_per_second:,.0f}", f"{compared.engine.images_per_second:,.0f}",
        f"{ratio.median:.2f} [{ratio.least:.2f}, {ratio.most:.2f}]",
    )


def _pair(pair: PairResult, out: Console) -> None:
    table = Table(title=f"engine, {pair.pair}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    whole = sum(pair.split.values())
    table.add_row("a step by part (timed apart)", ", ".join(
        f"{name} {seconds * 1e3:.1f} ms ({seconds / whole:.0%})" for name, seconds in pair.split.items()))
    table.add_row("speed", f"{pair.gflops:.0f} GFLOP/s, {pair.share_of_peak:.0%} of the peak; "
                  f"a step is {pair.step_gflop:.1f} GFLOP")
    sides = (("engine", pair.compared.engine), ("reference", pair.compared.reference))
    table.add_row("peak memory, both loaded", ", ".join(
        f"{name} {'unknown' if side.peak_mb is None else f'{side.peak_mb:,.0f} MiB'}" for name, side in sides))
    table.add_row("CPU time in the kernel", ", ".join(
        f"{name} {sum(side.system) / sum(side.cpu):.0%}" for name, side in sides))
    over = pair.overhead
    table.add_row("meters, checkpoints, records",
                  f"{over.share:.2%} of {over.epochs} epochs of {over.epoch_steps} steps")
    if pair.lane_fit is not None:
        fit = pair.lane_fit
        table.add_row(f"a step of n lanes of {fit.method}", (
            f"{fit.intercept * 1e3:.0f} ms + n x {fit.slope * 1e3:.0f} ms: {fit.intercept_in_teachers:.2f} teacher"
            f" forwards + n x {fit.slope_in_steps:.2f} steps with loss, R2 {fit.r2:.4f}"
            f" (n = {', '.join(map(str, fit.lanes))})"))
    out.print(table)
