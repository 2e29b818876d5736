"""What a report can be asked for, and what it answers when nothing is asked for or nothing fits."""

from __future__ import annotations

import csv
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import synthetic
from forking import ended
from synthetic import PAIRS, make, save

from kdbench.report import SuiteReport, report


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choices")
    synthetic.grid(out, pairs=3)
    return out


def labels(made: SuiteReport) -> list[str]:
    return [row.items[0].text for row in made.tables[0].rows]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"methods": ["", ""]}, r"no method is named in ','; there are all without --methods"),
        ({"methods": []}, "no method is named in ''"),
        ({"methods": [" "]}, "no method is named"),
        ({"pairs": ["", " "]}, "no pair is named"),
        ({"suites": []}, "no suite is named"),
        ({"formats": ()}, "no format is named in ''; there are csv, md, tex"),
        ({"formats": ["", ""]}, "no format is named"),
        ({"select": "best"}, "no rule 'best' for the epoch that counts; there are last, val, oracle"),
        ({"select": ""}, "no rule ''"),
        ({"top": 0}, "the best 0 methods cannot be shown"),
        ({"top": -1}, "the best -1 methods"),
        ({"pairs": ["a:b"]}, "suite semckd has no runs on a:b; it has runs on resnet32x4:resnet8x4"),
        ({"select": "val"}, "no run of suite semckd has an accuracy by the rule 'val'"),
        ({"baseline": ""}, "no runs of baseline ''; there are at, crd"),
    ],
    ids=str,
)
def test_a_choice_of_nothing_is_one_sentence(out: Path, choice: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        report(out, **{"formats": ("csv",), **choice})
    assert "\n" not in str(caught.value)


def test_pairs_and_methods_are_columns_and_rows(out: Path) -> None:
    (made,) = report(out, pairs=["resnet32x4:*"], methods=["kd", "crd", "kd"], formats=("csv",))
    assert labels(made)[2:] == ["crd", "kd"]
    assert [head.split("\n→ ") for head in made.tables[0].header[4:]] == [list(pair) for pair in sorted(PAIRS[:2])]


def test_rows_may_be_globs_in_which_brackets_are_those_of_labels(tmp_path: Path) -> None:
    for label, top1 in (("crd", 70.0), ("crd@tuned", 71.0), ("crd[M=1]", 72.0), ("crd[M=1-2]", 73.0), ("kd", 74.0)):
        one = make(label.partition("@")[0].partition("[")[0], PAIRS[0], 0, top1_last=top1)
        settings = one.settings.model_copy(update={"hyper": {"told": label}})
        save(tmp_path, one.model_copy(update={"method": label, "settings": settings}))

    def rows(*words: str) -> set[str]:
        (made,) = report(tmp_path, methods=words, formats=("csv",))
        return {line.label for line in made.board.lines}

    assert rows("crd") == {"crd"}
    assert rows("crd*") == {"crd", "crd@tuned", "crd[M=1]", "crd[M=1-2]"}
    assert rows("*[M=?]", "kd") == {"crd[M=1]", "kd"}
    assert rows("*@tuned") == {"crd@tuned"}
    assert rows("all") == {"crd", "crd@tuned", "crd[M=1]", "crd[M=1-2]", "kd"}
    with pytest.raises(ValueError, match=r"no runs of method 'itrd\*'; there are crd, crd@tuned"):
        rows("kd", "itrd*")


def test_the_best_are_shown_and_all_are_counted(out: Path) -> None:
    (whole,) = report(out, formats=("csv",))
    (made,) = report(out, top=2, formats=("csv",))
    assert labels(made) == ["teacher", "student", *labels(whole)[2:4], "simkd"]
    for one, other in zip(made.board.lines, whole.board.lines[:3] + whole.board.lines[-1:], strict=True):
        assert (one.label, one.rank, one.p) == (other.label, other.rank, other.p)
    assert "4 methods behind the best 2 are not shown; ranks and corrections count all" in made.notes
    with (out / "semckd" / "leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    # The best of a pair may be a row that is not shown; then none is bold there.
    bold = {number for row in made.tables[0].rows for number, item in enumerate(row.items) if item.best}
    all_bold = {
        number: row.items[0].text for row in whole.tables[0].rows for number, item in enumerate(row.items) if item.best
    }
    assert bold == {number for number, label in all_bold.items() if label in labels(made)}


def test_the_baseline_stays_though_it_is_not_among_the_best(out: Path) -> None:
    (made,) = report(out, top=1, baseline="kd", formats=("csv",))
    assert "kd" in labels(made)


def test_the_epoch_that_counts_is_chosen(tmp_path: Path) -> None:
    for seed in range(2):
        values = {"top1_last": 70.0 + seed, "top1_at_best_val": 71.0 + seed, "top1_best_test": 75.0 + seed}
        save(tmp_path, make("kd", PAIRS[0], seed, epochs=3, **values))
        save(tmp_path, make("crd", PAIRS[0], seed, epochs=3, **{name: 1 + value for name, value in values.items()}))
    shown = {}
    for rule in ("last", "val", "oracle"):
        (made,) = report(tmp_path, select=rule, formats=("md", "tex", "csv"))
        shown[rule] = next(row for row in made.tables[0].rows if row.items[0].text == "kd").items[-1].text
        said = made.tables[0].title
        assert said.startswith("Accuracy of the")
        assert ("ORACLE" in said) == ("ORACLE" in made.tables[0].caption) == (rule == "oracle")
        assert ("validation" in said) == (rule == "val")
        assert any(table.name == "oracle" for table in made.tables) == (rule != "oracle")
        with (tmp_path / "semckd" / "leaderboard.csv").open() as file:
            assert {row["epoch"] for row in csv.DictReader(file)} == {rule}
    assert shown == {"last": "70.50 ± 0.71 (2)", "val": "71.50 ± 0.71 (2)", "oracle": "75.50 ± 0.71 (2)"}


def test_a_choice_that_one_suite_lacks_leaves_the_others(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0, epochs=3), make("kd", PAIRS[1], 0, suite="crd", epochs=3))
    (made,) = report(tmp_path, pairs=["*:vgg8"], formats=("csv",))
    assert made.suite == "semckd"
    assert made.problems == ["suite crd has no runs on *:vgg8; it has runs on resnet32x4:resnet8x4"]
    assert not (tmp_path / "crd").exists()


def stopped(limit: int | None, out: Path, formats: tuple[str, ...]) -> int:
    """How a report ends that may write files of so many bytes, 7 where it raises; None: it is killed half-way."""

    def work() -> int:
        flushed, real = list[int](), os.fsync

        def fsync(handle: int) -> None:
            flushed.append(handle)
            if len(flushed) == 3:  # half of the files are written beside the old ones
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        if limit is None:
            os.fsync = fsync  # type: ignore[assignment]
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            report(out, formats=formats)
        except OSError:
            return 7
        return 0

    return ended(work)


@pytest.mark.parametrize("limit", [3000, None], ids=["3000", "kill"])
def test_a_full_disk_or_a_kill_leaves_every_old_file_whole(tmp_path: Path, limit: int | None) -> None:
    save(tmp_path, *(make(method, PAIRS[0], 0, epochs=20) for method in ("student", "kd", "crd")))
    (made,) = report(tmp_path, formats=("csv", "md", "tex"))
    before = {path: path.read_bytes() for path in made.files}
    assert max(map(len, before.values())) > 3000 > min(map(len, before.values()))
    save(tmp_path, make("at", PAIRS[0], 0, epochs=20))
    assert stopped(limit, tmp_path, ("csv", "md", "tex")) == (-signal.SIGKILL if limit is None else 7)
    after = {path: path.read_bytes() for path in before}
    if limit is None:
        (again,) = report(tmp_path, formats=("csv", "md", "tex"))
        new = {path: path.read_bytes() for path in again.files}
        assert all(after[path] in (before[path], new[path]) for path in before)
    else:
        assert after == before
        assert not [name for name in os.listdir(tmp_path / "semckd") if name.endswith(".tmp")]


def test_no_file_is_new_where_one_cannot_be_written(tmp_path: Path) -> None:
    """Also where the disk fills with the last bytes, which wait in a buffer."""
    save(tmp_path, *(make(method, PAIRS[0], 0, epochs=3) for method in ("student", "kd")))
    (made,) = report(tmp_path, formats=("csv",))
    for path in made.files:
        path.write_bytes(b"old")
    sizes = sorted(path.stat().st_size for path in report(tmp_path, formats=("csv",))[0].files)
    assert sizes[-1] < 8192
    for path in made.files:
        path.write_bytes(b"old")
    assert stopped(sizes[-1] - 1, tmp_path, ("csv",)) == 7
    assert {path.read_bytes() for path in made.files} == {b"old"}
