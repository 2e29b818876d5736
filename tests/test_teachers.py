"""Teachers on disk, and other repositories' checkpoints."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from golden import FOLDER
from kdbench.models import Tapped, create, fold, teacher_files, teachers
from kdbench.models.renormalise import renormalise
from kdbench.models.teachers import DataIdentity
from kdbench.utils.sealing import checksum

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
    stem = f"{name.replace('/', '-')}-quick-1"
    weights = tmp_path / "digits" / f"{stem}.{card.sha256[:12]}.safetensors"
    assert sorted(f.name for f in weights.parent.iterdir()) == sorted([f"{stem}.json", weights.name])
    assert teachers.path(tmp_path, "digits", name, "-quick-1") == weights.with_name(f"{stem}.json")
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
    assert not torch.equal(tapped.get_parameter("net.fc.weight"), exact["fc.weight"])
    teachers.store(tmp_path, tapped, **FACTS)
    loaded, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    image = torch.randn(4, 3, 8, 8)
    assert torch.equal(loaded(image).logits, tapped.eval()(image).logits)


def test_full_precision(tmp_path: Path) -> None:
    tapped = trained()
    card = teachers.store(tmp_path, tapped.net.state_dict(), **FACTS | {"source": "imported", "top1": None}, half=False)
    loaded, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert (card.dtype, card.top1) == ("float32", None)
    assert torch.equal(loaded.get_parameter("net.fc.weight"), tapped.get_parameter("net.fc.weight"))


def test_values_that_fp16_cannot_hold(tmp_path: Path) -> None:
    tapped = trained()
    tapped.get_buffer("net.bn1.running_var")[0] = 1e6
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


def weights_of(card: Path) -> Path:
    """The file that a card in this place names."""
    return card.with_name(f"{card.stem}.{json.loads(card.read_text())['sha256'][:12]}.safetensors")


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no teacher resnet8 for digits in .*; `kdbench teacher train "):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    teachers.store(tmp_path, trained(), **FACTS)
    weights_of(teachers.path(tmp_path, "digits", "resnet8")).unlink()
    with pytest.raises(FileNotFoundError, match=r"its weights resnet8.[0-9a-f]{12}.safetensors are not"):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)


def edit(**facts: Any) -> Callable[[Path], None]:
    """Change the card and seal it anew, keep the weights."""

    def change(card: Path) -> None:
        values = json.loads(card.read_text()) | facts
        del values["checksum"]
        card.write_text(json.dumps(values | {"checksum": checksum(values)}))

    return change


def flip_a_bit(card: Path) -> None:
    weights = weights_of(card)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def other_weights(tensors: dict[str, Tensor] | bytes) -> Callable[[Path], None]:
    """Change the weights, and the hash on the card with them."""

    def change(card: Path) -> None:
        content = tensors if isinstance(tensors, bytes) else save(tensors)
        edit(sha256=hashlib.sha256(content).hexdigest())(card)
        weights_of(card).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip_a_bit, r"resnet8.[0-9a-f]{12}.safetensors is not the file its card describes: sha256"),
        (other_weights(b"\x08\0\0\0\0\0\0\0 nothing"), r"resnet8.[0-9a-f]{12}.safetensors: "),
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
        (edit(top1=140.0), "is not a teacher's card: top1: Input should be less than or equal to 100"),
        (edit(std=[1, 0, 1]), r"is not a teacher's card: std.1: Input should be greater than 0"),
        (edit(format=3), r"resnet8.json has card format 3, this kdbench reads up to 2"),
        (lambda card: card.write_text("{"), r"resnet8.json is truncated or not JSON"),
        (lambda card: card.write_bytes(b"\xff\xfe"), r"resnet8.json is truncated or not JSON"),
        (lambda card: card.write_text("[" * 100_000), r"resnet8.json is truncated or not JSON"),
        (lambda card: card.write_text("[1]"), "is not a teacher's card: it holds no fields"),
        (lambda card: card.write_text("{}"), "is not a teacher's card: it holds no fields"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    teachers.store(tmp_path, trained(), **FACTS)
    damage(teachers.path(tmp_path, "digits", "resnet8"))
    with pytest.raises(ValueError, match=sentence) as caught:
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert "\n" not in str(caught.value)


ALL: dict[str, Any] = FACTS | {
    "data": DataIdentity(fingerprint="f" * 64, classes=("ant", "bee"), counts={"train": 7, "test": 3}),
    "mean": (0.5, 0.25, 0.125),
    "std": (1, 2, 3),
    "precision": "fp32",
    "pretrained": "0" * 64,
}


def test_a_card_says_what_the_teacher_is(tmp_path: Path) -> None:
    made = teachers.store(tmp_path, trained(), **ALL)
    card = teachers.load(tmp_path, "digits", "resnet8", image_size=8)[1]
    assert card == made
    assert card.sealed
    assert {key: getattr(card, key) for key in ALL} == ALL
    assert card.normalisation == ((0.5, 0.25, 0.125), (1, 2, 3))
    assert teachers.read_card(teachers.path(tmp_path, "digits", "resnet8")) == card


@pytest.mark.parametrize("field", sorted(teachers.TeacherCard.model_fields))
def test_an_edited_card_is_refused(tmp_path: Path, field: str) -> None:
    """Whatever field it is: top1 = 99.9 is no more a measurement than another recipe is."""
    teachers.store(tmp_path, trained(), **ALL)
    card = teachers.path(tmp_path, "digits", "resnet8")
    values = json.loads(card.read_text())
    values[field] = {"top1": 99.9, "recipe": {"epochs": 4}, "format": 1}.get(field)
    card.write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=r"resnet8.json (was changed after it was written: its checksum|has card form)"
    ):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    del values[field]
    card.write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=r"resnet8.json (was changed after it was written: its checksum|has card form)"
    ):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)


def test_a_card_that_was_laid_out_anew_is_the_same(tmp_path: Path) -> None:
    made = teachers.store(tmp_path, trained(), **ALL)
    card = teachers.path(tmp_path, "digits", "resnet8")
    card.write_text(json.dumps(json.loads(card.read_text()), sort_keys=True))
    assert teachers.read_card(card) == made


def as_of_0_1_0(folder: Path, **facts: Any) -> Path:
    """A teacher as kdbench 0.1.0 kept it: no seal, and no hash in the name of its weights."""
    teachers.store(folder, trained(), **FACTS | facts)
    card = teachers.path(folder, "digits", "resnet8")
    new = ("format", "checksum", "data", "mean", "std", "precision", "pretrained")
    values = {key: value for key, value in json.loads(card.read_text()).items() if key not in new}
    weights_of(card).rename(card.with_suffix(".safetensors"))
    card.write_text(json.dumps(values))
    return card


def test_old_cards_are_read_and_sealed(tmp_path: Path) -> None:
    recipe = {"epochs": 3, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    where, notes = as_of_0_1_0(tmp_path, recipe=recipe), list[str]()
    loaded, card = teachers.load(tmp_path, "digits", "resnet8", image_size=8, note=notes.append)
    assert len(notes) == 1
    assert "not sealed, and does not say which data it is for; `kdbench teacher verify resnet8` measures" in notes[0]
    assert not card.sealed
    assert (card.format, card.data, card.precision, card.top1) == (1, None, None, 97.5)
    assert card.normalisation == ((0.5,) * 3, (0.25,) * 3)  # that of its recipe
    sealed = teachers.reseal(tmp_path, card, {"precision": "fp32"})
    assert teachers.read_card(where) == sealed
    assert sealed.sealed
    assert (sealed.format, sealed.precision, sealed.sha256) == (2, "fp32", card.sha256)
    again, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8, note=notes.append)
    assert len(notes) == 1
    assert torch.equal(again.get_parameter("net.fc.weight"), loaded.get_parameter("net.fc.weight"))


def test_an_imported_teacher_of_0_1_0_has_no_normalisation(tmp_path: Path) -> None:
    as_of_0_1_0(tmp_path, source="imported", recipe={})
    card = teachers.load(tmp_path, "digits", "resnet8", image_size=8)[1]
    assert card.normalisation is None


def test_an_old_teacher_is_replaced(tmp_path: Path) -> None:
    card = as_of_0_1_0(tmp_path)
    teachers.store(tmp_path, trained(), **FACTS)
    assert sorted(f.name for f in card.parent.iterdir()) == sorted([card.name, weights_of(card).name])


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        ({"classes": ("zant", "bee")}, "class 0 was ant, is zant"),
        ({"classes": ("bee", "ant")}, "class 0 was ant, is bee"),
        ({"classes": ("ant",)}, "2 classes were 1"),
        ({"counts": {"train": 8, "test": 3}, "fingerprint": "e" * 64}, "there were 7 train images, there are 8"),
        ({"counts": {"train": 7, "test": 0}, "fingerprint": None}, "there were 3 test images, there are 0"),
        ({"fingerprint": "e" * 64}, r"the images or their labels are others \(ffffffff, here eeeeeeee\)"),
        ({}, ""),
        ({"fingerprint": None, "counts": {"test": 3}}, ""),  # of a part of the training set
        ({"fingerprint": "f" * 64, "classes": None, "counts": {}}, ""),
    ],
)
def test_other_data(tmp_path: Path, here: dict[str, Any], sentence: str) -> None:
    teachers.store(tmp_path, trained(), **ALL)
    data = DataIdentity(**ALL["data"].model_dump() | here)
    if sentence:
        with pytest.raises(
            ValueError, match=f"the teacher resnet8 of .*digits was trained on other data: {sentence}; "
        ):
            teachers.load(tmp_path, "digits", "resnet8", image_size=8, data=data)
    else:
        teachers.load(tmp_path, "digits", "resnet8", image_size=8, data=data)


def test_data_that_nobody_knows_are_not_compared(tmp_path: Path) -> None:
    teachers.store(tmp_path, trained(), **FACTS)
    teachers.load(tmp_path, "digits", "resnet8", image_size=8, data=ALL["data"])


class Killed(BaseException):
    """The process ends here: nothing after it is done, not even what a ``finally`` would."""


@pytest.mark.parametrize("old", ["none", "sealed", "0.1.0"])
def test_a_kill_at_any_moment_leaves_a_whole_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    first, second = trained(), trained()
    for moment in range(100):
        folder = tmp_path / str(moment)
        if old == "sealed":
            teachers.store(folder, first, **FACTS)
        elif old == "0.1.0":
            monkeypatch.setattr(sys.modules[__name__], "trained", lambda: first)
            as_of_0_1_0(folder)
        left = iter(range(moment, -1, -1))
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, dying(getattr(owner, name), left))
            try:
                teachers.store(folder, second, **FACTS)
                done = True
            except Killed:
                done = False
        monkeypatch.setattr(teacher_files, "_alive", lambda process: False)  # it is dead, as it would be
        try:
            loaded, _ = teachers.load(folder, "digits", "resnet8", image_size=8)
            half = [net.get_parameter("net.fc.weight").half().float() for net in (first, second)]
            assert any(torch.equal(loaded.get_parameter("net.fc.weight"), weight) for weight in half)
        except FileNotFoundError:
            assert old == "none"
        teachers.store(folder, second, **FACTS)
        assert len(list(folder.rglob("*.json"))) == 1
        if done:
            assert len(list(folder.rglob("*.safetensors"))) == 1
            break
    assert done
    assert moment > 4


def dying(function: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """As ``function``, until nothing is left; then the process is dead, and whatever it still calls does nothing."""

    def call(*args: Any, **words: Any) -> Any:
        if (more := next(left, None)) is None:
            return None
        if more == 0:
            raise Killed
        return function(*args, **words)

    return call


def test_a_full_disk_leaves_the_old_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = teachers.store(tmp_path, trained(), **FACTS)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        teachers.store(tmp_path, trained(), **FACTS)
    assert teachers.load(tmp_path, "digits", "resnet8", image_size=8)[1] == made
    assert not list(tmp_path.rglob("*.part"))


def test_only_what_nobody_can_want_is_taken_away(tmp_path: Path) -> None:
    teachers.store(tmp_path, trained(), **FACTS)
    card = teachers.path(tmp_path, "digits", "resnet8")
    folder, kept = card.parent, {card.name, weights_of(card).name}
    young = (
        f".resnet8.json.{os.getpid()}.{teacher_files.HOST}.part",  # this process may be writing it
        ".resnet8.json.999999999.elsewhere.part",
        f".resnet20.json.999999999.{teacher_files.HOST}.part",  # another teacher's is left to it
        "resnet8.0123456789ab.safetensors",
        "resnet8-quick-1.0123456789ab.safetensors",
    )
    dead = f".resnet8.json.999999999.{teacher_files.HOST}.part"
    for name in (*young, dead):
        (folder / name).write_bytes(b"")
    teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert {file.name for file in folder.iterdir()} == kept | set(young)
    for name in young:
        os.utime(folder / name, (1, 1))
    teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert {file.name for file in folder.iterdir()} == kept | {young[-1]}  # which has a card of its own, or none


def test_a_damaged_card_keeps_the_weights(tmp_path: Path) -> None:
    teachers.store(tmp_path, trained(), **FACTS)
    card = teachers.path(tmp_path, "digits", "resnet8")
    weights, whole = weights_of(card), card.read_bytes()
    os.utime(weights, (1, 1))
    card.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="is truncated or not JSON"):
        teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert weights.exists()
    card.write_bytes(whole)
    teachers.load(tmp_path, "digits", "resnet8", image_size=8)


def test_a_reader_beside_a_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card that was read may name weights that are gone a moment later; the new card has others."""
    teachers.store(tmp_path, trained(), **FACTS)
    real, other = teachers.read_card, trained()

    def slow(where: Path, **words: Any) -> teachers.TeacherCard:
        card = real(where, **words)
        monkeypatch.setattr(teachers, "read_card", real)
        teachers.store(tmp_path, other, **FACTS)
        return card

    monkeypatch.setattr(teachers, "read_card", slow)
    loaded, _ = teachers.load(tmp_path, "digits", "resnet8", image_size=8)
    assert torch.equal(loaded.get_parameter("net.fc.weight"), other.get_parameter("net.fc.weight").half().float())


def test_a_teacher_stays_in_its_folder(tmp_path: Path) -> None:
    for dataset in ("..", "../..", "imagefolder:../../..", ".", ""):
        where = teachers.path(tmp_path, dataset, "resnet8")
        assert where.resolve().parent.parent == tmp_path.resolve(), dataset


IMAGES = torch.rand(16, 3, 8, 8)
SUITES = ((0.45, 0.4, 0.35), (0.2, 0.25, 0.3))
HALF = ((0.5,) * 3, (0.5,) * 3)


def normalised(terms: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in terms)
    return (IMAGES - mean) / std


@pytest.mark.parametrize("name", ["resnet8", "timm/test_vit"])
def test_a_teacher_sees_images_in_its_own_terms(tmp_path: Path, name: str) -> None:
    """A ViT of timm learned with mean = std = .5; a suite's images, as they are, are others to it."""
    net = create(name, 10, image_size=32 if name != "resnet8" else 8).eval()
    size = 32 if name != "resnet8" else 8
    scale = torch.nn.Upsample(size)
    want = net(scale(normalised(HALF))).logits
    facts = FACTS | {"name": name, "image_size": size}
    teachers.store(tmp_path, net, **facts, half=False, mean=HALF[0], std=HALF[1])
    given = scale(normalised(SUITES))
    loaded, _ = teachers.load(tmp_path, "digits", name, image_size=size, normalisation=SUITES)
    torch.testing.assert_close(loaded(given).logits, want, rtol=1e-4, atol=1e-5)
    folded = fold(copy.deepcopy(loaded))
    torch.testing.assert_close(folded(given).logits, want, rtol=1e-4, atol=1e-4)
    as_it_comes, _ = teachers.load(tmp_path, "digits", name, image_size=size)
    assert (as_it_comes(given).logits - want).abs().max() > 1e-2
    # Other answers are another identity: a table of them must not be taken for one of the other's.
    assert loaded.state_dict().keys() - as_it_comes.state_dict().keys() == {"renormalise.scale", "renormalise.shift"}


def test_the_same_terms_change_nothing(tmp_path: Path) -> None:
    teachers.store(tmp_path, trained(), **FACTS, mean=SUITES[0], std=SUITES[1])
    there = [
        teachers.load(tmp_path, "digits", "resnet8", image_size=8, normalisation=terms)[0] for terms in (None, SUITES)
    ]
    one, other = (net(normalised(SUITES)).logits for net in there)
    assert torch.equal(one, other)
    assert there[1].renormalise is None
    assert there[0].state_dict().keys() == there[1].state_dict().keys()


def test_renormalise() -> None:
    given, want = normalised(SUITES), normalised(HALF)
    made = renormalise(given, *SUITES, *HALF)
    torch.testing.assert_close(made, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(renormalise(made.double(), *HALF, *SUITES), given.double(), rtol=0, atol=1e-6)
    assert renormalise(given, *SUITES, *SUITES) is given
    assert renormalise(given, [0.45, 0.4, 0.35], [0.2, 0.25, 0.3], *SUITES) is given
    last = given.to(memory_format=torch.channels_last)
    assert renormalise(last, *SUITES, *HALF).is_contiguous(memory_format=torch.channels_last)
    assert renormalise(given.half(), *SUITES, *HALF).dtype == torch.float16
    with pytest.raises(ValueError, match="a normalisation is one mean and one std above 0 per channel"):
        renormalise(given, *SUITES, (0, 0, 0), (1, 0, 1))


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
