"""What is written takes the place of no device, no pipe and nobody else's file; odd words are refused before that."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdbench
from kdbench.cli import main
from kdbench.suites.published_teachers import load_published
from kdbench.utils.files import atomic_write


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path, linked: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # stands for /dev/null, which a rename by root would take away, too
    target = tmp_path / "link" if linked else pipe
    if linked:
        target.symlink_to(pipe)
    with pytest.raises(OSError, match="it is a pipe or a device, no file"), atomic_write(target, "w") as file:
        file.write("x")
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    assert target.is_symlink() == linked
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted({"pipe", target.name})


def test_a_folder_is_named_and_not_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as told, atomic_write(tmp_path / "folder", "w") as file:
        file.write("x")
    assert ".kdbench-" not in str(told.value)


def test_a_file_or_link_is_replaced_as_ever(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("note", "link", "note"):
        with atomic_write(tmp_path / name, "w") as file:
            file.write(name)
        assert (tmp_path / name).read_text() == name


def test_a_folder_in_the_place_of_a_table_of_teachers_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no teachers' file .*; give the path of a \.toml file"):
        load_published(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "word", "sentence"),
    [("--data-workers", "-1", "--data-workers"), ("--data-source", "x", "--data-source takes auto, resident")],
)
def test_fine_tuning_looks_at_its_words_first(tmp_path: Path, option: str, word: str, sentence: str) -> None:
    words = ["teacher", "finetune", "resnet8", "--suite", "digits", "--device", "cpu", "--out", str(tmp_path / "out")]
    stored = tmp_path / "out" / "teachers" / "digits" / "resnet8.json"
    stored.parent.mkdir(parents=True)
    stored.write_text("{}")  # one is there already, which excuses no word
    result = CliRunner().invoke(main, [*words, option, word])
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"repo": "a/b"}, "--repo says where --upload sends the folder"),
        ({"licence": "mit\ntags: [x]"}, "--licence is a name such as apache-2.0, on one line, not 'mit tags"),
        ({"licence": "\x1b[2J"}, "--licence is a name"),
        ({"licence": "x" * 5000}, "--licence is a name"),
    ],
)
def test_words_of_an_export(words: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kdbench.export("kd resnet8 0", **words)  # type: ignore[arg-type]


def test_data_bench_starts_no_million_of_processes() -> None:
    result = CliRunner().invoke(main, ["data", "bench", "--data-workers", "999999"])
    assert result.exit_code == 2
    assert "--data-workers takes numbers from 0 to 256, as 0,2" in result.output
