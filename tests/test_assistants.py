"""Assistants: trained once, shared, resumed, verified; who needs one keeps to the suite's teacher in its record."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import measured, records
from filelock import FileLock

from kdbench import record, registry
from kdbench.engine import fit as engine
from kdbench.engine.lane import Lane
from kdbench.registry.combine import combined
from kdbench.run import assistants, grid, runner, session
from kdbench.run.outcome import Outcome
from kdbench.run.session import Job, Request

NAMES = "hkd,hkd_port"


class Notes:
    """A watcher that keeps its notes and what it was told of cells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.cells: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def cell(self, cell: object, status: str, sentence: str) -> None:
        self.cells.append(f"{status} {cell}: {sentence}")

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def job(out: Path, methods: str = NAMES, **words: Any) -> Job:
    asked: dict[str, Any] = {
        "pairs": "resnet14:resnet8",
        "suite": "digits",
        "seeds": "1",
        "epochs": 2,
        "limit_train": 96,
    } | words
    return session.resolve(Request(methods=methods, out=out, device="cpu", **asked))


def run(out: Path, methods: str = NAMES, **words: object) -> tuple[Outcome, Notes]:
    watch = Notes()
    return runner.run(job(out, methods, **words), watch), watch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with the same assistant beside one without; tests must not change it."""
    out = tmp_path_factory.mktemp("whole")
    outcome, watch = run(out, f"kd,{NAMES}")
    assert outcome.exit_code == 0
    assert len([line for line in watch.cells if "pkt on resnet14:resnet8_double" in line]) == 1
    return out


def test_it_is_trained_once_and_shared(whole: Path) -> None:
    (helper,) = records(assistants.folder(whole)).values()
    assert (helper.teacher, helper.student, helper.method) == ("resnet14", "resnet8_double", "pkt")
    assert helper.quick
    taught = records(whole)
    for name in ("hkd", "hkd_port"):
        one = taught[f"resnet14:resnet8 {name} 0"]
        assert one.assistant_sha256 == helper.weights_sha256
        assert (assistant := one.settings.assistant) is not None
        assert assistant.method == "pkt"
        assert assistant.student == "resnet8_double"
        assert assistant.hyper == helper.settings.hyper


def test_the_teacher_of_a_record_is_the_suites(whole: Path) -> None:
    taught = records(whole)
    plain, helped = taught["resnet14:resnet8 kd 0"], taught["resnet14:resnet8 hkd 0"]
    assert helped.teacher == "resnet14"
    assert (helped.teacher_sha256, helped.teacher_top1) == (plain.teacher_sha256, plain.teacher_top1)
    assert plain.assistant_sha256 == ""
    assert plain.settings.assistant is None


def test_agreement_is_with_the_suites_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fit = engine.fit

    def spy(setting: engine.Setting, lanes: list[Lane], *rest: Any, **named: Any) -> None:
        seen.append((lanes[0].key, setting))
        fit(setting, lanes, *rest, **named)

    monkeypatch.setattr(engine, "fit", spy)
    assert run(tmp_path, "hkd")[0].exit_code == 0
    (first, assisting), (second, helped) = seen
    assert "pkt" in first
    assert assisting.judge is None
    assert "hkd" in second
    assert helped.judge is not None
    (image, _), *_ = helped.test()
    assert helped.teacher is not None
    assert helped.judge(image).pooled.shape[1] == 64  # resnet14
    assert helped.teacher(image).pooled.shape[1] == 128  # resnet8_double
    assert assisting.teacher is not None
    assert torch.equal(helped.judge(image).logits, assisting.teacher(image).logits)


def test_a_method_alone_has_the_numbers_of_company(whole: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "hkd_port")[0].exit_code == 0
    assert measured(tmp_path)["resnet14:resnet8 hkd_port 0"] == measured(whole)["resnet14:resnet8 hkd_port 0"]


def test_a_later_method_finds_it(tmp_path: Path) -> None:
    assert run(tmp_path, "hkd")[0].exit_code == 0
    kept = {
        path: path.stat().st_mtime_ns for path in assistants.folder(tmp_path).rglob("[!.]*.*") if path.suffix != ".lock"
    }
    assert len(kept) == 2  # record and weights, no lock, no checkpoint
    outcome, watch = run(tmp_path, "hkd,hkd_port", force=True)
    assert outcome.exit_code == 0
    assert not [line for line in watch.cells if "pkt" in line]
    again = {path: path.stat().st_mtime_ns for path in kept}
    assert kept == again


@pytest.mark.parametrize("stage", ["pkt", "hkd"])
def test_an_interrupted_run_ends_with_the_same_records(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    start = Lane.start_epoch

    def interrupted(lane: Lane) -> None:
        if lane.epoch and lane.key.startswith(stage):
            signal.raise_signal(signal.SIGINT)
        start(lane)

    monkeypatch.setattr(Lane, "start_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    outcome, watch = run(tmp_path)
    assert outcome.exit_code == 0
    assert any(f"{stage} on" in note and "going on after epoch 1 of 2" in note for note in watch.notes)
    theirs = measured(whole)
    assert measured(tmp_path) == {name: one for name, one in theirs.items() if "kd 0" not in name or "hkd" in name}
    assert measured(assistants.folder(tmp_path)) == measured(assistants.folder(whole))


def test_groups_and_shards_keep_the_pupils_of_an_assistant_together(tmp_path: Path) -> None:
    both = "resnet14:resnet8,resnet14:wrn_16_1"
    cells = job(tmp_path, f"kd,pkt,{NAMES}", pairs=both).cells
    groups = [sorted(f"{cell.method} {cell.student}" for cell in some) for some in grid.groups(cells)]
    assert groups == [
        ["kd resnet8", "kd wrn_16_1", "pkt resnet8", "pkt wrn_16_1"],
        ["hkd resnet8", "hkd_port resnet8"],
        ["hkd wrn_16_1", "hkd_port wrn_16_1"],
    ]
    parts = [job(tmp_path, f"kd,pkt,{NAMES}", pairs=both, shard=f"{i}/3").cells for i in (1, 2, 3)]
    assert [len(part) for part in parts] == [4, 2, 2]
    helpers = [assistants.of(part) for part in parts]
    assert [len(found) for found in helpers] == [0, 1, 1]
    assert helpers[1] != helpers[2]


def test_assistants_of_one_teacher_are_trained_side_by_side(tmp_path: Path) -> None:
    cells = job(tmp_path, NAMES, pairs="resnet14:resnet8,resnet14:wrn_16_1", seeds="2").cells
    helpers = assistants.missing(tmp_path, cells)
    assert len(helpers) == 4
    assert [len(some) for some in grid.groups(helpers)] == [2, 2]  # one group per seed


def test_edited_weights_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "hkd")[0].exit_code == 0
    path = next(assistants.folder(tmp_path).rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    (failed,) = run(tmp_path, "hkd_port")[0].failed.values()
    assert "is not the teacher assistant of its record: sha256" in failed
    path.write_bytes(content[:100])
    (failed,) = run(tmp_path, "hkd_port")[0].failed.values()
    assert "do not fit" in failed
    path.unlink()
    (failed,) = run(tmp_path, "hkd_port")[0].failed.values()
    assert "are gone; restore them, or remove" in failed
    next(assistants.folder(tmp_path).rglob("*.json")).unlink()
    assert run(tmp_path, "hkd_port")[0].exit_code == 0


def test_an_assistant_of_another_teacher_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "hkd")[0].exit_code == 0
    path = next(assistants.folder(tmp_path).rglob("*.json"))
    record.write(record.read(path).model_copy(update={"teacher_sha256": "0" * 64}), path)
    (failed,) = run(tmp_path, "hkd_port")[0].failed.values()
    assert "was distilled from another teacher resnet14 (00000000, here" in failed


def test_an_assistant_that_fails_is_the_reason_of_its_pupils(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pkt = registry.get("pkt")
    terms = pkt.terms
    monkeypatch.setattr(pkt, "terms", lambda self, *seen: {"affinity": terms(self, *seen)["affinity"] * torch.inf})
    outcome, _ = run(tmp_path, f"kd,{NAMES}")
    assert [cell.method for cell in outcome.done] == ["kd"]
    assert len(outcome.failed) == 2
    for reason in outcome.failed.values():
        assert "its teacher assistant, pkt on resnet14:resnet8_double, seed 0, failed: term 'affinity' was" in reason
    monkeypatch.undo()
    assert len(run(tmp_path)[0].failed) == 2
    assert run(tmp_path, retry_failed=True)[0].exit_code == 0


def test_a_student_without_a_double_is_a_sentence_in_the_table(tmp_path: Path) -> None:
    outcome, watch = run(tmp_path, "kd,hkd", pairs="resnet14:resnet8_double")
    assert [cell.method for cell in outcome.unsupported] == ["hkd"]
    assert outcome.exit_code == 0
    sentence = "hkd has no teacher assistant for resnet8_double: resnet8_double is a network of double width itself"
    assert any(sentence in line for line in watch.cells)
    assert not assistants.folder(tmp_path).exists()


def test_an_assistant_that_another_run_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (helper,) = assistants.of(job(tmp_path).cells)
    lock = grid.files(assistants.folder(tmp_path), helper).lock
    lock.parent.mkdir(parents=True)
    held = FileLock(lock)
    held.acquire()
    watch = Notes()

    def note(sentence: str) -> None:
        if "waiting for it" in sentence:
            held.release()
            watch.notes.append(sentence)

    monkeypatch.setattr(watch, "note", note)
    assert runner.run(job(tmp_path), watch).exit_code == 0
    assert watch.notes


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("pkt", "half"), "asks for a teacher assistant 'half'; there is 'double'"),
        (("simkd", "double"), "simkd cannot distil a teacher assistant"),
        (("hkd", "double"), "hkd cannot distil a teacher assistant"),
        (("pkx", "double"), "no method 'pkx'; did you mean pkt"),
    ],
)
def test_what_cannot_be_an_assistant(monkeypatch: pytest.MonkeyPatch, asked: tuple[str, str], sentence: str) -> None:
    monkeypatch.setattr(registry.get("hkd_port"), "assistant", asked)
    with pytest.raises(assistants.Refused, match=sentence):
        assistants.network("hkd_port", "resnet8")


def test_combinations_learn_from_one_teacher() -> None:
    hkd, port, kd = (registry.get(name) for name in ("hkd", "hkd_port", "kd"))
    assert combined(("hkd", "hkd_port"), (hkd, port)).assistant == ("pkt", "double")
    with pytest.raises(ValueError, match=r"hkd\+kd: hkd and kd learn from different teachers"):
        combined(("hkd", "kd"), (hkd, kd))


def test_settings_of_other_methods_do_not_know_of_it(tmp_path: Path) -> None:
    cell, *_ = job(tmp_path, "kd").cells
    assert cell.settings.assistant is None
