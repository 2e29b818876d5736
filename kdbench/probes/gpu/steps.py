"""Checks 9 to 13 and 16: captured steps, evaluations and tables of the engine against their plain counterparts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench import models
from kdbench.data import Loader
from kdbench.distiller import Batch
from kdbench.engine.evaluate import evaluate
from kdbench.engine.fit import Setting, look
from kdbench.engine.graph.cached_teacher import resident
from kdbench.engine.graph.eval_step import Exam
from kdbench.engine.graph.train_step import CannotCapture
from kdbench.engine.lane import Lane
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import Place
from kdbench.probes.gpu import small
from kdbench.probes.gpu.table import NotHere, demand
from kdbench.run.teacher_cache import TOLERANCE

#: What a method's loss may differ by between CPU and GPU, relative; angles and differences of near-equal sums more.
FAR = {"nst": 1e-3, "ft": 1e-3, "rkd": 1e-3, "pkt": 1e-3}
#: Classes at which CRD draws instead of sorting, in small.
DRAWN: dict[str, dict[str, Any]] = {"crd": {"nce_k": 64}}


def precisions(device: torch.device) -> tuple[str, ...]:
    """Those that the device has, but for fp16, which is amp there."""
    return ("fp32", "tf32", "amp", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def methods(device: torch.device) -> str:
    """Check 9."""
    feed, wrong, seen = small.loader(device), list[str](), 0
    for precision in precisions(device):
        where = small.setting(device, feed, precision)
        for name in small.METHODS:
            for hyper in ({}, DRAWN[name]) if name in DRAWN else ({},):
                made = small.captured([small.lane(name, device, precision=precision, **hyper)], feed, where)
                wrong += [f"{name} in {precision}: {why}" for why in made.faults(0).values()]
                seen += 1
    small.setting(device, feed)
    for name in ("mlkd", "kdsvd") if device.type == "cuda" else ():
        try:
            small.captured([small.lane(name, device)], feed, small.setting(device, feed))
        except (CannotCapture, AssertionError):
            continue
        wrong.append(f"{name} was captured, though it asks the host")
    return demand(not wrong, "; ".join(wrong) or f"{seen} steps repeat as they are called")


def on_the_cpu(device: torch.device) -> str:
    """Check 10."""
    cpu, wrong, worst = torch.device("cpu"), list[str](), 0.0
    feeds = {where: small.loader(where) for where in (cpu, device)}
    settings = {where: small.setting(where, feed) for where, feed in feeds.items()}
    for name in small.METHODS:
        if name == "crd":
            continue  # each device draws other negatives
        ours, theirs = (_terms(small.lane(name, where), feeds[where], settings[where]) for where in (device, cpu))
        for term, value in theirs.items():
            apart = abs(ours[term] - value) / max(abs(value), 1e-6)
            worst = max(worst, apart)
            if apart > FAR.get(name, 1e-4):
                wrong.append(f"{name}'s {term} is {ours[term]:.6g}, on the CPU {value:.6g}")
    return demand(not wrong, "; ".join(wrong) or f"largest relative difference {worst:.0e}")


def _terms(one: Lane, feed: Loader, where: Setting) -> dict[str, float]:
    image, label, idx = next(feed.epoch(0))
    found = one.update(look(where, image), Batch(image, label, idx, torch.tensor(0.0, device=one.device)))
    return {name: value.item() for name, value in found.items()}


def epochs(device: torch.device) -> str:
    """Check 11."""
    feed = small.loader(device)
    where = small.setting(device, feed)
    deterministic = torch.are_deterministic_algorithms_enabled() or device.type == "cpu"
    plain, ours, resumed = (small.lane("crd", device) for _ in range(3))
    made = small.captured([ours], feed, where)
    state = None
    for epoch in range(small.EPOCHS):
        for one in (plain, ours):
            one.start_epoch()
        for image, label, idx in feed.epoch(epoch):
            plain.step(look(where, image), Batch(image, label, idx, torch.tensor(0.0, device=device)))
        for _ in made.epoch(epoch):
            pass
        for one in (plain, ours):
            one.end_epoch(0.0)
            demand(not one.failure, str(one.failure))
        evaluate([ours], lambda: feed.plain(100), None, models.fold)
        if epoch == 0:
            state = _copy(ours.state())
    assert state is not None
    resumed.restore(state)
    again = small.captured([resumed], feed, where)
    for epoch in range(1, small.EPOCHS):
        resumed.start_epoch()
        for _ in again.epoch(epoch):
            pass
        resumed.end_epoch(0.0)
    loop, rest = _apart(ours, plain), _apart(ours, resumed)
    said = f"terms of the epochs differ by {loop:.0e} from the loop's, by {rest:.0e} from those of a resumed lane"
    return demand(max(loop, rest) <= (1e-6 if deterministic else 5e-2), said)


def _copy(state: Any) -> Any:
    """Tensors of a state on the CPU, so that what goes on does not change them."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return type(state)((key, _copy(value)) for key, value in state.items())
    return [_copy(value) for value in state] if isinstance(state, list) else state


def _apart(one: Lane, other: Lane) -> float:
    """Largest relative difference of the terms of two lanes' epochs."""
    pairs = [(ours["terms"], theirs["terms"]) for ours, theirs in zip(one.curve, other.curve, strict=True)]
    return float(max(abs(a[name] - b[name]) / max(abs(b[name]), 1e-6) for a, b in pairs for name in b))


def evaluation(device: torch.device) -> str:
    """Check 12."""
    feed, notes, worst = small.loader(device, 512), list[str](), 0.0
    lanes = [small.lane(name, device) for name in ("kd", "simkd")]
    exam = Exam(feed.plain(200), lanes, fold=models.fold, machine=small.machine_on(device).apart(), note=notes.append)
    demand(not notes, "; ".join(notes))
    for _ in range(2):
        exam.run(None)
        ours = [one.report for one in lanes]
        evaluate(lanes, lambda: feed.plain(200), None, models.fold)
        for one, report in zip(lanes, ours, strict=True):
            images = abs(report["top1"] - one.report["top1"]) * 512 / 100
            worst = max(worst, abs(report["nll"] - one.report["nll"]) / one.report["nll"])
            demand(images < 0.5, f"{one.key}: {images:.0f} of 512 images are judged otherwise")
        with torch.no_grad():
            for one in lanes:
                for weight in one.student.parameters():
                    weight.mul_(1.25)
    return demand(worst <= 1e-4, f"no image is judged otherwise, nll differs by {worst:.0e}")


def table(device: torch.device) -> str:
    """Check 13."""
    feed = small.loader(device)
    where = small.setting(device, feed)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), "doctor", {}, TOLERANCE["fp32"] if device.type == "cuda" else 0.0)
        opened = TeacherTable.opened(place, feed, partial(look, where), lambda _: None, create="pooled")
        if opened is None:
            raise AssertionError("no table could be made")
        try:
            with resident(opened, "pooled", small.machine_on(device), 1e9) as kept:
                worst = 0.0
                for epoch in range(2):
                    plan = feed.plan(epoch)
                    kept.ready(plan)
                    part = plan.part(0, small.BATCH)
                    live, ours = look(where, feed.gather(part)), kept.outputs(part)
                    for name in ("logits", "pooled"):
                        one, other = getattr(live, name).float(), getattr(ours, name).float()
                        worst = max(worst, ((one - other).abs().max() / one.abs().max()).item())
        finally:
            opened.close()
    return demand(worst <= TOLERANCE["fp32"], f"largest relative difference {worst:.0e}")


def timing(device: torch.device) -> str:
    """Check 16."""
    if device.type != "cuda":
        raise NotHere("times of a CPU say nothing of a GPU")
    feed = small.loader(device)
    where = small.setting(device, feed)
    lanes = [small.lane(name, device) for name in small.METHODS[:12]]
    made = small.captured(lanes, feed, where)

    def eager() -> None:
        for image, label, idx in feed.epoch(0):
            seen = look(where, image)
            for one in lanes:
                one.update(seen, Batch(image, label, idx, torch.tensor(0.0, device=device)))

    def best(work: Callable[[], object]) -> tuple[float, float]:
        """Milliseconds of a step: until the host is through with it, and until the device is."""
        found = []
        for _ in range(5):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            work()
            host = time.perf_counter() - started
            torch.cuda.synchronize(device)
            found.append((time.perf_counter() - started, host))
        whole, host = min(found)
        return 1e3 * whole / len(feed), 1e3 * host / len(feed)

    slow, _ = best(eager)
    whole, host = best(lambda: list(made.epoch(0)))
    said = f"{slow:.2f} ms a step called, {whole:.2f} ms repeated, {host:.2f} ms of it the host's"
    return demand(whole <= 0.5 * slow and host < 0.3 * whole, said)
