r"""Strings that others wrote, made harmless: one function for each kind of output.

A record is sealed, not trusted: whoever sends one chooses its names, reasons, settings and versions. Whatever
stands in them, a table holds it as visible text on one line. It is never LaTeX, HTML, a link, a formula of a
spreadsheet, an order to a terminal or a sign that hides or turns round what stands beside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
# Letters and marks that have no picture of their own (Unicode's Default_Ignorable_Code_Point beside category Cf).
_IGNORABLE = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
) | frozenset(range(0xE0000, 0xE1000))
_CUT = " ... "


def plain(text: object, most: int | None = None) -> str:
    r"""Visible text on one line; ``most`` shortens it in the middle to that many signs.

    Line breaks and tabs become spaces; control signs, escape sequences, signs that turn the direction of writing or
    have no width, and lone surrogates are spelled: ``\x1b``, ``\u202e``.
    """
    text = str(text)
    if most is not None and len(text) > most:  # before the signs: a text may have millions
        head = (most - len(_CUT) + 1) // 2
        text = text[:head] + _CUT + text[len(text) - (most - len(_CUT) - head) :]
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_visible, text))
    return text


@lru_cache(maxsize=4096)
def _visible(sign: str) -> str:
    if sign in _SPACES:
        return " "
    category, code = unicodedata.category(sign), ord(sign)
    if category == "Zs":
        return " "
    if category in ("Cc", "Cf", "Cs", "Co", "Cn") or code in _IGNORABLE:
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return sign


def markdown(text: object, *, block: bool = False) -> str:
    """As GitHub's Markdown; ``block``: it stands where a list, a heading or a quotation could begin."""
    source = " ".join(plain(text).split())
    source = re.sub(r"([\\`*\[\]|~$])", r"\\\1", source)
    source = source.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    source = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", source)  # within a word it is no emphasis
    source = re.sub(r":(?=//)", r"\\:", source)  # an address is text, not a link
    source = re.sub(r"(?i)\bwww\.", lambda found: found[0][:3] + "\\.", source)
    if block:
        source = re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", re.sub(r"^([#+=-])", r"\\\1", source))
    return source


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv(value: object) -> object:
    """A cell of a spreadsheet: numbers stay numbers, and no text is a formula.

    Text that begins with ``= + - @`` (after spaces, too, and in full width) gets an apostrophe in front, as OWASP's
    page on CSV injection advises; behind a semicolon likewise, which parts cells in many countries.
    """
    if not isinstance(value, str):
        return value
    text = plain(value)
    if text.lstrip().startswith(_FORMULA):
        text = "'" + text
    return re.sub(rf"(;\s*)(?=[{re.escape(''.join(_FORMULA))}])", r"\1'", text)


_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0307": ".", "\u0308": '"'} | {
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
    "\u0328": "k",
}
_GREEK = frozenset(
    ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "mu", "nu", "xi", "pi", "rho")
) | {*("sigma", "tau", "phi", "chi", "psi", "omega")}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "\u00d7": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\u2212": r"$-$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "`": "'",
    '"': "''",
    "·": r"$\cdot$",
    "\u03bb": r"$\lambda$",
    "ß": r"{\ss}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
    "\u0131": r"{\i}",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": "''",
    "\u201d": "''",
    "\u2013": "--",
    "\u2014": "---",
    "\u2026": r"\ldots{}",
}


def latex(text: object) -> str:
    """LaTeX's source of a text in pure ASCII, for any engine; a sign that it has no name for is spelled ``[U+4E2D]``.

    A row that begins with ``[`` or ``*`` would be read as an option of the line break before it, hence the braces.
    """
    source = "".join(map(_in_latex, unicodedata.normalize("NFC", plain(text))))
    return f"{{{source}}}" if source.startswith(("[", "*", "(")) else source


def printed(text: str) -> str:
    """The signs that LaTeX prints for a text, about: those without a name are spelled."""
    return "".join(sign if sign.isascii() else found if (found := _in_latex(sign))[:1] == "[" else "M" for sign in text)


@lru_cache(maxsize=4096)
def _in_latex(sign: str) -> str:
    if sign in _LATEX:
        return _LATEX[sign]
    if sign.isascii():
        return sign
    parts = unicodedata.normalize("NFD", sign)
    base, marks = parts[0], parts[1:]
    if base.isascii() and base.isalpha() and marks in _ACCENTS:
        return rf"\{_ACCENTS[marks]}{{{base}}}"
    kind, _, letter = unicodedata.name(sign, "").partition(" LETTER ")
    if kind == "GREEK SMALL" and letter.lower() in _GREEK:
        return rf"$\{letter.lower()}$"
    return f"[U+{ord(sign):04X}]"


def latex_comment(text: object) -> str:
    """One line behind a ``%``."""
    return f"% {plain(text)}"


_SIGNS = {"→": "->", "±": "+-", "·": "-", "\u00d7": "x", "\u2212": "-", "▲": "^", "▼": "v"}


def terminal(text: object, encoding: str = "utf-8") -> str:
    r"""For a screen of that encoding: signs that it lacks become plain ones, and nothing is an order to it.

    >>> terminal("98.1 ± 0.3 → best", encoding="ascii")
    '98.1 +- 0.3 -> best'
    >>> terminal("\x1b[31mred")
    '\\x1b[31mred'
    """
    text = plain(text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(_SIGNS.get(sign, sign) for sign in text)
        text = text.encode(encoding, "replace").decode(encoding)
    except LookupError:
        pass  # no encoding that Python knows: the stream's own matter
    return text


def by_line(text: str, escape: Callable[[str], str]) -> list[str]:
    """The lines of a table's header, each escaped; line breaks in names were taken out when it was made."""
    return [escape(part) for part in text.split("\n")]
