"""A data set of Hugging Face's library, where it is installed: the pictures and labels that were saved."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench import data
from kdbench.data import names
from kdbench.data.errors import DataMissing


def test_words() -> None:
    assert names.side("huggingface:a/b@96") == 96
    for word in ("huggingface:", "huggingface:x@", "huggingface:x@4", "huggingface:@64"):
        with pytest.raises(ValueError, match="is not written huggingface:NAME@SIZE"):
            names.hub(word)


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def lacking(name: str, *given: Any, **words: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return usual(name, *given, **words)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(DataMissing, match="needs the library datasets"):
        data.load("huggingface:beans")


@pytest.mark.filterwarnings("ignore")
def test_pictures_and_labels_are_those_that_were_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee"]),
            "note": datasets.Value("string"),
        }
    )

    def part(some: list[Any]) -> Any:
        rows = {"image": [Image.fromarray(one) for one in some], "label": [i % 2 for i in range(len(some))]}
        return datasets.Dataset.from_dict(rows | {"note": ["x"] * len(some)}, features=features)

    whole = datasets.DatasetDict({"train": part(pixels[:4]), "test": part(pixels[4:])})
    whole.save_to_disk(str(tmp_path / "saved"))
    found = data.load(f"huggingface:{tmp_path / 'saved'}@16")
    assert found.classes == ("ant", "bee")
    assert (found.train_images.permute(0, 2, 3, 1).numpy() == np.stack(pixels[:4])).all()
    assert found.test_labels.tolist() == [0, 1]
    datasets.DatasetDict({"train": part(pixels[:4])}).save_to_disk(str(tmp_path / "half"))
    with pytest.raises(DataMissing, match="has the splits train; kdbench trains on train and tests on one of"):
        data.load(f"huggingface:{tmp_path / 'half'}@16")
