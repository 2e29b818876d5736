"""What several methods must have of a pair."""

from kdbench import Pair


def must_show_stages(pair: Pair, method: str) -> None:
    """Raises: ValueError: a network of the pair shows its stem alone."""
    if min(len(pair.student.feats), len(pair.teacher.feats)) < 2:
        raise ValueError(f"{method}: both nets must show a stage beside the stem; this pair has none to compare")


def must_average(pair: Pair, method: str, so: str) -> None:
    """Raises: ValueError: a network's classifier reads something else than the mean of its last map."""
    for side, sizes, linear in zip(("student", "teacher"), (pair.student, pair.teacher), pair.averaged, strict=True):
        if sizes.last[0] != sizes.pooled:
            what = f"{sizes.last[0]} channels become {sizes.pooled} when pooled"
        elif not linear:
            what = "what it pools is no mean of the map: a token, or a normalised one"
        else:
            continue
        raise ValueError(f"{method}: the {side}'s head is not linear in its last map ({what}), {so}")
