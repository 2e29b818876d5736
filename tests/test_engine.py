"""The engine's promises: alone == in company, resumed == uninterrupted, to the bit, for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdbench import data, models, registry
from kdbench.data import Loader
from kdbench.engine import checkpoint
from kdbench.engine.fit import Setting, fit
from kdbench.engine.lane import Lane, NothingToTrain
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan

pytestmark = pytest.mark.core

CPU = torch.device("cpu")
BATCH, EPOCHS, IMAGES = 16, 3, 56  # a tail batch of 8
COMBINATIONS = ["crd+mag", "crd+semckd", "kd+lskd"]


@cache
def images() -> data.Dataset:
    return data.limit(data.load("digits"), IMAGES)


def loader(views: tuple[str, ...] = ()) -> Loader:
    one = images()
    return Loader(
        one.train_images,
        one.train_labels,
        batch_size=BATCH,
        mean=(0.3,) * 3,
        std=(0.4,) * 3,
        crop_padding=1,
        seed=5,
        views=views,
    )


def scored() -> Iterable[tuple[Tensor, Tensor]]:
    one = images()
    return Loader(one.test_images[:64], one.test_labels[:64], batch_size=64, mean=(0.3,) * 3, std=(0.4,) * 3).plain(64)


@cache
def teacher() -> models.Tapped:
    torch.manual_seed(0)
    return models.create("resnet14", 10, image_size=8).eval().requires_grad_(False)


class Silent:
    """A watcher that can stop the run after so many finished epochs, as a kill would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.left = stop_after

    def step(self, lanes: int) -> None:
        pass

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


def lane(name: str, folder: Path, *, student: str = "resnet8") -> Lane:
    torch.manual_seed(1)
    net = models.create(student, 10, image_size=8)
    pair = models.make_pair(
        net, teacher(), image_shape=(3, 8, 8), num_classes=10, train_labels=images().train_labels, batch_size=BATCH
    )
    torch.manual_seed(2)
    method = registry.get(name).build(pair)
    plan = Plan(EPOCHS, 0.05, milestones=(2,))
    return Lane(
        f"{name}-{student}",
        net,
        method,
        plan,
        seed=3,
        path=folder / f"{name}-{student}.ckpt",
        settings="s" * 8,
        teacher="t" * 8,
        device=CPU,
        precision=Precision(),
    )


def train(lanes: list[Lane], *, stop_after: int | None = None) -> None:
    setting = Setting(models.fold(teacher()), loader(lanes[0].method.views), scored, CPU, Precision())
    finish: Callable[[Lane], None] = lambda lane: None  # noqa: E731
    fit(setting, lanes, Silent(stop_after), finish)


def result(one: Lane) -> tuple[object, ...]:
    assert one.failure is None, one.failure
    assert one.done
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in one.curve]
    state = {**one.student.state_dict(), **{f"method.{k}": v for k, v in one.method.state_dict().items()}}
    return {name: tensor.clone() for name, tensor in state.items()}, curve, one.report


def assert_same(ours: tuple[object, ...], theirs: tuple[object, ...]) -> None:
    state, curve, report = ours
    assert isinstance(state, dict)
    for name, tensor in theirs[0].items():  # type: ignore[attr-defined]
        assert torch.equal(state[name], tensor), f"{name} differs"
    assert curve == theirs[1]
    assert report == theirs[2]


def supported(name: str, folder: Path) -> Lane:
    try:
        return lane(name, folder)
    except ValueError as error:
        pytest.skip(f"the method refuses the pair: {error}")


@pytest.mark.parametrize("name", [*registry.names(), *COMBINATIONS])
def test_alone_in_company_and_resumed_are_the_same(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = supported(name, tmp_path / "alone")
    train([alone])

    views = alone.method.views
    others = (
        [] if views else [lane("crd", tmp_path / "company"), lane("fitnet", tmp_path / "company", student="resnet14")]
    )
    company = [*others[:1], lane(name, tmp_path / "company" / "own"), *others[1:]]
    torch.manual_seed(99)  # whatever the process drew before must not matter
    train(company)
    assert_same(result(company[1 if others else 0]), result(alone))

    total = EPOCHS + alone.pretrain_total
    for stop in {1, total - 1}:  # one falls into the first stage of those that have one
        folder = tmp_path / f"resumed{stop}"
        with pytest.raises(KeyboardInterrupt):
            train([lane(name, folder)], stop_after=stop)
        resumed = lane(name, folder)
        torch.manual_seed(7)
        assert resumed.resume()
        train([resumed])
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


def test_a_diverging_lane_names_term_and_epoch_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = lane("fitnet", tmp_path), lane("kd", tmp_path)
    bad.method.beta = float("inf")  # type: ignore[assignment]
    train([bad, good])
    assert bad.failure is not None
    assert bad.failure.startswith("term 'hint' was inf in epoch 1; try a smaller beta, ")
    assert good.done
    assert good.failure is None


def test_a_method_that_raises_does_not_stop_the_others(tmp_path: Path) -> None:
    bad, good = lane("fitnet", tmp_path), lane("kd", tmp_path)
    bad.method.terms = None  # type: ignore[assignment]
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
def test_a_stage_without_anything_to_train_is_named(stage: str, tmp_path: Path) -> None:
    one = lane("mag", tmp_path)
    one.student.requires_grad_(False)
    one.method.on_stage = lambda stage: one.method.requires_grad_(False)  # type: ignore[assignment]
    with pytest.raises(NothingToTrain, match=f"stage '{stage}' has nothing to train"):
        one.enter(stage)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"x" + raw[1:], lambda raw: b""])
def test_bytes_that_are_no_checkpoint_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(checkpoint.CheckpointDamaged, match="checkpoint one is truncated"):
        checkpoint.unpack(damage(checkpoint.pack({"epoch": 1})), "one")
