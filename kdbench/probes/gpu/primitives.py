"""Checks 1 to 8: what torch's graphs, streams, generators, fused optimizer and loss scale do on this device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.engine import torch_private
from kdbench.engine.evaluate import measure
from kdbench.engine.graph import capture
from kdbench.engine.precision import Scaler
from kdbench.engine.schedule import fill_momentum, set_rate
from kdbench.probes.gpu import small
from kdbench.probes.gpu.table import demand
from kdbench.utils import environment
from kdbench.utils.plan import BatchPlan

_WORDS = ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING")


def versions(device: torch.device) -> str:
    """Check 1."""
    found = [f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"]
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        name = "{} ({}.{})".format(torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device))
        found.append(f"{name}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free")
        found += driver(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    else:
        found.append(environment.cpu_name())
    found += [f"{word}={os.environ[word]}" for word in _WORDS if word in os.environ]
    if torch_private.failed_captures_stay_open():
        found.append("torch before 2.13: a capture that fails may be the last one of its process")
    odd = {
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", "0") != "0",
        "PYTORCH_CUDA_ALLOC_CONF": "cudaMallocAsync" in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }
    wrong = [f"unset {word}" for word, is_odd in odd.items() if is_odd]
    return demand(not wrong, "; ".join([*wrong, *found]))


def driver(uuid: str) -> list[str]:
    """What NVIDIA's own tool says of a GPU: its driver and compute mode, and who else computes on it; [] without it.

    >>> driver("GPU-of-nobody")
    []
    """

    def ask(what: str) -> list[str]:
        line = ["nvidia-smi", f"--id={uuid}", what, "--format=csv,noheader"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=True)
        return [one.strip() for one in done.stdout.splitlines() if one.strip()]

    try:
        version, mode = ask("--query-gpu=driver_version,compute_mode")[0].split(", ")
        others = [one for one in ask("--query-compute-apps=pid") if one != str(os.getpid())]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []
    return [f"driver {version}, compute mode {mode}, {len(others)} other processes"]


def sync_mode(device: torch.device) -> str:
    """Check 2."""
    x = torch.ones(1, device=device)
    raised = ""
    try:
        with capture.strict():
            x.item()
    except RuntimeError as error:
        raised = str(error).splitlines()[0]
    mode = torch.cuda.get_sync_debug_mode()
    return demand(bool(raised) and mode == 0 and x.item() == 1, f"said {raised!r}, mode {mode} after it")


def toy_graph(device: torch.device) -> str:
    """Check 3."""
    machine = small.machine_on(device)
    x, y = torch.zeros(1, device=device), torch.zeros(1, device=device)

    def first() -> Tensor:
        x.add_(1)
        return x * 2

    def second() -> Tensor:
        y.add_(1)
        return y * 3

    with machine.together():
        (one, doubled), (other, tripled) = machine.record(first), machine.record(second)
    for _ in range(1000):
        one()
    kept = doubled.clone()
    other()
    found = x.item(), y.item(), kept.item(), tripled.item()
    return demand(
        found == (1000, 1, 2000, 3), f"counts {found[0]:g} and {found[1]:g}, results {found[2]:g}, {found[3]:g}"
    )


def random_numbers(device: torch.device) -> str:
    """Check 4."""

    class Rolling:
        def __init__(self, seed: int) -> None:
            self.rng = {"cuda": torch.Generator(device).manual_seed(seed).get_state()}

    lanes = [Rolling(1), Rolling(2)]
    usual = torch.cuda.get_rng_state(device)
    machine = small.machine_on(device)
    drawn = [torch.zeros(1000, device=device) for _ in lanes]

    def work(lane: Rolling) -> None:
        drawn[lanes.index(lane)].copy_(torch.rand(1000, device=device) + torch.randn(1000, device=device))

    machine.dice(lanes)  # type: ignore[arg-type]
    replay, _ = machine.record(lambda: machine.branches(lanes, work))  # type: ignore[arg-type]
    wanted = [torch.Generator(device).manual_seed(seed) for seed in (1, 2)]
    for number in range(5):
        if number == 3:  # a state set in between
            for lane, draw in zip(lanes, wanted, strict=True):
                lane.rng = {"cuda": draw.manual_seed(7).get_state()}
            machine.dice(lanes)  # type: ignore[arg-type]
        replay()
        machine.put_dice(lanes)  # type: ignore[arg-type]
        for lane, draw, ours in zip(lanes, wanted, drawn, strict=True):
            own = torch.rand(1000, generator=draw, device=device)
            theirs = own + torch.randn(1000, generator=draw, device=device)
            demand(torch.equal(ours, theirs), f"replay {number + 1} gave other numbers than the generator")
            demand(torch.equal(lane.rng["cuda"], draw.get_state()), f"replay {number + 1} left another state")
    demand(torch.equal(torch.cuda.get_rng_state(device), usual), "the default generator has moved")
    return "equal numbers and states in 5 replays"


def branches(device: torch.device) -> str:
    """Check 5."""

    class Branch:
        def __init__(self) -> None:
            self.rng = {"cuda": torch.Generator(device).get_state()}
            self.out = torch.zeros(64, 64, device=device)

    draw = torch.Generator().manual_seed(0)
    shared = (torch.randn(64, 64, generator=draw) / 8).to(device)
    some = [Branch() for _ in range(6)]

    def work(one: Branch) -> None:
        x = shared
        for _ in range(200):
            x = (x @ shared).tanh()
        one.out.copy_(x)

    work(some[0])
    wanted = some[0].out.clone()
    machine = small.machine_on(device)
    machine.dice(some)  # type: ignore[arg-type]
    replay, _ = machine.record(lambda: machine.branches(some, work))  # type: ignore[arg-type]
    for number in range(50):
        for one in some:
            one.out.zero_()
        replay()
        demand(all(torch.equal(one.out, wanted) for one in some), f"replay {number + 1} differs from one stream")
    return "6 branches equal in 50 replays"


def fused(device: torch.device) -> str:
    """Check 6."""

    def parameters() -> list[nn.Parameter]:
        draw = torch.Generator().manual_seed(0)
        shapes = (8, 4, 1, 1), (8, 4, 3, 3), (10,), (5,)
        made = [torch.randn(shape, generator=draw).to(device) for shape in shapes]
        return [nn.Parameter(x.to(memory_format=torch.channels_last) if x.ndim == 4 else x) for x in made]

    def optimizer(ours: list[nn.Parameter], *, fused: bool) -> torch.optim.Optimizer:
        rate = torch.tensor(0.1, device=device) if fused else 0.1
        return torch.optim.SGD(ours, lr=rate, momentum=0.9, weight_decay=5e-4, fused=fused, foreach=not fused)

    ours, theirs = parameters(), parameters()
    idle = ours[3].detach().clone()
    mine, plain = optimizer(ours, fused=True), optimizer(theirs, fused=False)
    fill_momentum(mine)

    def step(some: list[nn.Parameter], made: torch.optim.Optimizer) -> None:
        made.zero_grad(set_to_none=True)
        torch.stack([(p.square().sum() + p.sin().sum()) for p in some[:3]]).sum().backward()
        made.step()

    replay: Callable[[], object] = lambda: step(ours, mine)  # noqa: E731
    if device.type == "cuda":
        kept = [p.detach().clone() for p in ours]
        for _ in range(3):
            replay()
        with torch.no_grad():
            for p, value in zip(ours, kept, strict=True):
                p.copy_(value)
            for state in mine.state.values():
                state["momentum_buffer"].zero_()
        replay, _ = small.machine_on(device).record(replay)
    worst = 0.0
    for rate in (0.1, 0.1, 0.01, 0.001):
        set_rate(mine, rate)
        set_rate(plain, rate)
        replay()
        step(theirs, plain)
        for p, q in zip(ours, theirs, strict=True):
            worst = max(worst, ((p - q).abs().max() / q.abs().max()).item())
    demand(torch.equal(ours[3], idle), "a parameter without a gradient has moved")
    return demand(worst <= 1e-6, f"largest difference {worst:.1e} of the largest weight")


def loss_scale(device: torch.device) -> str:
    """Check 7."""
    weight = nn.Parameter(torch.ones(4, device=device))
    made = torch.optim.SGD([weight], lr=torch.tensor(0.1, device=device), momentum=0.9, fused=True)
    fill_momentum(made)
    scaler, bad = Scaler(device, enabled=True), torch.zeros((), device=device)

    def step() -> None:
        made.zero_grad(set_to_none=True)
        scaler.scale((weight * (1 + bad)).sum()).backward()
        scaler.step(made)

    replay: Callable[[], object] = step
    if device.type == "cuda":
        begun = scaler.state_dict()
        for _ in range(3):
            step()
        with torch.no_grad():
            weight.fill_(1.0)
            made.state[weight]["momentum_buffer"].zero_()
        scaler.load_state_dict(begun)
        replay, _ = small.machine_on(device).record(step)
    for number in range(6):
        before = weight.detach().clone(), made.state[weight]["momentum_buffer"].clone()
        bad.fill_(float("inf") if number in (0, 3) else 0.0)
        replay()
        same = torch.equal(weight, before[0]) and torch.equal(made.state[weight]["momentum_buffer"], before[1])
        demand(same is (number in (0, 3)), f"step {number + 1} was {'skipped' if same else 'taken'}")
    found = scaler.state_dict()
    return demand(
        (found["scale"], found["_growth_tracker"]) == (256.0, 2),
        f"scale {found['scale']:g}, clock {found['_growth_tracker']}; the steps that overflowed were skipped",
    )


def batches(device: torch.device) -> str:
    """Check 8."""
    cpu = torch.device("cpu")
    feeds = [small.loader(where) for where in (cpu, device)]
    draw = torch.Generator().manual_seed(3)
    n = 1000
    plan = BatchPlan(
        torch.randint(small.IMAGES, (n,), generator=draw),
        torch.randint(9, (n,), generator=draw),
        torch.randint(9, (n,), generator=draw),
        torch.rand(n, generator=draw) < 0.5,
    )
    moved = [plan.each(lambda part, feed=feed: part.to(feed.device)) for feed in feeds]  # type: ignore[misc]
    ours, theirs = (feed.gather(its).cpu() for feed, its in zip(feeds, moved, strict=True))
    demand(torch.equal(ours, theirs), "batches differ from those of the CPU")
    logits, label = torch.randn(n, 10, generator=draw), torch.randint(10, (n,), generator=draw)
    said = [measure(logits.to(where), label.to(where)) for where in (cpu, device)]
    apart = max(abs(said[0][name] - said[1][name]) / max(1.0, abs(said[0][name])) for name in said[0])
    return demand(apart <= 1e-5, f"equal pixels; scores differ by {apart:.0e}")
