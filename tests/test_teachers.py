"""Teachers on disk, and other repositories' checkpoints."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from golden import FOLDER
from kdbench.models import Tapped, create, teachers

FACTS: dict[str, Any] = {
    "dataset": "digits",
    "name": "resnet8",
    "num_classes": 10,
    "image_size": 8,
    "top1": 97.5,
    "source": "trained",
    "recipe": {"epochs": 3, "milestones": [1, 2]},
}


def trained(name: str = "resnet8", classes: int = 10) -> Tapped:
    """A network whose statistics are not the initial ones."""
    tapped = create(name, classes).train()
    tapped(torch.randn(8, 3, 8, 8))
    return tapped


@pytest.mark.parametrize("name", ["resnet8", "timm/test_resnet"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    tapped = trained(name).to(memory_format=torch.channels_last)
    card = teachers.store(tmp_path, tapped, **FACTS | {"name": name}, variant="-quick-1")
    weights = tmp_path / "digits" / f"{name.replace('/', '-')}-quick-1.safetensors"
    assert sorted(f.name for f in weights.parent.iterdir()) == [weights.stem + ".json", weights.name]
    assert teachers.path(tmp_path, "digits", name, "-quick-1") == weights.with_suffix(".json")
    assert card.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert {v.dtype for v in load_file(weights).values()} == {torch.float16, torch.int64}
    random = torch.get_rng_state()
    loaded, read = teachers.load(tmp_path, "digits", name, variant="-quick-1", image_size=8)
    assert torch.equal(torch.get_rng_state(), random)
    assert read == card
    assert (read.top1, read.recipe, read.dtype, read.source) == (97.5, FACTS["recipe"], "float16", "trained")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert {v.dtype for v in loaded.state_dict().values()} == {torch.float32, torch.int64}
    for key, value in tapped.net.state_dict().items():
        want = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.net.state_dict()[key], want), key


def test_rounded_is_what_is_stored(tmp_path: Path) -> None:
    tapped = trained()
    exact = {key: value.clone() for key, value in tapped.net.state_dict().items()}
    teachers.round_half(tapped)
    assert not torch.equal(tapped.net.fc.weight, exact["fc.weight"])
    teachers.store(tmp_path, tapped, **FACTS)
    loaded, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    image = torch.randn(4, 3, 8, 8)
    assert torch.equal(loaded(image).logits, tapped.eval()(image).logits)


def test_full_precision(tmp_path: Path) -> None:
    tapped = trained()
    card = teachers.store(tmp_path, tapped.net.state_dict(), **FACTS | {"source": "imported", "top1": None}, half=False)
    loaded, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert (card.dtype, card.top1) == ("float32", None)
    assert torch.equal(loaded.net.fc.weight, tapped.net.fc.weight)


def test_values_that_fp16_cannot_hold(tmp_path: Path) -> None:
    tapped = trained()
    tapped.net.bn1.running_var[0] = 1e6
    with pytest.raises(ValueError, match=r"resnet8: bn1.running_var has values that fp16 cannot hold"):
        teachers.round_half(tapped)
    with pytest.raises(ValueError, match=r"bn1.running_var has values that are not finite in fp16"):
        teachers.store(tmp_path, tapped, **FACTS)
    assert not list(tmp_path.rglob("*.*"))


def test_a_data_set_is_one_folder_whatever_it_is_called(tmp_path: Path) -> None:
    words = [
        "imagefolder:../../..",
        "imagefolder:/a/b@32",
        "imagefolder:/a_b@32",
        "..",
        ".",
        "",
        "../x",
        "/",
        "x" * 5000,
    ]
    homes = {teachers.path(tmp_path, word, "resnet8").parent for word in words}
    assert len(homes) == len(words)
    for home in homes:
        assert home.parent == tmp_path
        assert home.name not in ("", ".", "..")
        assert len(home.name) < 100
    assert teachers.path(tmp_path, "cifar100", "resnet8").parent.name == "cifar100"


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no teacher resnet8 for digits in .*; `kdbench teacher train "):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    teachers.store(tmp_path, trained(), **FACTS)
    (tmp_path / "digits" / "resnet8.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"its weights resnet8.safetensors are not"):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)


def edit(**facts: Any) -> Callable[[Path], None]:
    """Change the card, keep the weights."""

    def change(card: Path) -> None:
        card.write_text(json.dumps(json.loads(card.read_text()) | facts))

    return change


def flip_a_bit(card: Path) -> None:
    weights = card.with_suffix(".safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def other_weights(tensors: dict[str, Tensor] | bytes) -> Callable[[Path], None]:
    """Change the weights, and the hash on the card with them."""

    def change(card: Path) -> None:
        weights = card.with_suffix(".safetensors")
        if isinstance(tensors, bytes):
            weights.write_bytes(tensors)
        else:
            save_file(tensors, weights)
        edit(sha256=hashlib.sha256(weights.read_bytes()).hexdigest())(card)

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip_a_bit, "resnet8.safetensors is not the file its card describes: sha256"),
        (other_weights(b"\x08\0\0\0\0\0\0\0 nothing"), "resnet8.safetensors: "),
        (
            other_weights({"fc.weight": torch.zeros(3)}),
            r"resnet8: 46 missing \(conv1.weight, .*1 of another shape \(fc",
        ),
        (edit(num_classes=20), r"2 of another shape \(fc.weight \(10, 64\) instead of \(20, 64\), fc.bias"),
        (edit(name="resnet20"), "is a teacher for the network resnet20, not resnet8"),
        (edit(dataset="cifar100"), "is a teacher for the data set cifar100, not digits"),
        (edit(image_size=32), "is a teacher for the image size 32, not 8"),
        (edit(sha256="abc"), r"is not a teacher's card: sha256: String should match"),
        (edit(more=1), "is not a teacher's card: more: Extra inputs"),
        (lambda card: card.write_text("{"), r"resnet8.json is not a teacher's card: Invalid JSON"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    teachers.store(tmp_path, trained(), **FACTS)
    damage(teachers.path(tmp_path, "digits", "resnet8"))
    with pytest.raises(ValueError, match=sentence):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)


def test_interrupted_writing_leaves_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new weights may be there; the old card must not vouch for them."""
    teachers.store(tmp_path, trained(), **FACTS)
    card, whole = teachers.path(tmp_path, "digits", "resnet8"), teachers.atomic_write

    def stop_at_card(target: Path, mode: str = "wb") -> AbstractContextManager[Any]:
        if target == card:
            raise KeyboardInterrupt
        return whole(target, mode)

    monkeypatch.setattr(teachers, "atomic_write", stop_at_card)
    with pytest.raises(KeyboardInterrupt):
        teachers.store(tmp_path, trained(), **FACTS)
    assert not card.exists()
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        teachers.store(tmp_path, trained(), **FACTS)
    assert [f.name for f in card.parent.iterdir()] == ["resnet8.safetensors"]


def wrapped(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "container",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 240, "best_acc": torch.tensor(72.3), "optimizer": {"state": {}}},
        lambda s: {"opt": argparse.Namespace(lr=0.05, lr_decay_epochs=[150, 180]), "model": s, "accuracy": 72.3},
        lambda s: {"state_dict": s},
        lambda s: {"model": wrapped(s, "module.")},
        lambda s: wrapped(s, "module._orig_mod."),
    ],
    ids=["plain", "RepDistiller", "RepDistiller last", "SSKD", "DataParallel", "compiled"],
)
@pytest.mark.parametrize("suffix", [".pth", ".tar"])
def test_foreign_containers(tmp_path: Path, container: Callable[[dict[str, Tensor]], Any], suffix: str) -> None:
    state, file = dict(trained().net.state_dict()), tmp_path / f"resnet8{suffix}"
    torch.save(container(state), file)
    read = teachers.read_checkpoint(file)
    assert same(read, state)
    assert same(teachers.match(read, create("resnet8", 10)), state)


def test_old_torch_files(tmp_path: Path) -> None:
    """The published teachers are of 2019: another file format, and no counters in batch norms."""
    state, file = dict(trained().net.state_dict()), tmp_path / "resnet8.pth"
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"model": old}, file, _use_new_zipfile_serialization=False)
    read = teachers.match(teachers.read_checkpoint(file), create("resnet8", 10))
    assert read.keys() == state.keys()
    create("resnet8", 10).net.load_state_dict(read)


def test_safetensors(tmp_path: Path) -> None:
    state, file = dict(trained().net.state_dict()), tmp_path / "resnet8.safetensors"
    save_file(state, file)
    assert same(dict(sorted(teachers.read_checkpoint(file).items())), dict(sorted(state.items())))


def test_a_distillers_checkpoint(tmp_path: Path) -> None:
    """mdistiller's latest, best and epoch_*: both networks and the method in one dict."""
    file = tmp_path / "latest"
    student, teacher = dict(trained().net.state_dict()), dict(trained("vgg8").net.state_dict())
    both = wrapped(student, "module.student.") | wrapped(teacher, "module.teacher.")
    torch.save({"model": both | {"module.conv_reg.weight": torch.zeros(1)}}, file)
    assert same(teachers.read_checkpoint(file, part="student"), student)
    assert same(teachers.read_checkpoint(file, part="teacher"), teacher)
    with pytest.raises(ValueError, match="latest holds a student and a teacher; say which with part=student or"):
        teachers.read_checkpoint(file)
    torch.save({"model": wrapped(student, "module.student.")}, file)  # mdistiller trains teachers as "students"
    assert same(teachers.read_checkpoint(file), student)
    with pytest.raises(ValueError, match="holds a student, no teacher"):
        teachers.read_checkpoint(file, part="teacher")
    torch.save(student, file)
    with pytest.raises(ValueError, match="holds one network, not a student and a teacher; leave out part=teacher"):
        teachers.read_checkpoint(file, part="teacher")
    with pytest.raises(ValueError, match="part='both': it is auto, student or teacher"):
        teachers.read_checkpoint(file, part="both")


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("MobileNetV2", "classifier.0.", "classifier."),
        ("ShuffleV1", "linear.", "fc."),
        ("ShuffleV2", "linear.", "fc."),
    ],
)
def test_renamed_classifiers(name: str, ours: str, theirs: str) -> None:
    net = create(name, 10)
    state = dict(net.net.state_dict())
    foreign = {theirs + key.removeprefix(ours) if key.startswith(ours) else key: value for key, value in state.items()}
    assert foreign.keys() != state.keys()
    assert same(teachers.match(foreign, net), state)


@pytest.mark.parametrize("name", ["vgg8", "resnet8"])
def test_same_names_are_left_alone(name: str) -> None:
    net = create(name, 10)
    assert same(teachers.match(net.net.state_dict(), net), dict(net.net.state_dict()))


def test_another_network() -> None:
    net = create("resnet8x4", 100)
    with pytest.raises(
        ValueError,
        match=(
            r"^these weights are not for resnet8x4: 5 missing \(layer1.0.downsample.0.weight, .*, \.\.\.\); 36 unexpected "
            r"\(layer1.1.conv1.weight, .*; 46 of another shape \(conv1.weight \(16, 3, 3, 3\) instead of \(32, 3, 3, 3\)"
        ),
    ):
        teachers.match(create("resnet14", 100).net.state_dict(), net)


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": trained().net.state_dict(), "opt": Command()}
    torch.save(content, "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"^bad.pth is refused, because reading it might run code \(\w+.mkdir\); save"):
        teachers.read_checkpoint(Path("bad.pth"))
    assert not Path("ran").exists()
    torch.load("bad.pth", weights_only=False)  # the same file does run code where it is trusted
    assert Path("ran").exists()


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"might run code \(torch.nn.modules.linear.Linear\)"):
        teachers.read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [b"not a checkpoint", b"", pickle.dumps([1, 2])])
def test_unreadable_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.pth is not a checkpoint that torch can read without running code"):
        teachers.read_checkpoint(tmp_path / "x.pth")


def test_other_unreadable_files(tmp_path: Path) -> None:
    torch.save({"model": trained().net.state_dict(), "epoch": 3}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut.pth is not a checkpoint that torch can read"):
        teachers.read_checkpoint(tmp_path / "cut.pth")
    (tmp_path / "x.safetensors").write_bytes(b"12345678901")
    with pytest.raises(ValueError, match=r"x.safetensors is not a safetensors file"):
        teachers.read_checkpoint(tmp_path / "x.safetensors")
    for nothing in ({"epoch": 3}, {}, {"model": 3}, [torch.zeros(1)]):
        torch.save(nothing, tmp_path / "none.pth")
        with pytest.raises(ValueError, match=r"none.pth holds no state dict"):
            teachers.read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*absent.pth"):
        teachers.read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the golden data (../shared/golden) are not here")
def test_a_published_state_dict(tmp_path: Path) -> None:
    raw = load_file(FOLDER / "models" / "state_resnet8.safetensors")
    state = {key.removeprefix("state."): value for key, value in raw.items() if key.startswith("state.")}
    torch.save({"model": state}, tmp_path / "r.pth")
    net = create("resnet8", 100)
    net.net.load_state_dict(teachers.match(teachers.read_checkpoint(tmp_path / "r.pth"), net))
    logits = net.eval()(raw["in.image"].float()).logits
    torch.testing.assert_close(logits, raw["out.logits"].float(), rtol=1e-4, atol=1e-4)
