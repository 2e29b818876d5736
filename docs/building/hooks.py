"""What mkdocs is told while it builds: the pages of the methods, and which pages of the navigation there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import methods


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what is not there, and enter the methods."""
    config.nav = _there(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in methods.pages(config.repo_url or "").items():
        files.append(File.generated(config, path, content=content))
    return files


def _there(entries: list[Any], docs: Path) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            found = _there(inner, docs) if isinstance(inner, list) else inner
            kept += [{title: found}] if found else []
        elif entry == "methods/index.md":
            kept += [entry, *methods.nav()]
        elif (docs / entry).is_file():
            kept.append(entry)
    return kept
