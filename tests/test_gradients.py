"""Parts of a loss with momenta of their own: the formulas, in plain torch, and all that a lane must keep to with them."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commands import fine, flat, refused
from replaying import Replaying
from telling import thinned
from test_precision import Half, Small
from torch import Tensor, nn
from training import CPU, PLAN, Burst, Silent, assert_same, lane_of, loader, nothing, pair_of, result, setting, teacher
from training import train as train_lanes

from kdbench import models, registry, suites
from kdbench.distiller import Batch, Distiller, kl, kl_of_label
from kdbench.engine import gradients, memory
from kdbench.engine.compiled import Compiler
from kdbench.engine.errors import Failed
from kdbench.engine.fit import Setting, fit
from kdbench.engine.gradients import TwoMomenta
from kdbench.engine.graph.backend import Eager
from kdbench.engine.lane import Lane
from kdbench.engine.schedule import Plan
from kdbench.run.lanes import refuse_recipe
from kdbench.utils.gradient_rules import parse

RULES = ["dot:0.075", "deepkd:0.05", "dot-scaled:0.075", "deepkd-scaled:0.075"]
#: Under each rule those that could go wrong by it: banks, a gradient that is turned round, stages, combinations.
TRAINED: list[Any] = [(RULES[0], "semckd"), (RULES[1], "ctkd"), (RULES[1], "dkd+fitnet")]
TRAINED += [(RULES[2], "kd"), (RULES[3], "dkd")]
TRAINED += [
    pytest.param(rule, name, marks=pytest.mark.slow)  # the same rule and the same kind are above
    for rule, name in (
        (RULES[0], "kd"),
        (RULES[0], "crd"),
        (RULES[0], "crd+mag"),
        (RULES[0], "dkd+fitnet"),
        (RULES[1], "kd"),
    )
]


def lane(folder: Path, method: str, rule: str, *, plan: Plan = PLAN, **hyper: Any) -> Lane:
    torch.manual_seed(1)
    net = models.create("resnet8", 10, image_size=8)
    pair = pair_of(net)
    torch.manual_seed(2)
    cls = registry.get(method)
    if "kd_weight" in cls.hyperparameters():
        hyper = {"kd_weight": 1.0} | hyper
    built = cls.build(pair, **hyper)
    return lane_of(f"{method}-{rule}", net, built, folder, plan=replace(plan, gradients=rule))


def batches() -> list[Batch]:
    return [Batch(image, label, idx, torch.tensor(0.0)) for image, label, idx in loader().epoch(0)]


def parts(one: Lane, batch: Batch, rule: str) -> tuple[Tensor, Tensor]:
    """The quick and the slow part of KD's loss, as the papers write them."""
    z_s, z_t, tau = one.student(batch.image).logits, teacher()(batch.image).logits, 4.0
    task = F.cross_entropy(z_s, batch.label)
    p_s, p_t = F.softmax(z_s / tau, dim=1), F.softmax(z_t / tau, dim=1)
    every = (p_t * (p_t.log() - p_s.log())).sum(dim=1).mean() * tau**2
    if rule.startswith("dot"):
        return task, every
    at = batch.label[:, None]
    s, t = p_s.gather(1, at), p_t.gather(1, at)
    target = (t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()).mean() * tau**2
    others_s, others_t = (
        torch.where(F.one_hot(batch.label, 10) > 0, 1.0, p / (1 - p.gather(1, at))) for p in (p_s, p_t)
    )
    among = ((1 - t) * others_t * (others_t / others_s).log()).sum(dim=1).mean() * tau**2
    return target, task + among


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_papers(rule: str, tmp_path: Path) -> None:
    ours, theirs = (lane(tmp_path, "kd", rule, ce_weight=1.0) for _ in range(2))
    gap = float(rule.partition(":")[2])
    scaled, decay, lr = "scaled" in rule, 5e-4, 0.05
    mu = (0.9, 0.9) if scaled else (0.9 - gap, 0.9 + gap)
    gains = (0.1 / (0.1 + gap), 0.1 / (0.1 - gap)) if scaled else (1.0, 1.0)
    weights = [*theirs.student.parameters()]
    v = [[torch.zeros_like(w) for w in weights] for _ in mu]
    ours.start_epoch()
    for batch in batches():
        ours.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
        found = [torch.autograd.grad(one, weights, retain_graph=True) for one in parts(theirs, batch, rule)]
        with torch.no_grad():
            for at, weight in enumerate(weights):
                for part in (0, 1):
                    gradient = found[part][at]
                    if part == (0 if rule.startswith("dot") else 1):
                        gradient = gradient + decay * weight
                    v[part][at] = mu[part] * v[part][at] + gains[part] * gradient
            for at, weight in enumerate(weights):
                weight.sub_(lr * (v[0][at] + v[1][at]))
    for mine, wanted in zip(ours.student.parameters(), weights, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES[::2])
def test_what_one_part_alone_reaches_has_one_momentum(rule: str, tmp_path: Path) -> None:
    """FitNets without KD: the classifier sees cross-entropy alone, the regressor and nothing else the hint alone."""
    one = lane(tmp_path, "fitnet", rule, kd_weight=0.0)
    two, before = one.optimizer, [weight.detach().clone() for weight in one.optimizer.param_groups[0]["params"]]
    assert isinstance(two, TwoMomenta)
    v = [torch.zeros_like(weight) for weight in before]
    one.start_epoch()
    alone = set()
    for batch in batches():
        one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
        for at, (quick, slow) in enumerate(zip(*two.collected, strict=True)):
            if (quick is None) != (slow is None):
                alone.add((at, quick is None))
                gradient = quick if slow is None else slow
                assert gradient is not None
                v[at] = 0.9 * v[at] + gradient + 5e-4 * before[at]
                before[at] -= 0.05 * v[at]
    found = {hint: [at for at, of_hint in alone if of_hint == hint] for hint in (False, True)}
    assert len(found[True]) == len([*one.method.parameters()]) > 0
    assert len(found[False]) > 2  # what lies behind the map, and the classifier
    for at in (*found[False], *found[True]):
        torch.testing.assert_close(two.trained[at].detach(), before[at], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])  # of 3 the fourth batch makes a step of its own
def test_two_momenta_of_one_size_are_sgd(accumulate: int, tmp_path: Path) -> None:
    plan = replace(PLAN, accumulate=accumulate)
    one, other = (lane(tmp_path, "fitnet", rule, plan=plan) for rule in ("dot", "sum"))
    assert isinstance(one.optimizer, TwoMomenta)
    one.optimizer.momenta = (0.9, 0.9)
    for each in (one, other):
        each.start_epoch()
        for batch in batches():
            each.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
        gradients.finish(each)
    for mine, wanted in zip(one.student.parameters(), other.student.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_the_part_of_the_label_and_the_rest_are_kd() -> None:
    torch.manual_seed(0)
    z_s, z_t = torch.randn(8, 10, dtype=torch.float64), torch.randn(8, 10, dtype=torch.float64)
    label = torch.randint(10, (4,))  # two views
    p, q = F.softmax(z_t / 4, dim=1), F.softmax(z_s / 4, dim=1)
    at = label.repeat(2)[:, None]
    p, q = p.gather(1, at), q.gather(1, at)
    wanted = 16 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(kl_of_label(z_s, z_t, 4.0, label), wanted)
    huge = kl_of_label(1e3 * z_s.float(), 1e3 * z_t.float(), 1.0, label)
    assert huge.isfinite()
    assert kl_of_label(z_s, z_s, 4.0, label) == 0
    assert kl(z_s, z_t, 4.0) > kl_of_label(z_s, z_t, 4.0, label)


@pytest.mark.parametrize(("rule", "method"), TRAINED)
def test_alone_is_in_company_is_resumed_is_captured(rule: str, method: str, tmp_path: Path) -> None:
    def made(folder: str) -> Lane:
        return lane(tmp_path / folder, method, rule, plan=replace(PLAN, lr=0.01), **hyper)

    hyper = {"base": "dkd"} if method == "ctkd" else {}

    def shared(**changes: Any) -> Setting:
        return setting(loader(24), **changes)  # a whole batch and a short one

    alone = made("alone")
    train_lanes([alone], shared())
    wanted = result(alone)
    company = [lane(tmp_path / "company", "at", "dot"), made("company"), lane(tmp_path / "company", "student", "sum")]
    train_lanes(company, shared())
    assert_same(result(company[1]), wanted)
    with pytest.raises(KeyboardInterrupt):
        fit(shared(), [made("stopped")], Silent(1), nothing)
    again = made("stopped")
    assert again.resume()
    assert again.curve or again.stage == "train"
    train_lanes([again], shared())
    assert_same(result(again), wanted)
    whole, notes = made("whole"), list[str]()
    train_lanes([whole], shared(machine=Eager(), note=notes.append))
    assert notes == []
    assert_same(result(whole), wanted)


@pytest.mark.parametrize(("more", "method"), thinned([{}, {"clip_grad": 0.2}, {"ema": 0.9}], ["kd", "dkd+fitnet"]))
def test_a_graph_that_repeats_the_step_gives_the_bits_of_the_loop(
    method: str, more: dict[str, Any], tmp_path: Path
) -> None:
    plan = replace(PLAN, **more)
    ours, notes = lane(tmp_path / "ours", method, "dot", plan=plan), list[str]()
    train_lanes([ours], setting(machine=Replaying(), note=notes.append))
    assert notes == []
    theirs = lane(tmp_path / "theirs", method, "dot", plan=plan)
    train_lanes([theirs])
    assert_same(result(ours), result(theirs))


def test_clipped_is_the_norm_of_the_sum(tmp_path: Path) -> None:
    one = lane(tmp_path, "kd", "dot", plan=replace(PLAN, clip_grad=0.1, weight_decay=0.0))
    before = [weight.detach().clone() for weight in one.student.parameters()]
    one.start_epoch()
    batch = batches()[0]
    one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
    moved = [new.detach() - old for new, old in zip(one.student.parameters(), before, strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(0.05 * 0.1, rel=1e-3)


def test_gradients_of_several_batches_make_a_step(tmp_path: Path) -> None:
    one = lane(tmp_path, "kd", "dot", plan=replace(PLAN, accumulate=3))
    one.start_epoch()
    first, second, third, fourth = batches()
    before = copy.deepcopy(one.student.state_dict()["net.conv1.weight"])
    for batch in (first, second):
        one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
    assert torch.equal(one.student.state_dict()["net.conv1.weight"], before)
    assert isinstance(one.optimizer, TwoMomenta)
    waiting = one.optimizer.collected[0][0]
    assert waiting is not None
    assert waiting.abs().sum() > 0
    one.step(setting().teacher(third.image), third)  # type: ignore[misc]
    moved = one.student.state_dict()["net.conv1.weight"].clone()
    assert not torch.equal(moved, before)
    one.step(setting().teacher(fourth.image), fourth)  # type: ignore[misc]
    gradients.finish(one)  # the end of the epoch: one batch weighs as three
    assert not torch.equal(one.student.state_dict()["net.conv1.weight"], moved)


def test_an_overflow_in_either_part_costs_one_step(tmp_path: Path) -> None:
    for at_task in (True, False):
        student = Small()
        burst = Burst(pair_of(models.create("resnet8", 10, image_size=8)), at=(1,))
        burst.needs_teacher = True  # type: ignore[misc]
        burst.roles = {"burst": "task"} if at_task else {}  # type: ignore[misc]
        plan = replace(PLAN, gradients="dot")
        one = lane_of(f"burst{at_task}", student, burst, tmp_path, plan=plan, precision=Half())
        seen: list[list[Tensor]] = []
        one.start_epoch()
        for number, batch in enumerate(batches()):
            now = batch._replace(progress=torch.tensor(number / burst.steps))
            one.step(None, now)
            momenta = [value for own in one.optimizer.state.values() for value in own.values()]
            seen.append([value.detach().clone() for value in (*student.parameters(), *momenta)])
        assert all(value.isfinite().all() for values in seen for value in values)
        assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(seen[1], seen[2], strict=True))
        assert one.scaler.state_dict()["scale"] == 512.0


def test_a_loss_scale_changes_nothing_but_rounding(tmp_path: Path) -> None:
    found = []
    for precision in ("fp32", Half()):
        torch.manual_seed(0)
        student = Small()
        method = registry.get("kd").build(pair_of(models.create("resnet8", 10, image_size=8)), kd_weight=1.0)
        plan = replace(PLAN, gradients="dot", clip_grad=1.0)
        one = lane_of("scaled", student, method, tmp_path, plan=plan, precision=precision)
        one.start_epoch()
        for batch in batches():
            one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
        found.append([weight.detach() for weight in student.parameters()])
    for half, full in zip(*found, strict=True):
        torch.testing.assert_close(half, full, rtol=0.05, atol=2e-3)


def test_weights_that_nothing_reaches_stay(tmp_path: Path) -> None:
    one = lane(tmp_path, "kd", "dot")
    one.method.idle = nn.Parameter(torch.ones(3))
    one.enter("train")
    one.start_epoch()
    batch = batches()[0]
    one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
    assert torch.equal(one.method.idle, torch.ones(3))


@pytest.mark.parametrize("method", ["student", "tfkd"])
def test_a_method_without_a_teacher_is_trained_plainly(method: str, tmp_path: Path) -> None:
    found = []
    for rule in ("dot", "sum"):
        one = lane(tmp_path / rule, method, rule)
        train_lanes([one])
        found.append(result(one))
    assert_same(*found)


def test_a_stage_before_the_main_one_is_trained_plainly(tmp_path: Path) -> None:
    one = lane(tmp_path, "ft", "dot")
    assert type(one.optimizer) is torch.optim.SGD
    one.enter("train")
    assert type(one.optimizer) is TwoMomenta


def test_deepkd_needs_a_part_at_the_label(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the label's class, .*; give it a kd_weight above 0, or take gradients=dot"):
        lane(tmp_path, "fitnet", "deepkd", kd_weight=0.0)
    one = lane(tmp_path, "ctkd", "deepkd", base="kd")  # it may have one, and here it has none
    one.start_epoch()
    batch = batches()[0]
    with pytest.raises(Failed, match="has no such part; take gradients=dot"):  # ctkd has no kd_weight
        one.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"divides KD at the label, and recipe.mixup mixes labels"):
        refuse_recipe("kd", {"mixup": 0.8, "gradients": "deepkd:0.075"})
    refuse_recipe("kd", {"mixup": 0.8, "gradients": "dot:0.075"})
    refuse_recipe("student", {"mixup": 0.8, "gradients": "deepkd:0.075"})


def test_a_role_that_is_none_is_refused(tmp_path: Path) -> None:
    class Odd(Distiller):
        roles = {"odd": "boss"}  # noqa: RUF012

    net = models.create("resnet8", 10, image_size=8)
    with pytest.raises(ValueError, match="boss is no role of a term; there are task, target, rest"):
        lane_of("odd", net, Odd(pair_of(net)), tmp_path, plan=replace(PLAN, gradients="dot"))


def test_a_compiled_student_is_refused(tmp_path: Path) -> None:
    net = models.create("resnet8", 10, image_size=8)
    method, compiler = registry.get("kd").build(pair_of(net)), Compiler(CPU, backend="eager")
    with pytest.raises(ValueError, match="goes twice through a student"):
        lane_of("kd", net, method, tmp_path, plan=replace(PLAN, gradients="dot"), compiler=compiler)


def test_every_role_of_the_catalogue_is_one() -> None:
    for name in registry.names():
        assert set(registry.get(name).roles.values()) <= {"task", "target"}, name
    assert registry.get("dkd+fitnet").roles == {"target": "target", "dkd.target": "target"}


@pytest.mark.parametrize(
    ("row", "terms"),
    [
        ("label_smoothing+sp", ["smoothing"]),
        ("dskd", ["shallow_ce"]),
        ("pffu", ["branch_student", "branch_teacher"]),
        ("deit", ["class_token"]),
    ],
)
def test_what_learns_labels_goes_with_the_cross_entropy(row: str, terms: list[str]) -> None:
    """In the slow part a smoothing of a tenth would weigh four times as much, and its CE half of what it should."""
    assert {registry.get(row).roles.get(term) for term in terms} == {"task"}


def test_memory_counts_the_gradients_of_both_parts(tmp_path: Path) -> None:
    two, one = lane(tmp_path, "kd", "dot"), lane(tmp_path, "kd", "sum")
    weights = sum(p.nbytes for p in one.student.parameters())
    assert memory.gained(two) - memory.gained(one) == 3 * weights
    assert memory.standing(two) - memory.standing(one) == 3 * weights


def test_a_copy_of_a_lane_steps_as_the_lane(tmp_path: Path) -> None:
    one = lane(tmp_path, "kd", "dot")
    twin, batch = copy.deepcopy(one), batches()[0]
    for each in (one, twin):
        each.start_epoch()
        each.step(setting().teacher(batch.image), batch)  # type: ignore[misc]
    assert all(torch.equal(a, b) for a, b in zip(one.student.parameters(), twin.student.parameters(), strict=True))


# -- the recipe ---------------------------------------------------------------------------------------


def test_a_recipe_has_one_spelling_and_is_in_the_settings() -> None:
    suite = suites.load("digits")
    assert "gradients" not in suite.recipe.facts_for("resnet8", 30)
    for word in ("dot", "dot:0.075", " dot:0.0750"):
        assert suite.set("recipe.gradients", word).recipe.facts_for("resnet8", 30)["gradients"] == "dot:0.075"
    assert suite.set("recipe.gradients", "dot").teacher == suite.teacher
    assert suite.set("recipe.gradients", "sum") == suite
    assert parse("deepkd-scaled:0.09") == ("deepkd", 0.09, True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"recipe.gradients": "dots"}, "gradients is one of sum, dot, dot-scaled, deepkd, deepkd-scaled"),
        ({"recipe.gradients": "sum:0.1"}, "gradients is one of"),
        ({"recipe.gradients": "dot:nan"}, "gradients is one of"),
        ({"recipe.gradients": "dot:1"}, "gradients is one of"),
        ({"recipe.gradients": "dot:0.1"}, "gives 0.8 and 1; both must lie from 0 to below 1"),
        ({"recipe.gradients": "dot", "recipe.momentum": "0.05"}, "both must lie from 0 to below 1"),
        ({"recipe.nesterov": "true", "recipe.gradients": "dot"}, "no Nesterov step"),
        ({"recipe.optimizer": "adamw", "recipe.gradients": "dot"}, "the optimizer adamw has others"),
        ({"teacher.gradients": "dot"}, "no setting"),
    ],
)
def test_what_leaves_no_room_for_two_momenta_is_refused(settings: dict[str, str], why: str) -> None:
    suite, (*before, (key, value)) = suites.load("digits"), settings.items()
    for other, its in before:
        suite = suite.set(other, its)
    with pytest.raises(ValueError, match=re.escape(why)):
        suite.set(key, value)


def test_a_run_by_dot_is_other_cells_than_one_without(tmp_path: Path) -> None:
    words = ["--suite", "digits", "--pairs", "wrn_16_1:resnet8", "--seeds", "1", "--epochs", "2", "--limit-train", "64"]
    words += ["--set", "teacher.epochs=1", "--out", str(tmp_path), "--device", "cpu"]
    fine("run", *words, "--methods", "kd")
    rule = ["--set", "recipe.gradients=dot"]
    said = flat(fine("run", *words, *rule, "--methods", "kd", "--dry-run"))
    assert "gradients by dot:0.075" in said
    fine("run", *words, *rule, "--methods", "kd")
    assert len(list((tmp_path / "runs").rglob("kd*.json"))) == 2
    assert "exclude each other" in refused("run", *words, *rule, "--methods", "kd", "--compile")
