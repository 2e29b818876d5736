"""How sure the differences are: intervals, corrected p values, the chance of being the best."""

from __future__ import annotations

from kdbench.report import facts
from kdbench.report.board import Board
from kdbench.report.escape import plain
from kdbench.report.items import NONE, SURE, Item, Row, Table, count, interval_item, p_words, pair_name, sure


def differences(board: Board) -> Table:
    """Average rank and gain of every method over all its pairs, with all that is known of their certainty."""
    base = plain(board.baseline, 60)
    rows = []
    for line in board.shown:
        if line.rank is None and line.gain is None:
            continue
        rank, gain = line.rank, line.gain
        rows.append(
            Row(
                (
                    Item(line.shown, line.label.lower()),
                    Item(f"{rank.mean:.2f}", rank.mean) if rank else Item(NONE),
                    interval_item(rank, ".1f"),
                    Item(f"{rank.best:.2f}", rank.best) if rank and rank.best is not None else Item(NONE),
                    Item(f"{gain.mean:+.2f}", gain.mean, shade=gain.mean) if gain else Item(NONE),
                    interval_item(gain, "+.2f"),
                    Item(p_words(line.p), line.p, best=sure(line.p)),
                    Item(str(line.independent), line.independent),
                ),
                line.kind,
            )
        )
    tested = sum(line.p is not None for line in board.everything)
    notes = [
        f"Runs, {facts.seeds(board)}: each counted once, also where it stands in several columns.",
        "P(best): share of draws in which the method has the best average rank of its class.",
        f"p: paired test of the gain, corrected for the {tested} methods that are tested (Holm); in bold below"
        f" {SURE:.2g}.",
    ]
    header = ["method", "avg. rank", "95% interval", "P(best)", f"gain over {base}", "95% interval", "p (Holm)", "runs"]
    caption = (
        f"Average rank over {count(len(board.ranked_pairs), 'pair')} and paired gain over {base} in points,"
        f" {facts.seeds(board)}; p corrected for {tested} methods (Holm)."
    )
    return Table("differences", "Ranks and gains, and how sure they are", header, rows, notes, caption=caption)


def significance(board: Board) -> Table:
    """Corrected p value of every method and pair against the baseline."""
    tested = sum(p is not None for p in board.cell_p.values())
    rows = []
    for line in board.shown:
        items = [Item(line.shown, line.label.lower())]
        for pair in board.pairs:
            gain, p = board.cell_gain(line, pair), board.cell_p.get((line.label, pair))
            if gain is None or p is None:
                items.append(Item(NONE))
            else:
                sign = "▲" if gain.mean > 0 else "▼"
                items.append(Item(f"{sign} {p_words(p)}", p, shade=gain.mean if sure(p) else None, best=sure(p)))
        if any(item.value is not None for item in items[1:]):
            rows.append(Row(tuple(items), line.kind))
    base = plain(board.baseline, 60)
    return Table(
        "significance",
        f"Is the difference to {base} more than chance?",
        ["method", *map(pair_name, board.pairs)],
        rows,
        [
            f"p of the paired test over seeds ({facts.seeds(board)}), corrected for all {tested} cells of this table"
            f" (Holm); ▲ above and ▼ below {base}, in bold below {SURE:.2g}. Every two methods: comparisons.csv."
        ],
        first_pair=1,
    )
