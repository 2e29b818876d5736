"""Weights as safetensors: for torch, and in the folder that timm loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from kdbench import models
from kdbench.export.deployed import Deployed, borrowed, difference
from kdbench.export.facts import card, facts, metadata
from kdbench.export.place import CONFIG, WEIGHTS, write_card
from kdbench.models.nets._net import timm_name
from kdbench.utils.files import atomic_write

_TIMM = "timm/"


def state(deployed: Deployed, out: Path) -> dict[str, Tensor]:
    """The network's own keys; of a network that its method changes ``student.``, ``method.`` and ``teacher.`` parts."""
    if deployed.method is None:
        found: dict[str, Tensor] = deployed.student.net.state_dict()
    else:
        found = {f"student.{key}": value for key, value in deployed.student.net.state_dict().items()}
        found |= {f"method.{key}": value for key, value in deployed.method.state_dict().items()}
        found |= {f"teacher.{key}": value for key, value in borrowed(deployed, out).items()}
    return {key: value.detach().contiguous().clone() for key, value in found.items()}


def to_torch(deployed: Deployed, file: Path, out: Path, licence: str) -> tuple[list[Path], float]:
    """One file of weights, and its card. Returns the paths and the difference of logits."""
    said, off = _weights(deployed, file, out, licence)
    return [file, write_card(card(deployed, said, file.name, _how(deployed, file.name)), [file])], off


def _weights(deployed: Deployed, file: Path, out: Path, licence: str) -> tuple[dict[str, Any], float]:
    tensors = state(deployed, out)
    off = difference(_again(deployed, tensors), deployed)
    said = facts(deployed, licence, off)
    with atomic_write(file) as stream:
        stream.write(save(tensors, metadata(said)))
    return said, off


def to_timm(deployed: Deployed, folder: Path, licence: str, *, header: bool = False) -> tuple[list[Path], float]:
    """A folder with weights, ``config.json`` as timm has it, and a card. Returns the paths and the difference.

    Raises:
        ValueError: the method has changed the network.
    """
    one = deployed.record
    if deployed.method is not None:
        raise ValueError(
            f"{one.method} changes the network, and timm has no model for it; --to torch, torch-export or onnx does"
        )
    weights = folder / WEIGHTS
    tensors = state(deployed, folder)
    with atomic_write(weights) as stream:  # timm loads it from here to be compared
        stream.write(save(tensors, {"format": "pt"}))
    arch = architecture(one.student)
    size = _size(deployed)
    net = timm.create_model(arch, num_classes=len(deployed.classes), checkpoint_path=str(weights), **size)
    off = difference(net.eval(), deployed)
    said = facts(deployed, licence, off)
    with atomic_write(weights) as stream:
        stream.write(save(tensors, metadata(said)))
    theirs = one.student.startswith(_TIMM)
    timm_cfg = timm.get_pretrained_cfg(arch) if theirs else None
    cfg = {
        "architecture": arch,
        "num_classes": len(deployed.classes),
        "input_size": list(deployed.image_shape),
        "fixed_input_size": bool(timm_cfg and timm_cfg.fixed_input_size),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": list(deployed.mean),
        "std": list(deployed.std),
        "license": licence or "other",
    }
    own = {"model_args": size} if size else {}
    config = _config(folder, said, architecture=arch, num_classes=len(deployed.classes), **own, pretrained_cfg=cfg)
    use = (
        f"import timm{'' if theirs else chr(10) + 'import kdbench.models  # registers the network with timm'}\n"
        f'net = timm.create_model("{arch}", num_classes={len(deployed.classes)},'
        f'{"".join(f" {name}={value}," for name, value in size.items())} checkpoint_path="{WEIGHTS}").eval()'
    )
    text = card(deployed, said, weights.name, use, header=header)
    return [weights, config, write_card(text, [weights, config])], off


def to_hub(deployed: Deployed, folder: Path, out: Path, licence: str) -> tuple[list[Path], float]:
    """A folder for Hugging Face: that of timm, or, of a network that its method changes, its parts."""
    if deployed.method is None:
        return to_timm(deployed, folder, licence, header=True)
    weights = folder / WEIGHTS
    said, off = _weights(deployed, weights, out, licence)
    config = _config(folder, said)
    text = card(deployed, said, weights.name, _how(deployed, weights.name), header=True)
    return [weights, config, write_card(text, [weights, config])], off


def _config(folder: Path, said: dict[str, Any], **own: Any) -> Path:
    """``config.json``: what is timm's, the names of the classes, and kdbench's facts."""
    path = folder / CONFIG
    with atomic_write(path, "w") as text:
        json.dump({**own, "label_names": said["classes"], "kdbench": said}, text, indent=1)
        text.write("\n")
    return path


def architecture(student: str) -> str:
    """Its name in timm's registry."""
    return student.removeprefix(_TIMM).partition(".")[0] if student.startswith(_TIMM) else timm_name(student)


def read_facts(file: Path) -> dict[str, Any]:
    """What a file of weights says of itself.

    Raises:
        ValueError: it says nothing of kdbench.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        said = (opened.metadata() or {}).get("kdbench")
    if said is None:
        raise ValueError(f"{file} is no file that kdbench has exported")
    found: dict[str, Any] = json.loads(said)
    return found


def _again(deployed: Deployed, tensors: dict[str, Tensor]) -> Any:
    """The network that somebody else builds of these tensors."""
    one = deployed.record
    with torch.random.fork_rng(devices=[]):
        net = models.create(
            one.student, len(deployed.classes), image_size=deployed.image_shape[-1], pretrained=False
        ).eval()
    if deployed.method is None:
        net.net.load_state_dict(tensors)
        return net.net
    own = {key.removeprefix("student."): value for key, value in tensors.items() if key.startswith("student.")}
    net.net.load_state_dict(own)
    method = deployed.method
    return lambda images: method.predict(net(images))


def _size(deployed: Deployed) -> dict[str, Any]:
    """What timm must be told of the size of images by a network that has a fixed one."""
    arch = architecture(deployed.record.student)
    cfg = timm.get_pretrained_cfg(arch) if deployed.record.student.startswith(_TIMM) else None
    fixed = cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != deployed.image_shape[-1]
    return {"img_size": deployed.image_shape[-1]} if fixed else {}


def _how(deployed: Deployed, file: str) -> str:
    name, student = json.dumps(file), deployed.record.student
    if deployed.method is not None:
        return (
            "from safetensors.torch import load_file\n"
            f"parts = load_file({name})  # student.*, method.*, teacher.*; --to torch-export makes a program of them"
        )
    bare = student.partition(".")[0] if student.startswith(_TIMM) else student
    return (
        "from safetensors.torch import load_file\nfrom kdbench import models\n"
        f'net = models.create("{bare}", {len(deployed.classes)}, image_size={deployed.image_shape[-1]}).net.eval()\n'
        f"net.load_state_dict(load_file({name}))"
    )
