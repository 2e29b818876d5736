"""Images that are held out choose; test images choose nothing. And recipes: schedules, warm-up, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from asking import asked
from commands import SMALL, fine, kdbench, records
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]
from training import assert_same, lane, loader, result, setting, teacher, train

from kdbench import data, models, record, registry, suites
from kdbench.data.loader import Plain
from kdbench.distiller import Batch, Distiller, Pair
from kdbench.engine.graph.backend import Eager
from kdbench.engine.lane import Lane
from kdbench.engine.remedy import remedy
from kdbench.engine.schedule import Plan
from kdbench.run import batches
from kdbench.run.grid import Cell
from kdbench.run.ledger import at_best_validation
from kdbench.run.outcome import Teller
from kdbench.run.session import Request, resolve


def run(out: Path, *words: str, methods: str) -> None:
    extra = ["--set", "recipe.validation=0.25", "--set", "recipe.clip_grad=0.5"]
    fine("run", *SMALL, "--methods", methods, "--out", out, *extra, *words)


def test_what_is_held_out_keeps_the_classes_shares_and_is_the_same_each_time() -> None:
    whole = data.load("digits")
    rest, out = data.hold_out(whole, 0.1)
    assert out is not None
    assert (len(rest.train_labels), len(out.labels)) == (900, 100)
    for label in range(10):
        assert abs((out.labels == label).sum().item() - 0.1 * (whole.train_labels == label).sum().item()) <= 1
    again = data.hold_out(whole, 0.1)[1]
    assert again is not None
    assert torch.equal(out.images, again.images)
    pixels = {image.numpy().tobytes() for image in rest.train_images}
    assert not pixels & {image.numpy().tobytes() for image in out.images}
    assert rest.fingerprint != whole.fingerprint  # a table of the one is none of the other
    assert data.hold_out(whole, 0.0) == (whole, None)


def test_test_labels_have_no_part_in_what_is_held_out() -> None:
    whole = data.load("digits")
    other = replace(whole, test_labels=whole.test_labels.flip(0), test_images=whole.test_images[:5])
    ours, theirs = data.hold_out(whole, 0.2)[1], data.hold_out(other, 0.2)[1]
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.images, theirs.images)


def test_a_class_of_one_image_stays_and_too_large_a_share_is_refused() -> None:
    whole = data.load("digits")
    few = replace(whole, train_images=whole.train_images[:12], train_labels=torch.tensor([3] * 11 + [7]))
    rest, _ = data.hold_out(few, 0.5)
    assert 7 in rest.train_labels
    with pytest.raises(ValueError, match="leaves 1 to train on"):
        data.hold_out(replace(few, train_images=few.train_images[:3], train_labels=few.train_labels[:3]), 0.5)


def test_the_first_epoch_with_the_best_validation_accuracy_decides() -> None:
    curve = [{"top1": 1.0, "val_top1": 5.0}, {}, {"top1": 2.0, "val_top1": 7.0}, {"top1": 9.0, "val_top1": 7.0}]
    assert at_best_validation(curve) == 2.0
    assert at_best_validation([{"top1": 3.0}]) is None


def test_neutral_settings_leave_hash_and_recipe_as_they_were() -> None:
    def cell(*words: str) -> Cell:
        return resolve(Request("fitnet", "resnet20:resnet8", "digits", "1", overrides=words, device="cpu")).cells[0]

    plain = cell()
    assert plain.hash == "7083491b"
    neutral = ("validation=0", "schedule=step", "warmup_epochs=0", "min_lr=0", "clip_grad=0")
    assert cell(*(f"recipe.{word}" for word in neutral)).hash == plain.hash
    for word in ("validation=0.1", "schedule=cosine", "warmup_epochs=2", "min_lr=0.001", "clip_grad=5"):
        assert cell(f"recipe.{word}").hash != plain.hash


def test_teachers_know_no_validation() -> None:
    suite = suites.load("digits").set("recipe.validation", "0.1")
    assert suite.teacher.validation == 0
    raw = suite.model_dump()
    del raw["teacher"]
    assert suites.Suite.model_validate(raw).teacher.validation == 0  # as a file that says it in [recipe] alone
    with pytest.raises(ValueError, match=r"teacher\.validation"):
        suite.set("teacher.validation", "0.1")


def test_alone_in_company_and_resumed_with_validation_and_clipped_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "company", methods="crd,kd")
    company = records(tmp_path / "company")["resnet14:resnet8 crd 0"]
    assert all(point.val_top1 is not None for point in company.curve)
    assert company.top1_at_best_val in {point.top1 for point in company.curve}
    assert company.settings.recipe["validation"] == 0.25

    real = Teller.epoch

    def killed(self: Teller, stage: str, lanes: Sequence[Lane]) -> None:
        real(self, stage, lanes)
        if lanes[0].key.startswith("crd") and lanes[0].epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Teller, "epoch", killed)
    words = ["--set", "recipe.validation=0.25", "--set", "recipe.clip_grad=0.5", "--out", str(tmp_path / "alone")]
    assert kdbench("run", *SMALL, "--methods", "crd", *words).exit_code != 0
    monkeypatch.undo()
    assert list((tmp_path / "alone").rglob("*.ckpt"))
    run(tmp_path / "alone", methods="crd")
    assert records(tmp_path / "alone")["resnet14:resnet8 crd 0"].measured() == company.measured()


def test_steps_are_what_they_were() -> None:
    plan = Plan(240, 0.05, milestones=(150, 180, 210))
    assert [plan.rate(e) for e in range(240)] == [
        0.05 * 0.1 ** sum(e >= milestone for milestone in (150, 180, 210)) for e in range(240)
    ]


def test_cosine_with_warm_up_is_timms() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = CosineLRScheduler(
        torch.optim.SGD([weight], lr=0.1),
        t_initial=25,
        lr_min=0.001,
        warmup_t=5,
        warmup_lr_init=0.1 / 6,
        warmup_prefix=True,
    )
    plan = Plan(30, 0.1, schedule="cosine", warmup_epochs=5, min_lr=0.001)
    assert [plan.rate(e) for e in range(30)] == pytest.approx([theirs._get_lr(e)[0] for e in range(30)], rel=1e-12)


@pytest.mark.parametrize("epochs", [10, 20, 240])
def test_one_cycle_is_torchs(epochs: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs, cycle_momentum=False)
    found = []
    for _ in range(epochs):
        found.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(found) < epochs:
            theirs.step()
    plan = Plan(epochs, 0.1, schedule="onecycle")
    assert [plan.rate(e) for e in range(epochs)] == pytest.approx(found)


@pytest.mark.parametrize("schedule", ["step", "cosine", "onecycle"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_every_rate_of_a_short_run_is_one(
    schedule: Literal["step", "cosine", "onecycle"], epochs: int, warmup: int
) -> None:
    plan = Plan(epochs, 0.1, schedule=schedule, warmup_epochs=min(warmup, epochs - 1))
    rates = [plan.rate(e) for e in range(epochs)]
    assert all(0 < rate <= 0.1 and math.isfinite(rate) for rate in rates)
    assert max(rates) >= 0.05


def test_the_clip_holds_the_whole_norm(tmp_path: Path) -> None:
    one = lane("fitnet", tmp_path)
    one.plan = replace(one.plan, clip_grad=0.01, momentum=0.0)
    image, label, idx = next(iter(loader().epoch(0)))
    one.update(teacher()(image), Batch(image, label, idx, torch.tensor(0.0)))
    grads = [p.grad for part in (one.student, one.method) for p in part.parameters() if p.grad is not None]
    assert torch.stack([grad.norm() for grad in grads]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_diverged_cell_says_what_to_try(tmp_path: Path) -> None:
    method = lane("semckd", tmp_path).method
    assert remedy(method) == "a smaller beta, recipe.clip_grad=5 or a lower recipe.lr"
    assert remedy(method, clipped=5) == "a smaller beta, recipe.clip_grad below 5 or a lower recipe.lr"
    plain = lane("student", tmp_path).method
    assert remedy(plain, recipe="teacher") == "teacher.clip_grad=5 or a lower teacher.lr"
    for name in registry.names():
        assert registry.get(name).search == {} or "a smaller" in _words(name)


def _words(name: str) -> str:
    """The remedy needs the class alone."""
    return remedy(cast(Distiller, registry.get(name)))


@pytest.mark.parametrize("name", ["crd", "fitnet", "student"])
def test_a_repeatable_step_gives_the_bits_of_the_loop_with_clip_and_validation(name: str, tmp_path: Path) -> None:
    def held_out() -> Plain:
        one = data.hold_out(data.load("digits"), 0.02)[1]
        assert one is not None
        return data.Loader(one.images, one.labels, batch_size=8, mean=(0.3,) * 3, std=(0.4,) * 3).plain(8)

    found = []
    for machine in (None, Eager()):
        one = lane(name, tmp_path / str(machine is None))
        one.plan = replace(one.plan, clip_grad=0.2)
        notes: list[str] = []
        train([one], setting(machine=machine, note=notes.append, validation=held_out, fold=models.fold))
        assert not notes
        assert all("val_top1" in point for point in one.curve)
        assert one.report["top1"] == one.curve[-1]["top1"]
        assert "agreement" in one.report  # it stays that of the test images
        found.append(result(one))
    assert_same(*found)


def test_a_clipped_step_asks_the_host_nothing(tmp_path: Path) -> None:
    one = lane("fitnet", tmp_path)
    one.plan = replace(one.plan, clip_grad=0.2)
    assert asked(one) == (set(), [])


def test_a_table_of_all_images_is_none_of_the_part_that_is_trained_on(tmp_path: Path) -> None:
    words = ["--epochs", "5", "--methods", "kd"]  # often enough for a table
    share = ["--set", "recipe.validation=0.25"]
    assert kdbench("run", *SMALL, *words, "--out", tmp_path / "kept").exit_code == 0
    for out, switch in (("kept", "auto"), ("live", "off")):
        fine("run", *SMALL, *words, *share, "--table", switch, "--out", tmp_path / out)
    assert len(list((tmp_path / "kept" / "tables").rglob("table.json"))) == 2

    def validated(out: str) -> object:
        found, _ = record.read_all(tmp_path / out / "runs")
        return next(one.measured() for one in found if "validation" in one.settings.recipe)

    assert validated("kept") == validated("live")


def test_a_teacher_is_the_same_with_and_without_validation(tmp_path: Path) -> None:
    for out, share in (("with", "0.3"), ("without", "0")):
        words = ["--methods", "student,kd", "--set", f"recipe.validation={share}", "--out", str(tmp_path / out)]
        assert kdbench("run", *SMALL, *words).exit_code == 0
    ours, theirs = (
        next(one for one in records(tmp_path / out).values() if one.method == "kd") for out in ("with", "without")
    )
    assert ours.teacher_sha256 == theirs.teacher_sha256
    assert ours.data == theirs.data
    assert ours.weights_sha256 != theirs.weights_sha256


def test_methods_and_batches_know_the_remaining_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, list[int]] = {"labels": [], "batches": []}
    pair, batch = models.make_pair, batches.make_loader

    def make_pair(*given: Any, **words: Any) -> Pair:
        counted["labels"].append(len(words["train_labels"]))
        return pair(*given, **words)

    def make_loader(*given: Any, **words: Any) -> data.Loader:
        counted["batches"].append(len(given[0].train_labels))
        return batch(*given, **words)

    monkeypatch.setattr(models, "make_pair", make_pair)
    monkeypatch.setattr(batches, "make_loader", make_loader)
    run(tmp_path, methods="crd")
    # Of the look before there is a teacher; the teacher's; the student's.
    assert counted == {"labels": [72, 96, 72], "batches": [96, 72]}
