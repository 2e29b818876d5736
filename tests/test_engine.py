"""The engine's promises: alone == in company, resumed == uninterrupted, to the bit, for every method.

What the fast suite asks of one method of each kind (tests/telling.py) the slow tests ask of all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from telling import fast
from torch import Tensor
from training import COMBINATIONS, EPOCHS, assert_same, lane, loader, result, setting, supported, train

from kdbench import Batch, Outputs, registry
from kdbench.engine import checkpoint
from kdbench.engine.lane import Lane, NothingToTrain
from kdbench.engine.schedule import Plan

pytestmark = pytest.mark.core

FEW = 24  # images: a whole batch and a short one


@pytest.mark.parametrize("name", fast([*registry.names(), *COMBINATIONS]))
def test_alone_in_company_and_resumed_are_the_same(name: str, tmp_path: Path) -> None:
    alone = supported(name, tmp_path / "alone")
    views = alone.method.views

    def trained(*lanes: Lane, **stop: int) -> None:
        train(lanes, setting(loader(FEW, views=views)), **stop)

    trained(alone)
    others = (
        []
        if views
        else [lane("crd", tmp_path / "company", nce_k=64), lane("fitnet", tmp_path / "company", student="resnet14")]
    )
    company = [*others[:1], lane(name, tmp_path / "company" / "own"), *others[1:]]
    torch.manual_seed(99)  # whatever the process drew before must not matter
    trained(*company)
    assert_same(result(company[1 if others else 0]), result(alone))

    total = EPOCHS + alone.pretrain_total
    for stop in {1, total - 2}:  # one falls into the first stage of those that have one
        folder = tmp_path / f"resumed{stop}"
        with pytest.raises(KeyboardInterrupt):
            trained(lane(name, folder), stop_after=stop)
        resumed = lane(name, folder)
        torch.manual_seed(7)
        assert resumed.resume()
        trained(resumed)
        assert_same(result(resumed), result(alone))


def test_lanes_that_stand_at_different_epochs_join_in_time(tmp_path: Path) -> None:
    alone = lane("fitnet", tmp_path / "a")
    train([alone])
    with pytest.raises(KeyboardInterrupt):
        train([lane("fitnet", tmp_path / "b")], stop_after=2)
    resumed = lane("fitnet", tmp_path / "b")
    resumed.resume()
    fresh = lane("kd", tmp_path / "b")
    train([resumed, fresh])
    assert_same(result(resumed), result(alone))
    assert fresh.done


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    one = lane("crd", tmp_path)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train([one])
    assert torch.equal(before, torch.get_rng_state())


def test_a_diverging_lane_names_term_and_epoch_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = lane("fitnet", tmp_path), lane("kd", tmp_path)
    monkeypatch.setattr(bad.method, "beta", float("inf"))
    train([bad, good])
    assert bad.failure is not None
    assert bad.failure.startswith("term 'hint' was inf in epoch 1; try a smaller beta, ")
    assert good.done
    assert good.failure is None


def test_a_method_that_raises_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = lane("fitnet", tmp_path), lane("kd", tmp_path)
    monkeypatch.setattr(bad.method, "terms", None)
    train([bad, good])
    assert bad.failure is not None
    assert bad.failure.startswith("TypeError in epoch 1")
    assert good.done


def test_learning_rate_follows_the_milestones() -> None:
    plan = Plan(240, 0.05, milestones=(150, 180, 210))
    assert [plan.rate(e) for e in (0, 149, 150, 180, 210, 239)] == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5, 5e-5])


def test_a_truncated_checkpoint_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    checkpoint.save(path, {"settings": "a", "teacher": "b", "x": torch.ones(3)})
    whole = path.read_bytes()
    for broken in (whole[:-5], whole[:10], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(broken)
        with pytest.raises(checkpoint.CheckpointDamaged, match=r"x\.ckpt"):
            checkpoint.load(path, {"settings": "a", "teacher": "b"})


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    checkpoint.save(path, {"settings": "a", "teacher": "b"})
    with pytest.raises(checkpoint.CheckpointForeign, match="another teacher"):
        checkpoint.load(path, {"settings": "a", "teacher": "c"})
    with pytest.raises(checkpoint.CheckpointForeign, match="another set of settings"):
        checkpoint.load(path, {"settings": "z", "teacher": "b"})
    assert checkpoint.load(tmp_path / "none.ckpt", {"settings": "a", "teacher": "b"}) is None


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ckpt"
    checkpoint.save(path, {"settings": "a", "teacher": "b", "n": 1})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"settings": "a", "teacher": "b", "n": 2})
    monkeypatch.undo()
    kept = checkpoint.load(path, {"settings": "a", "teacher": "b"})
    assert kept is not None
    assert kept["n"] == 1
    assert list(tmp_path.iterdir()) == [path]


# -- a lane without a file ------------------------------------------------------------------------


def test_a_state_goes_on_in_another_lane_without_a_file(tmp_path: Path) -> None:
    straight, first, second = (lane("crd", tmp_path / str(number)) for number in range(3))
    train([straight])
    with pytest.raises(KeyboardInterrupt):
        train([first], stop_after=1)
    second.restore(checkpoint.unpack(checkpoint.pack(first.state()), "one"))
    assert (second.stage, second.epoch) == (first.stage, first.epoch) == ("train", 2)
    train([second])
    assert_same(result(second), result(straight))


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_stage_without_anything_to_train_is_named(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lane("mag", tmp_path)
    one.student.requires_grad_(False)
    monkeypatch.setattr(one.method, "on_stage", lambda stage: one.method.requires_grad_(False))
    with pytest.raises(NothingToTrain, match=f"stage '{stage}' has nothing to train"):
        one.enter(stage)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"x" + raw[1:], lambda raw: b""])
def test_bytes_that_are_no_checkpoint_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(checkpoint.CheckpointDamaged, match="checkpoint one is truncated"):
        checkpoint.unpack(damage(checkpoint.pack({"epoch": 1})), "one")


def test_a_layer_that_a_method_makes_in_its_loss_is_told(tmp_path: Path) -> None:
    """It is in no optimizer, so it would stay as it was drawn, without a word."""
    late, mate = lane("kd", tmp_path / "late"), lane("kd", tmp_path / "mate")
    usual, layer = late.method.terms, torch.nn.Linear(10, 10)

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        late.method.late = layer
        return usual(student, teacher, batch) | {"late": layer(student.logits).square().mean()}

    late.method.terms = terms  # type: ignore[method-assign]
    train([late, mate])
    assert late.failure is not None
    assert "the method made late.weight after its stage began" in late.failure
    assert mate.failure is None
    assert mate.done
