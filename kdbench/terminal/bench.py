"""The benchmark on a terminal: two small tables for each pair."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from kdbench.bench import measure
from kdbench.bench.result import Compared, PairResult, Result, SideBySide
from kdbench.bench.scaling import Row, Scaling, scaling
from kdbench.terminal.console import escape


def bench(words: dict[str, Any], out: Console) -> int:
    """Measure what is asked for, and print it.

    Raises:
        ValueError: a word will not do, see ``measure.check``.
    """

    def say(sentence: str) -> None:
        out.print(f"... {sentence}", markup=False)

    alone, request = words.pop("scaling"), measure.Request(**words)
    if not alone:
        show(measure.bench(request, say), out)
        return 0
    if request.lanes_fit or request.side_by_side or not request.table:
        other = "lanes-fit" if request.lanes_fit else "side-by-side" if request.side_by_side else "no-table"
        raise ValueError(f"--scaling measures nothing else; leave --{other} out")
    for found in scaling(request, say):
        show_scaling(found, out)
    return 0


def show_scaling(found: Scaling, out: Console) -> None:
    """Print how speed grows; fits 100 columns."""
    machine = found.environment.get("gpu") or found.environment["cpu"]
    out.print(
        f"{machine}, torch {found.environment['torch']}, precision {found.precision}, {found.pair},"
        f" {', '.join(found.methods)}: {found.steps} steps of {found.batch_size} images each, n = {found.repeat}",
        markup=False,
    )
    for what, rows in (("workers", found.by_workers), ("lanes", found.by_lanes)):
        table = Table(title=f"speed against {what}", title_justify="left")
        for column in (what, r"student images/s \[least, most]", f"times one {what[:-1]}", "whole run, s"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(str(getattr(row, what)), _spread(row), f"{found.gain(row, what):.2f}", _whole(row))
        out.print(table)
    out.print(
        "speed is from the first step to the last; the whole run begins and ends its processes, too", markup=False
    )


def _spread(row: Row) -> str:
    raw = row.images_per_second
    return f"{row.speed:,.0f} [{min(raw):,.0f}, {max(raw):,.0f}]".replace("[", r"\[")


def _whole(row: Row) -> str:
    return f"{median(row.seconds):.1f}"


def show(result: Result, out: Console) -> None:
    """Print a result; fits 100 columns."""
    found = result.environment
    machine = found.get("gpu") or ", ".join(filter(None, (found["cpu"], found.get("instructions"))))
    out.print(
        f"{machine}, torch {found['torch']}, {found['threads']} thread(s), precision {result.precision},"
        f" {result.images} images"
    )
    if result.warning:
        out.print(f"[yellow]warning:[/] {escape(result.warning)}")
    peaks = ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in result.peak_gflops.items())
    out.print(f"peak measured in this run: {peaks}, copy {result.peak_copy_gbs:.1f} GB/s")
    clock = "CPU time" if result.device == "cpu" else "device time"
    table = Table(title=f"reference loop over engine, {clock}, {result.repeat} alternations", title_justify="left")
    table.add_column("work", overflow="fold")
    for column in ("reference img/s", "engine img/s", r"ratio \[least, most]"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in result.pairs:
        table.add_row(f"{pair.pair}\n{escape(', '.join(pair.methods))}", *_compared(pair.compared))
        if pair.on_table is not None:
            alone = f"{pair.pair}\n{pair.on_table.method} alone on a ready table"
            table.add_row(alone, *_compared(pair.on_table.compared))
        elif pair.no_table:
            table.add_row(f"{pair.pair}\non a ready table: {escape(pair.no_table)}", "", "", "")
    table.add_row("input pipeline alone", *_compared(result.pipeline))
    out.print(table)
    for pair in result.pairs:
        _pair(pair, out)


def _compared(compared: Compared) -> tuple[str, str, str]:
    ratio = compared.ratio
    return (
        f"{compared.reference.images_per_second:,.0f}",
        f"{compared.engine.images_per_second:,.0f}",
        f"{ratio.median:.2f} [{ratio.least:.2f}, {ratio.most:.2f}]",
    )


def _pair(pair: PairResult, out: Console) -> None:
    table = Table(title=f"engine, {pair.pair}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    whole = sum(pair.split.values())
    apart = ", eager pass" if pair.captured else ""
    if pair.captured:
        table.add_row("lanes in the captured step", f"{pair.captured} of {len(pair.methods)}")
    for note in pair.notes:
        table.add_row("note", escape(note))
    table.add_row(
        f"a step by part (timed apart{apart})",
        ", ".join(f"{name} {seconds * 1e3:.1f} ms ({seconds / whole:.0%})" for name, seconds in pair.split.items()),
    )
    table.add_row(
        "speed",
        f"{pair.gflops:.0f} GFLOP/s, {pair.share_of_peak:.0%} of the peak; "
        f"a step is {pair.step_gflop:.1f} GFLOP"
        f"{' (counted in an eager pass)' if pair.captured else ''}",
    )
    sides = (("engine", pair.compared.engine), ("reference", pair.compared.reference))
    table.add_row(
        f"peak memory, both loaded{apart}",
        ", ".join(
            f"{name} {'unknown' if side.peak_mb is None else f'{side.peak_mb:,.0f} MiB'}" for name, side in sides
        ),
    )
    table.add_row(
        "CPU time in the kernel", ", ".join(f"{name} {sum(side.system) / sum(side.cpu):.0%}" for name, side in sides)
    )
    if pair.guard is not None:
        own = pair.guard
        table.add_row(
            "guard around the methods",
            f"{own.lane_step * 1e6:.0f} us per lane and step, {own.lane_epoch * 1e3:.1f} ms per lane and epoch:"
            f" {own.share:.2%} of a step",
        )
    over = pair.overhead
    table.add_row(
        "meters, checkpoints, records", f"{over.share:.2%} of {over.epochs} epochs of {over.epoch_steps} steps"
    )
    if pair.lane_fit is not None:
        fit = pair.lane_fit
        table.add_row(
            f"a step of n lanes of {fit.method}",
            (
                f"{fit.intercept * 1e3:.0f} ms + n x {fit.slope * 1e3:.0f} ms: {fit.intercept_in_teachers:.2f} teacher"
                f" forwards + n x {fit.slope_in_steps:.2f} steps with loss{' (both eager)' if pair.captured else ''},"
                f" R2 {fit.r2:.4f} (n = {', '.join(map(str, fit.lanes))})"
            ),
        )
    if pair.side_by_side is not None:
        table.add_row(*_side_by_side(pair.side_by_side))
    out.print(table)


def _side_by_side(found: SideBySide) -> tuple[str, str]:
    ways = []
    for name, seconds in found.seconds.items():
        ratio = found.ratios.get(name)
        beside = f" ({ratio.median:.2f} [{ratio.least:.2f}, {ratio.most:.2f}] of its speed)" if ratio else ""
        ways.append(f"{name} {median(seconds) * 1e3:.1f} ms{beside}")
    ways += [f"{name}: {escape(why)}" for name, why in found.refused.items()]
    return f"{found.students} students, forward and backward", "\n".join(ways)
