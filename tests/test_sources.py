"""The same data set from memory, a pack and files: one fingerprint, the same batches, whatever makes them."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdbench import data
from kdbench.data import Dataset, Loader, names, pack
from kdbench.data.decode import Decoded, decode
from kdbench.data.errors import DataMissing
from kdbench.data.packed import opened
from kdbench.data.selection import choose, listed, pack_folder
from kdbench.data.source import DataSource, Memory
from kdbench.utils.wording import size

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
SIZE = 16
KINDS = ("resident", "packed", "streamed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of many shapes: 2 classes, 15 of train and 6 of val."""
    home = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for part, many in (("train", 15), ("val", 6)):
        for number in range(many):
            where = home / part / ("ant" if number % 3 else "bee")
            where.mkdir(parents=True, exist_ok=True)
            shape = (int(draw.integers(14, 40)), int(draw.integers(14, 40)), 3)
            Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(where / f"{number:02}.png")
    return home


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def word(folder: Path, size: int = SIZE) -> str:
    return f"imagefolder:{folder}@{size}"


def sets(folder: Path, root: Path, *, workers: int = 0) -> dict[str, Dataset]:
    found = listed(word(folder), root)
    assert found is not None
    pack.pack(found[0], names.canonical(word(folder)), found[1], pack_folder(word(folder), root))
    return {kind: choose(word(folder), root, source=kind, workers=workers) for kind in KINDS}


def loader(one: Dataset, **changes: object) -> Loader:
    given: dict[str, object] = {
        "batch_size": 4,
        "mean": MEAN,
        "std": STD,
        "crop_padding": 2,
        "flip": True,
        "seed": 3,
        "size": one.side,
        "workers": one.workers,
    }
    return Loader(one.train_images, one.train_labels, **(given | changes))  # type: ignore[arg-type]


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def alike(one: Iterable[tuple[Tensor, ...]], other: Iterable[tuple[Tensor, ...]]) -> bool:
    return all(same(a, b) for a, b in zip(one, other, strict=True))


def test_all_sources_are_one_data_set(folder: Path, tmp_path: Path) -> None:
    found = sets(folder, tmp_path)
    wanted = found["resident"]
    assert isinstance(wanted.train_images, Tensor)
    for kind in ("packed", "streamed"):
        one = found[kind]
        assert isinstance(one.train_images, DataSource)
        assert (one.identity, one.name) == (wanted.identity, wanted.name)
        assert torch.equal(one.train_images.take(torch.arange(15)), wanted.train_images)
        few, fewer = data.limit(wanted, 7), data.limit(one, 7)
        assert few.fingerprint == fewer.fingerprint != wanted.fingerprint
        (rest, out), (also, apart) = data.hold_out(wanted, 0.2), data.hold_out(one, 0.2)
        assert rest.fingerprint == also.fingerprint
        assert out is not None
        assert apart is not None
        assert isinstance(apart.images, DataSource)
        assert torch.equal(apart.images.take(torch.arange(len(apart.images))), out.images)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"augment": "rrc"},
        {"augment": "rrc+rand-m9-mstd0.5-inc1", "random_erasing": 0.7},
        {"augment": "crop+augmix-m3", "mixup": 0.8, "cutmix": 1.0},
        {"size": 12},
        {"size": 20, "augment": "rrc"},
    ],
    ids=str,
)
def test_batches_are_the_same(folder: Path, tmp_path: Path, how: dict[str, object]) -> None:
    found = sets(folder, tmp_path)
    wanted = [list(loader(found["resident"], **how).epoch(epoch)) for epoch in range(2)]
    assert not same(wanted[0][0], wanted[1][0])
    before = torch.get_rng_state(), str(np.random.get_state())
    for kind in KINDS:
        made = loader(found[kind], **how)
        later = list(made.epoch(1))  # as after a resume: no epoch before it
        assert alike(later, wanted[1])
        assert alike(made.epoch(0), wanted[0])
        plain = [made.plain(5), loader(found["resident"], **how).plain(5)]
        assert alike(plain[0], plain[1])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


def test_crops_by_the_host_are_those_of_the_device() -> None:
    images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8)
    one = Dataset("x", images, torch.arange(9) % 2, images, torch.arange(9) % 2, ("a", "b"))
    other = replace(one, train_images=Memory(images))
    assert loader(one).on_device
    assert not loader(other).on_device
    assert alike(loader(one).epoch(0), loader(other).epoch(0))
    assert alike(loader(one).plain(4), loader(other).plain(4))


def test_workers_change_nothing(folder: Path, tmp_path: Path) -> None:
    found = sets(folder, tmp_path, workers=2)["streamed"]
    how = {"augment": "rrc+rand-m9-inc1", "mixup": 0.5}
    alone = loader(found, workers=0, **how)
    made = loader(found, **how)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    try:
        assert alike(made.epoch(0), alone.epoch(0))
        assert torch.equal(before, torch.get_rng_state())
        assert same(next(iter(made.epoch(1))), next(iter(alone.epoch(1))))  # left half-way
        outer = made.epoch(2)
        first = next(outer)
        inner = list(made.epoch(2))  # while a row is under way
        assert alike([first, *outer], inner)
        assert made.feed is not None
        pids = {worker.pid for worker in made.feed._loader._iterator._workers}
        assert alike(made.plain(4), alone.plain(4))
        assert pids == {worker.pid for worker in made.feed._loader._iterator._workers}
    finally:
        made.close()


def test_a_picture_that_is_gone_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    import shutil

    here = tmp_path / "copy"
    shutil.copytree(folder, here)
    found = choose(word(here), tmp_path, source="streamed", workers=1)
    (here / "train" / "ant" / "01.png").unlink()
    for workers in (0, 1):
        made = loader(found, workers=workers)
        with pytest.raises(DataMissing, match=r"^the picture .*01\.png cannot be read: there is no such file$"):
            list(made.epoch(0))
        made.close()


def test_a_pack_notices_damage_and_is_mended(folder: Path, tmp_path: Path) -> None:
    wanted = sets(folder, tmp_path)["resident"]
    where = pack_folder(word(folder), tmp_path)
    one = opened(where)
    assert isinstance(one.train_images, DataSource)
    with open(where / "train.u8", "r+b") as file:
        file.seek(4 * 3 * SIZE * SIZE + 7)
        file.write(bytes([file.read(1)[0] ^ 1]))
    with pytest.raises(DataMissing, match=r"picture 4 of .*train\.u8 is not as it was packed; `kdbench data pack`"):
        one.train_images.take(torch.tensor([3, 4]))
    found = listed(word(folder), tmp_path)
    assert found is not None
    mended = pack.pack(found[0], names.canonical(word(folder)), SIZE, where)
    assert mended.fingerprint == wanted.fingerprint
    assert isinstance(mended.train_images, DataSource)
    assert torch.equal(mended.train_images.take(torch.arange(15)), wanted.train_images)
    text = (where / "pack.json").read_text()
    (where / "pack.json").write_text(text.replace('"bee"', '"fly"'))
    with pytest.raises(DataMissing, match="changed after it was written"):
        opened(where)
    (where / "pack.json").write_text(text)
    os.truncate(where / "test.u8", 5)
    with pytest.raises(DataMissing, match=r"test\.u8 of a pack has 5 bytes, not"):
        opened(where)


def test_a_pack_is_read_by_processes(folder: Path, tmp_path: Path) -> None:
    one = sets(folder, tmp_path)["packed"]
    assert isinstance(one.train_images, DataSource)
    other = pickle.loads(pickle.dumps(one.train_images))
    assert torch.equal(other.take(torch.arange(15)), one.train_images.take(torch.arange(15)))


def test_a_killed_pack_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from kdbench.data import names, pack
from kdbench.data.selection import listed
pack.BLOCK = 4
found = listed({word(folder)!r}, None)
def tell(done, of):
    if done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
pack.pack(found[0], names.canonical({word(folder)!r}), found[1], Path({str(tmp_path / "pack")!r}), tell)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == -signal.SIGKILL
    monkeypatch.setattr(pack, "BLOCK", 4)
    with open(tmp_path / "pack" / "journal.jsonl", "ab") as journal:
        journal.write(b'{"part": "train", "fir')  # as a kill in a write leaves it
    with pytest.raises(DataMissing, match="there is no pack"):
        opened(tmp_path / "pack")
    found = listed(word(folder), None)
    assert found is not None
    read: list[str] = []

    def counted(files: Sequence[str], first: int, many: int, size: int) -> Decoded:
        read.extend(files[first : first + many])
        return decode(files[first : first + many], size)

    monkeypatch.setattr(pack, "decode_block", counted)
    made = pack.pack(found[0], names.canonical(word(folder)), SIZE, tmp_path / "pack")
    assert len(read) == 21 - 8
    assert made.fingerprint == data.load(word(folder)).fingerprint
    assert made.notes == data.load(word(folder)).notes
    read.clear()
    time.sleep(0.01)
    first = found[0].files[0]
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first)  # other data: nothing is taken over
    try:
        pack.pack(found[0], names.canonical(word(folder)), SIZE, tmp_path / "pack")
        assert len(read) == 21
    finally:
        Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first)


def test_what_does_not_fit_is_not_held_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.data import selection as chosen

    said: list[str] = []
    assert isinstance(choose(word(folder), tmp_path, say=said.append).train_images, Tensor)
    assert not said
    monkeypatch.setattr(chosen, "free_memory", lambda: 21 * 3 * SIZE * SIZE)
    assert isinstance(choose(word(folder), tmp_path, say=said.append, workers=0).train_images, DataSource)
    assert "kdbench data pack" in said[0]
    assert "decoded whenever" in said[0]
    sets(folder, tmp_path)
    said.clear()
    assert "Packed" in type(choose(word(folder), tmp_path, say=said.append).train_images).__name__
    assert "read from their pack" in said[0]


def test_a_disk_without_room_for_the_pack_is_told_in_sizes_that_can_be_compared(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listed(word(folder), None)
    assert found is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda where: SimpleNamespace(free=33))
    needed = 21 * (3 * SIZE * SIZE + 4)
    with pytest.raises(ValueError, match=f"takes {size(needed)} more, and 33 bytes are free in"):
        pack.pack(found[0], names.canonical(word(folder)), SIZE, tmp_path / "pack")


@pytest.mark.parametrize("source", ["disk", "packed:", "packed: ", "Resident"])
def test_no_such_source(source: str) -> None:
    with pytest.raises(ValueError, match="--data-source takes auto, resident"):
        choose("digits", source=source)


def test_a_pack_of_other_data_is_not_taken(folder: Path, tmp_path: Path) -> None:
    digits = data.load("digits")
    pack.pack(digits, "digits", 8, tmp_path / "digits")
    assert choose("digits", source=f"packed:{tmp_path / 'digits'}").fingerprint == digits.fingerprint
    with pytest.raises(ValueError, match="is the pack of digits, not of imagefolder:"):
        choose(word(folder), source=f"packed:{tmp_path / 'digits'}")
    found = listed(word(folder), None)
    assert found is not None
    with pytest.raises(ValueError, match="is the pack of digits; choose another --out"):
        pack.pack(found[0], word(folder), SIZE, tmp_path / "digits")


def test_reading_a_pack_holds_a_batch(tmp_path: Path) -> None:
    """400 MB of pictures, and the process grows by a tenth of them at most."""
    import resource

    side, many = 224, 2800
    where = tmp_path / "large"
    where.mkdir()
    with open(where / "train.u8", "wb") as file:
        file.truncate(many * 3 * side * side)
    np.full(many, __import__("zlib").crc32(bytes(3 * side * side)), dtype="<u4").tofile(where / "train.crc")
    from kdbench.data.packed import Packed

    one = Packed(where / "train.u8", (many, 3, side, side), "")
    made = Loader(one, torch.arange(many) % 2, batch_size=32, mean=MEAN, std=STD, size=64, flip=True)
    batches = made.epoch(0)
    next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in islice(batches, 60):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


def test_a_picture_is_drawn_anew_in_every_epoch(folder: Path) -> None:
    made = loader(data.load(word(folder)), augment="rrc")
    seen = [
        {int(at): one for image, _, idx in made.epoch(epoch) for at, one in zip(idx, image, strict=True)}
        for epoch in range(2)
    ]
    assert not any(torch.equal(seen[0][at], seen[1][at]) for at in seen[0].keys() & seen[1].keys())
