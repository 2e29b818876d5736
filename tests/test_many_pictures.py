"""A hundred thousand pictures take no more than one: of each only its name is held, and it is decoded once a batch."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from training import BATCH, EPOCHS, images, lane, setting, train

from kdbench.data import Loader, selection
from kdbench.data.folder import Listed
from kdbench.data.listing import Aside
from kdbench.data.selection import choose
from kdbench.data.source import Files, Memory

MANY = 20_000
HOME = Path("/data/pictures")
Pictures = list[tuple[str, int]]


def names(part: str, many: int) -> Pictures:
    return [(f"{HOME}/{part}/class{number % 10}/{number:07}.jpg", number % 10) for number in range(many)]


@pytest.fixture(scope="module")
def listed() -> Listed:
    """Names alone; no such file is there."""
    return Listed(HOME, tuple(f"class{one}" for one in range(10)), names("train", MANY), names("val", 100), Aside(HOME))


def bytes_of(work: Callable[[], object]) -> tuple[float, float]:
    """What is held by what ``work`` gives, and the most that it held meanwhile, for each picture."""
    tracemalloc.start()
    try:
        made = work()
        now, most = tracemalloc.get_traced_memory()
        del made
    finally:
        tracemalloc.stop()
    return now / MANY, most / MANY


def test_a_listed_picture_is_its_name(listed: Listed) -> None:
    name = len(listed.train[0][0])
    held, most = bytes_of(lambda: Files(listed.files, 224))
    assert held < name + 24, "its name, where it ends, when it was written, and no more"
    assert most < 300
    assert len(pickle.dumps(Files(listed.files, 224))) / MANY < name + 24, "so much goes to each worker process"


def test_what_is_said_of_all_pictures_takes_little_of_each(listed: Listed) -> None:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(MANY + 100)]
    assert bytes_of(lambda: listed.notes({}, digests))[1] < 200
    assert bytes_of(listed.labels)[1] < 50


def test_copies_are_told_apart_by_their_bytes(listed: Listed) -> None:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(MANY + 100)]
    digests[11], digests[21], digests[5], digests[MANY] = digests[1], digests[1], digests[6], digests[3]
    # 11 and 21 are copies of 1 in its class, 5 is one of 6 in another, and the first of val is 3 of train.
    assert listed.notes({}, digests) == (
        "1 picture of val lie in train, too, byte for byte (val/class0/0000000.jpg)",
        "4 pictures lie in more than one class, byte for byte (train/class3/0000003.jpg)",
        "3 pictures of train are copies of another one there, byte for byte",
    )


def test_pictures_that_have_not_changed_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(6):
            where = tmp_path / "pictures" / part / "ab"[number % 2]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(where / f"{number}.png")
    word, said = f"imagefolder:{tmp_path / 'pictures'}@8", list[str]()
    first = choose(word, source="streamed", workers=0, say=said.append).fingerprint
    assert [sentence.split(",")[0] for sentence in said] == ["looking once at 12 pictures"]

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(selection, "decode_block", never)
    monkeypatch.setattr(Files, "take", never)
    assert choose(word, source="streamed", workers=0, say=said.append).fingerprint == first
    assert len(said) == 1
    (tmp_path / "pictures" / "val" / "a" / "0.png").touch()
    with pytest.raises(AssertionError, match="decoded again"):
        choose(word, source="streamed", workers=0)


def test_a_picture_is_made_once_for_all_lanes(tmp_path: Path) -> None:
    class Counted(Memory):
        taken = 0

        def take(self, idx: Tensor) -> Tensor:
            Counted.taken += len(idx)
            return super().take(idx)

    whole = images()
    feed = Loader(
        Counted(whole.train_images), whole.train_labels, batch_size=BATCH, mean=(0.3,) * 3, std=(0.4,) * 3, seed=5
    )
    lanes = [lane(name, tmp_path) for name in ("kd", "at", "crd")]
    train(lanes, setting(feed))
    assert [one.failure for one in lanes] == [None] * 3
    assert Counted.taken == EPOCHS * len(whole.train_labels)
