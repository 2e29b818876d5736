"""A checkpoint whose digest is right and whose content is odd is told in a sentence, and the lane can begin anew."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from commands import SMALL, fine, measured, refused, run, stop_after_an_epoch
from strangers import alone, good, lane, pair, train
from torch import nn
from training import assert_same, result

from kdbench import Distiller
from kdbench.engine import checkpoint
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign
from kdbench.engine.lane import Lane
from kdbench.terminal.screens import _way

State = dict[str, Any]


class Layer(Distiller):
    """A method with a layer, a bank and a pre-training stage."""

    pretrain_epochs = 160  # two epochs of three

    def __init__(self, *given: Any, width: int = 4, extra: bool = False) -> None:
        super().__init__(*given)
        self.layer = nn.Linear(6, width)
        self.register_buffer("bank", torch.zeros(3))
        if extra:
            self.more = nn.Linear(2, 2)

    def terms(self, student: Any, teacher: Any, batch: Any) -> Any:
        return {"own": self.layer(student.pooled).square().mean()}

    def pretrain_terms(self, student: Any, teacher: Any, batch: Any) -> Any:
        return {"own": self.layer(student.pooled.detach()).square().mean()}


def made(folder: Path, **words: Any) -> Lane:
    shown = pair()  # the teacher is made once, with a seed of its own
    torch.manual_seed(7)
    return lane("layer", Layer(shown, **words), folder, 3)


@cache
def written(stage: str) -> bytes:
    """The last checkpoint that a lane writes in a stage."""
    saves: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        one = made(Path(folder))
        save = one.save

        def saving() -> None:
            save()
            saves[one.stage] = one.path.read_bytes()

        one.save = saving  # type: ignore[method-assign]
        train([one])
    assert one.failure is None, one.failure
    return saves[stage]


def setting(*path: Any, to: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        place: Any = state
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to(place.get(path[-1])) if callable(to) else to

    return change


def without(*path: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        place: Any = state
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


WEIGHT = "convs.0.weight"
SCALE = {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 2.0, "growth_interval": 5, "_growth_tracker": 0}
DAMAGED: dict[str, Callable[[State], None]] = {
    **{f"no {part}": without(part) for part in ("stage", "epoch", "student", "method", "optimizer", "rng", "curve")},
    **{f"no {part}": without(part) for part in ("seconds", "images", "report")},
    "stage of another name": setting("stage", to="third"),
    "stage a number": setting("stage", to=3),
    "stage None": setting("stage", to=None),
    "epoch negative": setting("epoch", to=-1),
    "epoch beyond the end": setting("epoch", to=4),
    "epoch huge": setting("epoch", to=10**30),
    "epoch a word": setting("epoch", to="2"),
    "epoch a fraction": setting("epoch", to=1.5),
    "epoch a truth": setting("epoch", to=True),
    "epoch a tensor": setting("epoch", to=torch.tensor(2)),
    "epoch other than the curve": setting("epoch", to=1),
    "student a list": setting("student", to=[]),
    "student a number": setting("student", to=3),
    "student's weight a number": setting("student", WEIGHT, to=1.0),
    "student's weight sparse": setting("student", WEIGHT, to=lambda w: w.flatten(1).to_sparse()),
    "method a list": setting("method", to=[1]),
    "optimizer empty": setting("optimizer", to={}),
    "optimizer's state a list": setting("optimizer", "state", to=[]),
    "optimizer's state by name": setting("optimizer", "state", to={"a": {}}),
    "optimizer's momentum a number": setting("optimizer", "state", 0, "momentum_buffer", to=3.0),
    "optimizer's momentum of integers": setting("optimizer", "state", 0, "momentum_buffer", to=lambda m: m.long()),
    "optimizer's momentum a scalar": setting("optimizer", "state", 0, "momentum_buffer", to=torch.tensor(1.0)),
    "rng empty": setting("rng", to={}),
    "rng short": setting("rng", "cpu", to=lambda r: r[:-8]),
    "rng long": setting("rng", "cpu", to=lambda r: torch.cat([r, r])),
    "rng of floats": setting("rng", "cpu", to=lambda r: r.float()),
    "rng garbage": setting("rng", "cpu", to=lambda r: torch.full_like(r, 255)),
    "rng a number": setting("rng", "cpu", to=7),
    "rng of cuda short": setting("rng", "cuda", to=torch.zeros(3, dtype=torch.uint8)),
    "curve a dict": setting("curve", to={}),
    "curve empty": setting("curve", to=[]),
    "curve of numbers": setting("curve", to=[1, 2]),
    "curve point without terms": without("curve", 0, "terms"),
    "curve terms a list": setting("curve", to=lambda c: [c[0] | {"terms": []}, c[1]]),
    "curve accuracy a word": setting("curve", to=lambda c: [c[0] | {"top1": "12"}, c[1]]),
    "curve in another order": setting("curve", to=lambda c: c[::-1]),
    "curve rate infinite": setting("curve", to=lambda c: [c[0] | {"lr": float("inf")}, c[1]]),
    "seconds negative": setting("seconds", to=-1.0),
    "seconds no number": setting("seconds", to=float("nan")),
    "images negative": setting("images", to=-3),
    "images huge": setting("images", to=10**40),
    "report a list": setting("report", to=[]),
    "report of words": setting("report", to={"top1": "12"}),
    "scaler a list": setting("scaler", to=[1]),
    "scaler of words": setting("scaler", to={"scale": "x"}),
    "scaler that falls for ever": setting("scaler", to=SCALE),
    "nested without end": setting("report", to={"a": [[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]}),
    "settings a number": setting("settings", to=3),
    "teacher a list": setting("teacher", to=["t"]),
}
FOREIGN: dict[str, Callable[[State], None]] = {
    "student without a weight": without("student", WEIGHT),
    "student with one more": setting("student", to=lambda s: {**s, "more": torch.zeros(1)}),
    "student with a number for a name": setting("student", to=lambda s: {**s, 3: torch.zeros(1)}),
    "student of another shape": setting("student", WEIGHT, to=lambda w: w[:2]),
    "student of another dtype": setting("student", WEIGHT, to=lambda w: w.double()),
    "student of integers": setting("student", WEIGHT, to=lambda w: w.long()),
    "method without a weight": without("method", "layer.weight"),
    "method with one more": setting("method", to=lambda s: {**s, "more": torch.zeros(1)}),
    "method of another shape": setting("method", "layer.weight", to=lambda w: w[:2]),
    "method of another dtype": setting("method", "bank", to=lambda w: w.double()),
    "method with a word": setting("method", "bank", to="word"),
    "method empty": setting("method", to={}),
    "momentum of another shape": setting("optimizer", "state", 0, "momentum_buffer", to=lambda m: m[:1]),
    "momentum of one more": setting("optimizer", "state", to=lambda s: {**s, 99: s[0]}),
    "momentum of a negative one": setting("optimizer", "state", to=lambda s: {**s, -1: s[0]}),
    "other settings": setting("settings", to="z"),
    "another teacher": setting("teacher", to="z"),
}


def put(one: Lane, whole: bytes) -> None:
    one.path.parent.mkdir(parents=True, exist_ok=True)
    one.path.write_bytes(whole)


def fresh(folder: Path, **words: Any) -> tuple[Lane, State]:
    """A lane, and what it is."""
    one = made(folder, **words)
    return one, copy.deepcopy(one.state())


def assert_untouched(one: Lane, before: State) -> None:
    after = one.state()
    for side in ("student", "method"):
        for name, value in before[side].items():
            assert torch.equal(after[side][name], value), f"{side}'s {name}"
    assert (after["stage"], after["epoch"], after["curve"]) == (before["stage"], before["epoch"], before["curve"])
    assert torch.equal(after["rng"]["cpu"], before["rng"]["cpu"])
    assert after["optimizer"]["state"] == {}


@pytest.mark.parametrize("kind", [*DAMAGED, *FOREIGN])
def test_odd_content_is_told_and_leaves_the_lane_as_it_was(kind: str, tmp_path: Path) -> None:
    state = checkpoint.unpack(written("train"), "x")
    (DAMAGED | FOREIGN)[kind](state)
    one, before = fresh(tmp_path)
    put(one, checkpoint.pack(state))
    with pytest.raises(CheckpointDamaged if kind in DAMAGED else CheckpointForeign) as told:
        one.resume()
    sentence = str(told.value)
    assert sentence.startswith("checkpoint layer.ckpt ")
    assert sentence.isprintable()
    assert len(sentence) < 500
    assert kind in DAMAGED or sentence.endswith("--force trains the cell anew")
    assert_untouched(one, before)


def _torch(value: object) -> bytes:
    payload = io.BytesIO()
    torch.save(value, payload)
    return payload.getvalue()


def _zip() -> bytes:
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w") as file:
        file.writestr("data.pkl", b"no pickle")
    return payload.getvalue()


BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"hello",
    "a pickle": lambda: pickle.dumps({"epoch": 1}),
    "a zip of something else": _zip,
    "half of it": lambda: _torch({"epoch": torch.zeros(1000)})[:2000],
    "a list": lambda: _torch([1, 2]),
    "a tensor": lambda: _torch(torch.zeros(3)),
    "numbers for names": lambda: _torch({1: 2}),
    "an object": lambda: _torch(nn.Linear(1, 1)),
    "code": lambda: _torch({"epoch": print}),
    "an empty dict": lambda: _torch({}),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_no_state_is_damaged(kind: str, tmp_path: Path) -> None:
    body = BODIES[kind]()
    one, before = fresh(tmp_path)
    put(one, b"kdbench checkpoint 1\n" + hashlib.sha256(body).digest() + body)
    with pytest.raises((CheckpointDamaged, CheckpointForeign)) as told:
        one.resume()
    assert str(told.value).startswith("checkpoint layer.ckpt ")
    assert str(told.value).isprintable()
    assert_untouched(one, before)
    with pytest.raises(CheckpointDamaged, match=r"^checkpoint layer\.ckpt "):
        checkpoint.progress(one.path)


def test_a_layer_that_changed_is_told_by_its_name(tmp_path: Path) -> None:
    one, before = fresh(tmp_path, width=5)
    put(one, written("train"))
    with pytest.raises(CheckpointForeign, match=r"momentum of parameter|size mismatch for layer\.weight") as told:
        one.resume()
    assert told.value.what == "content"
    assert_untouched(one, before)
    other, _ = fresh(tmp_path, extra=True)
    with pytest.raises(CheckpointForeign, match=r'Missing key\(s\) in state_dict: "more\.weight"'):
        other.resume()


def test_after_an_odd_checkpoint_a_lane_trains_as_if_there_had_been_none(tmp_path: Path) -> None:
    odd = good("kd", tmp_path)
    put(odd, checkpoint.pack(checkpoint.unpack(written("train"), "x") | {"stage": "train", "epoch": 1}))
    with pytest.raises((CheckpointDamaged, CheckpointForeign)):
        odd.resume()
    train([good("student", tmp_path), odd])
    assert_same(result(odd), alone(1)[1])


@pytest.mark.parametrize("stage", ["train", "pretrain"])
def test_a_good_checkpoint_is_taken(stage: str, tmp_path: Path) -> None:
    one, whole = made(tmp_path), made(tmp_path / "whole")
    put(one, written(stage))
    assert one.resume()
    assert one.stage == stage
    train([one])
    train([whole])
    assert_same(result(one), result(whole))


def test_a_lane_that_is_done_must_have_been_evaluated(tmp_path: Path) -> None:
    state = checkpoint.unpack(written("train"), "x")
    state["epoch"] = 3
    state["curve"].append(state["curve"][-1] | {"epoch": 3})
    one, before = fresh(tmp_path)
    put(one, checkpoint.pack(state))
    assert one.resume()
    for change in (setting("report", to={}), lambda odd: odd["curve"][-1].pop("top1")):
        worse = copy.deepcopy(state)
        change(worse)
        two, before = fresh(tmp_path / "two")
        put(two, checkpoint.pack(worse))
        with pytest.raises(CheckpointDamaged, match="all its epochs are there, and no accuracy"):
            two.resume()
        assert_untouched(two, before)


def test_progress_is_read_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(written("train"))
    assert checkpoint.progress(path) == ("train", 2)
    assert _way(path) == "x: 2 epochs trained"
    for odd in ({}, {"stage": "train"}, {"stage": 3, "epoch": 2}, {"stage": "train", "epoch": "x"}):
        path.write_bytes(checkpoint.pack(odd))
        with pytest.raises(CheckpointDamaged, match="does not say where it stands"):
            checkpoint.progress(path)
        assert "does not say where it stands" in _way(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.progress(tmp_path / "none.ckpt")
    assert _way(tmp_path / "none.ckpt") == "none: cannot be read now (No such file or directory)"


# -- in a run ---------------------------------------------------------------------------------------


def test_in_a_run_odd_checkpoints_cost_their_own_cells_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = "kd,fitnet,at,student"
    with monkeypatch.context() as patched:
        stop_after_an_epoch(patched)
        for _ in range(2):  # a method without a teacher is in a group of its own
            assert run(tmp_path / "odd", methods=methods).exit_code == 130
    files = {path.name.split("-")[0]: path for path in (tmp_path / "odd").rglob("*.ckpt")}
    for name, change in {
        "kd": DAMAGED["rng short"],
        "fitnet": setting("student", "net.conv1.weight", to=torch.ones(2)),
    }.items():
        state = checkpoint.peek(files[name])
        change(state)
        files[name].write_bytes(checkpoint.pack(state))
    fine("status", "--out", tmp_path / "odd")
    told = refused("run", *SMALL, "--methods", methods, "--out", tmp_path / "odd", code=1)
    assert "was not written by kdbench: its random numbers of the CPU are not those of a generator; put aside" in told
    assert "is of another network or method: the student's net.conv1.weight is float32 of (2,), here" in told
    assert run(tmp_path / "whole", methods=methods).exit_code == 0
    theirs = measured(tmp_path / "whole")
    assert measured(tmp_path / "odd") == {name: one for name, one in theirs.items() if "fitnet" not in name}
