"""A page for every method of the registry, made of its card when the site is built."""

from __future__ import annotations

import csv
import inspect
import re
from pathlib import Path

import formulas

from kdbench import registry
from kdbench.terminal.cards import card

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("control", "logit", "feature", "relation", "contrastive", "two-stage", "modified student")
_URL = re.compile(r"https?://[^\s<>]+[^\s<>.,;)]")
_ALSO = {"student": "the base line of every table", "kd": "CE and KD alone"}


def pages(repository: str) -> dict[str, str]:
    """Markdown by its path below ``docs``: ``methods/semckd.md`` and so on, and ``methods/index.md``.

    Args:
        repository: address of the source, for links to files.
    """
    measured = {path.parent.name: _rows(path) for path in sorted(ROOT.glob("results/*/leaderboard.csv"))}
    made = {f"methods/{name}.md": _page(name, repository, measured) for name in registry.names()}
    return {"methods/index.md": _index()} | made


def nav() -> list[dict[str, list[str]]]:
    """The pages by family, the names in alphabetical order."""
    return [{family: [f"methods/{name}.md" for name in names]} for family, names in _families().items()]


def _families() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name in registry.names():
        found.setdefault(registry.get(name).family, []).append(name)
    return {family: names for family, names in found.items() if names}


def _index() -> str:
    evidence = (
        "The last column says what each was proven against (the [glossary](../glossary.md) explains the words), its"
        " page says it in full."
    )
    network = "Formulas are set by MathJax where your browser can fetch it; elsewhere their TeX source is shown."
    lines = ["# Methods", "", f"{len(registry.names())} methods, each in one file. {evidence} {network}", ""]
    for family, names in _families().items():
        lines += [f"## {family.capitalize()}", "", "| method | idea | proven against |", "|---|---|---|"]
        for name in names:
            cls = registry.get(name)
            lines.append(f"| [`{name}`]({name}.md) | {text(registry.idea(cls))} | {text(cls.provenance)} |")
        lines.append("")
    return "\n".join(lines)


def _page(name: str, repository: str, measured: dict[str, dict[str, dict[str, str]]]) -> str:
    sections = dict(card(name))
    title = f"# {name}"
    lines = [title, "", *(text(line) for line in sections.pop(name)), "", "## Formula", ""]
    lines += _formula(" ".join((inspect.getdoc(registry.get(name)) or "").split("\n\n")[0].split()))
    sections.pop("formula")
    for heading, said in sections.items():
        lines += [f"## {'Evidence' if heading == 'provenance' else heading.capitalize()}", ""]
        if heading == "hyper-parameters":
            lines += [f"- {_setting(line)}" for line in said]
        elif heading in ("cost", "published") or len(said) > 1:
            lines += [f"- {text(line.removeprefix('- '))}" for line in said]
        else:
            lines += [text(line.removeprefix("- ")) for line in said]
        if heading == "provenance":
            lines += ["", *_files(name, repository)]
            lines += [line for suite, rows in measured.items() for line in _measured(suite, rows.get(name))]
        lines.append("")
    lines += ["## Use", "", f"    kdbench run --methods {name},kd,student", ""] if name not in _ALSO else []
    return "\n".join(lines)


def _formula(said: str) -> list[str]:
    """As MathJax shows it, and as the docstring has it, which is read without it."""
    made = []
    for part, is_formula in formulas.lines(said):
        made += [rf"\[ {formulas.display(part)} \]" if is_formula else text(part), ""]
    return [*made, '```{.text .plain title="in plain signs"}', said, "```", ""]


def _setting(line: str) -> str:
    name, _, rest = line.partition(" = ")
    return f"`{name}` = {text(rest)}" if rest else text(line)


def _files(name: str, repository: str) -> list[str]:
    own = inspect.getmodule(registry.get(name))
    files = [f"methods/{(own.__name__ if own else name).rpartition('.')[2]}.py", f"tests/test_{name}.py"]
    there = [f"[{file}]({repository}/blob/main/{file})" for file in files if (ROOT / file).is_file()]
    return [f"Source and proof: {', '.join(there)}.", ""]


def _rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def _measured(suite: str, row: dict[str, str] | None) -> list[str]:
    """Its line of a committed leaderboard."""
    if row is None:
        return []
    pairs = [name.removesuffix(" mean") for name in row if name.endswith(" mean")]
    cells = []
    for pair in pairs:
        if row[f"{pair} status"] == "done":
            spread = f" ± {float(row[f'{pair} std']):.2f}" if row[f"{pair} std"] else ""
            cells.append(
                f"{float(row[f'{pair} mean']):.2f}{spread} (n = {float(row[f'{pair} n']):.0f})".replace(" ", "\u00a0")
            )
        else:
            cells.append("n/a")
    head = f"| suite `{suite}`, last epoch, top-1 in % | " + " | ".join(text(pair) for pair in pairs) + " |"
    return [head, "|---|" + "---|" * len(pairs), f"| {text(row['method'])} | " + " | ".join(cells) + " |", ""]


def text(words: str) -> str:
    """Plain words as Markdown that shows just them; addresses become links, what stands in double backquotes code."""
    made, at = [], 0
    for found in re.finditer(rf"``(?P<code>[^`]+)``|(?P<url>{_URL.pattern})", words):
        made.append(_escaped(words[at : found.start()]))
        made.append(f"`{found['code']}`" if found["code"] else f"<{found['url']}>")
        at = found.end()
    return "".join([*made, _escaped(words[at:])])


def _escaped(words: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", words)
