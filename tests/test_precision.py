"""Number formats: the fp16 path with its loss scale, tried on the CPU, where no option leads to it; bf16; warnings."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from asking import Asking, Listening
from commands import fine, flat, refused, small
from torch import Tensor, nn
from training import BATCH, CPU, EPOCHS, IMAGES, TINY, Burst, assert_same, lane_of, loader, pair_of, result, setting
from training import lane as fp32_lane

from kdbench import registry
from kdbench.bench import flops, measure
from kdbench.distiller import Batch, Outputs
from kdbench.engine import checkpoint, precision
from kdbench.engine.fit import look
from kdbench.engine.graph.backend import Eager
from kdbench.engine.graph.rollback import undone
from kdbench.engine.graph.train_step import Captures
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision, Scaler
from kdbench.engine.schedule import Plan
from kdbench.run import session
from kdbench.terminal import doctor
from kdbench.utils import environment

pytestmark = pytest.mark.core

STEPS = -(-IMAGES // BATCH)  # of an epoch
RISE = 5  # steps without an overflow after which the scale doubles here


class Half(Precision):
    """What ``fp16`` is on CUDA, on the CPU, with a clock that strikes within a short run."""

    def dtype(self, device: torch.device) -> torch.dtype:
        return torch.float16

    def scaler(self, device: torch.device) -> Scaler:
        made = super().scaler(device)
        made.load_state_dict(made.state_dict() | {"growth_interval": RISE})
        return made


class Small(nn.Module):
    """Two layers with a batch norm between them: the CPU is slow at convolutions in fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.fc = nn.Linear(3 * 8 * 8, 16), nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Outputs:
        pooled = torch.relu(self.norm(self.first(image.flatten(1))))
        last = pooled[:, :, None, None]
        return Outputs((last,), last, pooled, self.fc(pooled))


def lane(folder: Path, method: str = "", *, as_: Precision | None = None, **words: Any) -> Lane:
    """A lane in fp16; where no method is named, one of ``Burst`` with a small student."""
    one = fp32_lane(method or "student", folder)
    if not method:
        one.student, one.method = Small(), Burst(pair_of(one.student), **words)
    return lane_of(one.key, one.student, one.method, folder, precision=Half() if as_ is None else as_)


def train(lanes: list[Lane], *, stop_after: int | None = None, captured: bool = False) -> None:
    notes: list[str] = []
    machine = Eager() if captured else None
    shared = setting(precision=lanes[0].precision, machine=machine, note=notes.append)
    training.train(lanes, shared, stop_after=stop_after)
    assert notes == []


def by_hand(one: Lane, *, instead: dict[int, Callable[[], None]] | None = None) -> list[dict[str, Tensor]]:
    """Train step by step; the lane's tensors after each. ``instead`` replaces the update of some steps."""
    seen, update, after = (instead or {}), one.update, list[dict[str, Tensor]]()
    for epoch in range(EPOCHS):
        one.start_epoch()
        for number, (image, label, idx) in enumerate(loader().epoch(epoch)):
            step = epoch * STEPS + number

            def work(shown: Outputs | None, batch: Batch, step: int = step) -> dict[str, Tensor]:
                terms = {} if step in seen else update(shown, batch)
                if step in seen:
                    with torch.no_grad(), one.precision.autocast(CPU):
                        one.student(batch.image)  # it moves the batch norms' statistics
                    seen[step]()
                return terms

            one.update = work  # type: ignore[assignment, method-assign]
            one.step(None, Batch(image, label, idx, torch.tensor(step / (EPOCHS * STEPS))))
            after.append(everything(one))
        one.end_epoch(0.0)
    return after


def everything(one: Lane) -> dict[str, Tensor]:
    found = {name: value.clone() for name, value in one.student.state_dict().items()}
    for number, state in enumerate(one.optimizer.state.values()):
        found[f"momentum {number}"] = state["momentum_buffer"].clone()
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name, value in one.items() if torch.equal(value, other[name])]


def scale_of(one: Lane) -> tuple[float, int]:
    state = one.scaler.state_dict()
    return state["scale"], state["_growth_tracker"]


@pytest.mark.parametrize("at", [0, 5])
def test_an_overflow_costs_one_step_and_halves_the_scale(at: int, tmp_path: Path) -> None:
    one = lane(tmp_path / "one", at=(at,))
    first = everything(one)
    after = by_hand(one)
    trained = {name for name in first if "running" not in name and "num_batches" not in name}
    before = after[at - 1] if at else first
    assert set(same(after[at], before)) >= trained  # weights and momenta: at step 0 these are zeros, not leftovers
    moved = set(first) - set(same(after[at], before))
    assert moved
    assert all("running" in name or "num_batches" in name for name in moved)
    assert all(value.isfinite().all() for value in after[-1].values())
    assert all(len(same(after[step], after[step - 1])) < len(trained) for step in range(1, 12) if step != at)

    # The same run with that step left out by hand, and the scale that follows.
    plain = lane(tmp_path / "plain")
    down = {"scale": (1024.0 if at < RISE else 2048.0) / 2, "_growth_tracker": 0}
    left_out = by_hand(plain, instead={at: lambda: plain.scaler.load_state_dict(plain.scaler.state_dict() | down)})
    assert len(same(left_out[-1], after[-1])) == len(first)
    assert scale_of(one) == scale_of(plain) == (2048.0, 1)


def test_without_an_overflow_the_scale_costs_nothing_but_rounding(tmp_path: Path) -> None:
    scaled, plain = lane(tmp_path, "kd"), fp32_lane("kd", tmp_path)
    train([scaled])
    train([plain])
    for ours, theirs in zip(scaled.curve, plain.curve, strict=True):
        assert ours["terms"] == pytest.approx(theirs["terms"], rel=0.01)
    assert scale_of(scaled) == (4096.0, 2)


@pytest.mark.parametrize("captured", [False, True])
def test_resumed_is_uninterrupted(captured: bool, tmp_path: Path) -> None:
    whole = lane(tmp_path / "whole", at=(1, 5))
    train([whole])
    with pytest.raises(KeyboardInterrupt):
        train([cut := lane(tmp_path / "cut", at=(1, 5))], stop_after=1, captured=captured)
    assert scale_of(cut) == (256.0, 2)
    rest = lane(tmp_path / "cut", at=(1, 5))
    assert rest.resume()
    train([rest], captured=not captured)
    assert_same(result(rest), result(whole))
    assert scale_of(rest) == scale_of(whole) == (512.0, 1)


def test_the_captured_step_is_the_loop_and_company_does_not_matter(tmp_path: Path) -> None:
    plain = [lane(tmp_path / "plain", at=(0, 6)), lane(tmp_path / "plain", "crd")]
    for one in plain:
        train([one])
    company = [lane(tmp_path / "ours", at=(0, 6)), lane(tmp_path / "ours", "crd")]
    train(company, captured=True)
    for ours, theirs in zip(company, plain, strict=True):
        assert_same(result(ours), result(theirs))
        assert scale_of(ours) == scale_of(theirs)
    assert scale_of(company[0]) != scale_of(company[1])  # each lane has its own


def test_undone_puts_the_scale_back_where_it_was(tmp_path: Path) -> None:
    one = lane(tmp_path, at=(0,))
    one.start_epoch()
    places = [tensor.data_ptr() for tensor in tensors(one.scaler)]
    before, known = everything(one), one.scaler.state_dict()
    image, label, idx = next(loader().epoch(0))
    with undone(one):
        for _ in range(3):
            one.update(None, Batch(image, label, idx, torch.tensor(0.0)))
        assert scale_of(one) == (128.0, 0)
    assert one.scaler.state_dict() == known
    assert [tensor.data_ptr() for tensor in tensors(one.scaler)] == places
    assert len(same(everything(one), before)) == len(before)


def tensors(scaler: Scaler) -> list[Tensor]:
    return [value for value in vars(scaler._torch).values() if isinstance(value, Tensor)]


def test_its_tensors_are_there_before_any_step() -> None:
    assert len(tensors(Half().scaler(CPU))) == 2


def test_no_step_asks_the_host(tmp_path: Path) -> None:
    machine, notes = Listening(), list[str]()
    one = lane(tmp_path, at=(0,))
    one.start_epoch()
    shared = setting(precision=Half())
    assert Captures(machine, notes.append).of(shared.train, [one], "train", partial(look, shared)) is not None
    assert (machine.found, notes) == (set(), [])


def test_what_would_ask_the_host_is_heard() -> None:
    weight = nn.Parameter(torch.ones(3))
    scaler, optimizer = Half().scaler(CPU), torch.optim.SGD([weight], lr=0.1)  # not fused
    with Asking() as asking:
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
    assert asking.found == {"_local_scalar_dense"}


@pytest.mark.parametrize("captured", [False, True])
def test_an_epoch_without_a_step_fails_the_lane(captured: bool, tmp_path: Path) -> None:
    first, last, low, half, begun, good = lanes = [
        lane(tmp_path / "first", at=tuple(range(12))),  # 16 times lower with every epoch
        lane(tmp_path / "last", at=(8, 9, 10, 11)),
        lane(tmp_path / "low", at=(4, 5, 6, 7)),
        lane(tmp_path / "half", at=(8, 9, 11)),
        lane(tmp_path / "begun", at=(0, 1, 2, 3)),  # finds its scale in the second epoch
        lane(tmp_path / "good", "kd"),
    ]
    low.scaler.load_state_dict(low.scaler.state_dict() | {"scale": 4.0})
    train(lanes, captured=captured)
    for one, epoch, scale in ((first, 3, "0.25"), (last, 3, "128"), (low, 2, "0.25")):
        assert one.failure == (
            f"every step of epoch {epoch} overflowed in fp16, down to a loss scale of {scale}, and was skipped;"
            " try precision bf16 or fp32"
        )
    assert [one.failure for one in (half, begun, good)] == [None] * 3
    assert all(one.done for one in (half, begun, good))


def test_a_scale_that_has_vanished_fails_the_lane_too() -> None:
    scaler = Half().scaler(CPU)
    assert scaler.end_epoch(781) is None
    scaler.load_state_dict(scaler.state_dict() | {"scale": 0.0})
    scaler.began = 1024.0
    assert scaler.end_epoch(2000) == 0.0


@pytest.mark.parametrize("captured", [False, True])
def test_a_term_that_is_not_finite_is_divergence_as_ever(captured: bool, tmp_path: Path) -> None:
    good, bad = lane(tmp_path / "good", "kd"), lane(tmp_path / "bad", at=(6,), weight=float("inf"))
    train([good, bad], captured=captured)
    assert bad.failure is not None
    assert bad.failure.startswith("term 'burst' was nan in epoch 1; try ")  # inf * 0, in the steps without a burst
    assert good.done


def test_a_step_that_raises_leaves_no_scale_behind() -> None:
    class Breaking(torch.optim.SGD):
        broken = True

        def step(self, closure: Any = None) -> Any:
            if self.broken:
                raise RuntimeError("no")
            return super().step(closure)

    weight = nn.Parameter(torch.ones(3))
    scaler, optimizer = Half().scaler(CPU), Breaking([weight], lr=0.5, fused=True)
    for broken in (True, False):
        optimizer.broken = broken
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        if broken:
            with pytest.raises(RuntimeError, match="no"):
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)
    assert torch.equal(weight.detach(), torch.full((3,), 0.5))


def test_a_fused_optimizer_can_do_with_parameters_that_come_later() -> None:
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    made = Plan(1, 0.5, weight_decay=0.0).optimizer([early, late], CPU, fused=True)
    early.sum().backward()
    made.step()
    late.sum().backward()
    made.step()
    assert torch.equal(late.detach(), torch.full((2,), 0.5))


# -- where nothing is scaled ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "amp", "bf16"])
def test_nothing_is_scaled_on_the_cpu(name: str, tmp_path: Path) -> None:
    one = lane(tmp_path, "kd", as_=Precision(name))
    loss = torch.ones((), requires_grad=True)
    assert one.scaler.scale(loss) is loss
    assert one.scaler.state_dict() == {}
    assert one.scaler.end_epoch(5) is None
    assert one.optimizer.defaults["fused"] is None
    assert not one.optimizer.state


@pytest.mark.parametrize("as_", [Precision(), Half()], ids=["fp32", "fp16"])
def test_a_checkpoint_of_an_older_kdbench_still_loads(as_: Precision, tmp_path: Path) -> None:
    whole = lane(tmp_path / "whole", "kd", as_=as_)
    with pytest.raises(KeyboardInterrupt):
        train([whole], stop_after=1)
    old = checkpoint.peek(whole.path)
    del old["scaler"]
    checkpoint.save(whole.path, old)
    rest = lane(tmp_path / "whole", "kd", as_=as_)
    assert rest.resume()
    assert rest.epoch == 1
    assert rest.scaler.state_dict() == as_.scaler(CPU).state_dict()  # fp16: the first scale, which was the fixed one
    train([rest])
    assert rest.done
    if not rest.scaler.enabled:
        train([again := lane(tmp_path / "again", "kd", as_=as_)])
        assert_same(result(rest), result(again))


@pytest.mark.parametrize(("first", "second"), [(Half(), Precision()), (Precision(), Half())], ids=["off", "on"])
def test_a_lane_goes_on_where_the_scale_is_switched(first: Precision, second: Precision, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train([begun := lane(tmp_path, as_=first)], stop_after=1)
    written = checkpoint.peek(begun.path)
    del written["optimizer"]["state"][0]  # as of a parameter that no batch has reached
    checkpoint.save(begun.path, written)
    rest = lane(tmp_path, as_=second)
    assert rest.resume()
    train([rest])
    assert rest.done


# -- names and warnings -----------------------------------------------------------------------------

CUDA = torch.device("cuda")


def test_what_each_name_computes_in() -> None:
    found = {(name, device.type): Precision(name).dtype(device) for name in precision.NAMES for device in (CPU, CUDA)}
    assert found == {
        ("fp32", "cpu"): None,
        ("fp32", "cuda"): None,
        ("tf32", "cpu"): None,
        ("tf32", "cuda"): None,
        ("bf16", "cpu"): torch.bfloat16,
        ("bf16", "cuda"): torch.bfloat16,
        ("fp16", "cpu"): torch.float16,
        ("fp16", "cuda"): torch.float16,
        ("amp", "cpu"): torch.bfloat16,
        ("amp", "cuda"): torch.float16,
    }
    for name in precision.NAMES:
        Precision(name).check(CUDA)
    for name in ("tf32", "fp16"):
        with pytest.raises(ValueError, match=f"{name} needs a CUDA device; on the CPU there are fp32, bf16 and amp"):
            Precision(name).check(CPU)
    for name in ("fp32", "bf16", "amp"):
        Precision(name).check(CPU)


def test_old_words_in_files_are_read_as_the_new_ones() -> None:
    assert [precision.canonical(word) for word in ("exact", "fast", "tf32", "bf16", "odd")] == [
        "fp32",
        "amp",
        "tf32",
        "bf16",
        "odd",
    ]
    assert all(precision.canonical(name) == name for name in precision.NAMES)
    assert Precision().name == session.Request().precision == measure.Request().precision == "fp32"


def test_amp_is_bf16_on_the_cpu(tmp_path: Path) -> None:
    amp, bf16 = (lane(tmp_path / name, "kd", as_=Precision(name)) for name in ("amp", "bf16"))
    for one in (amp, bf16):
        with pytest.raises(KeyboardInterrupt):
            train([one], stop_after=0)
    assert len(same(everything(amp), everything(bf16))) == len(everything(amp))
    assert amp.curve[0]["terms"] == bf16.curve[0]["terms"]


@pytest.fixture(params=[False, True], ids=["without", "with"])
def able(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU without and one with bf16 instructions."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: request.param)
    return bool(request.param)


def test_only_a_cpu_without_bf16_is_warned_of(able: bool) -> None:
    for name in precision.NAMES:
        said = Precision(name).warning(CPU)
        assert bool(said) == (name in ("amp", "bf16") and not able)
        assert not said or said.startswith(f"precision {name} computes in bf16, for which this CPU (")
        assert Precision(name).warning(CUDA) == ""


def test_this_cpu_was_asked() -> None:
    assert precision.cpu_has_bf16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_the_verbs_say_so_before_they_start(able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", *small(epochs=1), "--methods", "kd", "--out", tmp_path, "--device", "cpu", "--dry-run"]
    sentence = "for which this CPU"
    for name, warned in (("fp32", False), ("amp", not able), ("bf16", not able)):
        assert (sentence in flat(fine(*words, "--precision", name))) == warned
        assert bool(session.resolve(session.Request(suite="digits", precision=name, device="cpu")).notes) == warned

    filling = ["teacher", "table", "resnet8", "--suite", "digits", "--out", tmp_path, "--device", "cpu"]
    said_so = refused(*filling, "--precision", "amp")  # no such teacher is kept
    assert (sentence in said_so) == (not able)

    (found,) = (finding for finding in doctor.look(None, tmp_path) if finding.what == "precision")
    assert (found.verdict == "ok") == able
    assert (sentence in found.found) == (not able)

    said: list[str] = []

    def started(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flops, "peak_gflops", started)  # the first thing that it times
    with pytest.raises(KeyboardInterrupt):
        measure.bench(replace(TINY, precision="bf16"), said.append)
    assert (sentence in said[0]) == (not able)


def test_a_record_says_which_instructions_the_cpu_has() -> None:
    found = environment.describe("cpu")["instructions"]
    assert found == torch.backends.cpu.get_cpu_capability()
    assert found in next(one.found for one in doctor.look(None, Path()) if one.what == "cpu")


def test_every_method_can_be_asked_for_in_bf16() -> None:
    job = session.resolve(session.Request(suite="digits", precision="bf16", device="cpu", methods="all"))
    assert {cell.settings.precision for cell in job.cells} == {"bf16"}
    assert len({cell.method for cell in job.cells}) == len(registry.names())


NEWER = """
import torch
from kdbench.engine.precision import Precision, put_switches, switches

torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.backends.cudnn.conv.fp32_precision = "ieee"
before = switches()
with Precision("fp32").switched(torch.device("cuda")):
    assert torch.backends.cuda.matmul.allow_tf32 is False
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
assert switches() == before
assert not put_switches(before)
"""


def test_switches_that_were_set_by_torchs_newer_name_are_read_and_put_back() -> None:
    """In a process of its own: torch has no way back from the newer names."""
    done = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_warning_of_torch_at_a_switch_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Owner:
        """As torch 2.9 has it."""

        @property
        def allow_tf32(self) -> bool:
            return self.on

        @allow_tf32.setter
        def allow_tf32(self, value: bool) -> None:
            warnings.warn("please use the new name", UserWarning, stacklevel=2)
            self.on = value

        on = False

    owner = Owner()
    monkeypatch.setattr(torch.backends.cuda, "matmul", owner)
    monkeypatch.setattr(torch.backends, "cudnn", Owner())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Precision("tf32").prepare(torch.device("cuda"))
    assert owner.on
