"""SemCKD equals the released code: loss, attention, every gradient, every running statistic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Outputs
from kdbench.methods.semckd import SemCKD

STUDENT = ((3, 8, 8), (4, 6, 6), (5, 4, 4))
TEACHER = ((3, 8, 8), (7, 6, 6), (6, 3, 3), (8, 2, 2))


def renamer(teachers: int) -> Callable[[str], str]:
    """query.1.linear2.bias -> query.1.2.bias, proj.1.0.conv3.weight -> projectors.<1 T + 0>.6.weight."""
    index = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "linear1": 0, "linear2": 2}

    def rename(name: str) -> str:
        role, *places, layer, kind = name.split(".")
        if role != "proj":
            return f"{role}.{places[0]}.{index[layer]}.{kind}"
        s, t = map(int, places)
        return f"projectors.{s * teachers + t}.{index[layer]}.{kind}"

    return rename


def toys(*, b: int = 6, grad: bool = False) -> tuple[Outputs, Outputs]:
    return outputs(*STUDENT, b=b, grad=grad), outputs(*TEACHER, b=b, seed=1)


def made(student: Outputs, teacher: Outputs, **hyper: Any) -> SemCKD:
    torch.manual_seed(0)
    return SemCKD(pair(student, teacher), **hyper).double()


@cases("semckd")
def test_golden(case: Case) -> None:
    case.open()
    used, hyper = case.meta["features_used"], case.meta["hyper"]
    # Its maps are feats[1:] here, whatever their places in the release's lists.
    student = case.outputs("student", shift=1 - used["student_feature_maps"][0])
    teacher = case.outputs("teacher", shift=1 - used["teacher_feature_maps"][0])
    rename = renamer(len(used["teacher_feature_maps"]))
    method = SemCKD(case.pair(student, teacher), factor=hyper["factor"], soft=hyper["soft"], beta=1.0)
    renamed = case.load(method, rename)
    assert len(renamed) == len(list(method.parameters()))
    case.same(method.weights(student, teacher), case["aux.attention"], "attention")
    case.check(method.terms(student, teacher, case.batch())["feature"], method, renamed)
    case.check_buffers(method, rename)


def test_attention_reads_similarities_only() -> None:
    student, teacher = toys()
    method = made(student, teacher)
    alpha = method.weights(student, teacher)
    assert alpha.shape == (6, 2, 3)
    torch.testing.assert_close(alpha.sum(dim=2), torch.ones(6, 2).double())
    turned = student._replace(feats=tuple(-feat.flip(1, 2, 3) for feat in student.feats))
    torch.testing.assert_close(method.weights(turned, teacher), alpha)
    # Unit vectors bound the logits to [-1, 1], so no teacher stage is dropped.
    assert alpha.min() >= 1 / (1 + 2 * torch.e**2) - 1e-12


def test_each_image_weighs_for_itself() -> None:
    student, teacher = toys()
    method = made(student, teacher, beta=1.0)
    want = (method.weights(student, teacher) * method.distances(student, teacher)).sum() / (6 * 2)
    torch.testing.assert_close(method.terms(student, teacher, batch())["feature"], want)
    assert method.weights(student, teacher).std(dim=0).min() > 1e-4


@pytest.mark.parametrize("hyper", [{"factor": 2}, {"soft": 0.1}, {"beta": 1.0}])
def test_hyper_parameters_matter(hyper: dict[str, Any]) -> None:
    student, teacher = toys()
    usual, changed = (made(student, teacher, **h).terms(student, teacher, batch())["feature"] for h in ({}, hyper))
    assert usual.item() != pytest.approx(changed.item(), rel=1e-6)


def test_gradients_reach_every_stage_of_the_student_and_every_weight() -> None:
    student, teacher = toys(grad=True)
    method = made(student, teacher)
    method.terms(student, teacher, batch())["feature"].backward()
    assert student.feats[0].grad is None
    assert all(feat.grad is not None and feat.grad.any() for feat in student.feats[1:])
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_shorter_last_batch_trains_without_the_term() -> None:
    method = made(*toys())
    student, teacher = toys(b=4, grad=True)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    losses = method.loss(student, teacher, batch(4))
    assert list(losses) == ["ce", "feature"]
    assert losses["feature"].item() == 0
    total(losses).backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)


def test_large_maps_survive_half_precision() -> None:
    """Similarities of float16 maps pass 65504; the attention must not notice."""
    student, teacher = (o._replace(feats=tuple(f.half() * 256 for f in o.feats)) for o in toys())
    exact = tuple(o._replace(feats=tuple(f.double() for f in o.feats)) for o in (student, teacher))
    method = made(exact[0], exact[1])
    want = method.weights(exact[0], exact[1])
    method.float()
    with torch.autocast("cpu", torch.bfloat16):
        got = method.weights(student, teacher)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_it_compiles_as_one_graph_for_full_and_last_batches() -> None:
    student, teacher = toys()
    method = made(student, teacher)
    terms = torch.compile(method.terms, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(terms(student, teacher, batch()), method.terms(student, teacher, batch()))
    assert terms(*toys(b=4), batch(4))["feature"].item() == 0


@pytest.mark.parametrize(
    ("facts", "hyper", "sentence"),
    [
        ({}, {"factor": 7}, "take 1 to 6"),
        ({}, {"factor": 0}, "take 1 to 6"),
        ({"train_labels": torch.zeros(5, dtype=torch.int64)}, {}, "smaller batch size"),
    ],
)
def test_what_it_cannot_serve_is_refused(facts: dict[str, Any], hyper: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SemCKD(pair(*toys(), **facts), **hyper)


def test_a_net_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="beside the stem"):
        SemCKD(pair(outputs(STUDENT[0]), outputs(*TEACHER)))
