"""Fewer images, noisy labels, noisy pictures: which ones, who sees them, and that off they change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SMALL, fine, flat, kdbench, records, refused
from torch import Tensor, nn
from training import BATCH, lane, setting, train

from kdbench import data, models, suites
from kdbench.data import Dataset, Loader, trained_on
from kdbench.data.noise import gaussian, salt_and_pepper
from kdbench.data.protocol import noisy
from kdbench.data.source import Memory
from kdbench.distiller import Outputs, Pair
from kdbench.engine.lane import Lane
from kdbench.run.grid import Cell
from kdbench.run.outcome import Teller
from kdbench.run.session import Request, resolve

DIGITS = data.load("digits")
ALL = (
    "recipe.fraction=0.75",
    "recipe.label_noise=0.3",
    "recipe.input_noise=0.1",
    "recipe.salt_and_pepper=0.02",
    "recipe.noise_side=student",
    "recipe.validation=0.25",
)


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def pixels(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_a_fraction_keeps_the_classes_shares_lies_in_a_larger_one_and_has_draws() -> None:
    quarter, half = (trained_on(DIGITS, {"fraction": share})[0] for share in (0.25, 0.5))
    assert (len(quarter.train_labels), len(half.train_labels)) == (250, 500)
    for label in range(10):
        count = (DIGITS.train_labels == label).sum().item()
        assert abs((quarter.train_labels == label).sum().item() - 0.25 * count) <= 1
    assert set(pixels(quarter.train_images)) <= set(pixels(half.train_images))
    other, _ = trained_on(DIGITS, {"fraction": 0.25, "draw": 1})
    assert not torch.equal(other.train_images, quarter.train_images)
    assert torch.equal(quarter.test_labels, DIGITS.test_labels)
    with pytest.raises(ValueError, match="leaves 1 to train on; give more"):
        trained_on(data.limit(DIGITS, 10), {"fraction": 0.1})


def test_what_is_held_out_is_clean_and_the_same_with_and_without() -> None:
    _, plain = data.hold_out(DIGITS, 0.2)
    part, clean = trained_on(DIGITS, {"validation": 0.2, "fraction": 0.5, "label_noise": 0.9})
    assert plain is not None
    assert clean is not None
    assert torch.equal(plain.images, clean.images)
    assert torch.equal(plain.labels, clean.labels)
    assert len(part.train_labels) == 400
    assert not set(pixels(part.train_images)) & set(pixels(clean.images))


def test_noisy_labels_have_their_share_in_every_class_and_stay_when_there_are_more() -> None:
    few, many = (noisy(DIGITS, {"label_noise": share, "label_noise_map": ["others"]}) for share in (0.2, 0.4))
    moved = few != DIGITS.train_labels
    assert moved.sum() == 200
    for label in range(10):
        own = DIGITS.train_labels == label
        assert abs((moved & own).sum().item() - 0.2 * own.sum().item()) <= 1
    assert torch.equal(few[moved], many[moved])
    assert not torch.equal(noisy(DIGITS, {"label_noise": 0.2, "label_noise_map": ["others"], "draw": 1}), few)


def test_labels_drawn_from_all_classes_may_stay_as_in_the_release() -> None:
    drawn = noisy(DIGITS, {"label_noise": 1.0})
    kept = (drawn == DIGITS.train_labels).float().mean().item()
    assert 0.05 < kept < 0.15  # 1 of 10 classes
    assert len(drawn.unique()) == 10


def test_what_is_drawn_is_what_every_earlier_version_drew() -> None:
    """Records name the share and the draw, not the images: another generator would be other data under one name."""
    digits = data.load("digits")
    labels = noisy(digits, {"label_noise": 0.2})
    moved = (labels != digits.train_labels).nonzero().flatten()[:8]
    assert moved.tolist() == [5, 12, 16, 17, 20, 21, 35, 39]
    assert labels[moved].tolist() == [7, 8, 8, 6, 6, 2, 9, 7]
    few, _ = trained_on(digits, {"fraction": 0.25})
    assert few.train_labels[:8].tolist() == [6, 0, 5, 7, 7, 8, 8, 7]
    assert int(few.train_images[:5].long().sum()) == 77127
    grey = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    assert gaussian(grey, 0.1, [0]).flatten().tolist() == [139, 93, 44, 114]


def test_maps_send_classes_where_they_say_and_leave_the_others() -> None:
    labels = DIGITS.train_labels
    following = noisy(DIGITS, {"label_noise": 1.0, "label_noise_map": ["next"]})
    assert torch.equal(following, (labels + 1) % 10)
    named = replace(DIGITS, classes=tuple("abcdefghij"))
    for words in (["b:h", "c:2", "d:h"], ["1:7", "2:2", "3:7"]):  # names and numbers alike
        mapped = noisy(named, {"label_noise": 0.5, "label_noise_map": words})
        assert set(labels[mapped != labels].tolist()) == {1, 3}
        assert set(mapped[mapped != labels].tolist()) == {7}
        for label in (1, 3):
            own = labels == label
            assert abs((mapped != labels)[own].sum().item() - 0.5 * own.sum().item()) <= 1


def test_an_images_label_does_not_depend_on_what_else_is_trained_on() -> None:
    marked = replace(DIGITS, train_images=torch.arange(1000)[:, None, None, None])
    whole = noisy(DIGITS, {"label_noise": 0.3})
    for more in ({"fraction": 0.3}, {"validation": 0.1}, {"fraction": 0.5, "validation": 0.2}):
        part, _ = trained_on(marked, {"label_noise": 0.3, **more})
        assert torch.equal(part.train_labels, whole[part.train_images.flatten()])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("recipe.label_noise_map=1:7",), "recipe.label_noise is 0; set it, too"),
        (("recipe.draw=1",), "set one of them, too"),
        (("recipe.noise_side=student",), "set one of them, too"),
        (("recipe.label_noise=0.2", "recipe.label_noise_map=cat"), "takes FROM:TO of two classes"),
        (("recipe.fraction=0",), "fraction"),
        (("recipe.label_noise=1.5",), "label_noise"),
        (("teacher.fraction=0.5",), "no setting 'teacher.fraction'"),
        (("teacher.input_noise=0.5",), "no setting 'teacher.input_noise'"),
    ],
)
def test_what_will_not_do_is_said_in_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused("run", *SMALL, "--methods", "student", "--dry-run", *sets(*words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("1:seven", "there is no class 'seven'; there are 10, from '0' to '9'"),
        ("1:12", "there is no class '12'"),
        ("1:7,1:3", "sends class '1' to two others"),
        ("1:1", "no label would change"),
    ],
)
def test_a_map_of_other_classes_is_refused_before_anything_is_trained(
    words: str, sentence: str, tmp_path: Path
) -> None:
    more = sets("recipe.label_noise=0.2", f"recipe.label_noise_map={words}")
    assert sentence in refused("run", *SMALL, "--methods", "kd", "--out", tmp_path, *more)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_that_gives_a_teacher_what_is_the_students_is_refused() -> None:
    raw = suites.load("digits").model_dump()
    raw["teacher"] = {"fraction": 0.5}
    with pytest.raises(ValueError, match="teachers train on all training images, so fraction is set in the recipe"):
        suites.Suite.model_validate(raw)
    raw["teacher"] = {}
    raw["recipe"] |= {"fraction": 0.5, "label_noise": 0.2, "label_noise_map": ["next"], "input_noise": 0.1}
    suite = suites.Suite.model_validate(raw)
    assert (suite.teacher.fraction, suite.teacher.label_noise, suite.teacher.input_noise) == (1, 0, 0)
    assert "label_noise_map" not in suite.teacher.facts_for("resnet20", 30)


def test_off_they_are_no_part_of_a_hash_and_on_each_is() -> None:
    def cell(*words: str) -> Cell:
        return resolve(Request("fitnet", "resnet20:resnet8", "digits", "1", overrides=words, device="cpu")).cells[0]

    off = ("fraction=1", "label_noise=0", "input_noise=0", "salt_and_pepper=0", "noise_side=both", "draw=0")
    assert cell(*(f"recipe.{word}" for word in off)).hash == cell().hash == "7083491b"
    hashes = [cell(*ALL[:n]).hash for n in range(len(ALL) + 1)]
    hashes += [cell(*ALL, f"recipe.{word}").hash for word in ("draw=1", "label_noise_map=others")]
    assert len(set(hashes)) == len(hashes)


def test_a_dry_run_says_what_is_done_to_the_data() -> None:
    said = flat(fine("run", *SMALL, "--methods", "student", "--dry-run", *sets(*ALL, "recipe.draw=3")))
    assert "0.75 of the training images; 0.3 of the labels noisy (drawn from all classes); draw 3" in said
    assert "noise 0.1 and salt and pepper 0.02 on the student's pictures" in said


# -- pictures -----------------------------------------------------------------------------


def loader(**changes: Any) -> Loader:
    given: dict[str, Any] = {"batch_size": 8, "mean": (0.3,) * 3, "std": (0.4,) * 3, "crop_padding": 1, "seed": 5}
    few = data.limit(DIGITS, 28)
    images = Memory(few.train_images) if changes.pop("held", False) else few.train_images
    return Loader(images, few.train_labels, num_classes=10, **(given | changes))


def grey(n: int = 1, side: int = 100) -> Tensor:
    return torch.full((n, 1, side, side), 128, dtype=torch.uint8)


def test_noise_is_as_strong_as_it_says() -> None:
    bright = gaussian(grey(), 0.1, [3]).double()
    assert bright.std().item() == pytest.approx(25.5, rel=0.05)
    salted = salt_and_pepper(grey(), 0.2, [3])
    assert [(salted == value).double().mean().item() for value in (0, 255)] == pytest.approx([0.1, 0.1], abs=0.02)
    assert torch.equal(gaussian(grey(2), 0.1, [1, 2])[1], gaussian(grey(), 0.1, [2])[0])


def test_noisy_pictures_are_the_clean_ones_with_their_own_noise() -> None:
    clean, dirty, other = loader(), loader(input_noise=0.2), loader(input_noise=0.2)
    for plain, ours, again in zip(clean.epoch(1), dirty.epoch(1), other.epoch(1), strict=True):
        assert torch.equal(ours[0], again[0])
        assert len(ours) == 3
        assert not torch.equal(plain[0], ours[0])
        assert all(torch.equal(a, b) for a, b in zip(plain[1:], ours[1:], strict=True))
    first, second = (next(iter(dirty.epoch(epoch)))[0] for epoch in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("more", [{}, {"mixup": 0.5, "random_erasing": 0.5}, {"augment": "rrc"}])
def test_the_fifth_part_is_what_the_teacher_would_have_seen_without_noise(more: dict[str, Any]) -> None:
    clean, dirty = loader(**more), loader(input_noise=0.2, salt_and_pepper=0.1, noise_side="student", **more)
    for plain, (image, label, idx, target, taught) in zip(clean.epoch(0), dirty.epoch(0), strict=True):
        assert torch.equal(taught, plain[0])
        assert not torch.equal(image, plain[0])
        assert torch.equal(label, plain[1])
        assert torch.equal(idx, plain[2])
        assert (target is None) == (len(plain) == 3)
        if target is not None:
            assert torch.equal(target, plain[3])


def test_pictures_that_lie_elsewhere_get_the_same_noise() -> None:
    how = {"input_noise": 0.1, "salt_and_pepper": 0.05}
    for ours, theirs in zip(loader(**how).epoch(2), loader(held=True, **how).epoch(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Looking(nn.Module):
    """A teacher that keeps what it is shown in training."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.shown = net, list[Tensor]()

    def forward(self, image: Tensor) -> Outputs:
        if len(image) == BATCH:
            self.shown.append(image.clone())
        seen: Outputs = self.net(image)
        return seen


@pytest.mark.parametrize("side", ["both", "student"])
def test_the_teacher_sees_clean_pictures_where_the_noise_is_the_students(side: str, tmp_path: Path) -> None:
    plain = setting()
    assert isinstance(plain.teacher, nn.Module)
    watching, feed = Looking(plain.teacher), plain.train
    assert isinstance(feed, Loader)
    clean = [image.clone() for image, *_ in feed.epoch(0) if len(image) == BATCH]
    feed.noise, feed.noise_side = (0.2, 0.0), side
    dirty = [image.clone() for image, *_ in feed.epoch(0) if len(image) == BATCH]
    one = lane("kd", tmp_path)
    seen = list[Tensor]()
    real = one.student.forward

    def forward(image: Tensor) -> Outputs:
        if one.student.training and len(image) == BATCH:
            seen.append(image.clone())
        found: Outputs = real(image)
        return found

    one.student.forward = forward
    train([one], replace(plain, teacher=watching))
    assert all(map(torch.equal, seen[: len(dirty)], dirty))
    assert any(torch.equal(clean[0], image) for image in watching.shown) == (side == "student")
    assert any(torch.equal(dirty[0], image) for image in watching.shown) == (side == "both")


# -- whole runs ---------------------------------------------------------------------------


def run(out: Path, methods: str, *words: object) -> None:
    fine("run", *SMALL, "--methods", methods, "--out", out, *sets(*ALL), *words)


def test_alone_in_company_resumed_and_from_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "company", "crd,kd,sskd")
    company = records(tmp_path / "company")["resnet14:resnet8 crd 0"]
    assert company.settings.recipe["fraction"] == 0.75
    real = Teller.epoch

    def killed(self: Teller, stage: str, lanes: Sequence[Lane]) -> None:
        real(self, stage, lanes)
        if lanes[0].key.startswith("crd") and lanes[0].epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Teller, "epoch", killed)
    assert kdbench("run", *SMALL, "--methods", "crd", "--out", tmp_path / "alone", *sets(*ALL)).exit_code != 0
    monkeypatch.undo()
    assert list((tmp_path / "alone").rglob("*.ckpt"))
    run(tmp_path / "alone", "crd", "--data-source", "streamed", "--data-workers", 0)
    assert records(tmp_path / "alone")["resnet14:resnet8 crd 0"].measured() == company.measured()


def test_methods_see_the_noisy_labels_of_the_images_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    real = models.make_pair

    def make_pair(*given: Any, **words: Any) -> Pair:
        seen.append(words["train_labels"])
        return real(*given, **words)

    monkeypatch.setattr(models, "make_pair", make_pair)
    batches: list[tuple[Tensor, Tensor]] = []
    epoch = Loader.epoch

    def spied(self: Loader, number: int, *, stage: str = "train") -> Iterator[tuple[Any, ...]]:
        for batch in epoch(self, number, stage=stage):
            batches.append((batch[1], batch[2]))
            yield batch

    monkeypatch.setattr(Loader, "epoch", spied)
    run(tmp_path, "crd")
    whole = data.limit(DIGITS, 96)
    part: Dataset = trained_on(whole, {"fraction": 0.75, "label_noise": 0.3, "validation": 0.25})[0]
    assert len(part.train_labels) == 54
    early, teacher, student = seen  # of a look before there is a teacher; the teacher's; the student's
    assert torch.equal(teacher, whole.train_labels)
    assert torch.equal(early, part.train_labels)
    assert torch.equal(student, part.train_labels)
    label, idx = batches[-1]
    assert torch.equal(label, part.train_labels[idx])


def test_a_noisy_teacher_is_another_network_and_never_stands_in_for_the_clean_one(tmp_path: Path) -> None:
    words = [*SMALL, "--methods", "kd"]
    fine("run", *words, "--out", tmp_path)
    clean = records(tmp_path)["resnet14:resnet8 kd 0"]
    share = sets("recipe.label_noise=0.3", "teacher.label_noise=0.3")
    assert "another teacher resnet14" in flat(kdbench("run", *words, "--out", tmp_path, *share).output)
    fine("run", *words, "--out", tmp_path / "noisy", *share)
    noisy_one = records(tmp_path / "noisy")["resnet14:resnet8 kd 0"]
    assert noisy_one.teacher_sha256 != clean.teacher_sha256
    assert len(list((tmp_path / "teachers").rglob("*-noisy-*.safetensors"))) == 1
    fine("run", *words, "--out", tmp_path / "taught", *sets("recipe.label_noise=0.3"))  # clean unless told
    assert records(tmp_path / "taught")["resnet14:resnet8 kd 0"].teacher_sha256 == clean.teacher_sha256
