"""`kdbench run` with strangers' plug-ins: each costs its own cell, and the records of the others are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import flat, measured, records, run

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


@pytest.mark.usefixtures("own_registry")
def test_strangers_cost_their_own_cells_alone(finished: Path, tmp_path: Path) -> None:
    plugins: list[str | Path] = []
    for name, body in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        plugins += ["--plugin", tmp_path / f"{name}.py"]
    methods = ",".join(["kd", *PLUGINS, "fitnet"])
    done = run(tmp_path / "beside", *plugins, methods=methods)
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    ours = records(tmp_path / "beside")
    trained = {name: one.measured() for name, one in ours.items() if one.status == "done"}
    assert {name: one for name, one in trained.items() if "loads" not in name} == measured(finished)
    assert any("loads" in name for name in trained)  # it was never resumed
    reasons = {one.method: one.reason for one in ours.values() if one.status == "failed"}
    for name, sentence in SENTENCES.items():
        if name != "overflows":  # it has no record, so that it is tried again
            assert sentence in reasons[name], name
    assert SENTENCES["overflows"] in flat(done.output)
