"""What README, docs and CONTRIBUTING show: commands, code, links. Found in their text, tried by tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from kdbench.cli import main
from kdbench.run import session

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
_FENCE = re.compile(r"^(?P<in> *)```+(?P<kind>[^\n`]*)\n(?P<code>.*?)^(?P=in)```+ *$", re.MULTILINE | re.DOTALL)
#: Before a block that cannot stand alone: ``<!-- not run: why -->``.
_NOT_RUN = re.compile(r"<!-- not run: \S[^>]*-->\s*\Z")


class Block(NamedTuple):
    """Code between fences."""

    kind: str
    code: str
    alone: bool  # whether it is said to run as it stands


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, examples put in."""
    for found in _FENCE.finditer(text):
        lines = [line.removeprefix(found["in"]) for line in found["code"].splitlines(keepends=True)]
        code = re.sub(r'^--8<-- "(.+)"$', lambda f: (ROOT / f[1]).read_text(), "".join(lines), flags=re.MULTILINE)
        kind = re.split(r"[\s{]", found["kind"].strip() or "text")[0]
        yield Block(kind, code, not _NOT_RUN.search(text[: found.start()]))


def shown(text: str) -> list[str]:
    r"""Commands on lines of their own and in backquotes; ``a\|b`` in a table is two of them."""
    bare = _FENCE.sub("", text)
    fenced = "\n".join(block.code for block in blocks(text) if block.kind in ("sh", "bash", "console", "text", "shell"))
    lines = re.findall(r"^    (kdbench [^#\n]+)", bare, re.MULTILINE) + re.findall(r"`(kdbench [a-z][^`\n]*)`", bare)
    lines += re.findall(r"^(?:\$ )?(kdbench [a-z][^#\n]*)", fenced, re.MULTILINE)
    found = []
    for line in lines:
        many = re.search(r"\S+\\\|\S+", line)
        for one in many.group().split("\\|") if many else [""]:
            found.append((line.replace(many.group(), one) if many else line).strip())
    return list(dict.fromkeys(found))


def parsed(words: list[str]) -> click.Context:
    """The context of a command's words; nothing is run."""
    at: click.Context = main.make_context("kdbench", list(words))
    while isinstance(at.command, click.Group):
        rest = [*at._protected_args, *at.args]
        name, command, rest = at.command.resolve_command(at, rest)
        assert name is not None
        assert command is not None
        at = command.make_context(name, rest, parent=at)
    return at


def resolve(context: click.Context) -> None:
    """The words of `run` name methods, pairs and settings that there are."""
    if (
        context.info_name == "run"
        and not context.params["plugins"]
        and not str(context.params["suite"]).endswith("toml")
    ):
        names = ("methods", "pairs", "suite", "seeds", "epochs", "limit_train", "overrides")
        words = {name: context.params[name] for name in names}
        assert session.resolve(session.Request(**words, device="cpu")).cells


def words(line: str) -> list[str]:
    """A command's words without its name."""
    return shlex.split(line)[1:]


def options() -> set[str]:
    """Every option of every verb."""
    there: set[str] = set()
    groups: list[click.Command] = [main]
    while groups:
        command = groups.pop()
        there |= {one for parameter in command.params for one in (*parameter.opts, *parameter.secondary_opts)}
        if isinstance(command, click.Group):
            groups += command.commands.values()
    return there | {"--help"}


def links(text: str) -> list[str]:
    """Targets of the links of a page that lead to a file."""
    bare = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    found = re.findall(r"\]\(([^)\s]+)\)", bare)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Names of a page's headings, as the site and GitHub make them."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}
