"""The only door to Ray: is it installed, does a cluster answer, what does it have, is it still there."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdbench.run.outcome import one_line
from kdbench.utils import cores, environment
from kdbench.utils.wording import printable, quoted

#: Seconds that a cluster has to take a connection, and the largest port.
ANSWER, PORTS = 5.0, 65535
#: Seconds in which it says what machines it has.
NODES = 120.0
#: Bytes of the object store of a cluster of our own beside the images; Ray asks for 75 MB at least.
STORE = 256 * 2**20
#: Characters of a temporary folder in which Ray's sockets still have names that the system takes.
LONG = 30
#: What a process that speaks with Ray is told, and how its answer begins.
CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from kdbench.run.executors.cluster.driver import main;"
    " main(sys.argv[1], sys.argv[3])"
)
MARK = "kdbench: "
#: How Ray's processes trust each other.
_AUTH = "RAY_AUTH_MODE"
#: What Ray is told where the user has not said otherwise: it sends no statistics, and sets no device to nothing.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
}


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    name: str  # Ray's own
    host: str
    cpus: float
    gpus: float
    memory: float  # bytes that Ray gives away

    def places(self, device: str, threads: int) -> int:
        """Workers that it has room for."""
        by_cpu = int(self.cpus // threads)
        return min(by_cpu, int(self.gpus)) if device.startswith("cuda") else by_cpu


def installed() -> None:
    """Raises: ValueError: there is no Ray."""
    try:
        there = importlib.util.find_spec("ray") is not None
    except ValueError:  # somebody has put something else in its place
        there = False
    if not there:
        raise ValueError("--executor ray needs Ray, which is not installed; pip install 'kdbench[ray]'")


def library() -> Any:
    """Ray itself.

    Raises:
        ValueError: it is not installed, or cannot be imported.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.exceptions
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--executor ray needs Ray, and there is no module {error.name}; pip install 'kdbench[ray]'"
        ) from error
    except Exception as error:  # built for another Python, say
        raise ValueError(f"--executor ray needs Ray, which cannot be imported: {one_line(error)}") from error
    return ray


def chosen(address: str | None) -> str | None:
    """The cluster that is meant: ``--ray-address``, else what Ray's own tools set in RAY_ADDRESS; None: one of our own.

    Raises:
        ValueError: it is no address.

    >>> chosen("auto"), chosen("10.0.0.7:6379"), chosen("local")
    ('auto', '10.0.0.7:6379', None)
    """
    text = (address or os.environ.get("RAY_ADDRESS") or "local").strip()
    if text == "local":
        return None
    if text == "auto":
        return text
    if text.startswith("ray://"):
        raise ValueError(
            f"--ray-address takes auto or HOST:PORT of a node's Ray (6379 as a rule), not the client address"
            f" {quoted(text)}; run the command on a machine of the cluster, or send it there with `ray job submit`"
        )
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]{1,255}):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[2]) <= PORTS:
        raise ValueError(f"--ray-address takes auto, local or HOST:PORT, not {quoted(text)}")
    return text


def answers(address: str, seconds: float = ANSWER) -> str:
    """Empty where somebody at HOST:PORT speaks as Ray's head does (gRPC, so HTTP/2); else why not.

    Ray itself waits for minutes for one who does not, and then ends the process.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as line:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""  # it would say nothing to a stranger
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            said = b""
            while len(said) < 4 and (more := line.recv(4 - len(said))):
                said += more
            return "" if said[3:] == b"\x04" else "whoever answers there is no Ray"
    except TimeoutError:
        return f"nobody answers within {seconds:.0f} s"
    except (OSError, UnicodeError) as error:
        return one_line(getattr(error, "strerror", None) or error)


def reach(address: str) -> None:
    """Ask whether a cluster answers at an address, or where Ray has noted one down for ``auto``.

    Raises:
        ValueError: nobody does. What Ray noted stays when a cluster is killed, and it would wait for minutes.

    >>> reach("localhost:1")
    Traceback (most recent call last):
    ValueError: no Ray cluster answers at localhost:1: Connection refused; `ray start --head` starts one
    """
    noted, said = address, f"no Ray cluster answers at {address}"
    if address == "auto":
        file = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
        with suppress(OSError, UnicodeError):
            noted = file.read_text().strip()
        said = f"--ray-address auto finds no Ray on this machine: the last one was at {printable(noted, 60)}"
    if ":" in noted and (why := answers(noted)):
        raise ValueError(f"{said}: {why}; `ray start --head` starts one")


@cache
def nodes_of(address: str | None) -> tuple[Node, ...]:
    """The machines of a cluster, asked once; of none, this one, without starting anything.

    Raises:
        ValueError: it does not answer.
    """
    if address is None:
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return (Node("", socket.gethostname(), max(cores.usable(), gpus) * environment.threads(), gpus, 0.0),)
    reach(address)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, "nodes", json.dumps(sys.path), address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=NODES,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"no Ray cluster answers at {address}: it does not say within {NODES:.0f} s what it has"
        ) from None
    told = next((line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if told is None:
        raise ValueError(f"no Ray cluster answers at {address}: Ray has ended the process that asked")
    has = json.loads(told)
    if isinstance(has, str):
        raise ValueError(has)
    return tuple(Node(*one) for one in has)


def tell_nodes(address: str) -> None:
    """The same, on standard output, in a process of its own: where Ray does not like what it finds, it ends it."""
    has: Any
    try:
        with connected(address) as ray:
            has = [astuple(one) for one in nodes(ray)]
    except ValueError as error:
        has = str(error)
    print(f"\n{MARK}{json.dumps(has)}", flush=True)


def nodes(ray: Any) -> tuple[Node, ...]:
    """The machines that live, of the cluster that this process is connected to."""
    alive = []
    for one in ray.nodes():
        if one["Alive"]:
            has = one["Resources"]
            amounts = (float(has.get(name, 0.0)) for name in ("CPU", "GPU", "memory"))
            alive.append(Node(one["NodeID"], one.get("NodeManagerHostname", ""), *amounts))
    return tuple(alive)


@contextmanager
def connected(
    address: str | None, *, runtime: Mapping[str, Any] | None = None, cpus: int = 1, gpus: int = 0, store: int = 0
) -> Iterator[Any]:
    """Ray, connected as long as the block lasts; a cluster of our own ends with it.

    Args:
        address: of a cluster; None: one of our own.
        runtime: what its processes are given to run with.
        cpus: of a cluster of our own, as gpus.
        gpus: likewise.
        store: bytes that it has to hold for tasks.

    Raises:
        ValueError: no cluster answers, or this process is connected to one.
    """
    if (
        address is None and _AUTH not in os.environ
    ):  # a token for this run alone; Ray would leave one in ~/.ray for good
        os.environ |= {_AUTH: "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = library()
    if ray.is_initialized():
        raise ValueError(
            "this process is connected to a Ray cluster already; call ray.shutdown() before --executor ray"
        )
    where = address or "local"
    reach(where)
    words: dict[str, Any] = {"address": where, "runtime_env": dict(runtime or {})}
    if address is None:
        words |= {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "object_store_memory": STORE + store}
        if "RAY_TMPDIR" not in os.environ and len(tempfile.gettempdir()) > LONG:
            words["_temp_dir"] = f"/tmp/ray-{os.getuid()}"
    handlers = _handlers()
    with _silent(ray):
        try:
            ray.init(**words, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL)
        except KeyboardInterrupt:
            raise
        except Exception as error:  # ConnectionError, RuntimeError, and what runtime environments say
            with suppress(Exception):
                ray.shutdown()
            how = one_line(str(error).strip().partition("\n")[0])
            if address is None:
                raise ValueError(f"no Ray cluster can be started here: {how}") from error
            if where == "auto" and isinstance(error, ConnectionError):
                raise ValueError(
                    "--ray-address auto finds no Ray on this machine; `ray start --head` starts it"
                ) from error
            hint = "a cluster with tokens wants RAY_AUTH_MODE=token" if _AUTH not in os.environ else "see its logs"
            raise ValueError(
                f"no Ray cluster answers at {where}: {how}; `ray start --head` starts one, {hint}"
            ) from error
        finally:
            _put_back(handlers)  # Ray has set its own
        try:
            yield ray
        finally:
            with suppress(Exception):
                ray.shutdown()
            _put_back(handlers)


def _handlers() -> dict[int, Any]:
    """Of the signals that end a run."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    return {number: handler for number in numbers if callable(handler := signal.getsignal(number))}


def _put_back(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """What Ray logs and prints stays in its own files; what matters comes as errors, which are sentences here."""
    logger = logging.getLogger("ray")
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    level, nothing, prints = logger.level, logging.NullHandler(), getattr(worker, "print_to_stdstream", None)
    logger.setLevel(logging.CRITICAL + 1)
    logger.addHandler(nothing)
    if prints is not None:  # the tables of a dying raylet; Ray has no switch for them
        worker.print_to_stdstream = lambda *data, **more: None
    try:
        yield
    finally:
        if prints is not None:
            worker.print_to_stdstream = prints
        logger.removeHandler(nothing)
        logger.setLevel(level)


# -- on a node ------------------------------------------------------------------------------


def node_here() -> str:
    """Ray's name of the node that this task runs on."""
    return str(library().get_runtime_context().get_node_id())


def got(reference: Any, seconds: float | None = None) -> Any:
    """What a reference stands for."""
    return library().get(reference, timeout=seconds)


def is_there(reference: Any) -> bool:
    """Whether what it stands for has come."""
    return bool(library().wait([reference], timeout=0)[0])
