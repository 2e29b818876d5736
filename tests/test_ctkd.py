"""CTKD equals the authors' code, theta's gradient included, and stays finite where that is not."""

import math

import pytest
import torch
from logits import batch_of, bears, each_kind, hard, pair_of, shown

from golden import Case, cases, total
from kdbench.methods.ctkd import CTKD
from kdbench.registry import get


@cases("ctkd")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    weights = {key: hyper[key] for key in ("alpha", "beta") if key in hyper}
    method = CTKD(
        case.pair(student, teacher),
        base=hyper["base"],
        weight=1.0,
        t_start=hyper["t_start"],
        t_end=hyper["t_end"],
        decay_max=hyper["decay_max"],
        decay_min=hyper["decay_min"],
        loops=hyper["decay_loops"],
        **weights,
    )
    renamed = case.load(method, lambda name: name.removeprefix("temperature."))
    batch = case.batch(progress=(hyper["epoch"] - 0.5) / 240)
    assert method.strength(batch.progress).item() == pytest.approx(hyper["lambda"], rel=1e-12)
    case.same(method.temperature(batch.progress)[None], case["aux.tau"], "tau")
    case.check(total(method.terms(student, teacher, batch)), method, renamed)


@each_kind
@pytest.mark.parametrize("base", ["kd", "dkd"])
@pytest.mark.parametrize("theta", [1.0, -9.0])
def test_finite_whatever_the_logits(kind: str, base: str, theta: float) -> None:
    class AtTheta(get("ctkd")):  # type: ignore[misc]
        def __init__(self, pair: object, **given: object) -> None:
            super().__init__(pair, **given)
            self.theta.data.fill_(theta)

    terms = bears(AtTheta, kind, base=base)
    assert set(terms) == ({"soft"} if base == "kd" else {"target", "non_target"})


def test_theta_climbs_while_the_student_descends() -> None:
    student, teacher = shown(*hard("random")[:2])
    batch = batch_of(hard("random")[2])
    method = CTKD(pair_of(student, teacher)).double()
    loss = method.terms(student, teacher, batch)["soft"]
    loss.backward()
    assert method.theta.grad is not None
    with torch.no_grad():
        method.theta.sub_(10 * method.theta.grad)
    assert method.terms(student, teacher, batch)["soft"] > loss


def test_lambda_goes_in_steps_of_an_epoch_from_nothing_to_one() -> None:
    for loops in (10, 240):
        method = CTKD(pair_of(*shown(*hard("random")[:2])), loops=loops)
        for epoch in range(1, 241):
            wanted = -0.5 * (1 - math.cos(math.pi * min(epoch, loops) / loops))
            for step in (0.0, 0.5, 0.99):  # the first step of an epoch too, which float32 may put into the one before
                given = method.strength(torch.tensor((epoch - 1 + step) / 240))
                assert given.item() == pytest.approx(wanted, abs=1e-6), (epoch, step)


def test_theta_is_one_more_parameter_and_decays_as_the_rest() -> None:
    method = CTKD(pair_of(*shown(*hard("random")[:2])))
    assert [(name, p.requires_grad) for name, p in method.named_parameters()] == [("theta", True)]


def test_there_is_no_kd_term_beside_it_and_no_fixed_temperature() -> None:
    assert not {"kd_weight", "tau"} & set(get("ctkd").hyperparameters())
    s, t, label = hard("random")
    student, teacher = shown(s, t)
    named = CTKD(pair_of(student, teacher)).loss(student, teacher, batch_of(label))
    assert set(named) == {"ce", "soft"}
    ce = torch.nn.functional.cross_entropy(s, label)
    torch.testing.assert_close(named["ce"], 0.1 * ce)


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ValueError, match="base='nkd' is no loss"):
        CTKD(pair_of(*shown(*hard("random")[:2])), base="nkd")  # type: ignore[arg-type]
