"""`kdbench run --compile`: same lanes, same promises, other last bits; and a sentence where it cannot be.

What a compiled pass must keep is tested with torch's backends that generate no code ("eager" traces only,
"aot_eager" also cuts out forward and backward pass); the slow tests generate and compile C++.
"""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
import torch.nn.functional as F
import training
from click.testing import Result
from commands import kdbench, small
from torch import Tensor, nn
from training import CPU, assert_same, lane_of, pair_of, result

from kdbench import models, record, registry
from kdbench.data import Loader
from kdbench.distiller import Batch, Distiller, Outputs
from kdbench.engine import checkpoint
from kdbench.engine.checkpoint import state_sha256
from kdbench.engine.compiled import CannotCompile, Compiler
from kdbench.engine.errors import OutOfMemory
from kdbench.engine.graph.backend import Eager
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.models.nets._net import Net, Taps, conv
from kdbench.report.select import select
from kdbench.run import grid, session

IMAGES = 40  # a tail batch of 8
CUT, REAL = Compiler(CPU, "aot_eager"), Compiler(CPU)
NEEDS_CXX = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


class Tiny(Net):
    """Two convolutions: what compiles in no time."""

    fusions = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.num_classes, self.dropout = 10, dropout
        self.conv1, self.bn1 = conv(3, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, 2 * width, 3, 2), nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def taps(self, image: Tensor) -> Taps:
        first = self.bn1(self.conv1(image))
        second = self.bn2(self.conv2(F.relu(first)))
        feats = F.relu(first), F.dropout(F.relu(second), self.dropout, self.training)
        return Taps(feats, feats[-1], (first, second))

    def get_classifier(self) -> nn.Linear:
        return self.fc


class Shallow(Distiller):
    """Reads the first tap and the classifier's weight, so its loss reaches neither conv2 nor the bias."""

    pretrain_epochs = 240
    pretrain_student = True

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert student.classifier is not None
        return {"tap": student.feats[0].square().mean(), "weight": student.classifier[0].square().mean()}

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"tap": (student.feats[0] - 1).square().mean()}


def net(seed: int, width: int = 4, dropout: float = 0.0) -> models.Tapped:
    torch.manual_seed(seed)
    return models.Tapped(Tiny(width, dropout), f"tiny{width}").train()


@cache
def teacher() -> models.Tapped:
    return net(0, 6).eval().requires_grad_(False)


def loader() -> Loader:
    return training.loader(IMAGES)


def lane(
    method: str | type[Distiller],
    folder: Path,
    compiler: Compiler | None,
    *,
    precision: str = "fp32",
    student: Callable[[int], models.Tapped] = net,
    **hyper: Any,
) -> Lane:
    who = student(1)
    pair = pair_of(who, teacher(), loader().labels)
    torch.manual_seed(2)
    hyper |= {"tap": 1} if method == "fitnet" else {}
    built = (registry.get(method) if isinstance(method, str) else method)(pair, **hyper)
    name = method if isinstance(method, str) else method.__name__
    return lane_of(name, who, built, folder, precision=precision, compiler=compiler)


def train(lanes: Sequence[Lane], *, stop_after: int | None = None, machine: Eager | None = None) -> None:
    shared = training.setting(loader(), teacher=models.fold(teacher()), precision=lanes[0].precision, machine=machine)
    training.train(lanes, shared, stop_after=stop_after)
    assert all(one.done and not one.failure for one in lanes), [one.failure for one in lanes]


def assert_close(ours: Lane, theirs: Lane, **tolerance: Any) -> None:
    for mine, plain in ((ours.student, theirs.student), (ours.method, theirs.method)):
        torch.testing.assert_close(mine.state_dict(), plain.state_dict(), **tolerance)


class Counted:
    """A backend that counts its graphs, and how often one runs."""

    def __init__(self) -> None:
        self.graphs: int = 0
        self.runs: int = 0

    def __call__(self, graph: torch.fx.GraphModule, example: object) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


def batches() -> list[Tensor]:
    return [image for image, _, _ in loader().epoch(0)][1:]  # a whole one and the tail


# -- what is computed ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kd", "fitnet", "crd", "cat_kd", "simkd", Shallow])
def test_compiled_is_eager(method: str | type[Distiller], tmp_path: Path) -> None:
    ours, theirs = lane(method, tmp_path / "ours", CUT), lane(method, tmp_path / "theirs", None)
    train([ours])
    train([theirs])
    assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert [point.keys() for point in ours.curve] == [point.keys() for point in theirs.curve]


def test_what_the_loss_does_not_reach_has_no_gradient(tmp_path: Path) -> None:
    """Zeros, which the compiled backward pass gives, would be decayed by the optimizer."""
    ours, theirs = lane(Shallow, tmp_path, CUT, ce_weight=0.0), lane(Shallow, tmp_path, None, ce_weight=0.0)
    image, label, idx = next(iter(loader().epoch(0)))
    for stage, untouched in (("pretrain", 5), ("train", 4)):
        for one in (ours, theirs):
            one.enter(stage)
            one.update(None, Batch(image, label, idx, torch.tensor(0.0)))
        found = {name for name, p in ours.student.named_parameters() if p.grad is None}
        assert found == {name for name, p in theirs.student.named_parameters() if p.grad is None}
        assert len(found) == untouched
        assert not {"net.conv1.weight", "net.bn1.weight"} & found


def test_every_output_is_the_eager_one_with_its_gradient() -> None:
    image, *_ = next(iter(loader().epoch(0)))
    ours, theirs = net(1), net(1)
    see = CUT.of(ours)
    count = len(theirs(image).tensors())
    for number in range(count):
        ours.zero_grad()
        theirs.zero_grad()
        seen, plain = see(image), theirs(image)
        assert type(seen) is Outputs
        one, other = [*seen.tensors().values()][number], [*plain.tensors().values()][number]
        torch.testing.assert_close(one, other)
        assert one.stride() == other.stride()
        for tensor in (one, other):
            tensor.square().mean().backward()
        see.drop_unreached()
        for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (mine.grad is None) == (its.grad is None), (number, name)
            if its.grad is not None:
                torch.testing.assert_close(mine.grad, its.grad)


def test_autocast_reaches_the_compiled_pass(tmp_path: Path) -> None:
    ours, theirs = (lane("kd", tmp_path, compiler, precision="bf16") for compiler in (CUT, None))
    with ours.precision.autocast(CPU):
        seen, plain = ours._see(batches()[0]), theirs._see(batches()[0])
    assert seen.feats[0].dtype == plain.feats[0].dtype == torch.bfloat16
    assert seen.logits.dtype == torch.float32
    torch.testing.assert_close(seen.logits, plain.logits)


def test_only_training_is_compiled() -> None:
    count = Counted()
    compiler = Compiler(CPU, count)
    student = net(1)
    see = compiler.of(student)
    student.eval()
    see(batches()[0])
    student.train()
    with torch.no_grad():
        see(batches()[0])
    see.drop_unreached()
    assert [count.graphs] == [0]
    see(batches()[0])
    assert count.graphs == 1


def test_graphs_of_cuda_are_the_engine_s_own() -> None:
    assert Compiler(torch.device("cuda", 0)).mode is None  # captures nothing, and no kernels are chosen by the clock
    assert Compiler(CPU).mode is None


# -- the engine's promises ----------------------------------------------------------------


@torch._dynamo.config.patch(recompile_limit=1)  # type: ignore[untyped-decorator]  # torch refuses a second graph of the same code
def test_one_graph_of_each_size_serves_every_lane_of_an_architecture(tmp_path: Path) -> None:
    count = Counted()
    compiler = Compiler(CPU, count)
    notes: list[str] = []
    group = [lane(name, tmp_path, compiler) for name in ("kd", "fitnet", "at")]
    for one in group:
        compiler.prepare(one.student, batches(), one.precision, notes.append)
    assert count.graphs == 2
    assert notes[0] == "compiling tiny4 for batches of 16 and 8"
    assert notes[1].startswith("tiny4 compiled in ")
    assert len(notes) == 2
    train(group)
    train([lane("kd", tmp_path / "later", compiler)])
    assert count.graphs == 2
    other = lane("kd", tmp_path / "other", compiler, student=partial(net, width=5))
    train([other])  # not prepared: compiled when it is needed
    assert count.graphs == 4


@pytest.mark.parametrize("ahead", [True, False])
def test_compiling_leaves_the_student_and_the_random_numbers_alone(ahead: bool) -> None:
    compiler = Compiler(CPU, Counted())
    student = net(1, dropout=0.5)
    state, dice = state_sha256(student.state_dict()), torch.get_rng_state()
    if ahead:
        compiler.prepare(student, batches()[1:], Precision(), lambda note: None)
        assert state_sha256(student.state_dict()) == state
        assert all(p.grad is None for p in student.parameters())
        assert torch.equal(torch.get_rng_state(), dice)
    other = net(1, dropout=0.5)
    torch.set_rng_state(dice)
    seen = compiler.of(student)(batches()[1])
    torch.set_rng_state(dice)
    assert torch.equal(seen.logits, other(batches()[1]).logits)
    assert state_sha256(student.state_dict()) == state_sha256(other.state_dict())


def promises(compiler: Compiler, folder: Path) -> None:
    """Alone, in company, resumed and captured: to the bit the same."""
    alone = lane("fitnet", folder / "alone", compiler)
    train([alone])
    company = [lane(name, folder / "company", compiler) for name in ("crd", "fitnet", "kd")]
    torch.manual_seed(99)  # whatever the process drew before must not matter
    train(company)
    assert_same(result(company[1]), result(alone))
    with pytest.raises(KeyboardInterrupt):
        train([lane("fitnet", folder / "resumed", compiler)], stop_after=1)
    resumed = lane("fitnet", folder / "resumed", compiler)
    assert resumed.resume()
    train([resumed])
    assert_same(result(resumed), result(alone))
    captured = lane("fitnet", folder / "captured", compiler)
    train([captured], machine=Eager())
    assert_same(result(captured), result(alone))


def test_alone_in_company_resumed_and_captured_are_the_same(tmp_path: Path) -> None:
    promises(CUT, tmp_path)


def test_checkpoints_copies_and_pickles_know_nothing_of_it(tmp_path: Path) -> None:
    files = []
    for compiler in (CUT, None):
        one = lane("kd", tmp_path / str(compiler is None), compiler)
        train([one])
        one.save()
        files.append(checkpoint.peek(one.path))
        again = pickle.loads(pickle.dumps(one.student))  # of our own making
        for other in (copy.deepcopy(one.student), again):
            assert state_sha256(other.state_dict()) == one.weights_sha256()
    ours, plain = files
    assert ours.keys() == plain.keys()
    for part in ("student", "method", "optimizer", "rng"):
        assert ours[part].keys() == plain[part].keys()
    assert {k: v.shape for k, v in ours["student"].items()} == {k: v.shape for k, v in plain["student"].items()}


# -- where it cannot be -------------------------------------------------------------------


def broken(graph: torch.fx.GraphModule, example: object) -> Callable[..., Any]:
    raise OSError("no compiler\nin this house")


def test_what_cannot_be_compiled_is_a_sentence() -> None:
    compiler, want = Compiler(CPU, broken), r"^tiny4 cannot be compiled here: OSError: no compiler in this house; run "
    for _ in range(2):
        with pytest.raises(CannotCompile, match=want + "with --no-compile$"):
            compiler.prepare(net(1), batches(), Precision(), lambda note: None)


@pytest.mark.parametrize(
    ("switch", "why"),
    [
        ("disable", "torch.compile is switched off in this process"),
        ("suppress_errors", "OSError: no compiler in this house"),
    ],
)
def test_it_is_never_silently_eager(switch: str, why: str) -> None:
    compiler = Compiler(CPU, lambda graph, example: broken(graph, example))  # none that was used before
    with (
        torch._dynamo.config.patch({switch: True}),
        pytest.raises(CannotCompile, match=f"^tiny4 cannot .* here: {why};"),
    ):
        compiler.prepare(net(1), batches(), Precision(), lambda note: None)


def test_memory_that_runs_out_is_not_blamed_on_the_compiler() -> None:
    def full(graph: torch.fx.GraphModule, example: object) -> Callable[..., Any]:
        def run(*args: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    with pytest.raises(OutOfMemory, match=r"^the compilation of .* does not fit into the memory of cpu$"):
        Compiler(CPU, full).prepare(net(1), batches(), Precision(), lambda note: None)


# -- cells and the command line -----------------------------------------------------------


def request(out: Path, **words: Any) -> session.Request:
    return session.Request(suite="digits", methods="kd,crd", device="cpu", out=out, **words)


def test_it_is_a_setting_only_where_it_is_on(tmp_path: Path) -> None:
    off, on = session.resolve(request(tmp_path)), session.resolve(request(tmp_path, compile=True))
    for cell in off.cells:
        there = grid.files(tmp_path, cell).record
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
    assert set(off.states().values()) == {"done"}
    assert set(on.states().values()) == {"missing"}
    for plain, other in zip(off.cells, on.cells, strict=True):
        assert other.settings == plain.settings.model_copy(update={"compile": True})
        assert "compile" not in plain.settings.model_dump(exclude_defaults=True)
        assert other.hash != plain.hash


def test_the_report_does_not_mix() -> None:
    pair = synthetic.PAIRS[0]
    plain = [synthetic.make("at", pair, seed) for seed in range(2)]
    selection = select([*plain, synthetic.make("at", pair, 2, setting={"compile": True})])
    assert len(selection.finished) == 2
    assert "compile True, not False" in selection.notes[0]


WORDS = ["run", *small(epochs=1), "--methods", "kd,student", "--limit-train", "48", "--device", "cpu"]


def kdbench_run(out: Path, *words: str) -> Result:
    return kdbench(*WORDS, "--out", out, *words)


def records(out: Path) -> list[record.Record]:
    found, problems = record.read_all(out / "runs")
    assert not problems
    return found


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counted()
    compiler = Compiler(CPU, count)
    monkeypatch.setattr("kdbench.run.group.Compiler", lambda device: compiler)
    assert "--compile" not in kdbench_run(tmp_path, "--dry-run", "--compile").output
    plain = kdbench_run(tmp_path)
    assert plain.exit_code == 0, plain.output
    assert [count.graphs] == [0]
    made = kdbench_run(tmp_path, "--compile")
    assert made.exit_code == 0, made.output
    assert "compiling resnet8 for batches of 48" in made.output
    assert count.graphs == 1
    found = records(tmp_path)
    assert sorted(one.settings.compile for one in found) == [False, False, True, True]
    for one in found:
        assert one.settings_hash == one.settings.hash
    again = kdbench_run(tmp_path, "--compile")
    assert "2 of 2 cells are there" in again.output
    assert count.graphs == 1
    assert count.runs == 1 + 2  # ahead, and the only step of each lane


def test_a_run_says_what_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.run.group.Compiler", partial(Compiler, backend=broken))
    result = kdbench_run(tmp_path, "--compile")
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "resnet8 cannot be compiled here: OSError: no compiler in this house; run with --no-compile" in said
    assert "Traceback" not in result.output
    assert not list((tmp_path / "runs").rglob("*.json"))  # nothing to be tried again by hand


def test_methods_with_more_views_are_compiled_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counted()
    monkeypatch.setattr("kdbench.run.group.Compiler", lambda device: Compiler(device, count))
    made = kdbench_run(tmp_path, "--compile", "--methods", "sskd", "--limit-train", "80")
    assert made.exit_code == 0, made.output
    assert "compiling resnet8 for batches of 256 and 64" in made.output
    assert count.graphs == 2


# -- generated code -----------------------------------------------------------------------


@NEEDS_CXX
@pytest.mark.slow
def test_generated_code_keeps_the_promises(tmp_path: Path) -> None:
    promises(REAL, tmp_path)
    for method in ("fitnet", "simkd", Shallow):
        ours, theirs = lane(method, tmp_path / "ours", REAL), lane(method, tmp_path / "theirs", None)
        train([ours])
        train([theirs])
        assert result(ours).state != result(theirs).state  # other last bits, so it is another setting
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    half = lane("fitnet", tmp_path / "half", REAL, precision="bf16")
    train([half])
    with half.precision.autocast(CPU):
        assert half._see(batches()[0]).feats[-1].dtype == torch.bfloat16


@NEEDS_CXX
@pytest.mark.slow
@pytest.mark.parametrize("student", ["resnet8", "timm/test_resnet"])
def test_generated_code_of_real_students(student: str, tmp_path: Path) -> None:
    result = kdbench_run(tmp_path, "--compile", "--pairs", f"resnet14:{student}")
    assert result.exit_code == 0, result.output
    assert f"{student} compiled in" in result.output
    assert [one.settings.compile for one in records(tmp_path)] == [True, True]


@pytest.mark.slow
def test_without_a_cxx_compiler_a_run_says_so(tmp_path: Path) -> None:
    words = [*WORDS, "--compile", "--out", str(tmp_path)]
    away = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", *words], env=os.environ | away, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "resnet8 cannot be compiled here: InvalidCxxCompiler: No working C++ compiler found" in said
    assert "Traceback" not in done.stdout + done.stderr
