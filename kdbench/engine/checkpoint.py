"""One file per lane: written aside, forced to disk, renamed. A kill at any moment leaves a whole one."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.engine.errors import Failed, OutOfMemory, holds, said
from kdbench.utils.files import atomic_write, content
from kdbench.utils.wording import printable

#: Of the end of an epoch, and of mid-epoch, which kdbench before 0.2 would take for the end of one.
_MAGIC, _MAGIC_PARTIAL = b"kdbench checkpoint 1\n", b"kdbench checkpoint 2\n"
_DIGEST = hashlib.sha256().digest_size
_SCALARS = (str, int, float, bool, bytes, complex, type(None), torch.dtype, torch.Size)
#: How deep lists and dicts may be nested in a state.
DEPTH = 20


class CheckpointDamaged(ValueError):
    """The file is truncated, edited or no checkpoint at all.

    >>> unpack(b"something else", "kd.ckpt")
    Traceback (most recent call last):
    kdbench.engine.checkpoint.CheckpointDamaged: checkpoint kd.ckpt is truncated or was not written by kdbench
    """


class CheckpointForeign(ValueError):
    """A whole checkpoint, but of other settings, another teacher, other data or another file of the method.

    ``what`` says which; "content": what it holds does not fit.

    >>> CheckpointForeign("checkpoint kd.ckpt is of another teacher", "teacher").what
    'teacher'
    """

    def __init__(self, sentence: str, what: str) -> None:
        super().__init__(sentence)
        self.what = what


#: What a checkpoint belongs to, and how that is said of another one.
_BELONGS = {
    "settings": "another set of settings",
    "teacher": "another teacher",
    "data": "other data",
    "plugin": "another file of the method",
}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) so that ``path`` is always whole.

    Raises:
        Failed: it holds something else, which could not be read again.
        OSError: the disk is full or the folder is not writable; what was there before stays.
    """
    if strange := stranger(state):
        raise Failed(f"its state holds {strange}, which no checkpoint can keep")
    parts = _parts(state)
    with atomic_write(path) as file:
        for part in parts:
            file.write(part)
        file.flush()
        if os.fstat(file.fileno()).st_size != sum(map(len, parts)):
            raise OSError(f"{path.name} is shorter than what was written")


def load(path: Path, belongs: Mapping[str, str]) -> dict[str, Any] | None:
    """The state in ``path``; None when there is no such file.

    ``belongs``: hashes of what it must have been made with, by the names of ``Lane.belongs``.

    Raises:
        CheckpointDamaged: it cannot be read whole.
        CheckpointForeign: one of these hashes is another.
    """
    try:
        state = peek(path)
    except FileNotFoundError:
        return None
    for what, ours in belongs.items():
        theirs = state.get(what, "")
        if not isinstance(theirs, str):
            raise CheckpointDamaged(f"checkpoint {path.name} was not written by kdbench: its {what} is no hash")
        if theirs != ours:
            raise CheckpointForeign(
                f"checkpoint {path.name} belongs to {_BELONGS[what]} ({theirs[:8] or 'none'}, this run has"
                f" {ours[:8] or 'none'}); --force trains the cell anew",
                what,
            )
    return state


def peek(path: Path) -> dict[str, Any]:
    """The state in ``path``, whatever it belongs to; on the CPU.

    Raises:
        FileNotFoundError: there is none.
        CheckpointDamaged: it cannot be read whole.
    """
    return unpack(content(path), path.name)


def pack(state: dict[str, Any]) -> bytes:
    """A state (tensors, numbers, strings, lists, dicts) as the bytes of a checkpoint's file.

    >>> unpack(pack({"epoch": 3}), "kd.ckpt")
    {'epoch': 3}
    """
    return b"".join(_parts(state))


def _parts(state: dict[str, Any]) -> tuple[bytes, bytes, memoryview]:
    payload = io.BytesIO()
    torch.save(state, payload)
    body = payload.getbuffer()
    return _MAGIC_PARTIAL if "partial" in state else _MAGIC, hashlib.sha256(body).digest(), body


def unpack(whole: bytes, name: str) -> dict[str, Any]:
    """The state in the bytes of the checkpoint ``name``; on the CPU. No code in it is run.

    Raises:
        CheckpointDamaged: it cannot be read whole.

    >>> whole = pack({"weight": torch.ones(2)})
    >>> unpack(whole, "kd.ckpt")
    {'weight': tensor([1., 1.])}
    >>> unpack(whole[:-1], "kd.ckpt")
    Traceback (most recent call last):
    kdbench.engine.checkpoint.CheckpointDamaged: checkpoint kd.ckpt is truncated or was not written by kdbench
    """
    body = whole[len(_MAGIC) + _DIGEST :]
    digest = whole[len(_MAGIC) : len(_MAGIC) + _DIGEST]
    if not whole.startswith((_MAGIC, _MAGIC_PARTIAL)) or hashlib.sha256(body).digest() != digest:
        raise CheckpointDamaged(f"checkpoint {name} is truncated or was not written by kdbench")
    try:
        with holds(f"checkpoint {name}", "cpu"):
            state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except OutOfMemory:
        raise
    except Exception as error:  # torch, pickle and zip files each have their own
        raise CheckpointDamaged(f"checkpoint {name} was not written by kdbench: {said(error)}") from None
    if type(state) is not dict or any(type(key) is not str for key in state):
        raise CheckpointDamaged(f"checkpoint {name} was not written by kdbench: it is no dict with names")
    return state


def progress(path: Path) -> tuple[str, int]:
    """Stage and finished epochs of the lane in ``path``, for those who only look.

    Raises:
        FileNotFoundError: there is none.
        CheckpointDamaged: it does not say.

    >>> _ = Path("kd.ckpt").write_bytes(pack({"stage": "train", "epoch": 3}))
    >>> progress(Path("kd.ckpt"))
    ('train', 3)
    """
    state = peek(path)
    stage, epoch = state.get("stage"), state.get("epoch")
    if stage not in ("pretrain", "train") or type(epoch) is not int or not 0 <= epoch < 10**9:
        raise CheckpointDamaged(f"checkpoint {path.name} was not written by kdbench: it does not say where it stands")
    return stage, epoch


def stranger(state: Any) -> str:
    """The first thing in a state that is no tensor with values, number, string, list or dict of such; "" if none is."""
    ahead: list[tuple[str, Any, int]] = [("", state, 0)]
    while ahead:
        path, value, depth = ahead.pop()
        kind = type(value)
        if isinstance(value, Tensor):
            if value.layout is torch.strided and not value.is_meta and not value.is_quantized:
                continue
        elif kind in _SCALARS:
            continue
        elif kind in (list, tuple) and depth < DEPTH:
            ahead += [(f"{path}[{at}]", inner, depth + 1) for at, inner in enumerate(value)]
            continue
        elif kind in (dict, OrderedDict) and depth < DEPTH:
            keys = [key for key in value if type(key) not in _SCALARS]
            if not keys:
                ahead += [(f"{path}.{key}".lstrip("."), inner, depth + 1) for key, inner in value.items()]
                continue
        return f"{printable(path, 80)}, of type {printable(kind.__name__, 80)}"
    return ""


def beside_sha256(state: dict[str, Tensor]) -> str:
    """sha256 of what is kept beside a student (``student.*``): its method's parts, averaged weights; "" for nothing.

    >>> beside_sha256({"student.weight": torch.ones(2)}), len(beside_sha256({"method.weight": torch.ones(2)}))
    ('', 64)
    """
    found = {name: value for name, value in state.items() if not name.startswith("student.")}
    return state_sha256(found) if found else ""


def state_sha256(state: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in order of the names.

    >>> one = {"weight": torch.ones(2), "bias": torch.zeros(1)}
    >>> state_sha256(one) == state_sha256(dict(reversed(one.items())))
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
