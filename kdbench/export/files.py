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


def to_torch(
    deployed: Deployed, file: Path, out: Path, licence: str, *, header: bool = False
) -> tuple[list[Path], float]:
    """One file of weights, and its card. Returns the paths and the difference of logits."""
    tensors = state(deployed, out)
    off = difference(_again(deployed, tensors), deployed)
    said = facts(deployed, licence, off)
    with atomic_write(file) as stream:
        stream.write(save(tensors, metadata(said)))
    return [file, write_card(deployed, said, file, _how(deployed, file.name), header=header)], off


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
    weights = folder / "model.safetensors"
    tensors = state(deployed, folder)
    with atomic_write(weights) as stream:  # timm loads it from here to be compared
        stream.write(save(tensors, {"format": "pt"}))
    arch = architecture(one.student)
    net = timm.create_model(arch, num_classes=len(deployed.classes), checkpoint_path=str(weights), **_size(deployed))
    off = difference(net.eval(), deployed)
    said = facts(deployed, licence, off)
    with atomic_write(weights) as stream:
        stream.write(save(tensors, metadata(said)))
    cfg = {
        "architecture": arch,
        "num_classes": len(deployed.classes),
        "input_size": list(deployed.image_shape),
        "fixed_input_size": False,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": list(deployed.mean),
        "std": list(deployed.std),
        "license": licence or "other",
    }
    config = _config(folder, said, architecture=arch, num_classes=len(deployed.classes), pretrained_cfg=cfg)
    own = one.student.startswith(_TIMM)
    use = (
        f"import timm{'' if own else chr(10) + 'import kdbench.models  # registers the network with timm'}\n"
        f'net = timm.create_model("{arch}", num_classes={len(deployed.classes)},'
        ' checkpoint_path="model.safetensors").eval()'
    )
    return [weights, config, write_card(deployed, said, weights, use, header=header)], off


def to_hub(deployed: Deployed, folder: Path, out: Path, licence: str) -> tuple[list[Path], float]:
    """A folder for Hugging Face: that of timm, or, of a network that its method changes, its parts."""
    if deployed.method is None:
        return to_timm(deployed, folder, licence, header=True)
    (weights, model_card), off = to_torch(deployed, folder / "model.safetensors", out, licence, header=True)
    return [weights, _config(folder, facts(deployed, licence, off)), model_card], off


def _config(folder: Path, said: dict[str, Any], **own: Any) -> Path:
    """``config.json``: what is timm's, the names of the classes, and kdbench's facts."""
    path = folder / "config.json"
    with atomic_write(path, "w") as text:
        json.dump({**own, "label_names": said["classes"], "kdbench": said}, text, indent=1)
        text.write("\n")
    return path


def architecture(student: str) -> str:
    """Its name in timm's registry."""
    return student.removeprefix(_TIMM).partition(".")[0] if student.startswith(_TIMM) else timm_name(student)


def write_card(deployed: Deployed, said: dict[str, Any], file: Path, use: str, *, header: bool = False) -> Path:
    """The card beside a file: README.md in a folder of its own, else ``FILE.md``."""
    path = file.parent / "README.md" if file.name == "model.safetensors" else file.with_suffix(file.suffix + ".md")
    with atomic_write(path, "w") as text:
        text.write(card(deployed, said, file.name, use, header=header))
    return path


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
