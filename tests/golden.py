"""Golden cases: inputs, weights, losses and gradients that the authors' released code gives.

A test builds the *public class* of a method on a case, loads the case's weights into it and
compares the loss, every gradient and every buffer. The data lie beside the checkout
(``../shared/golden``); where they are absent the tests skip and say so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench import Batch, Outputs, Pair, Shapes

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"
_SMALLEST = 1e-12


def cases(method: str, *names: str) -> pytest.MarkDecorator:
    """``@cases("at")`` parametrises a test over all (or the named) cases of a folder, as ``case``."""
    folder = FOLDER / method
    found = sorted(file.stem for file in folder.glob("*.json")) if folder.is_dir() else []
    wanted = [name for name in found if not names or name in names]
    absent = [pytest.param(None, marks=pytest.mark.skip(reason="the golden data (../shared/golden) are not here"))]
    return pytest.mark.parametrize(
        "case", [pytest.param(Case(folder / name), marks=pytest.mark.core) for name in wanted] or absent, ids=str
    )


class Case:
    """One case: ``meta`` (the JSON), ``raw`` (as stored), ``[name]`` (cast up, gradients on)."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem

    def __str__(self) -> str:
        return self.stem.name if self.stem else "absent"

    __repr__ = __str__

    def open(self) -> Case:
        """Read the files; call it first in a test (collection must stay cheap)."""
        self.meta = json.loads(Path(f"{self.stem}.json").read_text())  # with_suffix would cut eps1.5 to eps1
        self.raw: dict[str, Tensor] = load_file(f"{self.stem}.safetensors")
        self.dtype: torch.dtype = getattr(torch, self.meta["dtype"])
        self.rtol = 1e-6 if self.dtype is torch.float64 else 1e-4
        self.atol = 1e-9 if self.dtype is torch.float64 else 1e-6
        self.tensors = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in self.raw.items()}
        for name, tensor in self.tensors.items():
            if name.startswith("in.student.") and tensor.is_floating_point():
                tensor.requires_grad_(True)
        return self

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def outputs(self, side: str, *, shift: int = 0, last: int | None = None) -> Outputs:
        """The side's inputs as ``Outputs``; absent taps are (B, 1, 1, 1) zeros.

        ``shift`` is added to a tap's index (a case that counts its maps from 0 where the class
        leaves out the stem needs 1); ``last`` names the tap (after shifting) that is ``last``.
        """
        prefix = f"in.{side}."
        maps = {int(k.rsplit(".", 1)[1]) + shift: v for k, v in self.tensors.items() if k.startswith(prefix + "feat.")}
        some = next(v for k, v in self.tensors.items() if k.startswith(prefix))
        b = some.shape[0]
        blank = torch.zeros(b, 1, 1, 1, dtype=self.dtype)
        feats = tuple(maps.get(i, blank) for i in range(max(maps, default=0) + 1))
        pre = {int(k.rsplit(".", 1)[1]) + shift: v for k, v in self.tensors.items() if k.startswith(prefix + "preact.")}
        return Outputs(
            feats=feats,
            last=feats[-1 if last is None else last],
            pooled=self.tensors.get(prefix + "pooled", torch.zeros(b, 1, dtype=self.dtype)),
            logits=self.tensors.get(prefix + "logits", torch.zeros(b, 2, dtype=self.dtype)),
            preacts=tuple(pre.get(i, blank) for i in range(max(pre) + 1)) if pre else None,
        )

    def listed(self, side: str) -> Outputs:
        """The side's inputs with the maps that the case uses alone, in its order: map i of either side belong together."""
        outputs = self.outputs(side)
        used = self.meta["features_used"][f"{side}_feature_maps"]
        return outputs._replace(feats=tuple(outputs.feats[i] for i in used) or outputs.feats)

    def batch(self, *, progress: float = 0.5) -> Batch:
        """Labels and indices of the case; zeros where it has none."""
        b = next(v for k, v in self.tensors.items() if k.startswith(("in.student.", "in.teacher."))).shape[0]
        zeros = torch.zeros(b, dtype=torch.int64)
        label = self.tensors.get("in.labels", zeros)
        idx = self.tensors.get("in.indices", torch.arange(b))
        return Batch(torch.zeros(b, 3, 1, 1, dtype=self.dtype), label, idx, torch.tensor(progress, dtype=self.dtype))

    def pair(self, student: Outputs, teacher: Outputs, **facts: Any) -> Pair:
        """A ``Pair`` with the sizes of these outputs; ``facts`` override its other fields."""
        given: dict[str, Any] = {
            "head": lambda last: last.mean(dim=(2, 3)),
            "num_classes": student.logits.shape[1],
            "train_labels": torch.zeros(len(student.pooled), dtype=torch.int64),
            "batch_size": len(student.pooled),
        }
        return Pair(student=shapes(student), teacher=shapes(teacher), **{**given, **facts})

    def load(self, module: nn.Module, rename: Callable[[str], str], *, skip: Iterable[str] = ()) -> dict[str, str]:
        """Copy ``param.*`` and ``buffer_before.*`` into ``module`` (cast to the case's dtype).

        ``rename`` maps a case's name without its prefix ("regressor.conv.weight") to the
        module's own ("regressor.0.weight"). Every one must exist with the same shape. Returns
        {case name: module name} of the parameters, for ``check``.
        """
        module.to(self.dtype)
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        renamed = {}
        for full, value in self.tensors.items():
            prefix, _, name = full.partition(".")
            if prefix not in ("param", "buffer_before") or name in skip:
                continue
            target = own[rename(name)]
            assert target.shape == value.shape, f"{name} {tuple(value.shape)} -> {rename(name)} {tuple(target.shape)}"
            with torch.no_grad():
                target.copy_(value)
            if prefix == "param":
                renamed[name] = rename(name)
        return renamed

    def same(self, ours: Tensor, theirs: Tensor, what: str) -> None:
        """Tolerance of the golden README: against the largest entry."""
        theirs = theirs.to(ours.dtype)
        assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
        worst = (ours.detach() - theirs).abs().max().item() if ours.numel() else 0.0
        bound = self.rtol * theirs.abs().max().item() + _SMALLEST if ours.numel() else 0.0
        assert worst <= bound, f"{what}: off by {worst:.3g}, allowed {bound:.3g}"

    def check(
        self,
        loss: Tensor,
        module: nn.Module | None = None,
        renamed: dict[str, str] | None = None,
        /,
        **components: Tensor,
    ) -> None:
        """Compare loss, named components (``out.<name>``) and every stored gradient."""
        theirs = self["out.loss"].item()
        assert abs(loss.item() - theirs) <= self.rtol * abs(theirs) + self.atol, f"loss {loss.item()}, theirs {theirs}"
        for name, value in components.items():
            want = self[f"out.{name}"].item()
            assert abs(value.item() - want) <= self.rtol * abs(want) + self.atol, (
                f"{name} {value.item()}, theirs {want}"
            )
        loss.backward()
        own = dict(module.named_parameters()) if module is not None else {}
        ignored = {*self.meta["vanishing_gradient"], *self.meta["non_finite_gradient"], *self.meta["no_gradient"]}
        compared = 0
        for full in self.raw:
            kind, _, name = full.partition(".")
            if kind not in ("grad", "gradsub") or name in ignored:
                continue
            if name.startswith("param."):
                tensor: Tensor = own[(renamed or {})[name.removeprefix("param.")]]
            else:
                tensor = self[f"in.{name}"]
            assert tensor.grad is not None, f"{name} has no gradient"
            grad = tensor.grad
            if kind == "grad":
                self.same(grad, self.raw[full], f"gradient of {name}")
            else:
                stride = self.meta["subsampled_gradients"][name]["stride"]
                self.same(grad.flatten()[::stride], self.raw[full], f"gradient of {name}")
                ours = torch.stack([grad.sum(), grad.abs().sum(), grad.norm()])
                sums = self.raw[f"gradstat.{name}"].to(ours.dtype)
                slack = self.rtol * sums[1].abs() + _SMALLEST  # the plain sum may cancel: against the sum of abs
                assert ((ours - sums).abs() <= slack).all(), (
                    f"gradient of {name}: sums {ours.tolist()}, theirs {sums.tolist()}"
                )
            compared += 1
        assert compared, "the case stores no gradient that could be compared"

    def check_buffers(self, module: nn.Module, rename: Callable[[str], str], *, skip: Iterable[str] = ()) -> None:
        """Compare ``buffer_after.*`` with the module's buffers."""
        own = dict(module.named_buffers())
        for full, value in self.tensors.items():
            kind, _, name = full.partition(".")
            if kind == "buffer_after" and name not in skip:
                self.same(own[rename(name)], value, f"buffer {name}")


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum that is minimised, in the order of the terms."""
    return reduce(add, terms.values())


def unweighted(**weighed: tuple[Tensor, float]) -> dict[str, Tensor]:
    """Terms over their weights, as the files hold them; a weight of 0 has left nothing to compare."""
    return {name: term / weight for name, (term, weight) in weighed.items() if weight}


def shapes(outputs: Outputs) -> Shapes:
    """Sizes of one side's outputs."""
    return outputs.shapes()
