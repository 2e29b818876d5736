"""EA-KD equals the released code over KD and over DKD, alone and as ``ea+kd`` and ``dkd+ea``."""

from typing import Any

import pytest
import torch
from logits import bears_staged, each_kind
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Distiller, kl, suites
from kdbench.methods.dkd import DKD
from kdbench.methods.ea import EA
from kdbench.registry import get
from kdbench.terminal.parameters import by_pair
from kdbench.testing import CHECKS, Check, check_distiller, variant


def made(case: Case, name: str, **more: Any) -> Distiller:
    hyper = case.meta["hyper"]
    facts = case.pair(case.outputs("student"), case.outputs("teacher"))
    given = {"weight": 1.0, "t": hyper["t"], "upper": hyper["H_ub"], "tau": hyper["T"], **more}
    if hyper["base"] == "dkd":
        given |= {"alpha": hyper["alpha"], "beta": hyper["beta"], "warmup": hyper["warmup"] / 240}
    return getattr(get(name), "build", get(name))(facts, **given)


@cases("ea")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = made(case, "ea", base=case.meta["hyper"]["base"])
    case.same(method.weights(student, teacher), case["aux.weight"], "weights")  # type: ignore[operator]
    (term,) = method.terms(student, teacher, case.batch(progress=case.meta["hyper"]["epoch"] / 240)).values()
    case.check(term)


@cases("ea")
def test_golden_as_a_combination_with_its_base(case: Case) -> None:
    """Not the sum of a weighed loss and a plain one: the base's own loss is weighed."""
    case.open()
    method = made(case, f"ea+{case.meta['hyper']['base']}", ce_weight=0.0)
    given = case.batch(progress=case.meta["hyper"]["epoch"] / 240)
    named = method.loss(case.outputs("student"), case.outputs("teacher"), given)
    assert list(named) == ["weighed"]
    case.check(named["weighed"])


@each_kind
@pytest.mark.parametrize("hyper", [{}, {"base": "dkd"}, {"upper": 0.0}], ids=str)
def test_finite_in_float32(kind: str, hyper: dict[str, Any]) -> None:
    bears_staged(EA, kind, **hyper)


def test_a_sure_teacher_weighs_nothing_and_an_unsure_student_adds() -> None:
    student, teacher = outputs((4, 4, 4), b=3), outputs((4, 4, 4), b=3, seed=1)
    flat, sharp = torch.zeros(5, dtype=torch.float64), 500.0 * torch.eye(5, dtype=torch.float64)[0]
    teacher = teacher._replace(logits=torch.stack([sharp, flat, flat]))
    student = student._replace(logits=torch.stack([flat, sharp, flat]))
    method = EA(pair(student, teacher), upper=0.0)  # log K
    log_k = torch.tensor(5.0, dtype=torch.float64).log()
    want = torch.stack([0 * log_k, log_k / 2, log_k])
    torch.testing.assert_close(method.weights(student, teacher), want, atol=1e-8, rtol=1e-8)
    released = EA(pair(student, teacher)).weights(student, teacher)
    torch.testing.assert_close(released[2], log_k / 2 * (1 + log_k / 100))


def test_equal_weights_leave_kd_and_dkd() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    given = batch()

    def weighed(**hyper: Any) -> torch.Tensor:
        method = EA(pair(student, teacher), weight=1.0, **hyper)
        method.weights = lambda *_: torch.ones(6, dtype=torch.float64)  # type: ignore[method-assign]
        return method.terms(student, teacher, given)["weighed"]

    torch.testing.assert_close(weighed(), kl(student.logits, teacher.logits, 4.0))
    dkd = DKD(pair(student, teacher), alpha=2.0, beta=3.0).terms(student, teacher, given)
    torch.testing.assert_close(weighed(base="dkd", alpha=2.0, beta=3.0), total(dkd))


def test_weights_carry_no_gradient() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    student = student._replace(logits=student.logits.requires_grad_(True))
    assert not EA(pair(student, teacher)).weights(student, teacher).requires_grad


def test_warm_up_is_that_of_dkd() -> None:
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)

    def loss(progress: float, base: str) -> torch.Tensor:
        given = batch()._replace(progress=torch.tensor(progress))
        return EA(pair(student, teacher), base=base).terms(student, teacher, given)["weighed"]  # type: ignore[arg-type]

    torch.testing.assert_close(loss(10 / 240, "dkd") * 2, loss(0.5, "dkd"))
    assert loss(10 / 240, "kd") == loss(0.5, "kd")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", ["dkd+ea", pytest.param("crd+ea+kd", marks=pytest.mark.slow), "ea+lskd"])
def test_combinations_keep_the_contract(name: str, check: Check) -> None:
    check(get(name))


def test_over_dkd_it_keeps_the_contract() -> None:
    assert [f.sentence for f in check_distiller(variant(get("ea"), base="dkd")) if not f.ok] == []


def test_beside_a_feature_method_the_base_is_weighed_once() -> None:
    """The base's hyper-parameters keep its name where another part has them too; there is no plain KD beside it."""
    cls = get("crd+dkd+ea")
    known = cls.hyperparameters()
    assert {"crd.beta", "dkd.beta", "alpha", "warmup", "weight"} <= set(known)
    assert not {"base", "kd_weight", "ea.beta", "beta"} & set(known)
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    facts = pair(student, teacher, train_labels=torch.arange(20) % 5)
    method = cls.build(facts, **{"dkd.beta": 3.0, "weight": 1.0}).double()
    named = method.loss(student, teacher, batch())
    assert set(named) == {"ce", "weighed", "contrast_student", "contrast_teacher"}
    alone = EA(pair(student, teacher), base="dkd", beta=3.0, weight=1.0).terms(student, teacher, batch())
    torch.testing.assert_close(named["weighed"], alone["weighed"])
    for wrong in ("base", "kd_weight", "ea.beta"):
        with pytest.raises(ValueError, match=f"no hyper-parameter '{wrong}'"):
            cls.build(facts, **{wrong: 1.0})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dist+ea", "ea changes the loss of kd or dkd, not that of dist"),
        ("dist+dkd+ea", "not that of dist"),
        ("dkd+ea+kd", "not that of both"),
        ("ea+ikl+ttm", "not that of ikl and ttm"),
    ],
)
def test_what_it_cannot_weigh_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        get(name)


@pytest.mark.parametrize(("hyper", "words"), [({"base": "crd"}, "base='crd'"), ({"upper": -1.0}, "upper=-1.0")])
def test_what_has_no_meaning_is_refused(hyper: dict[str, Any], words: str) -> None:
    student = outputs((4, 4, 4))
    with pytest.raises(ValueError, match=words):
        EA(pair(student, student), **hyper)


@pytest.mark.parametrize(
    ("convention", "name", "want"),
    [
        ("crd", "ea", {"ce_weight": 0.1, "weight": 0.9}),
        ("crd", "ea+kd", {"ce_weight": 0.1, "weight": 0.9}),
        ("crd", "dkd+ea", {"ce_weight": 1.0, "weight": 1.0, "alpha": 1.0, "beta": 2.0}),
        ("crd", "crd+dkd+ea", {"ce_weight": 1.0, "weight": 1.0, "alpha": 1.0, "dkd.beta": 2.0, "crd.beta": 0.8}),
        ("crd", "ea+lskd", {"ce_weight": 0.1, "kd_weight": 0.0, "tau": 2.0, "weight": 9.0}),
        ("semckd", "ea", {"ce_weight": 1.0, "weight": 1.0}),
        ("semckd", "ea+kd", {"ce_weight": 1.0, "weight": 1.0}),
        ("semckd", "dkd+ea", {"ce_weight": 1.0, "weight": 1.0, "alpha": 1.0, "beta": 2.0}),
    ],
)
def test_conventions_give_each_base_its_weights(convention: str, name: str, want: dict[str, float]) -> None:
    known = get(name).hyperparameters()
    assert suites.convention(convention).hyper(name, "resnet56:resnet20", known) == want


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("ea").hyperparameters()
    student, teacher = outputs((4, 4, 4)), outputs((4, 4, 4), seed=1)
    assert set(EA(pair(student, teacher)).loss(student, teacher, batch())) == {"ce", "weighed"}


@pytest.mark.parametrize("convention", ["crd", "semckd"])
def test_tables_of_combinations_count_in_larger_ones_and_on_imagenet(convention: str) -> None:
    def given(name: str, pair: str = "resnet56:resnet20") -> dict[str, float]:
        return suites.convention(convention).hyper(name, pair, get(name).hyperparameters())

    assert given("dkd+lskd").items() >= {"kd_weight": 0.0, "alpha": 9.0, "beta": 18.0, "tau": 2.0}.items()
    assert given("crd+dkd+lskd").items() >= {"ce_weight": 1.0, "kd_weight": 0.0, "alpha": 9.0, "dkd.beta": 18.0}.items()
    assert given("dkd+kd+lskd")["kd_weight"] == 9.0  # KD was asked for
    assert given("dkd+ea+lskd")["weight"] == 1.0
    imagenet = "timm/resnet34:timm/resnet18"
    assert given("ea", imagenet).items() >= {"ce_weight": 1.0, "weight": 0.5, "tau": 1.0, "t": 2.0}.items()
    assert given("dkd+ea", imagenet).items() >= {"weight": 1.0, "t": 3.0, "beta": 0.5}.items()
    assert given("lskd+rld", imagenet)["beta"] == 4.5
    assert not any("kd_weight" in line for line in by_pair("kd+nd"))
