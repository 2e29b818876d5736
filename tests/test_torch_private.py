"""What kdbench takes from torch without torch's promise: one test each, whose message says what broke."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import kdbench
from kdbench.engine import torch_private

pytestmark = pytest.mark.core

PACKAGE = Path(kdbench.__file__).parent
HOME = "engine/torch_private.py"


def test_a_dispatch_mode_sees_every_operator() -> None:
    class Seen(torch_private.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        (torch.ones(2, requires_grad=True).exp() * 2).sum().backward()
    assert {"ones", "exp", "sum"}.issubset(seen.names), "TorchDispatchMode no longer shows operators by aten's names"
    assert "expand" in seen.names, "TorchDispatchMode no longer shows the operators of a backward pass"


def test_on_the_cpu_a_constant_of_the_host_is_lifted() -> None:
    class Lifted(torch_private.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.found: list[Tensor] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.lift_fresh.default:
                self.found += args
            return func(*args, **(kwargs or {}))

    with Lifted() as lifted:
        torch.zeros(2)[torch.tensor([0])] = 1.0
    assert len(lifted.found) == 2, "torch does not dispatch aten.lift_fresh: testing/strays.py misses backward passes"


def test_what_torch_keeps_in_a_module_is_told_from_what_its_author_put_there() -> None:
    module = nn.Linear(2, 2)
    module.mine = 1  # type: ignore[assignment]
    module.register_forward_hook(lambda *_: None)
    module.register_state_dict_post_hook(lambda *_: None)
    module.register_buffer("bank", torch.zeros(1), persistent=False)
    own = vars(module).keys() - torch_private.MODULE_ATTRIBUTES
    assert own == {"in_features", "out_features", "mine"}, f"a new module of torch does not show all of its own: {own}"


def test_a_module_can_be_given_back_its_own_tensors() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("none", None)
    weight, bank = module.weight, module.running_mean
    parameters, buffers = torch_private.own_tensors(module)
    assert parameters.keys() == {"weight", "bias"}, "Module._parameters is not what a module trains"
    assert buffers.keys() == {"running_mean", "running_var", "num_batches_tracked", "none"}, "nor Module._buffers"
    module.weight, module.running_mean = nn.Parameter(torch.zeros(2)), torch.ones(2)
    parameters["weight"], buffers["running_mean"] = weight, bank
    back = module.weight is weight and module.running_mean is bank
    assert back, "what is put into Module._parameters and Module._buffers is not what the module uses"


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (lambda x: x[x > 0], "getitem"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x * 2 + x.sum(), ""),
    ],
    ids=["a mask", "nonzero", "plain"],
)
def test_a_size_that_depends_on_values_is_told(work: Any, name: str) -> None:
    told: set[str] = set()

    def look(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        told.update(
            getattr(n.target, "__name__", n.target) for n in graph.graph.nodes if torch_private.depends_on_values(n)
        )
        return graph.forward

    refused = ""
    torch.compiler.reset()
    try:
        compiled: Any = torch.compile(work, fullgraph=True, backend=look)
        compiled(torch.arange(4.0))
    except RuntimeError as error:
        refused = str(error)
    finally:
        torch.compiler.reset()
    # torch 2.9 refuses to compile it, and `kdbench check` needs no more.
    ok = name in told or "aten.nonzero" in refused if name else not (told or refused)
    assert ok, f"{told}: torch names sizes that depend on values in another way: `kdbench check` misses such waits"


def test_onednn_says_whether_it_has_bf16() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    assert torch_private.onednn_has_bf16() in (True, False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if known.get("avx512_bf16") or known.get("amx_bf16"):
        assert torch_private.onednn_has_bf16(), "oneDNN is no longer asked: it denies bf16 on a CPU that has it"


def test_a_write_in_place_is_counted_for_every_alias() -> None:
    one = torch.zeros(4)
    alias, part = one.detach(), one[1:]
    before = torch_private.versions([one, alias, part])
    alias.add_(1)
    after = torch_private.versions([one, alias, part])
    assert all(new == old + 1 for old, new in zip(before, after, strict=True)), "Tensor._version does not count writes"
    _ = one + alias
    assert torch_private.versions([one, alias, part]) == after, "Tensor._version counts what is no write"


def test_forward_hooks_of_a_module_can_be_taken_away() -> None:
    module = torch.nn.Linear(2, 2)
    said: list[str] = []
    module.register_forward_hook(lambda *given: said.append("first"))
    (key,) = torch_private.forward_hooks(module)
    module.register_forward_hook(lambda *given: said.append("second"))
    del torch_private.forward_hooks(module)[key]
    module(torch.zeros(1, 2))
    assert said == ["second"]


def test_modes_that_were_left_behind_are_seen_and_left() -> None:
    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    class Dispatched(torch_private.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    outer = Functions()
    with outer:
        before = torch_private.modes()
        assert before == torch_private.Modes(None, 0, (outer,)), (
            f"torch's stacks of modes do not show what was entered: {before}"
        )
        entered: tuple[Any, ...] = Functions(), Dispatched(), torch.device("meta")  # type: ignore[no-untyped-call]
        for mode in entered:
            mode.__enter__()
        torch.set_default_device("meta")
        now = torch_private.modes()
        torch_private.put_modes(before)
        assert (now.device, now.dispatch) == (torch.device("meta"), 1), "a default device or a mode is not shown"
        assert len(now.functions) > 1, "modes of functions are not shown"
        assert torch_private.modes() == before, "modes that were entered cannot be left for their owner"
        assert torch.zeros(1).device.type == "cpu"
        outer.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        torch_private.put_modes(before)
        assert torch_private.modes() == before, "a mode that was left cannot be entered for its owner"
    assert torch_private.modes() == (None, 0, ())


def test_hooks_on_saved_tensors_are_seen_and_left() -> None:
    assert torch_private.saved_tensor_hooks() == ()
    pack, unpack = (lambda x: x), (lambda x: x)
    torch.autograd.graph.saved_tensors_hooks(pack, unpack).__enter__()
    assert torch_private.saved_tensor_hooks() == (pack, unpack), "hooks on saved tensors are not shown"
    torch_private.pop_saved_tensor_hooks()
    assert torch_private.saved_tensor_hooks() == (), "hooks on saved tensors cannot be left for their owner"


def test_hooks_on_all_modules_and_optimizers_are_seen() -> None:
    before = [dict(hooks) for hooks in torch_private.GLOBAL_HOOKS]
    held = [
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        torch.nn.modules.module.register_module_full_backward_hook(lambda *_: None),
        importlib.import_module("torch.optim.optimizer").register_optimizer_step_pre_hook(lambda *_: None),
    ]
    now = sum(len(hooks) - len(old) for hooks, old in zip(torch_private.GLOBAL_HOOKS, before, strict=True))
    for one in held:
        one.remove()
    assert now >= 3, "hooks on every module or optimizer are kept elsewhere"
    assert [dict(hooks) for hooks in torch_private.GLOBAL_HOOKS] == before


# -- and nowhere else -------------------------------------------------------------------------------

#: What torch's objects hold under a single underscore. An object of ours may use such a name for itself.
HIDDEN = {
    name
    for kind in (Tensor, nn.Module(), nn.BatchNorm2d(1), torch.optim.SGD, torch.Generator, torch.amp.GradScaler)
    for name in dir(kind)
    if name.startswith("_") and not name.startswith("__")
}


def private(source: str) -> Iterator[str]:
    """Lines on which a file names something private or experimental of torch."""
    tree = ast.parse(source)
    roots = {"torch", "torchvision", "timm"}
    for node in ast.walk(tree):
        said = ""
        if isinstance(node, ast.Import):
            said = next((alias.name for alias in node.names if _hidden(alias.name, roots)), "")
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            said = next((name for name in names if _hidden(name, roots)), "")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            dotted = ast.unparse(node)
            ours = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if _hidden(dotted, roots) or (node.attr in HIDDEN and not ours):
                said = dotted
        if said:
            yield f"line {node.lineno}: {said}"  # type: ignore[attr-defined]


def _hidden(dotted: str, roots: set[str]) -> bool:
    first, *rest = dotted.split(".")
    return first in roots and any(
        part == "experimental" or (part.startswith("_") and not part.startswith("__")) for part in rest
    )


def test_nothing_private_of_torch_is_named_elsewhere() -> None:
    files = (file for file in PACKAGE.rglob("*.py") if file != PACKAGE / HOME)
    wrong = [f"{file.relative_to(PACKAGE)} {line}" for file in files for line in private(file.read_text())]
    assert wrong == [], f"take it from kdbench/{HOME}, or by a public way: {'; '.join(wrong)}"


@pytest.mark.parametrize(
    "line",
    [
        "import torch._dynamo",
        "from torch._C import Graph",
        "from torch import _foreach_add_",
        "from torch.fx.experimental.symbolic_shapes import free_symbols",
        "torch._dynamo.reset()",
        "torch.nn.modules.batchnorm._BatchNorm",
        "torch.ops.mkldnn._is_mkldnn_bf16_supported()",
        "module._non_persistent_buffers_set",
        "net.norm._buffers['x']",
        "optimizer._cuda_graph_capture_health_check()",
        "from timm.models._builder import build_model_with_cfg",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert list(private(line))
    assert not list(private("x.__class__\nself._buffers\nours._table\ntorch.__version__\nseen._replace(x=1)"))
