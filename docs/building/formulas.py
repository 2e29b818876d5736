"""A formula as the methods' docstrings write it, in TeX: ``beta * mean (f_S - f_T)^2`` is plain text there.

The docstrings are read in terminals and editors, where TeX would be noise. What is no sign, number or name of a
quantity stays text, so that a sentence within a formula stays one.
"""

from __future__ import annotations

import re

GREEK = ("alpha", "beta", "gamma", "delta", "tau", "rho", "mu", "sigma", "theta", "phi", "lambda")
SYMBOLS = {**{name: rf"\{name}" for name in GREEK}, "eps": r"\varepsilon", "lam": r"\lambda", "sum": r"\sum"}
OPERATORS = ("mean", "softmax", "sigmoid", "log", "exp", "min", "max", "corr", "stopgrad")
SIGNS = {"*": r"\,", "||": r"\,\Vert\,", "<": r"\langle ", ">": r"\rangle ", "{": r"\{", "}": r"\}", "!=": r"\neq"}
SIGNS |= {"..": r"\dots", "...": r"\cdots", " < ": "<", " > ": ">"}
ONE_LINE = 62  # characters of a docstring that a column of text holds when they are set
_TOKEN = re.compile(
    r"(?P<less> [<>] )|\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z]+'s\b)"
    r"|(?P<name>[A-Za-z]+\d?(?:_(?:\{[^}]*\}|[A-Za-z0-9]+(?:,[a-z](?![a-z]))?))*)"
    r"|_(?P<index>[A-Za-z0-9]+(?:\+1)?)|(?P<sign>\|\||\.\.\.?|!=|.))"
)
_ABOUT = "over|for|on|where|in|with|without|kernel|all|as|no"  # begins words about a formula
_BREAK = re.compile(rf"; |, (?=(?:[A-Za-z]+(?: and \w+)? (?:the|in) |(?:{_ABOUT}) |[A-Za-z]\w*(?:\([^)]*\))? =))")


def lines(text: str) -> list[tuple[str, bool]]:
    """The parts of a docstring's formula, each with whether it is one: the others are words about it.

    >>> lines("loss = CE + beta * D(p, q), p the teacher's.")
    [('loss = CE + beta * D(p, q)', True), ("p the teacher's", False)]
    """
    parts = [part.strip() for part in _BREAK.split(text.strip().removesuffix("."))]
    return [(part, bool(re.search(r"\s=\s| \* |\bmean \(", part))) for part in parts if part]


def display(text: str) -> str:
    r"""TeX of a formula in as many lines as it needs; a line breaks before a plus that no bracket holds.

    >>> display("loss = CE + KD + beta * mean (f_S - f_T)^2, or much longer still + 1")[:47]
    '\\begin{aligned}\\mathrm{loss} = {} & \\mathrm{CE}'
    """
    head, equals, rest = text.partition(" = ")
    parts = _summands(rest)
    if not equals or len(text) <= ONE_LINE or len(parts) < 2:
        return tex(text)
    broken, length = [parts[0]], len(parts[0])
    for part in parts[1:]:
        if length + len(part) <= ONE_LINE:
            broken[-1] += f" + {part}"
            length += len(part)
        else:
            broken.append(f"+ {part}")
            length = len(part)
    said = r" \\ & ".join(tex(part).strip() for part in broken)
    return rf"\begin{{aligned}}{tex(f'{head} =')} {{}} & {said}\end{{aligned}}"


def _summands(text: str) -> list[str]:
    depth, parts = 0, [""]
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if text[at : at + 3] == " + " and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip().removeprefix("+ ") for part in parts]


def tex(text: str) -> str:
    r"""TeX of a formula.

    >>> tex("loss = CE + beta * mean (f_S - f_T)^2")
    '\\mathrm{loss} = \\mathrm{CE} + \\beta \\, \\operatorname{mean} (f_{S} - f_{T})^{2}'
    >>> tex("sum over stages of |r(F_S)|")
    '\\sum \\text{ over stages of } | r(F_{S}) |'
    """
    made: list[str] = []
    words: list[str] = []
    text, at = text.replace("``", ""), 0
    while found := _TOKEN.match(text, at):
        at = found.end()
        name = found["word"] or found["name"]
        if name and _is_word(name):
            words.append(name)
            continue
        if words:
            calls = found["sign"] == "(" and text[found.start()] == "("
            last = rf"\operatorname{{{words.pop()}}}" if calls else ""
            whole = not made and text[found.start() :].startswith(" =")
            said = " ".join(words)
            made += [rf"\mathrm{{{said}}}" if whole else rf"\text{{ {said} }}"] if said else []
            made += [last] if last else []
            words = []
        if found["sign"] == "^":
            power, at = _power(text, at)
            made.append(power)
        elif found["index"]:
            made.append(f"_{{{found['index']}}}")
        else:
            sign = found["less"] or found["sign"]
            made.append(_quantity(name) if name else found["number"] or SIGNS.get(sign, sign))
    if words:
        made.append(rf"\text{{ {' '.join(words)}}}")
    return re.sub(r" (?=[_^,;')])|(?<=\() |(?<=[a-zA-Z}]) (?=\()(?<!mean} )", "", " ".join(made))


def _is_word(name: str) -> bool:
    """``stages``, ``of``, ``First``, ``teacher's``; no quantity."""
    known = name in SYMBOLS or name in OPERATORS
    return len(name) > 1 and not known and re.fullmatch(r"[A-Z]?[a-z]+|[A-Za-z]+'s", name) is not None


def _power(text: str, at: int) -> tuple[str, int]:
    found = re.match(r"\(([^)]*)\)|\d+|[a-z]+|[A-Z]", text[at:])
    if found is None:
        raise ValueError(f"the formula {text!r} has a power of nothing; write a^2, a^b or a^(b - c)")
    inner = found[1] if found[1] is not None else found[0]
    return f"^{{{tex(inner).strip()}}}", at + found.end()


def _quantity(name: str) -> str:
    base, *subs = name.split("_", 1)
    sub = subs[0].strip("{}") if subs else ""
    if sub == "weight":
        return rf"\mathrm{{{base}\_weight}}"
    if base in SYMBOLS or base in OPERATORS:
        made = SYMBOLS.get(base, rf"\operatorname{{{base}}}")
    elif found := re.fullmatch(r"([A-Za-z]+)(\d)", base):
        letters = found[1] if len(found[1]) == 1 else rf"\operatorname{{{found[1]}}}"
        made = f"{letters}_{{{found[2]}}}"
    else:
        made = base if len(base) == 1 else rf"\mathrm{{{base}}}"
    if not sub:
        return made
    if " " in sub:
        return f"{made}_{{{tex(sub)}}}"
    plain = len(sub) <= 2 or "," in sub
    below = SYMBOLS.get(sub, sub if plain else rf"\mathrm{{{sub}}}")
    return f"{made}_{{{below}}}"
