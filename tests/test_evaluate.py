"""Evaluation: folded it changes nothing that is trained; as one repeatable pass it gives the same bits; read once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import training
from asking import Asking, Listening
from commands import fine, small
from torch import Tensor, nn
from training import CPU, assert_same, images, lane, loader, result, teacher

from kdbench import models
from kdbench.data import Loader
from kdbench.data.loader import Plain
from kdbench.distiller import Outputs
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.evaluate import evaluate, measure
from kdbench.engine.fit import Setting
from kdbench.engine.graph import eval_step as exam
from kdbench.engine.graph.backend import Eager, Machine
from kdbench.engine.graph.eval_step import Exam, Exams
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.run import batches

TESTED, BATCH = 64, 24  # batches of 24, 24 and 16


def shown() -> Plain:
    one = images()
    made = Loader(
        one.test_images[:TESTED],
        one.test_labels[:TESTED],
        batch_size=8,
        mean=(0.3,) * 3,
        std=(0.4,) * 3,
        crop_padding=1,
    )
    return made.plain(BATCH)


def says() -> Tensor:
    with torch.no_grad():
        logits: Tensor = torch.cat([teacher()(image).logits for image, _ in shown()])
    return logits.argmax(dim=1)


def setting(*, fold: Any = models.fold, **changes: Any) -> Setting:
    return training.setting(test=shown, fold=fold, **changes)


def train(group: list[Lane], how: Setting | None = None) -> None:
    training.train(group, how or setting())


def settled(name: str, folder: Path, student: str = "resnet8") -> Lane:
    """A lane whose batch norms have seen something."""
    one = lane(name, folder, student=student)
    with torch.no_grad():
        for image, _, _ in loader().epoch(0):
            one.student(image)
            one.method.predict(one.student(image))
    return one


def kept(one: Lane) -> list[Any]:
    """Everything of a lane that an evaluation must not change."""
    tensors = [
        *one.student.state_dict().values(),
        *one.method.state_dict().values(),
        one.rng["cpu"],
        torch.get_rng_state(),
    ]
    modes = [part.training for root in (one.student, one.method) for part in root.modules()]
    grads = [p.requires_grad for root in (one.student, one.method) for p in root.parameters()]
    return [*(tensor.clone() for tensor in tensors), torch.tensor(modes), torch.tensor(grads)]


# -- folded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simkd", "kd"])
@pytest.mark.parametrize("how", ["plain", "folded", "exam"])
def test_an_evaluation_changes_nothing_that_is_trained(name: str, how: str, tmp_path: Path) -> None:
    one = settled(name, tmp_path)
    before = kept(one)
    if how == "exam":
        Exams(Eager(), list[str]().append, models.fold).evaluate([one], shown, says())
    else:
        evaluate([one], shown, says(), models.fold if how == "folded" else None)
    assert all(torch.equal(now, then) for now, then in zip(kept(one), before, strict=True))
    assert one.report.keys() == {"top1", "top5", "nll", "ece", "agreement"}


@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1", "MobileNetV2", "ShuffleV1"])
@pytest.mark.parametrize("name", ["simkd", "kd"])
def test_folded_scores_are_the_students(name: str, student: str, tmp_path: Path) -> None:
    one = settled(name, tmp_path, student)
    evaluate([one], shown, says())
    plain = one.report
    evaluate([one], shown, says(), models.fold)
    assert one.report == pytest.approx(plain, rel=1e-4, abs=1e-4)
    assert one.report["top1"] == plain["top1"]


def test_training_is_the_same_folded_or_not_alone_or_in_company(tmp_path: Path) -> None:
    plain, alone, ours = (lane("simkd", tmp_path / kind) for kind in ("plain", "alone", "ours"))
    train([plain], setting(fold=None))
    train([alone])
    assert all(torch.equal(a, b) for a, b in zip(kept(alone)[:-3], kept(plain)[:-3], strict=True))
    assert [point["terms"] for point in alone.curve] == [point["terms"] for point in plain.curve]
    train([lane("kd", tmp_path), ours, lane("crd", tmp_path, student="resnet14")])
    assert_same(result(ours), result(alone))


def test_a_folded_student_in_bf16(tmp_path: Path) -> None:
    one = settled("kd", tmp_path)
    evaluate([one], shown, None)
    exact = one.report
    one.precision = Precision("amp")
    for fold in (None, models.fold):
        evaluate([one], shown, None, fold)
        assert one.report["nll"] == pytest.approx(exact["nll"], rel=0.02)


def test_one_folded_copy_at_a_time(tmp_path: Path) -> None:
    made: list[Any] = []

    def fold(student: nn.Module) -> nn.Module:
        assert not [copy for copy in made if copy() is not None]
        copy = models.fold(cast(models.Tapped, student))
        made.append(weakref.ref(copy))
        return copy

    gc.collect()
    evaluate([lane(name, tmp_path) for name in ("kd", "crd", "at")], shown, None, fold)
    assert len(made) == 3


def test_a_run_folds_its_students_and_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def spy(lanes: list[Lane], test: Any, says: Any, fold: Any, *guard: Any) -> None:
        seen.append(fold)
        evaluate(lanes, test, says, fold)

    monkeypatch.setattr("kdbench.engine.fit.evaluate", spy)
    fine("run", *small(epochs=1), "--methods", "kd", "--device", "cpu", "--out", tmp_path)
    assert seen == [models.fold, models.fold]


@pytest.mark.parametrize(("side", "whole"), [(8, 256), (32, 64), (64, 16), (224, 16)])
def test_a_batch_of_test_images_is_so_many_pixels(side: int, whole: int) -> None:
    blank = torch.zeros(3, 3, side, side, dtype=torch.uint8)
    data = replace(images(), test_images=blank, test_labels=torch.arange(3), train_images=blank)
    recipe = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert batches.test_batches(data, recipe, CPU).batch_size == whole


# -- read once ----------------------------------------------------------------------------------------


def test_scores_are_what_they_always_were() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, label = torch.randn(50, 7, generator=draw), torch.randint(7, (50,), generator=draw)
    found = measure(logits, label, logits.argmax(dim=1))
    order = logits.argsort(dim=1, descending=True)
    assert found["top1"] == pytest.approx(100 * (order[:, 0] == label).double().mean().item())
    assert found["top5"] == pytest.approx(100 * (order[:, :5] == label[:, None]).double().sum().item() / 50)
    assert found["nll"] == pytest.approx(-logits.double().log_softmax(1)[torch.arange(50), label].mean().item())
    assert found["agreement"] == 100
    assert "agreement" not in measure(logits, label)


@pytest.mark.parametrize("how", ["evaluate", "exam"])
def test_scores_of_all_lanes_are_read_at_once(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes, teacher_says, read = [lane(name, tmp_path) for name in ("kd", "crd", "at")], says(), Tensor.tolist
    exams = Exams(Eager(), list[str]().append, models.fold)
    exams.evaluate(lanes, shown, teacher_says)  # rehearsals are over
    counted: list[Tensor] = []

    def tolist(tensor: Tensor) -> Any:
        counted.append(tensor)
        return read(tensor)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    if how == "evaluate":
        evaluate(lanes, shown, teacher_says)
    else:
        with Asking() as asking:
            exams.evaluate(lanes, shown, teacher_says)
        assert asking.found == set()
    assert len(counted) == 1


# -- as one repeatable pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [None, models.fold])
def test_the_pass_gives_the_bits_of_the_loop_whatever_the_weights_have_become(fold: Any, tmp_path: Path) -> None:
    lanes = [settled("kd", tmp_path), settled("simkd", tmp_path), settled("crd", tmp_path, student="resnet14")]
    notes: list[str] = []
    exams = Exams(Eager(), notes.append, fold)
    exams.evaluate(lanes, shown, says())
    assert exams._now is not None
    assert exams._now.lanes == lanes
    for _ in range(2):
        evaluate(lanes, shown, says(), fold)
        wanted = [one.report for one in lanes]
        first = exams._now
        exams.evaluate(lanes, shown, says())
        assert [one.report for one in lanes] == wanted
        assert exams._now is first
        with torch.no_grad():
            for one in lanes:
                for weight in one.student.parameters():
                    weight.mul_(1.25)
                one.student.get_buffer("net.bn1.running_mean").add_(0.1)
    assert notes == []


@pytest.mark.parametrize("name", ["kd", "simkd", "crd+mag"])
def test_a_run_with_it_is_the_run_without(name: str, tmp_path: Path) -> None:
    plain, ours, notes = lane(name, tmp_path / "plain"), lane(name, tmp_path / "ours"), list[str]()
    train([plain])
    train([ours], setting(machine=Eager(), note=notes.append))
    assert_same(result(ours), result(plain))
    assert notes == []


@pytest.mark.parametrize("name", ["kd", "simkd"])
def test_no_pass_asks_the_host(name: str, tmp_path: Path) -> None:
    machine, notes, one = Listening(), list[str](), lane(name, tmp_path)
    exams = Exams(machine, notes.append, models.fold)
    exams.evaluate([one], shown, None)
    assert exams._now is not None
    with machine.strict(), torch.no_grad():
        one.student.eval()
        one.method.eval()
        exams._now._number.zero_()
        for size in (BATCH, TESTED % BATCH):
            exams._now._pass(size)
    assert notes == []
    assert machine.found == set()


def odd(kind: str, folder: Path) -> Lane:
    """A lane whose prediction cannot be repeated without the host."""
    one = lane("kd", folder)

    def predict(student: Outputs) -> Tensor:
        if kind == "raises":
            raise TypeError("no such thing")
        if kind == "draws":
            return student.logits + 0 * torch.rand_like(student.logits)
        if kind == "replaces":
            one.method.seen = student.logits
        if kind == "elsewhere":
            return student.logits + torch.zeros(10)
        return student.logits

    one.method.predict = predict  # type: ignore[method-assign]
    return one


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("draws", "its prediction draws random numbers"),
        ("replaces", "every pass puts something new into the method's seen, where a graph has the old"),
        ("elsewhere", "meta"),
    ],
)
def test_a_lane_that_cannot_be_repeated_is_evaluated_beside(kind: str, why: str, tmp_path: Path) -> None:
    good, bad, same, notes = lane("crd", tmp_path), odd(kind, tmp_path), lane("kd", tmp_path / "same"), list[str]()
    exams = Exams(Listening(), notes.append, models.fold)
    for _ in range(2):
        exams.evaluate([good, bad], shown, None)
    assert exams._now is not None
    assert exams._now.lanes == [good]
    assert len(notes) == 1
    assert notes[0].startswith("kd-resnet8 is evaluated beside the graph, batch by batch: ")
    assert why in notes[0]
    evaluate([same], shown, None, models.fold)
    assert bad.report == same.report


@pytest.mark.parametrize("machine", [None, Eager()])
def test_a_prediction_that_raises_fails_its_lane_alone(machine: Machine | None, tmp_path: Path) -> None:
    bad, good = odd("raises", tmp_path / "bad"), lane("crd", tmp_path / "good")
    train([bad, good], setting(machine=machine))
    assert bad.failure == "TypeError when it was evaluated after epoch 1: no such thing"
    alone = lane("crd", tmp_path / "alone")
    train([alone])
    assert_same(result(good), result(alone))


def test_memory_that_an_evaluation_runs_out_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fold(student: nn.Module) -> nn.Module:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(OutOfMemory, match="the evaluation of kd-resnet8 does not fit into the memory of cpu"):
        train([lane("kd", tmp_path)], setting(fold=fold))
    notes: list[str] = []
    monkeypatch.setattr(exam.Exam, "_rehearse", lambda *_: fold(nn.Module()))
    one = lane("kd", tmp_path / "one")
    Exams(Eager(), notes.append, None).evaluate([one], shown, None)
    assert notes == ["this group is evaluated without a CUDA graph: the memory does not hold it"]
    assert one.report


class _Recording(Eager):
    """Stands for CUDA graphs: what it records is called at a replay."""

    captures = True

    def __init__(self, said: list[str], error: Exception | None = None) -> None:
        self.said, self.error = said, error

    def apart(self) -> Machine:
        return self

    def record(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        self.said.append("record")
        if self.error is not None:
            raise self.error

        def replay() -> None:
            self.said.append("replay")
            step()

        return replay, None


def test_graphs_are_made_once_and_anew_when_the_lanes_change(tmp_path: Path) -> None:
    said: list[str] = []
    lanes = [lane(name, tmp_path) for name in ("kd", "crd")]
    exams = Exams(_Recording(said), list[str]().append, models.fold)
    for _ in range(2):
        exams.evaluate(lanes, shown, None)
    assert said == ["record", "record", *["replay"] * 6]  # a whole batch and a shorter one; three batches
    old = weakref.ref(cast(Exam, exams._now))
    del said[:]
    exams.evaluate(lanes[:1], shown, None)
    assert said == ["record", "record", *["replay"] * 3]
    gc.collect()
    assert old() is None


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("operation not permitted"), "RuntimeError: operation not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "the memory does not hold it"),
        (None, "its test images come as a stream"),
    ],
)
def test_a_group_without_a_graph_is_evaluated_by_the_loop(error: Exception | None, why: str, tmp_path: Path) -> None:
    one, same, notes = lane("kd", tmp_path), lane("kd", tmp_path / "same"), list[str]()
    exams = Exams(_Recording([], error), notes.append, models.fold)
    test: Any = shown if error is not None else lambda: list(shown())
    for _ in range(2):
        exams.evaluate([one], test, None)
    evaluate([same], shown, None, models.fold)
    assert one.report == same.report
    assert notes == [f"this group is evaluated without a CUDA graph: {why}"]
