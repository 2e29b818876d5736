"""Teachers that were trained elsewhere: read, seen in their own terms, measured, and used so by a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from training import CPU, Silent

from kdbench import data, models, suites
from kdbench.engine.evaluate import measure, predictions
from kdbench.engine.precision import Precision
from kdbench.models import teachers
from kdbench.run import batches
from kdbench.run import teachers as teaching

NAME = "timm/test_resnet"
HALF = ((0.5,) * 3, (0.5,) * 3)  # timm's for this network, not the suite's
FACTS: dict[str, Any] = {
    "dataset": "digits",
    "name": NAME,
    "num_classes": 10,
    "image_size": 8,
    "recipe": {},
    "half": False,
}
WORDS = ["--suite", "digits", "--name", NAME]


@pytest.fixture(scope="module")
def images() -> data.Dataset:
    return data.load("digits")


def shown(pixels: Tensor, terms: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in terms)
    return (pixels / 255 - mean) / std


@pytest.fixture(scope="module")
def net(images: data.Dataset) -> models.Tapped:
    """A network of timm's, trained a little as timm trains: with mean = std = .5."""
    torch.manual_seed(0)
    net = models.create(NAME, 10, image_size=8).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        for some in torch.randperm(len(images.train_labels)).split(100):
            loss = F.cross_entropy(net(shown(images.train_images[some], HALF)).logits, images.train_labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def accuracy(net: models.Tapped, images: data.Dataset) -> float:
    """Of the network in its own terms, counted without any of the code that is tried here."""
    with torch.no_grad():
        right = net.net(shown(images.test_images, HALF)).argmax(1) == images.test_labels
    assert right.float().mean() > 0.5
    share: float = right.float().mean().item()
    return round(100 * share, 2)


@pytest.fixture(scope="module")
def file(net: models.Tapped, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("file") / "vit.pth"
    torch.save({"state_dict": {f"model.{key}": value for key, value in net.net.state_dict().items()}}, made)
    return made


def kdbench(*words: object, code: int = 0) -> str:
    result = commands.kdbench(*words)
    assert result.exit_code == code, result.output
    return commands.flat(result.output)


def test_an_import_finds_the_terms(tmp_path: Path, file: Path, accuracy: float, images: data.Dataset) -> None:
    said = kdbench("teacher", "import", *WORDS, "--out", tmp_path, file)
    assert f"{accuracy:.2f}% on the test set" in said
    assert "was trained in the normalisation of timm, as some training images show: " in said
    card = teachers.read_card(teachers.path(tmp_path / "teachers", "digits", NAME))
    assert card.normalisation == HALF
    assert (card.precision, card.origin) == ("fp32", "vit.pth")
    assert card.data == teaching.identity(images)
    assert f"{accuracy:.2f}% on the test set" in kdbench(
        "teacher", "verify", NAME, "--suite", "digits", "--out", tmp_path
    )


@pytest.mark.parametrize("words", ["timm", ".5,.5,.5/.5,.5,.5"])
def test_the_terms_can_be_said(tmp_path: Path, file: Path, accuracy: float, words: str) -> None:
    said = kdbench("teacher", "import", *WORDS, "--out", tmp_path, "--normalisation", words, file)
    assert f"{accuracy:.2f}% on the test set" in said
    assert "training images" not in said


def test_the_suites_terms_are_others(tmp_path: Path, file: Path, accuracy: float, images: data.Dataset) -> None:
    said = kdbench("teacher", "import", *WORDS, "--out", tmp_path, "--normalisation", "suite", file)
    assert f"{accuracy:.2f}%" not in said
    recipe = suites.load("digits").recipe
    assert teachers.read_card(teachers.path(tmp_path / "teachers", "digits", NAME)).normalisation == (
        recipe.mean,
        recipe.std,
    )


def test_terms_without_images(tmp_path: Path, file: Path) -> None:
    said = kdbench("teacher", "import", *WORDS, "--out", tmp_path, "--no-verify", file)
    assert "is taken to be trained in the normalisation of the suite; --normalisation says otherwise" in said
    card = teachers.read_card(teachers.path(tmp_path / "teachers", "digits", NAME))
    assert (card.top1, card.data, card.precision) == (None, None, None)
    assert card.mean == suites.load("digits").recipe.mean


@pytest.mark.parametrize("words", ["imagenet", ".5/.5", ".5,.5,.5", ".5,.5,.5/0,1,1", "nan,0,0/1,1,1", "a,b,c/d,e,f"])
def test_terms_that_are_none(tmp_path: Path, file: Path, words: str) -> None:
    said = kdbench("teacher", "import", *WORDS, "--out", tmp_path, "--normalisation", words, file, code=2)
    assert "--normalisation takes auto, suite, timm or three means and three stds above 0, such as" in said
    assert not list(tmp_path.iterdir())


def test_networks_that_timm_does_not_train(tmp_path: Path) -> None:
    torch.save(models.create("resnet8", 10).net.state_dict(), tmp_path / "r.pth")
    words = ["--suite", "digits", "--name", "resnet8", "--out", tmp_path / "o", tmp_path / "r.pth"]
    said = kdbench("teacher", "import", *words, "--normalisation", "timm", code=2)
    assert "timm does not say with which normalisation it trains resnet8; write MEAN,MEAN,MEAN/STD,STD,STD" in said
    assert "normalisation" not in kdbench("teacher", "import", *words)


def test_a_run_takes_an_imported_teacher(tmp_path: Path, file: Path, accuracy: float) -> None:
    """The terms of the students, here far from its own, are no reason to train another."""
    kdbench("teacher", "import", *WORDS, "--out", tmp_path, file)
    short = ["--suite", "digits", "--epochs", 1, "--limit-train", 64, "--seeds", 1, "--pairs", f"{NAME}:resnet8"]
    kdbench(
        "run",
        *short,
        "--methods",
        "kd",
        "--set",
        "recipe.mean=.9,.9,.9",
        "--set",
        "recipe.std=.2,.2,.2",
        "--out",
        tmp_path,
    )
    made = json.loads(next((tmp_path / "runs").rglob("*.json")).read_text())
    assert made["status"] == "done"
    assert round(made["teacher_top1"], 2) == accuracy


def test_a_teacher_keeps_its_terms(tmp_path: Path, net: models.Tapped, images: data.Dataset, accuracy: float) -> None:
    suite = suites.load("digits").override(recipe__mean=".9,.9,.9", recipe__std=".05,.05,.05")
    teachers.store(tmp_path, net, **FACTS, top1=accuracy, source="imported", mean=HALF[0], std=HALF[1])
    wanted = teaching.recipe(suite, NAME, None, None)
    notes: list[str] = []
    teacher, _ = teaching.get(
        tmp_path,
        suite,
        NAME,
        images,
        wanted,
        device=CPU,
        watch=Silent(),
        note=notes.append,
    )
    test = batches.test_batches(images, suite.recipe.model_dump(), CPU)
    assert round(measure(*predictions(teacher, test, Precision()))["top1"], 2) == accuracy


def test_other_data_behind_a_teacher(tmp_path: Path, net: models.Tapped, images: data.Dataset) -> None:
    """Class names count, also where the pixels are the same; a part of the training set is no other data."""
    suite = suites.load("digits")
    teachers.store(tmp_path, net, **FACTS, top1=50.0, source="trained", data=teaching.identity(images))

    def get(here: data.Dataset, limit: int | None = None) -> None:
        wanted = teaching.recipe(suite, NAME, None, limit)
        teaching.get(tmp_path, suite, NAME, here, wanted, device=CPU, watch=Silent(), note=print)

    get(images)
    get(data.limit(images, 100), 100)
    for here, sentence in (
        (replace(images, classes=("zero", *images.classes[1:])), "class 0 was 0, is zero"),
        (replace(images, test_images=images.test_images[:-1], test_labels=images.test_labels[:-1]), "797 test images"),
        (replace(images, train_images=255 - images.train_images), "the images or their labels are others"),
    ):
        with pytest.raises(ValueError, match=f"was trained on other data: .*{sentence}"):
            get(here)
    with pytest.raises(ValueError, match="class 0 was 0, is zero"):
        get(replace(data.limit(images, 100), classes=("zero", *images.classes[1:])), 100)


def test_a_trained_teacher_says_what_it_is(tmp_path: Path, images: data.Dataset) -> None:
    kdbench("teacher", "train", "resnet8", "--suite", "digits", "--epochs", 1, "--out", tmp_path)
    card = teachers.read_card(teachers.path(tmp_path / "teachers", "digits", "resnet8"))
    recipe = suites.load("digits").recipe
    assert card.sealed
    assert (card.mean, card.std, card.precision, card.pretrained) == (recipe.mean, recipe.std, "fp32", "")
    assert card.data == teaching.identity(images)


def test_verify_seals_an_old_card(tmp_path: Path, net: models.Tapped, images: data.Dataset) -> None:
    teachers.store(tmp_path / "teachers", net, **FACTS, top1=None, source="imported")
    where = teachers.path(tmp_path / "teachers", "digits", NAME)
    new = ("format", "checksum", "data", "mean", "std", "precision", "pretrained")
    where.write_text(json.dumps({k: v for k, v in json.loads(where.read_text()).items() if k not in new}))
    words = ["teacher", "verify", NAME, "--suite", "digits", "--out", tmp_path]
    assert "is sealed now" in kdbench(*words)
    card = teachers.read_card(where)
    assert card.sealed
    assert card.data == teaching.identity(images)
    assert card.mean == suites.load("digits").recipe.mean
    assert f"{card.top1:.2f}% on the test set" in kdbench(*words)


def test_a_kept_student_becomes_a_teacher(tmp_path: Path) -> None:
    student = models.create("resnet8", 10)
    state = {f"student.{key}": value for key, value in student.state_dict().items()}
    save_file(state | {"method.embed.weight": torch.ones(2)}, tmp_path / "kd-s0-01234567.safetensors")
    words = ["--suite", "digits", "--name", "resnet8", "--out", tmp_path / "o"]
    kdbench("teacher", "import", *words, tmp_path / "kd-s0-01234567.safetensors")
    loaded, _ = teachers.load(tmp_path / "o" / "teachers", "digits", "resnet8", image_size=8)
    assert torch.equal(loaded.get_parameter("net.fc.weight"), student.get_parameter("net.fc.weight"))


def test_averaged_weights_and_a_prefix_can_be_asked_for(tmp_path: Path) -> None:
    nets = [models.create("resnet8", 10) for _ in range(3)]
    plain, mean, other = (dict(net.net.state_dict()) for net in nets)
    torch.save({"model": plain, "model_ema": mean}, tmp_path / "e.pth")
    torch.save({f"a.{k}": v for k, v in plain.items()} | {f"b.{k}": v for k, v in other.items()}, tmp_path / "p.pth")
    words = ["teacher", "import", "--suite", "digits", "--name", "resnet8", "--no-verify", "--replace"]
    for more, file, want in (
        ([], "e.pth", plain),
        (["--ema"], "e.pth", mean),
        (["--prefix", "b"], "p.pth", other),
    ):
        said = kdbench(*words, *more, "--out", tmp_path / "o", tmp_path / file)
        assert ("e.pth holds weights under model and model_ema; those of model are read; --ema reads" in said) == (
            not more
        )
        loaded, _ = teachers.load(tmp_path / "o" / "teachers", "digits", "resnet8", image_size=8)
        assert torch.equal(loaded.get_parameter("net.fc.weight"), want["fc.weight"])
    said = kdbench(*words, "--out", tmp_path / "o", tmp_path / "p.pth", code=2)
    assert "2 networks in these weights fit resnet8, under a., b.; --prefix says which" in said
