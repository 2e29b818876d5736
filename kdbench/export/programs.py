"""Programs that run without kdbench: ``torch.export`` and ONNX, for any number of images."""

from __future__ import annotations

import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.export.deployed import Deployed, difference
from kdbench.export.facts import card, facts
from kdbench.export.place import write_card
from kdbench.utils.files import atomic_write

FACTS = "kdbench.json"
_ONNX = ("onnx", "onnxscript")


def traced(deployed: Deployed) -> torch.export.ExportedProgram:
    """The student as a program; the number of images is free.

    Raises:
        ValueError: torch cannot trace it.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        return torch.export.export(deployed, (deployed.example(),), dynamic_shapes={"images": {0: batch}})
    except Exception as error:  # torch's tracer raises all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"torch.export cannot trace {deployed.record.student}: {said}") from error


def to_program(deployed: Deployed, file: Path, licence: str) -> tuple[list[Path], float]:
    """A ``.pt2`` file and its card. Returns the paths and the difference of logits."""
    program = traced(deployed)
    off = difference(torch.export.load(io.BytesIO(_saved(program, {}))).module(), deployed)
    said = facts(deployed, licence, off)
    with atomic_write(file) as stream:
        stream.write(_saved(program, {FACTS: json.dumps(said, sort_keys=True)}))
    use = f"import torch\nnet = torch.export.load({json.dumps(file.name)}).module()  # net(images) -> logits"
    return [file, write_card(card(deployed, said, file.name, use), [file])], off


def to_onnx(deployed: Deployed, file: Path, licence: str) -> tuple[list[Path], float | None]:
    """An ONNX file and its card. Returns the paths and the difference of logits; None without onnxruntime.

    Raises:
        ValueError: the packages that write ONNX are not installed.
    """
    if missing := [name for name in _ONNX if find_spec(name) is None]:
        raise ValueError(f"ONNX needs {' and '.join(missing)}: pip install 'kdbench[export]'")
    import onnx

    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own news
        made = torch.onnx.export(
            deployed,
            (deployed.example(),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: batch}},
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    off = _by_onnxruntime(model.SerializeToString(), deployed)
    said = facts(deployed, licence, off)
    entry = model.metadata_props.add()
    entry.key, entry.value = "kdbench", json.dumps(said, sort_keys=True)
    onnx.checker.check_model(model)
    with atomic_write(file) as stream:
        stream.write(model.SerializeToString())
    use = (
        f"import onnxruntime\nsession = onnxruntime.InferenceSession({json.dumps(file.name)})\n"
        'logits, = session.run(None, {"images": images})  # float32, (B, C, H, W)'
    )
    return [file, write_card(card(deployed, said, file.name, use), [file])], off


def _saved(program: torch.export.ExportedProgram, beside: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files=beside)
    return stream.getvalue()


def _by_onnxruntime(model: bytes, deployed: Deployed) -> float | None:
    """The difference of logits; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return difference(run, deployed)
