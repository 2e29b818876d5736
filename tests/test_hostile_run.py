"""`kdbench run` with strangers' plug-ins: each costs its own cell, and the records of the others are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from isolation import isolate
from test_run import kdbench, records

PLUGINS = {
    "exits": """
    def __init__(self, pair, **common):
        super().__init__(pair, **common)
        sys.exit("no")
""",
    "marks": r"""
    def terms(self, student, teacher, batch):
        raise ValueError("\\[/a] [bold] \x1b[2J \ud800")
""",
    "relabels": """
    def __init__(self, pair, **common):
        super().__init__(pair, **common)
        pair.train_labels.zero_()
""",
    "closes": """
    def terms(self, student, teacher, batch):
        sys.stdout = None
        return {}
""",
    "chdirs": """
    def on_stage(self, stage):
        os.chdir("/")
""",
    "saves": """
    def state_dict(self, *args, **words):
        return {"x": print}
""",
    "loads": """
    def load_state_dict(self, *args, **words):
        raise SystemExit("no")
""",
    "predicts": """
    def predict(self, student):
        return student.logits * float("nan")
""",
    "overflows": """
    def terms(self, student, teacher, batch):
        raise MemoryError
""",
}
HEAD = """
import os, sys
from kdbench import Distiller, register

@register
class Stranger(Distiller):
    reference = "none"
    provenance = "formula"
"""
SENTENCES = {
    "exits": "SystemExit: no",
    "marks": "ValueError in epoch 1: \\[/a] [bold] \\x1b[2J \\ud800",
    "relabels": "the method changed the training labels",
    "closes": "the method changed standard output or error in epoch 1",
    "chdirs": "the method changed the current folder",
    "saves": "its state holds method.x, of type builtin_function_or_method, which no checkpoint can keep",
    "predicts": "the logits were not finite after epoch 1",
    "overflows": "a step of 1 lane does not fit into the memory of cpu; one lane alone is too large for it",
}
WORDS = ["--suite", "digits", "--epochs", "2", "--limit-train", "96", "--seeds", "1", "--pairs", "resnet14:resnet8"]


def test_strangers_cost_their_own_cells_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    alone = kdbench("run", *WORDS, "--methods", "kd,fitnet", "--out", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    plugins: list[str | Path] = []
    for name, body in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        plugins += ["--plugin", tmp_path / f"{name}.py"]
    methods = ",".join(["kd", *PLUGINS, "fitnet"])
    done = kdbench("run", *WORDS, *plugins, "--methods", methods, "--out", tmp_path / "beside")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    ours, theirs = records(tmp_path / "beside"), records(tmp_path / "alone")
    finished = {name: one.measured() for name, one in ours.items() if one.status == "done"}
    wanted = {name: one.measured() for name, one in theirs.items()}
    assert {name: one for name, one in finished.items() if "loads" not in name} == wanted
    assert any("loads" in name for name in finished)  # it was never resumed
    reasons = {one.method: one.reason for one in ours.values() if one.status == "failed"}
    for name, sentence in SENTENCES.items():
        if name != "overflows":  # it has no record, so that it is tried again
            assert sentence in reasons[name], name
    assert SENTENCES["overflows"] in " ".join(done.output.split())
