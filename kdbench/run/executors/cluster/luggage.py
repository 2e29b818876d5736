"""What a cluster's processes run with: this very kdbench, the user's plug-ins, and one thread."""

from __future__ import annotations

import json
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdbench.run.executors.strangers import Stranger, Unlike
from kdbench.utils import environment

#: The folder of plug-in files, as it lies on the path of a process of the cluster.
SENT = "kdbench_plugins_sent"
#: Variables of this process that go along, beside kdbench's own.
_ALONG = ("KMP_", "MKL_", "OMP_")
#: Those of kdbench that mean a place on this machine, and where a node may have its own.
_HERE = ("KDBENCH_OUT", "KDBENCH_DATA", "KDBENCH_CACHE")


@dataclass(frozen=True)
class Plugin:
    """A plug-in as a task knows it: what it must be, and where it lies among what was sent."""

    stranger: Stranger  # without its text
    sha256: str
    place: str = ""  # below SENT; empty: a module

    def here(self) -> Stranger:
        """As it lies in this process.

        Raises:
            Unlike: it did not come, or not as it was sent.
        """
        if not self.place:
            return self.stranger
        for folder in sys.path:
            path = Path(folder) / SENT / self.place
            if path.is_file():
                found = Stranger(str(path), path.read_bytes())
                if found.sha256 != self.sha256:
                    raise Unlike(f"the plug-in {self.stranger.name} was changed on its way to a worker")
                return found
        raise Unlike(f"the plug-in {self.stranger.name} did not reach a worker")


@contextmanager
def packed(strangers: Sequence[Stranger]) -> Iterator[tuple[dict[str, Any], tuple[Plugin, ...]]]:
    """Ray's runtime environment, whose files lie there as long as the block lasts; and the plug-ins in it."""
    with TemporaryDirectory(prefix="kdbench-ray-") as folder:
        home = Path(folder)
        package = Path(sys.modules["kdbench"].__path__[0])
        shutil.copytree(package, home / "kdbench", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        modules = [str(home / "kdbench")]
        plugins = []
        for number, one in enumerate(strangers):
            if one.text is None:
                modules += _of_module(one.name)
                plugins.append(Plugin(one, ""))
                continue
            place = f"{number}/{Path(one.name).name}"  # two may have the same name, and be told so
            (home / SENT / str(number)).mkdir(parents=True)
            (home / SENT / place).write_bytes(one.text)
            plugins.append(Plugin(replace(one, text=b""), one.sha256, place))
        if (home / SENT).is_dir():
            modules.append(str(home / SENT))
        yield {"py_modules": list(dict.fromkeys(modules)), "env_vars": variables()}, tuple(plugins)


def variables() -> dict[str, str]:
    """Of the environment of every process of the cluster."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_ALONG) or (name.startswith("KDBENCH_") and name not in _HERE)
    }
    threads = str(environment.threads())
    return found | {"OMP_NUM_THREADS": threads, "KDBENCH_CODE": json.dumps(environment.code())}


def _of_module(name: str) -> list[str]:
    """File or folder of a module that the user has imported himself; nothing where it is installed."""
    first = sys.modules.get(name.partition(".")[0])
    file = getattr(first, "__file__", None)
    if file is None:
        return []
    path = Path(file).resolve()
    installed = [Path(sysconfig.get_path("purelib")), *map(Path, site.getsitepackages())]
    if any(path.is_relative_to(one.resolve()) for one in installed):
        return []
    return [str(path.parent if path.name == "__init__.py" else path)]
