"""Pictures that change behind a pack, a run or a remembered sum: nothing is trained that its record does not name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data import DataMissing, choose, pack
from kdbench.data.packed import header, opened
from kdbench.data.selection import listed
from kdbench.data.sets import Dataset
from kdbench.data.source import DataSource, recalled, remember

SIZE = 16


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, eight pictures of train and four of val; sums are remembered in a place of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home, draw = tmp_path / "pictures", np.random.default_rng(0)
    for part, many in (("train", 8), ("val", 4)):
        for number in range(many):
            where = home / part / ("ant", "bee")[number % 2]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(where / f"{number}.png")
    return home


def word(folder: Path) -> str:
    return f"imagefolder:{folder}@{SIZE}"


def packed(folder: Path, where: Path) -> Dataset:
    found = listed(word(folder), None)
    assert found is not None
    return pack.pack(found[0], word(folder), SIZE, where)


def source(where: Path) -> str:
    return f"packed:{where}"


# -- a pack -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 9, -1])
def test_a_label_that_is_not_as_it_was_packed_is_told(value: int, folder: Path, tmp_path: Path) -> None:
    fingerprint = packed(folder, where := tmp_path / "p").fingerprint
    labels = np.fromfile(where / "train.labels", dtype="<i8")
    labels[0] = value
    labels.tofile(where / "train.labels")
    with pytest.raises(DataMissing, match=r"p/train\.labels of a pack is not as it was packed; `kdbench data pack`"):
        choose(word(folder), source=source(where))
    assert packed(folder, where).fingerprint == fingerprint
    assert opened(where).fingerprint == fingerprint


def _renamed(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part / "ant").rename(folder / part / "wasp")


def _replaced(folder: Path) -> None:
    shutil.copy(folder / "train" / "bee" / "1.png", folder / "train" / "ant" / "0.png")
    with open(folder / "train" / "ant" / "0.png", "ab") as file:
        file.write(b"\0")


def _one_more(folder: Path) -> None:
    shutil.copy(folder / "train" / "bee" / "1.png", folder / "train" / "bee" / "x.png")


def _another_name(folder: Path) -> None:
    (folder / "val" / "bee" / "1.png").rename(folder / "val" / "bee" / "x.png")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_renamed, "the classes are others"),
        (_one_more, "there are 9 and 4"),
        (_replaced, "some have another name or length"),
        (_another_name, "some have another name or length"),
    ],
)
def test_a_pack_of_pictures_that_have_changed_is_not_taken(
    change: Callable[[Path], None], why: str, folder: Path, tmp_path: Path
) -> None:
    packed(folder, where := tmp_path / "p")
    change(folder)
    with pytest.raises(ValueError, match=f"p is not the pack of the pictures in .*pictures as they are now .{why}"):
        choose(word(folder), source=source(where))
    packed(folder, where)
    assert choose(word(folder), source=source(where)).fingerprint == choose(word(folder)).fingerprint


def test_a_folder_may_have_moved_or_be_gone(folder: Path, tmp_path: Path) -> None:
    fingerprint = packed(folder, where := tmp_path / "p").fingerprint
    shutil.copytree(folder, tmp_path / "moved")
    said: list[str] = []
    assert choose(word(tmp_path / "moved"), source=source(where), say=said.append).fingerprint == fingerprint
    assert said == []
    shutil.rmtree(folder)
    assert choose(word(folder), source=source(where), say=said.append).fingerprint == fingerprint
    assert said[0].startswith(f"the pack of {word(folder)} is not compared with its pictures: there is no folder")


def _of_another_version(where: Path) -> None:
    for name in ("pack.json", "journal.jsonl"):
        (where / name).write_text((where / name).read_text().replace('"format": 1', '"format": 0'))


def _torn(where: Path) -> None:
    os.truncate(where / "pack.json", 100)
    os.truncate(where / "journal.jsonl", 10 + len((where / "journal.jsonl").read_text().splitlines()[0]))


@pytest.mark.parametrize("harm", [_of_another_version, _torn])
def test_a_pack_that_cannot_be_read_is_made_anew(harm: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    fingerprint = packed(folder, where := tmp_path / "p").fingerprint
    harm(where)
    with pytest.raises(DataMissing):
        opened(where)
    assert packed(folder, where).fingerprint == fingerprint
    assert header(where)["format"] == 1


def test_what_is_called_like_a_pack_and_is_none_stays(folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "p" / "pack.json"
    theirs.parent.mkdir()
    theirs.write_text('{"name": "a package"}')
    with pytest.raises(ValueError, match="p is the pack of something else; choose another --out, or remove it"):
        packed(folder, theirs.parent)
    assert theirs.read_text() == '{"name": "a package"}'


@pytest.mark.parametrize("kind", ["packed", "streamed", "resident"])
def test_all_pictures_that_cannot_be_used_are_named_at_once(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.data import selection

    monkeypatch.setattr(pack, "BLOCK", 2)
    monkeypatch.setattr(selection, "BLOCK", 2)
    for name in ("train/ant/2.png", "train/bee/7.png", "val/bee/3.png"):
        os.truncate(folder / name, 60)
    with pytest.raises(
        DataMissing, match=r"ant/2\.png cannot be read.*; 2 more cannot be used either: .*7\.png.*3\.png"
    ):
        packed(folder, tmp_path / "p") if kind == "packed" else choose(word(folder), source=kind, workers=0)


# -- files, while a command reads them ------------------------------------------------------


def test_a_picture_that_changes_while_it_is_read_from_its_file_is_told(folder: Path) -> None:
    images = choose(word(folder), source="streamed", workers=0).train_images
    assert isinstance(images, DataSource)
    images.take(torch.arange(8))
    shutil.copy(folder / "train" / "bee" / "1.png", folder / "train" / "ant" / "2.png")
    images.take(torch.tensor([0]))
    with pytest.raises(DataMissing, match=r"the picture .*ant/2\.png has changed since this command began"):
        images.take(torch.arange(8))
    again = choose(word(folder), source="streamed", workers=0)
    assert again.fingerprint == choose(word(folder), source="resident").fingerprint


# -- sums that are remembered ---------------------------------------------------------------


@pytest.mark.parametrize("damage", ["zz", "0" * 64, ""])
def test_a_remembered_sum_that_was_changed_is_not_believed(damage: str, folder: Path, tmp_path: Path) -> None:
    fingerprint = choose(word(folder), source="streamed", workers=0).fingerprint
    (file,) = (tmp_path / "cache" / "kdbench" / "sums").glob("survey-*.json")
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"train": damage}))
    assert choose(word(folder), source="streamed", workers=0).fingerprint == fingerprint
    assert json.loads(file.read_text()) == values


def test_a_remembered_sum_is_of_its_name(folder: Path) -> None:
    remember("a" * 64, {"sum": "1"})
    assert recalled("a" * 64)["sum"] == "1"
    assert recalled("a" * 32 + "b" * 32) == {}
