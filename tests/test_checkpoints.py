"""Checkpoints worth reading are read, all others are refused in one sentence; no code in them is run."""

from __future__ import annotations

import argparse
import builtins
import collections
import os
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdbench.models import create
from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.safe_load import _Ignored, open_safely

State = dict[str, Tensor]


def network(fill: float | None = None) -> State:
    """A state dict of resnet8; with ``fill``, one that can be told from it."""
    state = dict(create("resnet8", 10).net.state_dict())
    return state if fill is None else {k: torch.full_like(v, fill) for k, v in state.items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def taken(file: Path, content: Any, notes: list[str] | None = None, **words: Any) -> State:
    """What ``teacher import`` would make of ``content``."""
    torch.save(content, file)
    say = (notes if notes is not None else []).append
    return match(read_checkpoint(file, note=say, **words), create("resnet8", 10), note=say)


def same(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def compiled(state: State) -> State:
    return {key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()}


@pytest.mark.parametrize(
    "container",
    [
        lambda s: {"net": s, "acc": 93.1, "epoch": 12},
        lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}},
        lambda s: {"model": {"state_dict": s}, "epoch": 1},
        lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.4", "loops": {}},
        lambda s: {"state_dict": prefixed(s, "net.") | {"criterion.weight": torch.ones(10)}},
        lambda s: {"state_dict": prefixed(s, "model.module._orig_mod.")},
        lambda s: {"state_dict": prefixed(s, "backbone.encoder.")},
        lambda s: {"n_averaged": torch.tensor(7)} | prefixed(s, "module."),
        lambda s: {"model": {"n_averaged": torch.tensor(7)} | prefixed(s, "module.module.")},
        lambda s: prefixed(s, "_orig_mod.module."),
        compiled,
        lambda s: prefixed(s, "student.net.") | {"method.embed.weight": torch.ones(3)},
        lambda s: {"state_dict": s, "acc": np.float64(72.3), "mean": np.float32(1), "n": np.int64(3)},
        lambda s: s | {"best_acc": np.float64(72.3), "epoch": 240},
        lambda s: {
            "model": s,
            "history": np.arange(5),
            "seed": np.random.RandomState(0).get_state(legacy=False)["state"]["key"],
        },
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"))},
        lambda s: {"model": s, "seen": collections.defaultdict(list, {"a": [1]}), "rates": collections.Counter("ab")},
        lambda s: {"model": collections.defaultdict(float, s)},
        lambda s: {"model": s, "torch": torch.__version__},
    ],
)
def test_worth_reading(tmp_path: Path, container: Callable[[State], Any]) -> None:
    state = network()
    assert same(taken(tmp_path / "x.pth", container(state)), state)


def test_a_kept_student_is_a_teacher(tmp_path: Path) -> None:
    net = create("resnet8", 10)
    save_file(prefixed(dict(net.state_dict()), "student."), tmp_path / "kd-s0.safetensors")
    read = match(read_checkpoint(tmp_path / "kd-s0.safetensors"), create("resnet8", 10))
    assert same(read, dict(net.net.state_dict()))
    (tmp_path / "kd-s0.safetensors").rename(tmp_path / "renamed.pth")
    assert same(match(read_checkpoint(tmp_path / "renamed.pth"), create("resnet8", 10)), read)


@pytest.mark.parametrize(
    "both",
    [
        lambda plain, mean: {"state_dict": plain, "state_dict_ema": mean},
        lambda plain, mean: {"model": plain, "model_ema": {"n_averaged": torch.tensor(3)} | prefixed(mean, "module.")},
        lambda plain, mean: {"net": plain, "ema": {"state_dict": mean}},
        lambda plain, mean: {"state_dict": prefixed(plain, "model.") | prefixed(mean, "model_ema.module.")},
        lambda plain, mean: prefixed(plain, "net.") | prefixed(mean, "ema."),
    ],
)
def test_plain_and_averaged(tmp_path: Path, both: Callable[[State, State], Any]) -> None:
    notes: list[str] = []
    plain, mean = network(1), network(2)
    assert same(taken(tmp_path / "x.pth", both(plain, mean), notes), plain)
    assert "--ema reads the averaged ones" in notes[0]
    assert same(taken(tmp_path / "x.pth", both(plain, mean), ema=True), mean)


def test_averaged_alone(tmp_path: Path) -> None:
    notes: list[str] = []
    assert same(taken(tmp_path / "x.pth", {"model_ema": network(2)}, notes), network(2))
    assert not notes
    with pytest.raises(ValueError, match=r"x.pth holds no averaged weights, neither under state_dict_ema, "):
        taken(tmp_path / "x.pth", {"model": network(1)}, ema=True)


def test_several_containers_are_told_of(tmp_path: Path) -> None:
    notes: list[str] = []
    assert same(taken(tmp_path / "x.pth", {"net": network(3), "model": network(1)}, notes), network(1))
    assert notes == ["x.pth holds weights under model and net; those of model are read"]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    taken(tmp_path / "x.pth", {"state_dict": prefixed(network(), "net.") | {"loss.w": torch.ones(2)}}, notes)
    assert notes == ["resnet8 was read from net.*; what lies under loss was left out"]


def test_a_prefix_says_which(tmp_path: Path) -> None:
    both = prefixed(network(1), "a.") | prefixed(network(2), "b.module.")
    with pytest.raises(
        ValueError, match=r"2 networks in these weights fit resnet8, under a., b.module.; --prefix says which"
    ):
        taken(tmp_path / "x.pth", both)
    assert same(taken(tmp_path / "x.pth", both, prefix="a"), network(1))
    assert same(taken(tmp_path / "x.pth", both, prefix="b."), network(2))
    with pytest.raises(ValueError, match=r"no key in .*x.pth starts with 'c.'; it has a, b$"):
        taken(tmp_path / "x.pth", both, prefix="c")
    assert same(taken(tmp_path / "x.pth", prefixed(network(2), "student.") | both, prefix="student"), network(2))


def test_a_prefix_does_not_hide_another_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^these weights are not for resnet8: 1 missing \(fc.bias\)$"):
        taken(tmp_path / "x.pth", {k: v for k, v in prefixed(network(), "model.").items() if k != "model.fc.bias"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in network().items()}
    read = taken(tmp_path / "x.pth", state)
    assert {v.dtype for v in read.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(read[k], v.to(read[k].dtype)) for k, v in state.items())


def test_averaged_counters(tmp_path: Path) -> None:
    state = network() | {"bn1.num_batches_tracked": torch.tensor(20.0)}
    assert taken(tmp_path / "x.pth", state)["bn1.num_batches_tracked"].equal(torch.tensor(20))


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(10, 64), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (lambda: torch.ones(10, 64).to_sparse(), r"1 of another kind \(fc.weight sparse instead of float32\)"),
        (lambda: torch.ones(10, 64).to_sparse_csr(), r"\(fc.weight sparse instead of float32\)"),
        (lambda: torch.ones(10, 64, device="meta"), r"\(fc.weight without values instead of float32\)"),
        (lambda: torch.ones(10, 64, dtype=torch.complex64), r"\(fc.weight complex64 instead of float32\)"),
        (lambda: torch.ones(10, 64, dtype=torch.int8), r"\(fc.weight int8 instead of float32\)"),
        (lambda: torch.ones(10, 64, dtype=torch.bool), r"\(fc.weight bool instead of float32\)"),
        (lambda: torch.ones(10, 64).to(torch.float8_e4m3fn), r"\(fc.weight float8_e4m3fn instead of float32\)"),
        (lambda: torch.ones(1).expand(10**9, 10**6), r"1 of another shape \(fc.weight \(1000000000, 1000000\) inst"),
        (lambda: torch.tensor(1.0), r"1 of another shape \(fc.weight \(\) instead of \(10, 64\)\)"),
        (lambda: torch.full((10, 64), torch.nan), r"these weights are not for use: 1 not finite \(fc.weight\)"),
        (lambda: torch.full((10, 64), torch.inf), r"1 not finite \(fc.weight\)"),
        (lambda: torch.full((10, 64), 1e300, dtype=torch.float64), r"1 not finite \(fc.weight\)"),  # in float32
        (lambda: nn.Parameter(torch.ones(9, 64)), r"1 of another shape \(fc.weight \(9, 64\)"),
        (lambda: "a string", r"1 missing \(fc.weight\)"),
    ],
)
def test_odd_tensors(tmp_path: Path, odd: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        taken(tmp_path / "x.pth", {"model": network() | {"fc.weight": odd()}})
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(fc.weight quantised instead of float32\)"):
        taken(tmp_path / "x.pth", network() | {"fc.weight": quantised()})


def test_names_from_a_strangers_file_are_legible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 unexpected \(\?\?31mred\?line\)") as caught:
        taken(tmp_path / "x.pth", network() | {"\x1b[31mred\nline": torch.ones(1)})
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=r"holds no state dict, .*; it has \?\?31mred, y{80}$"):
        taken(tmp_path / "x.pth", {"\x1b[31mred": 1, "y" * 1000: 2})


class Call:
    """Pickles as a call, whatever of."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(exec, "ran = 1"),
        Call(getattr, "", "join"),
        Call(builtins.__import__, "os"),
        Call(os.system, "echo ran"),
        Call(torch.load, "x"),
        Call(nn.Linear, 2, 2),
        Call(np.loadtxt, "/etc/hostname"),
        Call(map, len, []),
        Call(collections.deque, [1]),
    ],
    ids=lambda call: call.call[0].__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_call_is_made(tmp_path: Path, call: Call, zipped: bool) -> None:
    torch.save({"model": network(), "x": call}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x.pth is refused, because reading it might run code \([\w.]+\); save its"):
        read_checkpoint(tmp_path / "x.pth")


def test_what_stands_in_for_an_object_is_no_object(tmp_path: Path) -> None:
    """Names that are allowed because they lie beside state dicts do nothing, whatever their pickle says."""
    odd = {"at": Call(pathlib.PosixPath, "a"), "n": Call(list, [1]), "s": Call(str, 1), "d": np.dtype("f8")}
    torch.save({"model": network()} | odd, tmp_path / "x.pth")
    content = open_safely(tmp_path / "x.pth")
    assert {type(content[key]) for key in odd} == {_Ignored}
    assert not any(vars(content[key]) for key in odd)


@pytest.mark.parametrize("zipped", [True, False])
def test_bombs(tmp_path: Path, zipped: bool) -> None:
    """A byte array of 10^15 zeros is asked for in 20 bytes."""
    torch.save(
        {"model": network(), "x": Call(bytearray, 10**15)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        ValueError, match=r"x.pth is refused, because it asks for a byte array, which may be of any size"
    ):
        read_checkpoint(tmp_path / "x.pth")


def test_compressed_bombs(tmp_path: Path) -> None:
    torch.save({"model": network()}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as plain, zipfile.ZipFile(tmp_path / "y.pth", "w") as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
        packed.writestr("archive/data/99", bytes(10**7), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"y.pth is refused: its [\d,]+ bytes unpack to 1\d,\d{3},\d{3}, and torch"):
        read_checkpoint(tmp_path / "y.pth")


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(b"x")

    def refuse(*args: object, **words: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"x.pth cannot be opened: Permission denied"):
        read_checkpoint(file)


def test_a_lying_safetensors_header(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"x.safetensors is not a safetensors file: "):
        read_checkpoint(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes((10**15).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"y.safetensors is not a safetensors file: "):
        read_checkpoint(tmp_path / "y.safetensors")
