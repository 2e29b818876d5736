"""Every method's whole step stays on its device: no value read, nothing copied from the host, no dtypes mixed.

No GPU is needed: the steps run on tensors without values (``ondevice``). That shows every operator that is asked for,
in the forward and the backward pass and the optimizer. It does not show

* what a library does inside an operator: of what the methods use, only the SVD of kdsvd is known to wait there
  (the host reads cuSOLVER's error codes), so every ``torch.linalg`` solver counts as waiting;
* numbers: overflow in fp16 is not looked for;
* random numbers of Python or numpy, and torch's own where no tensor comes of them: see ``machine.host_draws``.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from costumes import HOSTED, INSIDE, RIGHT, backward
from narrow import there
from ondevice import BATCH, CUDA, META, TAIL, Watch, lane_of, move, place, settle, steps, walk, watched
from tabled import lane, loader, open_table, setting
from telling import fast
from torch import Tensor, nn
from training import CPU

from kdbench import models, registry
from kdbench.distiller import Batch, Distiller, Outputs, Pair
from kdbench.engine.fit import look
from kdbench.engine.graph.backend import Eager
from kdbench.engine.graph.cached_teacher import resident
from kdbench.engine.graph.train_step import Captures
from kdbench.methods._layers import full_precision
from kdbench.methods.kd import KD
from kdbench.testing import variant
from kdbench.testing.one_batch import check_tensors_follow_the_device
from kdbench.testing.toys import ALIKE, TWIN, UNLIKE, Broken, Problem, Toy, served
from kdbench.testing.trainee import Trainee

pytestmark = pytest.mark.core

METHODS = [*registry.names(), "crd+mag", "semckd+crd", "kd+lskd", "dkd+ea"]
#: Branches that the defaults do not take.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("abkd", {"beta": 0.0}),
    ("abkd", {"alpha": 0.0}),
    ("abkd", {"alpha": 0.5, "beta": -0.5}),
    ("abkd", {"alpha": 0.0, "beta": 0.0}),
    ("crd", {"nce_k": 4}),
    ("ea", {"base": "dkd"}),
    ("ikl", {"weights": "class"}),
    ("ofa", {"eps": "1.5", "stages": "1"}),
    ("wkd_f", {"grid": 2}),
    ("wkd_l", {"cost": "matrix", "sharpen": 0.0, "decay": 1.0}),
    ("irg", {"transform": "1-2"}),
    ("pffu", {"variant": "vector"}),
    ("dskd", {"aux_ce": 1.0}),
    ("mlkd", {"standardise": True}),
    ("cat_kd", {"binarise": True, "normalise": True, "top": 2}),
    ("dkd", {"warmup": 0.0}),
    ("sskd", {"ratio_tf": 0.5}),
    ("ctkd", {"base": "dkd"}),
    ("rld", {"standardise": True}),
    ("sdd", {"base": "dkd"}),
    ("sdd", {"base": "rld", "standardise": True, "weighting": "mean"}),
]
CASES = [pytest.param(name, {}, id=name) for name in METHODS] + [
    pytest.param(name, hyper, id=f"{name}-{'-'.join(hyper)}") for name, hyper in VARIANTS
]
#: What shows on "meta" shows on "cuda" without values too, where all are tried; the kinds of methods on both.
QUICK = [pytest.param(one, {}, id=one, marks=marks) for (one,), marks, _ in fast(METHODS)] + [
    pytest.param(name, hyper, id=f"{name}-{'-'.join(hyper)}", marks=pytest.mark.slow) for name, hyper in VARIANTS
]
#: Findings that stand, and why a lane of such a method runs beside the CUDA graph.
STAND = {"kdsvd": "_linalg_svd waits for the device"}  # the host looks whether the singular values converged


def first(cls: type[Distiller], *toys: Toy) -> Toy:
    """That the method serves."""
    return served(cls, toys)[0]


def unexpected(watch: Watch, name: str) -> list[str]:
    stands = STAND.get(name)
    assert not stands or any(found.startswith(stands) for found in watch.found), f"{name} could leave the list STAND"
    return [found for found in watch.found if not (stands and found.startswith(stands))]


@pytest.mark.parametrize(("name", "hyper"), QUICK)
def test_no_step_reads_a_value_or_leaves_its_device(name: str, hyper: dict[str, Any]) -> None:
    """On a whole batch; on a short one below."""
    cls = registry.get(name)
    watch = watched(cls, first(cls, UNLIKE, ALIKE, TWIN), META, "fp32", sizes=(BATCH,), **hyper)
    assert unexpected(watch, name) == []
    assert {"convolution_backward", "native_batch_norm_backward"} <= watch.names


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_no_fp16_step_on_cuda_mixes_dtypes_or_reads_a_value(name: str, hyper: dict[str, Any]) -> None:
    cls = registry.get(name)
    watch = watched(cls, first(cls, ALIKE, TWIN), CUDA, "amp", sizes=(TAIL,), **hyper)
    assert unexpected(watch, name) == []
    assert {"convolution_backward", "_amp_update_scale_", "_fused_sgd_"} <= watch.names
    assert set(watch.terms.values()) == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_nor_does_a_step_on_cuda_without_fp16(precision: str) -> None:
    watch = watched(registry.get("semckd+crd"), ALIKE, CUDA, precision)
    assert watch.found == []
    assert "_fused_sgd_" in watch.names
    assert "_amp_update_scale_" not in watch.names


@pytest.mark.parametrize("name", METHODS)
def test_an_fp16_step_on_the_cpu_mixes_no_dtypes(name: str) -> None:
    """With values, by the kernels of the CPU: other operators are cast than on CUDA. Not every term is finite there."""
    cls = registry.get(name)
    trainee = Trainee(Problem(first(cls, ALIKE, TWIN)), cls)
    for stage in trainee.stages:
        trainee.enter(stage)
        with torch.autocast("cpu", torch.float16):
            terms = trainee.terms(trainee.some_batch())
        torch.stack([term.float() for term in terms.values()]).sum().backward()


@pytest.mark.parametrize(
    "student",
    [
        "resnet8",
        "vgg8",
        "wrn_16_1",
        "MobileNetV2",
        "ShuffleV2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ShuffleV1", "ResNet50", "timm/resnet18")),
    ],
)
def test_every_network_stays_on_the_device(student: str) -> None:
    torch.manual_seed(0)
    net, teacher = models.create(student, 10), models.fold(models.create("resnet14", 10))
    pair = models.make_pair(
        net, teacher, image_shape=(3, 32, 32), num_classes=10, train_labels=torch.arange(20) % 10, batch_size=BATCH
    )
    one = lane_of(net, KD(pair))
    with place(CUDA):
        settle(one, CUDA, "amp")
        watch = steps(one, move(teacher, CUDA), 32, sizes=(BATCH,))
    assert watch.found == []


def test_the_step_on_a_kept_teacher_reads_no_value(tmp_path: Path) -> None:
    """``Resident`` in the captured step; on the CPU, because it is filled with what the teacher says."""

    class Watching(Eager):
        watch = Watch(CPU)

        def strict(self) -> Watch:
            return self.watch

    feed, notes = loader(), list[str]()
    shared, one = setting(feed), lane("crd", tmp_path, feed)
    table = there(open_table(tmp_path, shared))
    one.start_epoch()
    with resident(table, "pooled", Watching(), 1e9) as kept:
        Captures(Watching(), notes.append, kept).of(feed, [one], "train", partial(look, shared))
    table.close()
    assert notes == []
    assert "index_copy_" in Watching.watch.names
    assert Watching.watch.found == []


# -- what is looked for is found --------------------------------------------------------------------


@full_precision
def with_constant(x: Tensor) -> Tensor:
    """A tensor of the CPU where no autocast is."""
    return x.mean() * torch.tensor(2.0)


def halves(grad: Tensor) -> Tensor:
    """A product of two dtypes."""
    return torch.mm(grad, torch.eye(grad.shape[1], device=grad.device, dtype=torch.float64)).to(grad.dtype)


COSTUMES = HOSTED | INSIDE | RIGHT


class Odd(Distiller):
    """What a captured step cannot hold, by name."""

    def __init__(self, pair: Pair, *, kind: str = "") -> None:
        super().__init__(pair)
        self.kind = kind
        self.loose = torch.ones(pair.student.pooled)
        self.weight = nn.Parameter(torch.eye(pair.student.pooled))
        self.register_buffer("bank", torch.zeros(pair.num_train, pair.student.pooled))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        x: Tensor = student.pooled
        if self.kind == "bank":
            self.bank.index_copy_(0, batch.idx, x.detach())  # type: ignore[operator]
            return {"odd": x.float().mean()}
        work = COSTUMES.get(self.kind) or getattr(self, self.kind)
        return {"odd": work(x, batch).float().mean() + self.weight.sum()}

    def fine(self, x: Tensor, batch: Batch) -> Tensor:
        return x @ self.weight + self.bank[batch.idx]  # type: ignore[index]

    def item(self, x: Tensor, batch: Batch) -> Tensor:
        return x * x.max().item()

    def branch(self, x: Tensor, batch: Batch) -> Tensor:
        return x if x.max() > 0 else -x

    def mask(self, x: Tensor, batch: Batch) -> Tensor:
        return x[x > 0]

    def put_mask(self, x: Tensor, batch: Batch) -> Tensor:
        return x.clone().index_put((x > 0,), x.new_zeros(()))

    def nonzero(self, x: Tensor, batch: Batch) -> Tensor:
        return x.flatten()[x.flatten().nonzero()]

    def same(self, x: Tensor, batch: Batch) -> Tensor:
        return x * torch.equal(x, x)

    def solver(self, x: Tensor, batch: Batch) -> Tensor:
        inverse: Tensor = torch.linalg.inv((x.T @ x).float())
        return inverse

    def to_cpu(self, x: Tensor, batch: Batch) -> Tensor:
        return x.cpu().to(x.device)

    def constant(self, x: Tensor, batch: Batch) -> Tensor:
        return x * torch.tensor(2.0, device=x.device)

    def host_constant(self, x: Tensor, batch: Batch) -> Tensor:
        return x * torch.tensor(2.0)

    def inside(self, x: Tensor, batch: Batch) -> Tensor:
        return with_constant(x)

    def unnamed(self, x: Tensor, batch: Batch) -> Tensor:
        return x * torch.arange(x.shape[1])

    def attribute(self, x: Tensor, batch: Batch) -> Tensor:
        return x * self.loose

    def listed(self, x: Tensor, batch: Batch) -> Tensor:
        return x[[1, 0]]

    def drawn(self, x: Tensor, batch: Batch) -> Tensor:
        return x * torch.rand(x.shape).to(x.device)

    def backward(self, x: Tensor, batch: Batch) -> Tensor:
        return backward(lambda grad: grad * float(grad.sum()))(x)

    def product(self, x: Tensor, batch: Batch) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x.half() @ self.weight

    def halves(self, x: Tensor, batch: Batch) -> Tensor:
        return backward(halves)(x)


READS = {
    "item": "_local_scalar_dense waits",
    "branch": "waits",
    "mask": "index by a mask",
    "put_mask": "index_put by a mask",
    "nonzero": "nonzero waits",
    "same": "equal waits",
    "solver": "linalg_inv_ex waits",
    "to_cpu": "_to_copy on cpu",
    "constant": "copies from the host",
    "host_constant": "mul on cpu",
    "inside": "mul on cpu",
    "unnamed": "arange on cpu",
    "attribute": "mul on cpu",
    "listed": "copies from the host",
    "drawn": "rand on cpu",
    "backward": "_local_scalar_dense waits",
}


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        *((kind, META) for kind in READS),
        *((kind, CUDA) for kind in ("item", "mask", "to_cpu", "constant", "backward")),
    ],
    ids=str,
)
def test_what_reads_a_value_or_leaves_the_device_is_found(kind: str, device: torch.device) -> None:
    watch = watched(Odd, ALIKE, device, "fp32" if device == META else "amp", sizes=(BATCH,), kind=kind)
    assert any(READS[kind] in found for found in watch.found), watch.found


#: Of ``INSIDE``, what the walked backward pass runs; a tensor's hooks it leaves out. On "meta" nothing of these shows.
WALKED = [kind for kind in INSIDE if "hook" not in kind]


@pytest.mark.parametrize(
    ("kind", "device"), [*((kind, META) for kind in HOSTED), *((kind, CUDA) for kind in (*HOSTED, *WALKED))], ids=str
)
def test_a_constant_of_the_host_is_found_in_a_whole_step(kind: str, device: torch.device) -> None:
    watch = watched(Odd, ALIKE, device, "exact", sizes=(BATCH,), kind=kind)
    assert any("costumes.py" in found for found in watch.found), watch.found


@pytest.mark.parametrize("device", [META, CUDA], ids=str)
@pytest.mark.parametrize("kind", RIGHT)
def test_what_only_looks_like_a_constant_of_the_host_is_not_found(kind: str, device: torch.device) -> None:
    assert watched(Odd, ALIKE, device, "exact", sizes=(BATCH,), kind=kind).found == []


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("bank", "index_copy_ of torch.float16 and torch.float32"),
        ("product", "mm of torch.float16 and torch.float32"),
        ("halves", "mm of torch.float16 and torch.float64"),
    ],
)
def test_mixed_dtypes_are_found(kind: str, what: str) -> None:
    watch = watched(Odd, ALIKE, CUDA, "amp", sizes=(BATCH,), kind=kind)
    assert any(what in found for found in watch.found), watch.found


@pytest.mark.parametrize("device", [META, CUDA], ids=str)
def test_what_is_right_is_not_found(device: torch.device) -> None:
    assert watched(Odd, ALIKE, device, "fp32" if device == META else "amp", kind="fine").found == []


def test_a_finding_names_the_line() -> None:
    watch = watched(Odd, ALIKE, META, "fp32", sizes=(BATCH,), kind="host_constant")
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "x * torch.tensor(2.0)\n" in text + "\n"
    )
    assert f"mul on cpu (test_device.py, line {line})" in watch.found


@pytest.mark.parametrize(
    "kind",
    ["to_cpu", "constant", "host_constant", "inside", "unnamed", "attribute", "listed", "drawn", *HOSTED, *INSIDE],
)
def test_the_conformance_kit_finds_what_is_not_on_the_device(kind: str) -> None:
    with pytest.raises(Broken, match="not on the device of the inputs"):
        check_tensors_follow_the_device(variant(Odd, kind=kind), (ALIKE,))


@pytest.mark.parametrize("kind", ["fine", *RIGHT])
def test_the_conformance_kit_passes_what_is_right(kind: str) -> None:
    check_tensors_follow_the_device(variant(Odd, kind=kind), (ALIKE,))


def test_the_conformance_kit_looks_at_the_scores_too() -> None:
    class Scores(Odd):
        def predict(self, student: Outputs) -> Tensor:
            return student.logits * torch.tensor(2.0, device=student.logits.device)

    with pytest.raises(Broken, match=r"torch.tensor copies from the host \(test_device.py"):
        check_tensors_follow_the_device(variant(Scores, kind="fine"), (ALIKE,))


def test_the_walked_backward_pass_gives_the_gradients_of_the_engine() -> None:
    def gradients(walked: bool) -> list[Tensor]:
        cls = registry.get("semckd+crd")
        trainee = Trainee(Problem(ALIKE), cls)
        with patch.object(torch.autograd, "_engine_run_backward", walk) if walked else contextlib.nullcontext():
            torch.stack(list(trainee.terms(trainee.some_batch()).values())).sum().backward()
        return [p.grad for p in (*trainee.student.parameters(), *trainee.method.parameters()) if p.grad is not None]

    ours, theirs = gradients(True), gradients(False)
    assert len(ours) == len(theirs) > 50
    torch.testing.assert_close(ours, theirs)
