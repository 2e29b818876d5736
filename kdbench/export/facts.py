"""What a file says of itself: identity, normalisation, classes, metrics, licence; and the model card beside it."""

from __future__ import annotations

import json
from typing import Any

import torch

from kdbench import registry
from kdbench.export.cells import title
from kdbench.export.deployed import Deployed
from kdbench.models.entered import find
from kdbench.utils import environment
from kdbench.utils.wording import count

FORMAT = 1
_METRICS = ("top1_last", "top5_last", "nll", "ece", "agreement", "teacher_top1")
_WORDS = {
    "top1_last": "top-1 after the last epoch",
    "top5_last": "top-5 after the last epoch",
    "nll": "negative log-likelihood",
    "ece": "expected calibration error",
    "agreement": "agreement with the teacher",
    "teacher_top1": "top-1 of the teacher",
}
_UNITS = {"nll": ""}
_ORDERS = str.maketrans({sign: "\\" + sign for sign in "\\`*_{}[]<>#|"})


def facts(deployed: Deployed, licence: str, difference: float | None) -> dict[str, Any]:
    """Everything that a file says of itself, as plain values."""
    one = deployed.record
    own = one.settings
    return {
        "format": FORMAT,
        "kdbench": environment.code()["kdbench"],
        "suite": one.suite,
        "dataset": one.dataset,
        "data": one.data.get("fingerprint", ""),
        "convention": one.convention,
        "teacher": one.teacher,
        "student": one.student,
        "method": one.method,
        "hyper": dict(own.hyper),
        "provenance": one.provenance,
        "seed": one.seed,
        "epochs": one.epochs,
        "settings": one.settings_hash,
        "weights_sha256": one.weights_sha256,
        "teacher_sha256": one.teacher_sha256,
        "pretrained": "" if find(one.student) else own.pretrained,
        "network_sha256": own.pretrained if find(one.student) else "",
        "classes": list(deployed.classes),
        "image_shape": list(deployed.image_shape),
        "mean": list(deployed.mean),
        "std": list(deployed.std),
        "metrics": {name: getattr(one, name) for name in _METRICS if getattr(one, name) is not None},
        "licence": licence,
        "difference": difference,
        "torch": torch.__version__,
    }


def metadata(said: dict[str, Any]) -> dict[str, str]:
    """The facts as safetensors and ONNX keep them: texts."""
    return {"format": "pt", "kdbench": json.dumps(said, sort_keys=True)}


def compared(difference: float | None) -> str:
    """How far the logits of the file are from the student's, as a sentence."""
    if difference is None:
        return "its logits were not compared with the student's: onnxruntime is not installed"
    return f"largest difference between its logits and the student's on 8 fixed images: {difference:.3g}"


def card(deployed: Deployed, said: dict[str, Any], file: str, use: str, *, header: bool = False) -> str:
    """The model card in Markdown: what it is, how to use it, how it was measured, where it comes from.

    Args:
        deployed: the student.
        said: its facts.
        file: name of the file that it is about.
        use: lines of Python that load it.
        header: whether Hugging Face's YAML stands before it.
    """
    one, own = deployed.record, deployed.record.settings
    idea, reference = _source(own.method)
    classes = [plain(name) for name in deployed.classes]
    listed = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more (config)" if len(classes) > 20 else "")
    c, h, w = deployed.image_shape
    rows = "\n".join(
        f"| {_WORDS[name]} | {value:.2f}{_UNITS.get(name, '%')} |"
        if name != "nll"
        else f"| {_WORDS[name]} | {value:.4f} |"
        for name, value in said["metrics"].items()
    )
    values = ", ".join(f"{name}={value}" for name, value in own.hyper.items())
    learned = (
        f"distilled from {plain(one.teacher)} by {plain(one.method)}"
        if one.teacher
        else f"trained by {plain(one.method)}"
    )
    licence = (
        f"Licence of these weights: {plain(said['licence'])}."
        if said["licence"]
        else "The licence of these weights was not stated; who passes them on states it."
    )
    quick = ", a quick look that is shorter than its recipe or on some of its images" if one.quick else ""
    changed = (
        "\nThe network that is evaluated is not the plain student: parts of the method, and of the teacher where it"
        " borrows them, belong to it.\n"
        if deployed.method is not None
        else ""
    )
    return f"""{_yaml(deployed, said) if header else ""}# {plain(one.student)}, {learned}

{plain(file)}: an image classifier for {plain(one.dataset)}, {len(classes)} classes ({listed}), images {c} x {h} x {w}.
{changed}
## Use

Images are RGB, divided by 255, less mean {list(deployed.mean)}, divided by std {list(deployed.std)}.

```python
{use}
```

## Measured

One run, seed {one.seed}, {count(one.epochs, "epoch")}{quick}; on the test images after the last epoch.

| | |
|---|---|
{rows}

{compared(said["difference"]).capitalize()}.

## Where it comes from

- Method: {plain(idea)}
- Reference: {plain(reference)}
- Convention {plain(one.convention)}; {plain(values) or "no hyper-parameters"}; proven against: {plain(one.provenance)}
- Suite {plain(one.suite)}, settings {one.settings_hash}, kdbench {plain(str(one.code.get("kdbench", "?")))}
- Weights sha256 {one.weights_sha256}
- Teacher sha256 {one.teacher_sha256 or "none"}
- Data fingerprint {plain(str(said["data"])) or "not known"}
{_began(one.student, own.pretrained)}
{licence}
"""


def _began(student: str, sha256: str) -> str:
    """A line of the card where there is something to say."""
    if not sha256:
        return ""
    if find(student) is not None:
        return f"- Network of the user's, whose code has the sha256 {sha256}\n"
    return f"- Started from pretrained weights, sha256 {sha256}\n"


def _source(method: str) -> tuple[str, str]:
    """A method's idea and its citation."""
    try:
        cls = registry.get(method)
    except ValueError:  # a plug-in's, which nobody has loaded: the plain student needs no method
        return f"{method}, of a file that is not kdbench's", "not known"
    return registry.idea(cls) or method, cls.reference or "none"


def _yaml(deployed: Deployed, said: dict[str, Any]) -> str:
    """Hugging Face's header; every text is a JSON string, which YAML reads as it is."""
    one = deployed.record
    top1 = round(float(one.top1_last or 0.0), 2)
    return f"""---
license: {json.dumps(said["licence"] or "other")}
library_name: {"timm" if one.student.startswith("timm/") else "kdbench"}
pipeline_tag: image-classification
tags: ["image-classification", "knowledge-distillation", "kdbench"]
model-index:
- name: {json.dumps(title(one))}
  results:
  - task: {{type: image-classification}}
    dataset: {{name: {json.dumps(one.dataset)}, type: {json.dumps(one.dataset)}}}
    metrics:
    - {{type: accuracy, value: {top1}, name: top-1 after the last epoch}}
---

"""


def plain(text: str) -> str:
    """A text of a record on one line, without orders to Markdown."""
    return " ".join(str(text).split()).translate(_ORDERS)
