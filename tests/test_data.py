"""Data sets: what is read, and what is said when it cannot be."""

import hashlib
import io
import pickle
import sys
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data import folder, sets
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
    with pytest.raises(ValueError, match="there are cifar10, cifar100, digits"):
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


def small_cifar(home: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A CIFAR-100 of 20 + 10 images, with sums that torchvision accepts."""
    from torchvision.datasets import CIFAR100

    base = home / CIFAR100.base_folder
    base.mkdir(parents=True)
    sums = {}
    names = [f"class {i}" for i in range(5)]
    for part, n in (("train", 20), ("test", 10)):
        pixels = np.random.default_rng(n).integers(256, size=(n, 3072), dtype=np.uint8)
        (base / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [i % 5 for i in range(n)]}))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for file in base.iterdir():
        sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    return CIFAR100


def pack(home: Path, cls: type, monkeypatch: pytest.MonkeyPatch, to: Path) -> None:
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
    for word in ("cifar-100-python", str(tmp_path), "--data-dir", "KDBENCH_DATA", "\n"):
        assert (word in str(raised.value)) == (word != "\n")


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("the CIFAR-100 images (../shared/data) are not here")
    sys.path.insert(0, str(SHARED))
    try:
        import unpack  # type: ignore[import-not-found]
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
    assert data.fingerprint.startswith("7c4367d5")
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

    assert "no image folder" in said()
    gallery(tmp_path)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "bird")
    assert "bird, dog are in one of them only" in said()
    (tmp_path / "val" / "bird").rename(tmp_path / "val" / "dog")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "val" / "empty").mkdir()
    assert "empty" in said()
    for part in ("train", "val"):
        (tmp_path / part / "empty").rmdir()
    whole = (tmp_path / "val" / "cat" / "1.png").read_bytes()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    assert "1.png cannot be read" in said()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(b"")
    assert "1.png cannot be read" in said()
    (tmp_path / "val" / "cat" / "1.png").write_bytes(whole)
    load(f"imagefolder:{tmp_path}@16")
    monkeypatch.setattr(folder, "_free_memory", lambda: 10 * 3 * 16 * 16 * 2 - 1)
    assert "more than half" in said(ValueError)
    monkeypatch.setattr(folder, "_free_memory", lambda: 10 * 3 * 16 * 16 * 2)
    load(f"imagefolder:{tmp_path}@16")


def test_free_memory_is_told() -> None:
    assert 2**27 < folder._free_memory() < 2**50


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
