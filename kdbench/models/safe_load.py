"""Files of tensors opened without running what may be hidden in them."""

from __future__ import annotations

import mmap
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

#: By this name a pickle gets an array of any size: of what torch allows, the one type that fills its memory.
_BYTEARRAY = re.compile(rb"(?:__builtin__|builtins)\nbytearray\n")
#: Bytes by which the members of a zip file may seem larger than the file.
_SLACK = 1 << 20


class _Ignored:
    """Stands for an object that is no tensor: it takes whatever its pickle says, and keeps nothing."""

    def __init__(self, *args: object, **words: object) -> None: ...

    def __new__(cls, *args: object, **words: object) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...


class _Dict:
    """Stands for a kind of dict, whose items must be read because the state dict may be among them."""

    def __new__(cls, *args: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _stand_ins() -> Iterator[tuple[Any, str]]:
    """(stand-in, what it stands for): things that lie beside a state dict in well-known checkpoints."""
    for module, name in (
        *product(("numpy._core.multiarray", "numpy.core.multiarray"), ("scalar", "_reconstruct")),
        *product(("numpy",), ("dtype", "ndarray", "float64", "float32", "int64", "bool_")),
        *product(("pathlib", "pathlib._local"), ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath")),
        *product(("builtins",), ("list", "dict", "int", "float", "str", "bool", "tuple", "range", "slice")),
        *product(("datetime",), ("datetime", "date", "timedelta")),
        ("argparse", "Namespace"),  # RepDistiller's *_last.pth keep their command line
        ("types", "SimpleNamespace"),
        ("torch.torch_version", "TorchVersion"),
        ("typing", "Any"),
        ("omegaconf.base", "ContainerMetadata"),
        ("omegaconf.base", "Metadata"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.nodes", "AnyNode"),
    ):
        yield _Ignored, f"{module}.{name}"
    for name in (
        "collections.defaultdict",
        "easydict.EasyDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "yacs.config.CfgNode",
    ):
        yield _Dict, name


def open_safely(file: Path) -> Any:
    """What a .safetensors file or anything that ``torch.save`` wrote holds, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or reading it would run code or fill the memory; one sentence.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint {file}")
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise ValueError(f"{file} cannot be opened: {error.strerror}") from error
    if file.suffix.lower() == ".safetensors" or head[8:] == b"{":
        return _safetensors(file)
    _measure(file)
    try:
        # Torch warns of unusual pickles and then refuses them.
        with torch.serialization.safe_globals([*_stand_ins()]), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises whatever the parser meets
        asked = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise ValueError(
                f"{file} is refused, because reading it might run code ({asked[1]});"
                " save its state dict alone and import that"
            ) from error
        raise ValueError(f"{file} is not a checkpoint that torch can read without running code") from error


def _safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from error
    except Exception as error:  # a dtype that this torch has not, a file that shrinks meanwhile
        raise ValueError(f"{file} cannot be read as safetensors: {error!r}") from error


def _measure(file: Path) -> None:
    """Refuse what would take far more memory than the file has bytes.

    Raises:
        ValueError: it would.
    """
    size = file.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except Exception:  # no zip file, or one that torch may refuse
        members = []
    unpacked = sum(member.file_size for member in members)
    if unpacked > size + _SLACK or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"{file} is refused: its {size:,} bytes unpack to {unpacked:,}, and torch compresses nothing")
    if size:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if _BYTEARRAY.search(content):
                raise ValueError(f"{file} is refused, because it asks for a byte array, which may be of any size")
