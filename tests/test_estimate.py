"""The dry run's estimate: what a table of the teacher's outputs saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.run import estimate, grid, session
from kdbench.run import teacher_cache as tables
from kdbench.run.session import Job, Request


def job(out: Path, methods: str = "kd", **words: Any) -> Job:
    given: dict[str, Any] = {
        "suite": "digits",
        "pairs": "resnet14:resnet8",
        "seeds": "1",
        "epochs": 40,
        "out": out,
        "device": "cpu",
    }
    return session.resolve(Request(methods=methods, **(given | words)))


def shares(made: Job) -> list[float]:
    kept: dict[str, float] = {}
    return [estimate._asked(made, group, kept) for group in grid.groups(made.cells)]


def table(
    out: Path, share: float, batch_size: int = 64, precision: str = "fp32", title: str = "digits-resnet14"
) -> None:
    folder = out / "tables" / f"{title}-0123abcd"
    folder.mkdir(parents=True)
    sums = (np.arange(1000) < 1000 * share).astype(np.uint32)
    for part in ("logits", "pooled"):
        sums.tofile(folder / f"{part}.sums")
    (folder / "table.json").write_text(f'{{"facts": {{"precision": "{precision}", "batch_size": {batch_size}}}}}')


def views(made: Job) -> int:
    recipe = made.cells[0].settings.recipe
    return int((2 * recipe["crop_padding"] + 1) ** 2 * (1 + recipe["flip"]))


def test_every_view_is_asked_for_once_however_many_seeds(tmp_path: Path) -> None:
    made = job(tmp_path, seeds="3", epochs=400)
    first, *later = shares(made)
    assert first == pytest.approx(views(made) / 400, rel=0.01)
    assert max(later) < 1e-6


def test_a_first_run_asks_for_the_views_that_it_draws(tmp_path: Path) -> None:
    made = job(tmp_path)
    v = views(made)
    drawn = v * (1 - (1 - 1 / v) ** 40)
    assert shares(made) == [pytest.approx(drawn / 40)]


@pytest.mark.parametrize(
    ("methods", "words", "wanted"),
    [
        ("kd,at", {}, 1.0),
        ("kd", {"table": "off"}, 1.0),
        ("student", {}, 0.0),
        ("kd", {"epochs": 2}, 1.0),
        ("kd,student", {"epochs": 2}, [0.0, 1.0]),
    ],
)
def test_where_there_is_no_table_the_teacher_is_live(
    methods: str, words: dict[str, Any], wanted: float | list[float], tmp_path: Path
) -> None:
    wanted = sorted(wanted) if isinstance(wanted, list) else [wanted]
    assert sorted(shares(job(tmp_path, methods, **words))) == wanted


def test_a_table_that_is_there_is_counted(tmp_path: Path) -> None:
    made = job(tmp_path, epochs=2)
    batch = made.cells[0].settings.recipe["batch_size"]
    table(tmp_path, 1.0, batch)
    assert shares(made) == [0.0]
    assert tables.kept_share(tmp_path, "digits", "resnet14", "fp32", batch, "pooled") == 1.0
    assert tables.kept_share(tmp_path, "digits", "resnet14", "fp32", batch + 1, "logits") is None
    assert tables.kept_share(tmp_path, "digits", "resnet20", "fp32", batch, "logits") is None
    (tmp_path / "tables" / "digits-resnet14-0123abcd" / "table.json").write_text("{")
    assert shares(made) == [1.0]
