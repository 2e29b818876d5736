"""An estimate as a person reads it."""

from __future__ import annotations

from kdbench.run.estimate import KINDS, Estimate
from kdbench.utils.wording import count, duration

#: Methods or pairs that an estimate names.
MOST = 8


def sentences(made: Estimate) -> list[str]:
    """An estimate as a person reads it: the whole, then by kind of work, by method and by pair.

    >>> from kdbench.run.estimate import Part
    >>> sentences(Estimate(1, (Part("students", "resnet20:resnet8", "kd", 60.0),), "cpu"))
    ['about 1 min on cpu for 1 cell', '  of it: students 1 min']
    """
    by = f" with {made.workers} workers" if made.workers > 1 else ""
    said = [f"about {duration(made.seconds)} on {made.device}{by} for {count(made.cells, 'cell')}"]
    notes = [made.basis] if made.basis else []
    notes += [f"others use the machine, too: {made.busy:.1f} s for each second of work"] if made.busy > 1.2 else []
    said[0] = said[0].replace("about less", "less") + (f" ({'; '.join(notes)})" if notes else "")
    if round(made.busy * made.starting):
        said.append(f"  of it until the workers have begun: {duration(made.busy * made.starting)}")
    whole = "of it" if made.workers == 1 else "work that they share"
    for words, key in (
        (whole, lambda part: part.kind),
        ("methods' own cost", lambda part: part.method),
        ("by pair", lambda part: part.pair if part.kind != KINDS[0] else ""),
    ):
        found = {name: seconds for name, seconds in made.by(key).items() if round(seconds)}
        if len(found) > (words != whole):
            shown = [f"{name} {duration(seconds)}" for name, seconds in list(found.items())[:MOST]]
            rest = sum(list(found.values())[MOST:])
            more = [f"{len(found) - MOST} others {duration(rest)}"] if rest else []
            said.append(f"  {words}: " + ", ".join(shown + more))
    return [*said, *made.ahead]
