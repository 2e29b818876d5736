"""Weights that a name promises: ``timm/NAME.TAG`` starts from the tag's weights, or is refused.

They come, in this order, from the file that is named, from ``$KDBENCH_WEIGHTS`` (a folder of files called
``NAME.TAG.safetensors``, ``.pth``, ``.pt`` or ``.bin``), from the caches of Hugging Face and torch, from the network.
"""

from __future__ import annotations

import hashlib
import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from torch import Tensor, nn

from kdbench.models import entered
from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.match import legible
from kdbench.models.renormalise import Normalisation

FOLDER = "KDBENCH_WEIGHTS"
_TIMM = "timm/"
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for, in its order
_MOST_CLASSES = 1_000_000  # of a head in a file; timm's largest has 21,843
_PATIENCE = 5  # seconds until a host counts as out of reach


class WeightsMissing(ValueError):
    """Weights that a name promises are not here and cannot be fetched: no fault of the model's, try again later.

    >>> locate("timm/vit_giant_patch14_224")
    Traceback (most recent call last):
    kdbench.models.pretrained.WeightsMissing: timm/vit_giant_patch14_224: timm has no weights of that name; ...
    """


def tag(name: str) -> str:
    """ "a1_in1k" of "timm/resnet18.a1_in1k"; "" where a name promises no weights."""
    return name.partition(".")[2] if name.startswith(_TIMM) else ""


def weights_identity(name: str, weights: str | Path | None = None) -> str:
    """SHA-256 of the weights that a model of this name starts from, head and all; "": it begins at random.

    The same for the same tensors, whatever kind of file they are in. May fetch the weights.

    Args:
        name: canonical, as ``resolve`` gives it.
        weights: as for ``create``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: they cannot be had, or cannot be read.

    >>> weights_identity("resnet20")
    ''
    >>> torch.save({"fc.bias": torch.zeros(10)}, "mine.pth")
    >>> weights_identity("resnet20", "mine.pth")[:8]
    '6adb697b'
    """
    if weights is None and (built := entered.find(name)):
        return built.sha256  # its file stands for it: another file is another network
    return _read(locate(name, weights))[1] if weights is not None or tag(name) else ""


def usual_normalisation(name: str) -> Normalisation | None:
    """What timm trains a network of this name with; None: it is not timm's, or timm does not say.

    >>> usual_normalisation("timm/resnet18").mean
    (0.485, 0.456, 0.406)
    >>> usual_normalisation("resnet20") is None
    True
    """
    cfg = timm.get_pretrained_cfg(name.removeprefix(_TIMM)) if name.startswith(_TIMM) else None
    return Normalisation.of(cfg.mean, cfg.std) if cfg is not None and cfg.mean and cfg.std else None


def locate(name: str, weights: str | Path | None = None) -> Path:
    """The file that the weights of a name lie in; fetches it where it must.

    Raises:
        WeightsMissing: it is nowhere and cannot be fetched.
    """
    if weights is not None:
        return Path(weights)
    model, folder = name.removeprefix(_TIMM), os.environ.get(FOLDER)
    there = (Path(folder).expanduser() / f"{model}{ending}" for ending in _ENDINGS) if folder else ()
    if found := next((file for file in there if file.is_file()), None):
        return found
    cfg = timm.get_pretrained_cfg(model)
    bare = name.partition(".")[0]
    offline = f"put them as {model}.safetensors or {model}.pth into the folder ${FOLDER}, or train {bare} from scratch"
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise WeightsMissing(f"{name}: timm has no weights of that name; {offline}")
    if found := _cached(cfg):
        return found
    host = urlparse(_endpoint() if cfg.hf_hub_id else _address(cfg)[0]).netloc
    if not _reachable(host, hub=bool(cfg.hf_hub_id)):
        raise WeightsMissing(
            f"{name}: its weights are in no cache of this machine, and {host} cannot be reached; {offline}"
        )
    try:
        if cfg.hf_hub_id:
            timm.models.load_state_dict_from_hf(cfg.hf_hub_id, weights_only=True)
        else:
            url, target = _address(cfg)
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), progress=False)
    except Exception as error:  # the network's and the hub's errors are of all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsMissing(f"{name}: timm's weights for it cannot be had: {said}; {offline}") from error
    if found := _cached(cfg):
        return found
    raise WeightsMissing(f"{name}: its weights were fetched from {host} and are in no cache; {offline}")


def start(net: nn.Module, name: str, num_classes: int, options: Mapping[str, Any], weights: str | Path | None) -> str:
    """Load the weights of ``name`` into a fresh timm network; a head of another number of classes stays fresh.

    Args:
        net: of ``num_classes`` outputs, as timm makes it with ``options``.
        name: canonical, "timm/...".
        num_classes: K.
        options: what timm made it with besides.
        weights: a file in place of the tag's.

    Returns:
        ``weights_identity`` of what was loaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: they cannot be had, cannot be read or are another network's.
    """
    file = locate(name, weights)
    state, sha256 = _read(file)
    model = name.removeprefix(_TIMM)
    classes = _classes(model, state)
    if classes > _MOST_CLASSES:
        raise ValueError(f"{file}: these weights are not for {name}: they have a head of {classes:,} classes")
    with torch.random.fork_rng(devices=[]):  # what is drawn for it is overwritten
        donor = _donor(file, model, classes, options, state)
    fresh = _head(net) if classes != num_classes else set()
    own = net.state_dict()
    given = {key: value for key, value in donor.items() if key not in fresh}
    if odd := [key for key in own if key not in fresh and (key not in given or given[key].shape != own[key].shape)]:
        raise ValueError(f"{file}: these weights are not for {name}: {len(odd)} do not fit ({', '.join(odd[:3])})")
    net.load_state_dict({**own, **{key: value for key, value in given.items() if key in own}})
    return sha256


def _donor(
    file: Path, model: str, classes: int, options: Mapping[str, Any], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights under timm's keys, for its sizes: as they are, or by timm's own conversion of this model's files."""
    plain = timm.create_model(model, pretrained=False, num_classes=classes, **options)
    try:
        return match(state, plain)
    except ValueError as error:
        complaint = error
    overlay = {"state_dict": dict(state), "num_classes": classes, "custom_load": False}
    try:
        converted = timm.create_model(
            model, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
        )
        return match(converted.state_dict(), plain)
    except Exception:  # timm's conversions raise whatever a foreign key leads to
        raise ValueError(f"{file}: {complaint}") from complaint


def _classes(model: str, state: Mapping[str, Tensor]) -> int:
    """Outputs of the head in ``state``; where it has none, or under another name, what timm says of it."""
    cfg = timm.get_pretrained_cfg(model)
    named = () if cfg is None or cfg.classifier is None else cfg.classifier
    for head in (named,) if isinstance(named, str) else named:
        for key, value in state.items():
            if key == f"{head}.weight" or key.endswith(f".{head}.weight"):
                return len(value) if value.dim() else 0
    return 0 if cfg is None else int(cfg.num_classes)


def _head(net: nn.Module) -> set[str]:
    """Keys of a network's classifier."""
    found = net.get_classifier()  # type: ignore[operator]
    heads = set(found) if isinstance(found, tuple) else {found}
    prefixes = tuple(f"{path}." for path, module in net.named_modules() if module in heads)
    return {key for key in net.state_dict() if key.startswith(prefixes)}


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """State dict in a file, and its hash: over names, dtypes, shapes and bytes, in the order of the names."""
    state = read_checkpoint(file)
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        odd = value.is_nested or value.layout != torch.strided or value.is_meta or value.is_quantized
        # What repeats its values may say that it is of any size.
        if odd or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{file}: {legible(key)} is no plain tensor with values of its own")
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state, digest.hexdigest()


def _cached(cfg: Any) -> Path | None:
    """Where earlier downloads lie, of kdbench or of anybody else."""
    if cfg.hf_hub_id:
        import huggingface_hub

        repository, _, revision = cfg.hf_hub_id.partition("@")
        for name in (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES:
            found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    return _address(cfg)[1] if cfg.url and _address(cfg)[1].is_file() else None


def _address(cfg: Any) -> tuple[str, Path]:
    """Where weights that lie on no hub are fetched from, and where torch caches them."""
    url, name = (cfg.url, "") if isinstance(cfg.url, str) else cfg.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / (name or os.path.basename(urlparse(url).path))


def _endpoint() -> str:
    import huggingface_hub

    return str(huggingface_hub.constants.ENDPOINT)


def _reachable(host: str, *, hub: bool) -> bool:
    """Whether to try at all: without a network the hub's own retries take most of a minute."""
    if hub:
        import huggingface_hub

        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return False
    if urllib.request.getproxies():  # who knows what lies behind
        return True
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True
