"""SimKD equals the released code, in training and in evaluation."""

import pytest
import torch
import torch.nn.functional as F
from toys import batch, outputs, pair

from golden import Case, cases
from kdbench.methods.simkd import SimKD
from kdbench.registry import get


def rename(name: str) -> str:
    index = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4", "conv3": "6", "bn3": "7"}
    role, layer, kind = name.split(".")
    return f"{role}.{index[layer]}.{kind}"


@cases("simkd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    weight, bias = case["in.teacher.classifier.weight"], case["in.teacher.classifier.bias"]
    made = case.pair(
        student, teacher, head=lambda last: F.linear(last.mean(dim=(2, 3)), weight, bias), num_classes=len(weight)
    )
    method = SimKD(made, factor=case.meta["hyper"]["factor"])
    renamed = case.load(method, rename)
    terms = method.loss(student, teacher, case.batch())
    assert list(terms) == ["feature"]
    case.check(terms["feature"], method, renamed)
    case.check_buffers(method, rename)
    # The release predicts in the same forward pass, so with the statistics of the batch.
    case.same(method.predict(student), case["aux.prediction_logits"], "prediction")


def test_prediction_is_the_teachers_head_on_the_projected_map() -> None:
    student, teacher = outputs((3, 8, 8), (4, 6, 6)), outputs((3, 8, 8), (7, 4, 4), seed=1)
    method = SimKD(pair(student, teacher)).double()
    method.terms(student, teacher, batch())
    method.eval()
    projected = method.projector(F.adaptive_avg_pool2d(student.feats[-1], 4))
    assert projected.shape == (6, 7, 4, 4)
    assert teacher.classifier is not None
    torch.testing.assert_close(method.predict(student), F.linear(projected.mean(dim=(2, 3)), *teacher.classifier))
    assert get("simkd").modifies_student()


def test_the_teacher_stays_out_of_the_state_and_gets_no_gradient() -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4), grad=True), outputs((3, 8, 8), (7, 4, 4), seed=1)
    method = SimKD(pair(student, teacher)).double()
    assert all(key.startswith("projector.") for key in method.state_dict())
    method.loss(student, teacher, batch())["feature"].backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(tensor.grad is None for tensor in teacher.tensors().values())


def test_a_projector_without_channels_is_refused() -> None:
    student = outputs((3, 8, 8), (4, 4, 4))
    with pytest.raises(ValueError, match="take 1 to 4"):
        SimKD(pair(student, student), factor=5)
