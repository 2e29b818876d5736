"""The sentences below the leaderboard."""

from __future__ import annotations

from kdbench.report import compare, facts
from kdbench.report.board import READING, Board
from kdbench.report.escape import plain
from kdbench.report.items import count


def explain(board: Board) -> list[str]:
    """What the numbers are, what they rest on and what they cannot tell."""
    words = [
        f"Top-1 in percent on the test set, {facts.RULE_WORDS[board.rule]}: mean ± standard deviation (number of"
        f" seeds); {facts.seeds(board)}, {count(board.independent, 'independent run')}. The best mean of a pair is in"
        " bold, the second best underlined; that is no test."
    ]
    shared = [line.shown for line in board.shown if line.independent < len(line.runs)]
    if shared:
        words.append(
            f"Without a teacher: {', '.join(shared)}. Their numbers stand in every column of a student and count once."
        )
    if any(line.gain for line in board.lines):
        sure = any(line.gain and line.gain.low is not None for line in board.lines)
        interval = "; 95% interval for these pairs, from the spread over seeds" if sure else ""
        tested = sum(line.p is not None for line in board.everything)
        star = f"; *: differs from zero at 5%, corrected for {tested} methods (Holm)" if sure else ""
        words.append(
            f"Gain over {plain(board.baseline, 60)}: mean over the method's own pairs of the paired differences, seed"
            f" by seed, in points{interval}{star}."
        )
    if board.compared:
        interval = f"; 95% interval, {facts.RESAMPLED}" if _has_interval(board) else ""
        words.append(f"Average rank over {count(len(board.ranked_pairs), 'pair')}, 1 is best{interval}.")
        told = compare.separation(board)
        if told is not None:
            words.append(f"{told.sentence[0].upper()}{told.sentence[1:]}.")
        if behind := compare.behind_the_leader(board):
            words.append(f"{behind}.")
    aris = [line for line in board.compared if line.ari]
    if aris:
        leader = board.compared[0].shown
        said = []
        for line in aris:
            if line.ari is not None and line.ari.value is not None:
                left = f" (without {count(line.ari.excluded, 'pair')})" if line.ari.excluded else ""
                said.append(f"{line.shown} {line.ari.value:.0f}%{left}")
        undefined = [line.shown for line in aris if line.ari is not None and line.ari.value is None]
        if undefined:
            said.append(f"undefined for {', '.join(undefined)}")
        words.append(
            f"Average relative improvement of {leader} over: {', '.join(said)}. Pairs on which a method gains"
            " less than 0.1 points over the plain student cannot be divided by and are left out."
        )
    if any(line.kind == "modified" for line in board.lines):
        words.append("Methods that change the student at inference are a class of their own, below the others.")
    if any(READING in line.provenance for line in board.lines):
        words.append(f"({READING}): rebuilt from the paper's text alone, without the authors' code.")
    return words


def _has_interval(board: Board) -> bool:
    return any(line.rank is not None and line.rank.low is not None for line in board.compared)
