"""What tests of several files share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run
from toys import Plugin

from kdbench import registry
from kdbench.models.entered import ENTERED
from kdbench.registry import digests, discovery
from kdbench.run import clock

#: Every test process measures the machine for itself: nothing of the user's own cache is read or written.
_cache = tempfile.TemporaryDirectory(prefix="kdbench-cache-", ignore_cleanup_errors=True)
os.environ["KDBENCH_CACHE"] = _cache.name


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests are made, and all of them stay: there is no garbage to look for meanwhile."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Results do not depend on the number of cores, and two workers do not spin."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _how_busy_the_machine_is_is_seen_at_a_glance() -> Iterator[None]:
    """Every run looks for a quarter of a second, for its estimate; hundreds of them do."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clock, "LOOK", 0.005)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell's background jobs start with it ignored, and so would the runs that the tests interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_looked_through() -> None:
    """Captures and compilers collect garbage each time, and look through thousands of tests and all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _devices_that_are_not_there_are_not_seeded() -> Iterator[None]:
    """Until such a device is first used torch notes down where each seed came from: the whole stack, three times."""
    with pytest.MonkeyPatch.context() as patched:
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available() and hasattr(device, "manual_seed_all"):  # torch 2.9 has none for mtia
                patched.setattr(device, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _that_something_is_frozen_is_known() -> Iterator[None]:
    """Python counts it object by object, of which there are millions here, and every report asks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gc, "get_freeze_count", lambda: 1)
        yield


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """A test that leaves a method behind would decide by its place in the order what others find."""
    yield
    left = [name for name, cls in discovery._classes.items() if not cls.__module__.startswith("kdbench.")]
    assert not left, f"the test registers {', '.join(left)}; `own_registry` forgets it"


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods and networks that the test registers are forgotten, as are its plug-ins."""
    registry.names()  # discovered before, not inside
    for table in ("_classes", "_broken", "_refused"):
        monkeypatch.setattr(discovery, table, dict(getattr(discovery, table)))
    monkeypatch.setattr(digests, "_imported", dict(digests._imported))
    monkeypatch.setattr(discovery, "_attending", [*discovery._attending])  # an example shows how it is filled
    for name in list(sys.modules):
        if name.startswith("kdbench_plugin_"):
            monkeypatch.delitem(sys.modules, name)
    networks = dict(ENTERED)
    yield
    ENTERED.clear()
    ENTERED.update(networks)


@pytest.fixture
def plugin(own_registry: None) -> Plugin:
    """Gives the class that a plug-in file registers."""
    return lambda file: registry.get(registry.load_plugin(file))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are put together and not drawn, for tests of what stands around them."""
    from kdbench.report import style

    monkeypatch.setattr(style, "render", lambda figure, kind: f"<svg><!-- {kind} --></svg>".encode())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small grid of kd and fitnet, run to its end; tests must not change it."""
    out = tmp_path_factory.mktemp("finished")
    result = run(out)
    assert result.exit_code == 0, result.output
    return out
