"""Changes the process that all methods run in."""

from __future__ import annotations

import builtins
import gc
import hashlib
import io
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench import Batch, Distiller, Outputs, Pair, kl
from kdbench.engine import evaluate
from kdbench.engine.evaluate import predictions
from kdbench.methods import kd
from kdbench.registry import discovery

_kept: list[Any] = []


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _enter(manager: Any) -> None:
    _kept.append(manager)
    manager.__enter__()


def _without_gradients(grad: Tensor) -> Tensor:
    torch._C._set_grad_enabled(False)
    return grad


def _close_files() -> None:
    os.close(1)
    os.close(2)


def _alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 30)


def _limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))


def _new_environment() -> None:
    os.environ = {}  # type: ignore[assignment]  # noqa: B003


def _warn(*_: object, **__: object) -> None:
    raise OSError


def _other(student: Tensor, teacher: Tensor, tau: Any) -> Tensor:
    return student.sum()


NAMES = "what torch, Python or kdbench calls by a name"
KINDS: dict[str, tuple[Callable[[], object], str]] = {
    "threads": (lambda: torch.set_num_threads(2), "the number of threads"),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
    "device": (lambda: torch.set_default_device("meta"), "torch's modes"),
    "no grad": (lambda: torch._C._set_grad_enabled(False), "RuntimeError in epoch 1: element 0 of tensors does not"),
    "no grad in backward": (lambda: None, ""),  # torch puts it back itself
    "inference": (lambda: _enter(torch.inference_mode()), "epoch 1: "),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), "the gradient mode"),
    "autocast": (lambda: _enter(torch.autocast("cpu", torch.bfloat16)), "autocast"),
    "autocast dtype": (lambda: torch.set_autocast_dtype("cpu", torch.float16), "autocast"),
    "saved tensors": (
        lambda: _enter(torch.autograd.graph.saved_tensors_hooks(lambda x: x * 0, lambda x: x)),
        "the hooks on saved tensors",
    ),
    "function mode": (lambda: _enter(_Functions()), "torch's modes"),
    "dispatch mode": (lambda: _enter(_Dispatch()), "torch's modes"),  # type: ignore[no-untyped-call]
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "the choice of deterministic algorithms"),
    "benchmark": (lambda: setattr(torch.backends.cudnn, "benchmark", True), "cuDNN's switches"),
    "tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), "the precision of fp32 products"),
    "medium": (lambda: torch.set_float32_matmul_precision("medium"), "the precision of fp32 products"),
    "mkldnn": (lambda: torch._C._set_mkldnn_enabled(False), "oneDNN's switches"),
    "tiny": (lambda: torch.set_flush_denormal(True), "the rounding of tiny numbers"),
    "attention": (lambda: torch.backends.cuda.enable_flash_sdp(False), "the choice of attention kernels"),
    "module hook": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        "the hooks on all modules",
    ),
    "cross entropy": (lambda: setattr(F, "cross_entropy", F.nll_loss), "what torch, Python or kdbench calls by a name"),
    "base class": (
        lambda: setattr(Distiller, "loss", lambda *_: {}),
        "what torch, Python or kdbench calls by a name",
    ),
    "a layer": (lambda: setattr(nn.Conv2d, "forward", nn.Linear.forward), NAMES),
    "a layer's inherited forward": (lambda: setattr(nn.BatchNorm2d, "forward", lambda self, x: 2 * x), NAMES),
    "another method": (lambda: setattr(kd.KD, "terms", lambda *_: {}), NAMES),
    "another method's base": (lambda: setattr(kd.KD, "loss", lambda *_: {}), NAMES),
    "the defaults of a function": (lambda: setattr(predictions, "__defaults__", (None,)), NAMES),
    "defaults by keyword": (lambda: vars(Distiller)["__init__"].__kwdefaults__.update(tau=1.0), NAMES),
    "the body of a function": (lambda: setattr(kl, "__code__", _other.__code__), NAMES),
    "how layers begin": (lambda: setattr(nn.init, "kaiming_normal_", lambda tensor, **_: tensor), NAMES),
    "a digest": (lambda: setattr(hashlib, "sha256", hashlib.md5), NAMES),
    "a name before Python's own": (lambda: setattr(evaluate, "len", lambda _: 1), NAMES),
    "how all methods are compared": (lambda: setattr(Distiller, "__eq__", lambda *_: 1 / 0), NAMES),
    "the registry": (lambda: discovery._classes.pop("kd"), NAMES),
    "print": (lambda: setattr(builtins, "print", None), "what torch, Python or kdbench calls by a name"),
    "folder": (lambda: os.chdir("/"), "the current folder"),
    "stdout replaced": (lambda: setattr(sys, "stdout", io.StringIO()), "standard output or error"),
    "stdout closed": (lambda: sys.stdout.close(), "standard output or error"),
    "stderr none": (lambda: setattr(sys, "stderr", None), "standard output or error"),
    "files closed": (_close_files, "the files of standard input and output"),
    "interrupt": (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), "the signal handlers"),
    "interrupt by default": (lambda: signal.signal(signal.SIGINT, signal.default_int_handler), "the signal handlers"),
    "user signal": (lambda: signal.signal(signal.SIGUSR1, lambda *_: None), "all signal handlers"),
    "alarm": (_alarm, "the timers"),
    "warnings": (lambda: warnings.simplefilter("always"), "the warnings filters"),
    "warnings reset": (warnings.resetwarnings, "the warnings filters"),
    "showwarning": (lambda: setattr(warnings, "showwarning", _warn), "the warnings filters"),
    "variable": (lambda: os.environ.update(OMP_NUM_THREADS="7", NEW="1"), "the environment variables"),
    "variables gone": (lambda: os.environ.clear(), "the environment variables"),
    "new environment": (_new_environment, "the environment variables"),
    "random": (lambda: random.seed(0), "Python's random numbers"),
    "numpy random": (lambda: np.random.seed(0), "numpy's random numbers"),
    "numpy draw": (lambda: np.random.rand(), "numpy's random numbers"),
    "numpy errors": (lambda: np.seterr(all="raise"), "numpy's handling of errors"),
    "recursion": (lambda: sys.setrecursionlimit(100), "the recursion limit"),
    "garbage": (gc.disable, "the garbage collector"),
    "excepthook": (lambda: setattr(sys, "excepthook", None), "the interpreter's hooks"),
    "trace": (lambda: sys.settrace(lambda *_: None), "the interpreter's hooks"),
    "thread hook": (lambda: setattr(threading, "excepthook", None), "the interpreter's hooks"),
    "umask": (lambda: os.umask(0o777), "the mode of new files"),
    "limits": (_limits, "the limits of the process"),
    "seed": (lambda: torch.manual_seed(0), ""),
    "sleep": (lambda: time.sleep(0.001), ""),
}


class Process(Distiller):
    """Does what ``kind`` says, where ``when`` says: in the loss, on_stage, predict or __init__."""

    reference = "none"
    provenance = "formula"

    def __init__(self, pair: Pair, *, kind: str = "", when: str = "terms") -> None:
        super().__init__(pair, kd_weight=1.0)
        self.kind, self.when, self.armed = kind, when, False
        self._do("init")

    def _do(self, here: str) -> None:
        if self.when == here and (self.armed or here == "init"):
            KINDS[self.kind][0]()

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self._do("terms")
        if self.kind == "no grad in backward":
            student.logits.register_hook(_without_gradients)
        return {"own": student.pooled.square().mean()}

    def on_stage(self, stage: str) -> None:
        self._do("on_stage")

    def predict(self, student: Outputs) -> Tensor:
        self._do("predict")
        return student.logits
