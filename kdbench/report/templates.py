"""The templates of HTML pages: everything that is put into one is escaped, and what is missing is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, *, finalize: Callable[[Any], Any] | None = None) -> Template:
    """A template of this folder; ``finalize`` is applied to every value before it is escaped.

    >>> template("site.html.j2").name
    'site.html.j2'
    """
    environment = Environment(
        loader=PackageLoader("kdbench.report", "."),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
