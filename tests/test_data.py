"""Data sets: what is read, and what is said when it cannot be."""

import hashlib
import io
import os
import pickle
import re
import shutil
import sys
import tarfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from small_cifar import small_cifar
from torchvision.datasets import CIFAR100

from kdbench.data import decode, digits, sets
from kdbench.data.names import canonical, safe_name
from kdbench.data.sets import DataMissing, Dataset, limit, load

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def toy(labels: list[int]) -> Dataset:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    return Dataset("toy", images, torch.tensor(labels), images[:2], torch.tensor(labels[:2]), ("a", "b", "c", "d"))


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load("digits")
    assert (data.num_classes, data.image_shape) == (10, (3, 8, 8))
    x_train, x_test, y_train, y_test = train_test_split(*load_digits(return_X_y=True), test_size=797, shuffle=False)
    for images, labels, x, y in (
        (data.train_images, data.train_labels, x_train, y_train),
        (data.test_images, data.test_labels, x_test, y_test),
    ):
        assert images.dtype == torch.uint8
        wanted = torch.from_numpy(x.reshape(-1, 1, 8, 8)) * 255 / 16
        assert (images.double() - wanted).abs().max() <= 0.5
        assert labels.tolist() == y.tolist()
    assert data.train_images.max() == 255
    # The suite's constants.
    pixels = data.train_images.double() / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std(correction=0)), 4)) == (0.3070, 0.3762)


def test_digits_are_the_same_where_their_file_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits.read_digits()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    theirs = digits.read_digits()
    assert (images == theirs[0]).all()
    assert (labels == theirs[1]).all()


def test_fingerprint_sees_every_pixel_and_label() -> None:
    one = load("digits")
    assert one.fingerprint == load("digits").fingerprint
    seen = {one.fingerprint}
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        other = load("digits")
        getattr(other, part).view(-1)[-1] += 1
        seen.add(other.fingerprint)
    assert len(seen) == 5
    assert all(len(mark) == 64 for mark in seen)


def test_limit_keeps_the_shares_of_the_classes() -> None:
    data = toy([0] * 60 + [1] * 30 + [2] * 8 + [3] * 2)
    for n in (4, 10, 50, 99):
        part = limit(data, n)
        counts = part.train_labels.bincount(minlength=4)
        assert counts.sum() == n
        assert counts.min() >= 1
        assert all(abs(c - n * share) <= 2 for c, share in zip(counts, (0.6, 0.3, 0.08, 0.02), strict=True))
        assert torch.equal(part.train_images[:, 0, 0, 0].long(), part.train_images[:, 0, 0, 0].long().sort().values)
        assert data.train_labels[part.train_images[:, 0, 0, 0].long()].equal(part.train_labels)
        assert part.test_images is data.test_images


def test_limit_is_nested_and_seeded() -> None:
    data = toy([0, 1, 2, 3] * 25)
    chosen = {n: set(limit(data, n).train_images[:, 0, 0, 0].tolist()) for n in (8, 20, 60)}
    assert chosen[8] < chosen[20] < chosen[60]
    assert set(limit(data, 20, seed=1).train_images[:, 0, 0, 0].tolist()) != chosen[20]
    assert limit(data, 20).fingerprint == limit(data, 20).fingerprint != data.fingerprint
    assert limit(data, 100) is data
    assert limit(data, 2).train_labels.unique().numel() == 2
    with pytest.raises(ValueError, match="0 images"):
        limit(data, 0)


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean cifar100"):
        load("cifar-100")
    with pytest.raises(ValueError, match="there are cifar10, cifar100, cinic10, cub200, digits"):
        load("zzz")
    with pytest.raises(ValueError, match="pixels"):
        load("imagefolder:here@big")


def test_where_data_sets_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    assert sets.default_root() == tmp_path
    monkeypatch.delenv("KDBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert sets.default_root() == tmp_path / "cache" / "kdbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sets.default_root() == Path.home() / ".cache" / "kdbench"


# CIFAR, in torchvision's layout but small.


def pack(home: Path, cls: type[CIFAR100], monkeypatch: pytest.MonkeyPatch, to: Path) -> None:
    to.mkdir()
    archive = to / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home / cls.base_folder, cls.base_folder)
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


def test_cifar_as_torchvision_lays_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_cifar(tmp_path, monkeypatch)
    data = load("cifar100", tmp_path, download=False)
    raw = pickle.loads((tmp_path / "cifar-100-python" / "test").read_bytes())
    assert data.train_images.shape == (20, 3, 32, 32)
    assert np.array_equal(data.test_images.reshape(10, -1).numpy(), raw["data"])
    assert data.test_labels.tolist() == raw["fine_labels"]
    assert data.classes == tuple(f"class {i}" for i in range(5))
    assert (data.train_labels.dtype, data.train_images.dtype) == (torch.int64, torch.uint8)


def test_a_cifar_archive_is_unpacked_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = small_cifar(tmp_path / "a", monkeypatch)
    pack(tmp_path / "a", cls, monkeypatch, tmp_path / "b")
    data = load("cifar100", tmp_path / "b", download=False)
    assert data.fingerprint == load("cifar100", tmp_path / "a").fingerprint


def test_cifar_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = small_cifar(tmp_path / "a", monkeypatch)
    pack(tmp_path / "a", cls, monkeypatch, tmp_path / "b")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "b"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    new = tmp_path / "new" / "folder"
    with pytest.raises(DataMissing, match="downloading was not allowed"):
        load("cifar100", new, download=False)
    assert not new.exists()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(cls, "url", f"http://127.0.0.1:{server.server_port}/{cls.filename}")
        Thread(target=server.serve_forever, daemon=True).start()
        data = load("cifar100", new)
        server.shutdown()
    assert data.fingerprint == load("cifar100", tmp_path / "a").fingerprint


@pytest.mark.parametrize("broken", [False, True])
def test_missing_or_broken_cifar_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    cls = small_cifar(tmp_path, monkeypatch)
    monkeypatch.setattr(cls, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    if broken:
        (tmp_path / "cifar-100-python" / "train").write_bytes(b"half a file")
    else:
        (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(DataMissing, match="could not be downloaded") as raised:
        load("cifar100", tmp_path)
    fault = "train (11 bytes) is not the official file by its MD5 sum" if broken else "cifar-100-python lacks meta"
    assert fault in str(raised.value)
    for word in ("cifar-100-python", str(tmp_path), "--data-dir", "KDBENCH_DATA", "\n"):
        assert (word in str(raised.value)) == (word != "\n")


def test_what_is_wrong_with_cifar_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(home: Path) -> str:
        with pytest.raises(DataMissing) as raised:
            load("cifar100", home, download=False)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    cls = small_cifar(tmp_path / "a", monkeypatch)
    pack(tmp_path / "a", cls, monkeypatch, tmp_path / "b")
    nowhere = tmp_path / "nowhere"
    assert f"not complete in {nowhere}: there is no folder cifar-100-python; downloading was not allowed" in said(
        nowhere
    )
    assert not nowhere.exists()
    (tmp_path / "file").touch()
    assert "file: it is no folder" in said(tmp_path / "file")
    (tmp_path / "a" / "cifar-100-python" / "test").unlink()
    (tmp_path / "a" / "cifar-100-python" / "meta").write_bytes(b"")
    assert "lacks test; cifar-100-python/meta (0 bytes) is not the official file" in said(tmp_path / "a")
    archive = tmp_path / "b" / cls.filename
    whole = archive.read_bytes()
    archive.write_bytes(whole[:100])
    assert f"the archive {cls.filename} (100 bytes) is not the official one" in said(tmp_path / "b")
    archive.write_bytes(whole)

    def full(*words: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    assert "is there and could not be unpacked (No space left on device)" in said(tmp_path / "b")


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("the CIFAR-100 images (../shared/data) are not here")
    sys.path.insert(0, str(SHARED))
    try:
        import unpack
    finally:
        sys.path.remove(str(SHARED))
    home = tmp_path_factory.mktemp("official")
    unpack.cifar("cifar100", str(home))
    return home


@pytest.mark.slow
def test_the_official_cifar100(official: Path) -> None:
    data = load("cifar100", official, download=False)
    assert (len(data.train_images), len(data.test_images), data.num_classes) == (50_000, 10_000, 100)
    assert data.train_labels.bincount().unique().tolist() == [500]
    pixels = data.train_images.to(torch.float32).div_(255)
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0.5071, 0.4867, 0.4408], abs=3e-4)
    assert data.fingerprint.startswith("a89be74e5ee5")
    assert data.classes[:2] == ("apple", "aquarium_fish")
    # Over the tensors alone, as kdbench 0.1.0 did: not a pixel has moved since.
    digest = hashlib.sha256()
    for part in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(f"{tuple(part.shape)}".encode() + part.reshape(-1).view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest().startswith("7c4367d5")
    assert limit(data, 1000).train_labels.bincount().unique().tolist() == [10]


# Folders of pictures.


def paint(file: Path, color: tuple[int, int, int], size: tuple[int, int] = (20, 30), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(file)


def gallery(home: Path, test: str = "val") -> Path:
    for part, n in (("train", 3), (test, 2)):
        for i in range(n):
            paint(home / part / "cat" / f"{i}.png", (200, i, 0))
            paint(home / part / "dog" / f"{i}.png", (0, i, 100), (30, 20))
    return home


@pytest.mark.parametrize("test", ["val", "test"])
def test_an_image_folder(tmp_path: Path, test: str) -> None:
    data = load(f"imagefolder:{gallery(tmp_path, test)}@16")
    assert data.classes == ("cat", "dog")
    assert data.image_shape == (3, 16, 16)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train_images[:, :, 5, 5].tolist() == [[200, i, 0] for i in range(3)] + [[0, i, 100] for i in range(3)]
    assert len(data.test_images) == 4
    assert load(f"imagefolder:{tmp_path}").image_shape == (3, 64, 64)


def test_pictures_are_cut_to_the_middle_and_made_rgb(tmp_path: Path) -> None:
    gallery(tmp_path)
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 255, 0), (10, 0, 20, 10))
    wide.save(tmp_path / "train" / "cat" / "0.png")
    paint(tmp_path / "train" / "cat" / "1.png", (90, 90, 90), mode="L")
    paint(tmp_path / "train" / "cat" / "2.png", (1, 2, 3), mode="RGBA")
    images = load(f"imagefolder:{tmp_path}@10").train_images
    assert images[0].flatten(1).unique(dim=1).tolist() == [[0], [255], [0]]
    assert images[1, :, 0, 0].tolist() == [90, 90, 90]
    assert images[2, :, 0, 0].tolist() == [1, 2, 3]


def test_image_folders_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(kind: type[ValueError] = DataMissing) -> str:
        with pytest.raises(kind) as raised:
            load(f"imagefolder:{tmp_path}@16")
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "no image folder: it has no folder in it, and" in said()
    (tmp_path / "Train").mkdir()
    assert "no image folder: it has Train, and an image folder has train/<class>/*" in said()
    (tmp_path / "Train").rmdir()
    gallery(tmp_path)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "bird")
    assert "bird, dog are in one of them only" in said()
    (tmp_path / "val" / "bird").rename(tmp_path / "val" / "dog")
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "Cat")
    assert "Cat, cat are in one of them only; upper and lower case count" in said()
    (tmp_path / "val" / "Cat").rename(tmp_path / "val" / "cat")
    for part in ("train", "val"):
        (tmp_path / part / "fish").mkdir()
    paint(tmp_path / "train" / "fish" / "0.png", (1, 2, 3))
    assert f"the class folder {tmp_path}/val/fish has no picture, its namesake has some" in said()
    (tmp_path / "val" / "fish" / "0.heic").write_bytes(b"a phone's")
    assert "val/fish has no picture: of its files (1) none ends as pictures do" in said()
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / part / "fish")
    whole = (tmp_path / "val" / "cat" / "1.png").read_bytes()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    assert "1.png cannot be read" in said()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(b"")
    assert "1.png cannot be read" in said()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(whole)
    load(f"imagefolder:{tmp_path}@16")
    monkeypatch.setattr(decode, "free_memory", lambda: 10 * 3 * 16 * 16 * 2 - 1)
    assert "more than half" in said(ValueError)
    monkeypatch.setattr(decode, "free_memory", lambda: 10 * 3 * 16 * 16 * 2)
    load(f"imagefolder:{tmp_path}@16")


def test_tiny_imagenet_as_distributed_and_as_a_folder(tmp_path: Path) -> None:
    plain = tmp_path / "plain" / "tiny-imagenet-200"
    given = tmp_path / "given" / "tiny-imagenet-200"
    notes = io.StringIO()
    for label, name in enumerate(("n01", "n02")):
        for i in range(3):
            paint(plain / "train" / name / f"{name}_{i}.JPEG", (80 * label, 10 * i, 0), (64, 64))
            paint(given / "train" / name / "images" / f"{name}_{i}.JPEG", (80 * label, 10 * i, 0), (64, 64))
        (given / "train" / name / f"{name}_boxes.txt").write_text("boxes")
        paint(plain / "val" / name / f"val_{label}.JPEG", (0, 0, 99 * label), (64, 64))
        paint(given / "val" / "images" / f"val_{label}.JPEG", (0, 0, 99 * label), (64, 64))
        notes.write(f"val_{label}.JPEG\t{name}\t0\t32\t44\t62\n")
    (given / "val" / "val_annotations.txt").write_text(notes.getvalue())
    one, two = (load("tinyimagenet", home.parent) for home in (plain, given))
    assert one.fingerprint == two.fingerprint
    assert one.classes == two.classes == ("n01", "n02")
    assert two.test_labels.tolist() == [0, 1]
    assert two.image_shape == (3, 64, 64)
    with pytest.raises(DataMissing, match="KDBENCH_DATA"):
        load("tinyimagenet", tmp_path)
    (given / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\t0\n")
    with pytest.raises(DataMissing, match="n99"):
        load("tinyimagenet", given.parent)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "line 2 of .*val_annotations.txt is not a picture, a tab and a class"),
        ("val_1.JPEG n01 0 0", "line 2"),
        ("../../secret.JPEG\tn01\t0", "line 2"),
        ("\\udcff\tn01", "cannot be read: there is no such file"),
    ],
)
def test_annotations_that_will_not_do(tmp_path: Path, line: str, words: str) -> None:
    home = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        paint(home / "train" / name / "images" / "0.JPEG", (9, 9, 9))
        paint(home / "val" / "images" / "val_0.JPEG", (1, 2, 3))
    (home / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\tn01\n{line}\nval_0.JPEG\tn02\n")
    with pytest.raises(DataMissing, match=words) as raised:
        load("tinyimagenet", tmp_path)
    assert "\n" not in str(raised.value)


def test_a_picture_that_no_annotation_names_is_told(tmp_path: Path) -> None:
    home = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        paint(home / "train" / name / "images" / "0.JPEG", (9, 9, len(name) + int(name[-1])))
        paint(home / "val" / "images" / f"{name}.JPEG", (1, 2, int(name[-1])))
    (home / "val" / "val_annotations.txt").write_text("n01.JPEG\tn01\n")
    assert load("tinyimagenet", tmp_path).notes == (
        "left out: 1 not named in val_annotations.txt (val/images/n02.JPEG)",
    )
    shutil.rmtree(home / "val" / "images")
    with pytest.raises(DataMissing, match=r"there is no folder .*val/images"):
        load("tinyimagenet", tmp_path)


# What is left out, and what is there twice.


def test_hidden_files_are_skipped_at_every_level_and_the_rest_is_counted(tmp_path: Path) -> None:
    gallery(tmp_path)
    for folder in (
        tmp_path,
        tmp_path / "train",
        tmp_path / "val",
        tmp_path / "train" / "cat",
        tmp_path / "val" / "dog",
    ):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (folder / name).write_bytes(b"not a picture")
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
            paint(folder / name / "0-checkpoint.png", (9, 9, 9))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("two")
    (tmp_path / "train" / "dog" / "more.TXT").write_text("two")
    (tmp_path / "train" / "dog" / "README").write_text("one")
    (tmp_path / "val" / "cat" / "clip.mp4").write_text("one")
    paint(tmp_path / "train" / "stray.png", (1, 1, 1))
    (tmp_path / "train" / "dog" / "again").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "self").symlink_to(".")
    for part in ("train", "val"):
        (tmp_path / part / "bare" / ".hidden").mkdir(parents=True)
    data = load(f"imagefolder:{tmp_path}@16")
    assert data.classes == ("cat", "dog")
    assert (data.identity.train_counts, data.identity.test_counts) == ((3, 3), (2, 2))
    assert data.notes[1:] == (
        "left out: 2 files ending in .txt (train/cat/notes.txt, ...), 1 file without an ending (train/dog/README),"
        " 1 file ending in .mp4 (val/cat/clip.mp4), 1 file outside the class folders (train/stray.png),"
        " 34 hidden (train/.DS_Store, ...), 2 linking back to a folder around it (train/dog/again, ...),"
        " 2 empty as a class folder (train/bare, ...)",
    )
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / part / "dog")
    with pytest.raises(DataMissing, match="has 1 class folder with pictures; classification takes two or more"):
        load(f"imagefolder:{tmp_path}@16")


def test_every_ending_counts_in_any_case_and_the_order_is_that_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    names = ["b.PNG", "a.png", "10.JPG", "9.jpeg", "z.Gif", "y.bmp", "x.tif", "w.WEBP", "v.ppm", "u.tga"]
    for i, name in enumerate(names):
        for part in ("train", "val"):
            paint(tmp_path / part / "one" / name, (20 * i, 0, 0))
            paint(tmp_path / part / "two" / "deep" / "er" / name, (0, 20 * i, 0))
            paint(tmp_path / part / "two" / name, (0, 0, 20 * i))
    data = load(f"imagefolder:{tmp_path}@8")
    assert data.identity.train_counts == (10, 20)
    assert not [note for note in data.notes if note.startswith("left out")]
    reds = data.train_images[:10, 0, 4, 4].tolist()
    assert reds == [pytest.approx(20 * names.index(name), abs=3) for name in sorted(names)]
    theirs = ImageFolder(
        str(tmp_path / "train"), is_valid_file=lambda path: path.lower().endswith(("png", "bmp", "tif", "ppm", "tga"))
    )
    ours = ImageFolder(str(tmp_path / "train"), is_valid_file=lambda path: True)
    assert len(theirs) < len(ours) == 30
    for i, (path, label) in enumerate(ours.samples):
        if path.lower().endswith(("png", "bmp", "tif", "ppm", "tga")):
            assert label == data.train_labels[i]
            assert data.train_images[i, :, 4, 4].tolist() == np.asarray(Image.open(path).convert("RGB"))[4, 4].tolist()


def test_pictures_that_are_no_files_are_named(tmp_path: Path) -> None:
    def said() -> str:
        with pytest.raises(DataMissing) as raised:
            load(f"imagefolder:{tmp_path}@16")
        assert "\n" not in str(raised.value)
        return str(raised.value)

    gallery(tmp_path)
    odd = tmp_path / "train" / "cat" / "odd.png"
    odd.mkdir()
    assert f"the picture {odd} cannot be read: it is a folder" in said()
    odd.rmdir()
    for target in ("nowhere", "odd.png"):
        odd.symlink_to(target)
        assert f"the picture {odd} cannot be read: it is a link to something that is not there" in said()
        odd.unlink()
    os.mkfifo(odd)
    assert f"the picture {odd} cannot be read: it is no regular file" in said()
    odd.unlink()
    (tmp_path / "val" / "lost").symlink_to("nowhere")
    assert "val/lost is a link to something that is not there; a class is a folder of pictures" in said()
    (tmp_path / "val" / "lost").unlink()
    for name in ("bad\nname", "bad\udcffname"):
        for part in ("train", "val"):
            paint(tmp_path / part / name / "0.png", (1, 2, 3))
        assert "has line breaks, control signs or no UTF-8 in its name" in said()
        for part in ("train", "val"):
            shutil.rmtree(tmp_path / part / name)
    paint(tmp_path / "train" / "cat" / "odd\n\udcff.png", (1, 2, 3))  # of files any name will do
    assert load(f"imagefolder:{tmp_path}@16").identity.train_counts == (4, 3)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    gallery(tmp_path / "real")
    farm = tmp_path / "farm"
    for part in ("train", "val"):
        (farm / part).mkdir(parents=True)
        for name in ("cat", "dog"):
            (farm / part / name).symlink_to(tmp_path / "real" / part / name)
    one, two = (load(f"imagefolder:{home}@16") for home in (tmp_path / "real", farm))
    assert one.fingerprint == two.fingerprint
    assert one.notes == two.notes


def test_a_name_composed_in_two_ways_is_one_class(tmp_path: Path) -> None:
    gallery(tmp_path)
    (tmp_path / "train" / "cat").rename(tmp_path / "train" / "a\u0308ffchen")  # as a Mac writes it
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "\xe4ffchen")
    data = load(f"imagefolder:{tmp_path}@16")
    assert data.classes == ("dog", "\xe4ffchen")
    paint(tmp_path / "train" / "\xe4ffchen" / "0.png", (1, 2, 3))
    with pytest.raises(DataMissing, match="two folders named \xe4ffchen that differ in their Unicode only"):
        load(f"imagefolder:{tmp_path}@16")


def test_what_is_there_twice_is_told(tmp_path: Path) -> None:
    gallery(tmp_path)
    for part in ("train", "val"):
        shutil.copytree(tmp_path / part / "dog", tmp_path / part / "DOG")
    paint(tmp_path / "val" / "cat" / "7.png", (9, 9, 9))
    shutil.copy(tmp_path / "val" / "cat" / "7.png", tmp_path / "train" / "cat" / "new.png")
    shutil.copy(tmp_path / "train" / "cat" / "new.png", tmp_path / "train" / "cat" / "newer.png")
    (tmp_path / "test").mkdir()
    notes = load(f"imagefolder:{tmp_path}@16").notes
    assert notes[0] == "the folder test is there, too, and is not used, because val is"
    assert "7 pictures of val lie in train, too, byte for byte (val/DOG/0.png)" in notes
    assert "10 pictures lie in more than one class, byte for byte (train/DOG/0.png)" in notes
    assert "4 pictures of train are copies of another one there, byte for byte" in notes
    assert notes[-1] == "classes that differ in upper and lower case only: DOG, dog"


def test_content_that_is_lost_by_cutting_is_told(tmp_path: Path) -> None:
    gallery(tmp_path)
    wide = Image.new("RGB", (60, 10), (0, 0, 0))
    wide.putpixel((0, 0), (255, 255, 255))
    wide.save(tmp_path / "val" / "cat" / "0.png")
    notes = load(f"imagefolder:{tmp_path}@10").notes
    assert "1 picture of one colour once cut to the middle square and scaled (val/cat/0.png)" in notes


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery(tmp_path)
    listed = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataMissing, match=r"the folder .*train/dog cannot be listed: Permission denied"):
        load(f"imagefolder:{tmp_path}@16")


# Words and names.


def test_folders_are_looked_for_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery(tmp_path / "pets@home")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    data = load("imagefolder:../pets@home/.@16")
    assert data.name == f"imagefolder:{tmp_path}/pets@home@16"
    assert load("imagefolder:../pets@home/").name == f"imagefolder:{tmp_path}/pets@home@64"
    with pytest.raises(DataMissing, match=f"there is no folder {tmp_path}/deep/pets; an image folder has train"):
        load("imagefolder:pets@16")
    with pytest.raises(DataMissing, match="is no folder; an image folder has"):
        load(f"imagefolder:{tmp_path}/pets@home/train/cat/0.png@16")
    for word in ("imagefolder:", "imagefolder:@32", "imagefolder: @32", "imagefolder:a\0b@32"):
        with pytest.raises(ValueError, match="names no folder"):
            load(word)
    for size in ("7", "\xb2", "-8", "8.5", "", "1" + 5000 * "0"):
        with pytest.raises(ValueError, match="number of pixels from 8 up"):
            load(f"imagefolder:here@{size}")
    with pytest.raises(DataMissing, match="there is no folder"):
        load(f"imagefolder:{'x' * 5000}@16")


def test_a_table_of_a_folder_lies_in_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.engine.precision import Precision
    from kdbench.run import teacher_cache as tables

    monkeypatch.chdir(tmp_path)
    recipe = {"batch_size": 4, "crop_padding": 0, "flip": False, "mean": (0.5,), "std": (0.5,)}
    for word in ("imagefolder:../../..", "imagefolder:[pets]@32", f"imagefolder:{'x' * 300}"):
        images = replace(toy([0, 1, 2, 3]), name=word)
        place = tables.where(
            tmp_path / "out", "timm/x", images, recipe, torch.nn.Linear(1, 1), Precision(), torch.device("cpu")
        )
        assert place.folder.parent == tmp_path / "out" / "tables"
        place.folder.mkdir(parents=True)
        np.ones(4, np.uint32).tofile(place.folder / "logits.sums")
        (place.folder / "table.json").write_text('{"facts": {"precision": "fp32", "batch_size": 4}}')
        assert tables.kept_share(tmp_path / "out", word, "timm/x", "fp32", 4, "logits") == 1.0
        shutil.rmtree(place.folder)


def test_names_of_folders_never_leave_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [safe_name(name) for name in ("digits", "cifar100")] == ["digits", "cifar100"]
    words = [
        "imagefolder:../../..",
        "imagefolder:..@32",
        "imagefolder:pets@32",
        "imagefolder:pets@64",
        "imagefolder:other/pets@32",
        "imagefolder:/@32",
        f"imagefolder:{'x' * 5000}@32",
        "imagefolder:\u732b@32",
        "imagefolder:a\udcffb@32",
        "imagefolder:[*]?@32",
        "imagefolder:@5",
        "..",
        ".",
        "",
        "-rf",
        "../x",
        "a\0b",
        "CON:",
        " ",
    ]
    names = [safe_name(word) for word in words]
    assert len(set(names)) == len(words)
    for name in names:
        assert Path(tmp_path / name).parent == tmp_path
        assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]{0,70}", name), name
    assert names[2].startswith("imagefolder-pets-32-")
    assert (
        safe_name("imagefolder:pets")
        == safe_name(f"imagefolder:{tmp_path}/pets@64")
        == safe_name("imagefolder:./pets/")
    )
    assert canonical("imagefolder:pets") == f"imagefolder:{tmp_path}/pets@64"
    assert canonical("digits") == "digits"
