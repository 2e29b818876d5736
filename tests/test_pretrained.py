"""A name with a tag starts from the tag's weights, from a file where there is no network, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdbench.models import WeightsMissing, create, pretrained, weights_identity

NAME = "timm/test_resnet.r160_in1k"
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def nothing_reachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and caches and folders that are empty."""
    monkeypatch.setattr(pretrained, "_reachable", lambda host, hub: False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **words: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("KDBENCH_WEIGHTS", raising=False)


def published(arch: str = "test_resnet", classes: int = 1000, seed: int = 5) -> State:
    """What a tag's file could hold: no value is that of a fresh network."""
    torch.manual_seed(seed)
    net = timm.create_model(arch, num_classes=classes)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.randn_like(value).abs() / 10)
    return dict(net.state_dict())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(published(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def body(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def same(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_tag_without_weights_is_refused() -> None:
    """Never a network from scratch under a name that promises weights."""
    with pytest.raises(
        WeightsMissing,
        match=r"^timm/test_resnet.r160_in1k: its weights are in no cache of this machine, and huggingface.co cannot be"
        r" reached; put them as test_resnet.r160_in1k.safetensors or test_resnet.r160_in1k.pth into the folder"
        r" \$KDBENCH_WEIGHTS, or train timm/test_resnet from scratch$",
    ):
        create(NAME, 10)
    with pytest.raises(ValueError, match="its weights are in no cache"):
        weights_identity(NAME)
    assert create(NAME, 10, pretrained=False).pretrained == ""


def test_a_new_head_is_that_of_the_bare_name(file: Path) -> None:
    torch.manual_seed(3)
    fresh, drawn = create("timm/test_resnet", 10), torch.get_rng_state()
    torch.manual_seed(3)
    tapped = create(NAME, 10, weights=file)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(body(tapped.net.state_dict()), body(published()))
    assert torch.equal(tapped.get_parameter("net.fc.weight"), fresh.get_parameter("net.fc.weight"))
    assert torch.equal(tapped.get_parameter("net.fc.bias"), fresh.get_parameter("net.fc.bias"))
    assert tapped.pretrained == weights_identity(NAME, file) != ""
    assert fresh.pretrained == weights_identity("timm/test_resnet") == ""


def test_a_head_that_fits_is_kept(tmp_path: Path) -> None:
    state = published(classes=10)
    torch.save({"model": state}, tmp_path / "w.pth")
    assert same(dict(create(NAME, 10, weights=tmp_path / "w.pth").net.state_dict()), state)
    assert same(dict(create("timm/test_resnet", 10, weights=str(tmp_path / "w.pth")).net.state_dict()), state)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setenv("KDBENCH_WEIGHTS", str(tmp_path))
    there = tmp_path / f"test_resnet.r160_in1k{ending}"
    (save_file if ending == ".safetensors" else torch.save)(published(), there)
    tapped = create(NAME, 1000)
    assert same(dict(tapped.net.state_dict()), published())
    assert tapped.pretrained == weights_identity(NAME)


def test_the_cache_of_the_hub(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(repository: str, name: str, revision: str | None) -> str | None:
        asked.append((repository, name))
        return str(file) if name == "pytorch_model.bin" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", find)
    assert same(body(create(NAME, 10).net.state_dict()), body(published()))
    assert asked == [(NAME, "model.safetensors"), (NAME, "pytorch_model.bin")]


def test_what_is_fetched_lies_in_the_cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(pretrained, "_reachable", lambda host, hub: True)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *args, **words: str(file) if fetched else None
    )
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", lambda name, **words: fetched.append(name))
    assert create(NAME, 10).pretrained
    assert fetched == [NAME]

    def fail(*args: object, **words: object) -> None:
        raise OSError("401\nand much more")

    fetched.clear()
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", fail)
    with pytest.raises(
        ValueError, match=r"^timm/test_resnet.r160_in1k: timm's weights for it cannot be had: 401; put "
    ):
        create(NAME, 10)


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked: list[object] = []

    def connect(address: object, timeout: float) -> None:
        asked.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not pretrained._reachable("example.org:8080", hub=True)
    assert asked == [("example.org", 8080)]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not pretrained._reachable("example.org", hub=True)
    assert len(asked) == 1


def test_the_identity_is_that_of_the_tensors(tmp_path: Path, file: Path) -> None:
    state = published()
    torch.save({"state_dict": dict(reversed(state.items()))}, tmp_path / "w.pth")
    identity = weights_identity(NAME, file)
    assert weights_identity(NAME, tmp_path / "w.pth") == identity
    assert len(identity) == 64
    state["bn1.bias"][0] += 1
    save_file(state, file)
    assert weights_identity(NAME, file) != identity
    assert create(NAME, 10, weights=file).pretrained == weights_identity(NAME, file)


def test_zoo_networks_start_from_a_file(tmp_path: Path) -> None:
    net = create("resnet8", 10)
    torch.save(net.net.state_dict(), tmp_path / "w.pth")
    started = create("resnet8", 10, weights=tmp_path / "w.pth")
    assert same(dict(started.net.state_dict()), dict(net.net.state_dict()))
    assert started.pretrained == weights_identity("resnet8", tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"not for resnet8: 2 of another shape \(fc.weight"):
        create("resnet8", 9, weights=tmp_path / "w.pth")


def test_other_sizes_are_converted_by_timm(tmp_path: Path) -> None:
    """A ViT's position embedding is resampled for images of another size."""
    state = published("test_vit", 10)
    save_file(state, tmp_path / "w.safetensors")
    small = create("timm/test_vit.r160_in1k", 7, image_size=80, weights=tmp_path / "w.safetensors")
    embedded = small.get_parameter("net.pos_embed")
    assert embedded.shape[1] < state["pos_embed"].shape[1]
    assert torch.equal(small.get_parameter("net.blocks.0.attn.qkv.weight"), state["blocks.0.attn.qkv.weight"])
    assert embedded.std() > 0
    assert small(torch.randn(1, 3, 80, 80)).logits.shape == (1, 7)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.bias"}, r"not for ResNet: 1 missing \(bn1.bias\)"),
        (lambda s: s | {"bn1.bias": torch.ones(3)}, r"1 of another shape \(bn1.bias \(3,\) instead of"),
        (lambda s: s | {"bn1.bias": torch.full_like(s["bn1.bias"], torch.nan)}, r"1 not finite \(bn1.bias\)"),
        (lambda s: {"a": torch.ones(1)}, r"missing \(conv1.0.weight|missing \(conv1.weight"),
        (lambda s: dict(nn.Linear(2, 2).state_dict()), "missing"),
    ],
)
def test_weights_of_something_else(tmp_path: Path, damage: Callable[[State], State], sentence: str) -> None:
    """timm itself passes over all that does not fit as soon as the head is another."""
    save_file(damage(published()), tmp_path / "w.safetensors")
    for classes in (10, 1000):
        with pytest.raises(ValueError, match=sentence) as caught:
            create(NAME, classes, weights=tmp_path / "w.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (torch.ones(1).expand(10**9, 10**6), r"fc.weight is no plain tensor with values of its own"),
        (torch.ones(1000, 64, device="meta"), r"fc.weight is no plain tensor with values of its own"),
        (torch.ones(4).to_sparse(), r"fc.weight is no plain tensor with values of its own"),
        (torch.ones(2_000_000, 1, dtype=torch.bool), r"not for .*: they have a head of 2,000,000 classes"),
    ],
)
def test_heads_that_would_take_any_memory(tmp_path: Path, odd: Tensor, sentence: str) -> None:
    torch.save(published() | {"fc.weight": odd}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=sentence):
        create(NAME, 10, weights=tmp_path / "w.pth")


def test_names_that_promise_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^timm has no weights 'a1' for resnet18; there are timm/resnet18.a1_in1k, "):
        create("timm/resnet18.a1", 10)
    with pytest.raises(
        ValueError, match=r"^timm/resnet18 does not say which of its pretrained weights: there are timm/"
    ):
        create("timm/resnet18", 10, pretrained=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*none.pth"):
        create(NAME, 10, weights=tmp_path / "none.pth")
    assert create("timm/test_resnet.R160_IN1K", 10, pretrained=False).name == NAME
