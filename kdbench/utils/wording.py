"""How numbers are said, and strangers' words: on one line, without orders to a terminal."""

from __future__ import annotations

#: Letters of a stranger's text that are said.
LENGTH = 300


def count(number: int, noun: str) -> str:
    """1 epoch, 2 epochs.

    >>> count(1, "epoch"), count(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def exact(value: object) -> str:
    """A setting as it is written: a float with as many digits as it has, so that no two are said alike.

    >>> exact(2.0), exact(400.0001), exact(1e-5), exact("fc")
    ('2', '400.0001', '1e-05', 'fc')
    """
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def duration(seconds: float) -> str:
    """less than a second, 41 s, 3 min 20 s, 2 h 5 min, 12 days.

    >>> duration(41), duration(200), duration(7500)
    ('41 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 1:
        return "less than a second"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{round(whole / 86400):,} days"


def size(amount: float) -> str:
    """Of memory or a file, in the unit that fits: 640 bytes, 1.2 KiB, 80.0 MiB, 3.4 GiB.

    >>> size(640), size(1229), size(3.4 * 2**30)
    ('640 bytes', '1.2 KiB', '3.4 GiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if amount >= 2**power:
            return f"{amount / 2**power:,.1f} {unit}"
    return count(round(amount), "byte")


def printable(found: str, length: int = LENGTH) -> str:
    r"""A string on one line: control and unpaired signs escaped, cut at ``length`` letters.

    >>> printable("two\nlines")
    'two lines'
    >>> printable("a long word", length=8)
    'a lon...'
    """
    short = str.__getitem__(found, slice(0, 8 * length))  # of a subclass, too, which may have methods of its own
    line = " ".join(short.encode("utf-8", "backslashreplace").decode("utf-8").split())
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
    return plain if len(plain) <= length else plain[: length - 3] + "..."


def without_orders(text: str) -> str:
    """The text with every control sign escaped that is not a line break or a tab; letters of all scripts stay.

    >>> without_orders("a\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(sign if _harmless(sign) else sign.encode("unicode_escape").decode() for sign in text)


def _harmless(sign: str) -> bool:
    if sign in "\n\t" or "\ud800" <= sign <= "\udfff":  # the latter are bytes of a name, the screen shows them
        return True
    return sign.isprintable() or (sign.isspace() and sign not in "\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029")


def quoted(text: object, length: int = 60) -> str:
    """A user's own word in quotes, on one line and cut where it is long.

    >>> quoted("a" * 100, 10)
    "'aaaaaaa...'"
    """
    return f"'{printable(str(text), length)}'"
