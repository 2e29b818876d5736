"""Combinations as first-class methods: written, built and trained on the pairs of a suite, tuned together, reported."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from commands import fine, flat, records, refused
from training import lane_of

from kdbench import models, registry, suites
from kdbench.distiller import FACTORS, Batch
from kdbench.engine.schedule import Plan
from kdbench.run import tuned
from kdbench.run.grid import Cell
from kdbench.run.session import published_hyper

#: Combinations without an entry in the literature, which the suite cifar100-lite is to try.
UNTRIED = ["semckd+dkd", "sdd[standardise]+itrd", "wttm+itrd+sdd", "mag+crd", "ctkd+semckd"]
LITE = suites.load("cifar100-lite")


# -- how they are written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("sdd[standardise]+itrd", ["itrd+sdd[standardise=True]"]),
        ("itrd+sdd[standardise=no]", ["itrd+sdd[standardise=False]"]),
        ("sdd[standardise,beta=2;6]", ["sdd[beta=2.0,standardise=True]", "sdd[beta=6.0,standardise=True]"]),
        ("dkd[beta=2] + semckd[beta=200]", ["dkd+semckd[dkd.beta=2.0,semckd.beta=200.0]"]),
        ("semckd+dkd[semckd.beta=200,beta=1]", ["dkd+semckd[dkd.beta=1.0,semckd.beta=200.0]"]),
        ("mag+crd[nce_t=0.1;0.2],kd", ["crd+mag[nce_t=0.1]", "crd+mag[nce_t=0.2]", "kd"]),
        ("mag[kd_weight=1e+1]+crd", ["crd+mag[kd_weight=10.0]"]),
        ("mag+crd[crd.nce_k=10]", ["crd+mag[nce_k=10]"]),
        ("ctkd+dkd[ctkd.weight=2,dkd.beta=1]", ["ctkd+dkd[dkd.beta=1.0,weight=2.0]"]),
    ],
)
def test_each_part_may_have_brackets(text: str, specs: list[str]) -> None:
    found = [str(spec) for spec in registry.parse(text)]
    assert found == specs
    assert [str(spec) for spec in registry.parse(",".join(found))] == specs


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sdd[standardise+itrd", "cannot read"),
        ("sdd]+itrd", "cannot read"),
        ("[standardise]", "cannot read"),
        ("sdd[standardise]itrd", "cannot read"),
        ("sdd[standardise]+", "cannot read"),
        ("sdd[[standardise]]", "cannot read"),
        ("sdd[beta]+itrd", "cannot read '[beta]' after 'sdd'; write [key=value]"),
        ("sdd+itrd[standardize]", "cannot read '[standardize]' after 'itrd'"),
        ("sdd[width=2]+itrd", "method 'sdd' has no hyper-parameter 'width'"),
        ("sdd+itrd[width=2]", "method 'itrd+sdd' has no hyper-parameter 'width'"),
        ("mag[nce_k=10]+crd", "method 'mag' has no hyper-parameter 'nce_k'"),
        ("mag[crd.nce_k=10]+crd", "method 'mag' has no hyper-parameter 'crd.nce_k'"),
        ("itrd[standardise]+sdd", "cannot read '[standardise]' after 'itrd'"),
        ("mag+crd[zorro.nce_k=10]", "has no hyper-parameter 'zorro.nce_k'"),
        ("mag+crd[mag.nce_k=10]", "has no hyper-parameter 'mag.nce_k'"),
        ("sdd[base=foo]+itrd", "itrd+sdd[base] is one of kd, dkd, rld, not 'foo'"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        registry.parse(text)


# -- on the pairs of a suite --------------------------------------------------------------------------


@cache
def teacher(name: str) -> models.Tapped:
    torch.manual_seed(0)
    net = models.create(name, LITE.num_classes).train().requires_grad_(False)
    for _ in range(30):  # its statistics, so that its maps are of the size of a trained one's
        net(torch.randn(8, 3, 32, 32))
    return net.eval()


@pytest.mark.parametrize("pair", LITE.pairs, ids=":".join)
@pytest.mark.parametrize("text", UNTRIED)
def test_it_trains_on_the_pairs_of_cifar100_lite(text: str, pair: tuple[str, str], tmp_path: Path) -> None:
    (spec,), convention, b = registry.parse(text), suites.convention(LITE.convention), 8
    torch.manual_seed(1)
    student, labels = models.create(pair[1], LITE.num_classes), torch.arange(200) % LITE.num_classes
    facts = models.make_pair(
        student, teacher(pair[0]), image_shape=(3, 32, 32), num_classes=100, train_labels=labels, batch_size=b
    )
    values = published_hyper(convention, spec.name, *pair) | dict(spec.hyper)
    one = lane_of("one", student, registry.get(spec.name).build(facts, **values), tmp_path, plan=Plan(2, 0.01))
    if one.stage == "pretrain":
        one.enter("train")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    one.start_epoch()
    for step in range(2):
        image = torch.randn(b, 3, 32, 32).to(memory_format=torch.channels_last)
        idx = torch.arange(step * b, step * b + b)
        one.step(teacher(pair[0])(image), Batch(image, labels[idx], idx, torch.tensor(0.5)))
    one.end_epoch(0.0)
    named = one.curve[0]["terms"]
    assert len(named) >= 3
    assert "kd" not in named or not any(name.startswith(("target", "regions", "soft")) for name in named)
    assert all(value.isfinite().all() for value in student.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("text", UNTRIED)
def test_the_weights_of_all_parts_are_tuned_together_with_as_many_candidates(text: str) -> None:
    (spec,), convention = registry.parse(text), suites.convention(LITE.convention)
    cls, values = registry.get(spec.name), published_hyper(convention, spec.name, *LITE.pairs[0]) | dict(spec.hyper)
    space = cls.search_space(values)
    assert len(space) == len(FACTORS)
    assert all(values[name] == value for name, value in space[0].items())
    moved = [{name for name, value in row.items() if value != values[name]} for row in space]
    assert moved.count(set(space[0])) == 3  # all parts together
    assert len([names for names in moved if names and names != set(space[0])]) == 2  # one of the first two alone


# -- tuned --------------------------------------------------------------------------------------------

WORDS = ["--suite", "digits", "--epochs", "2", "--limit-train", "96", "--pairs", "resnet14:resnet8"]
WORDS += ["--set", "teacher.epochs=1"]


def test_a_variant_is_tuned_and_run_by_its_own_name(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    both = "sdd[standardise]+itrd,sdd+itrd"
    said = fine("tune", *WORDS, "--methods", both, "--trials", "2", *out)
    assert "--methods 'student,itrd+sdd[standardise=True],itrd+sdd'" in flat(said)
    found = {tuned.read(path).method: tuned.read(path) for path in (tmp_path / "tuned" / "digits").rglob("*.json")}
    assert found.keys() == {"itrd+sdd", "itrd+sdd[standardise=True]"}
    assert found["itrd+sdd[standardise=True]"].published["standardise"] is True
    for one in found.values():
        assert len(one.trials) == one.budget.trials == 2
        assert one.trials[0].values.keys() == {"lambda_corr", "lambda_mutual", "weight"}
    again = flat(fine("tune", *WORDS, "--methods", both, "--trials", "2", *out))
    assert "itrd+sdd[standardise=True]" in again
    seeds = ["--seeds", "1"]
    fine("run", *WORDS, *seeds, "--methods", both, "--weights", "tuned", *out)
    fine("run", *WORDS, *seeds, "--methods", both, *out)
    rows = records(tmp_path)
    for label, variant in (("itrd+sdd@tuned[standardise=True]", True), ("itrd+sdd@tuned", False)):
        row = next(one for one in rows.values() if Cell.of(one).label == label)
        name = "itrd+sdd[standardise=True]" if variant else "itrd+sdd"
        assert row.settings.hyper["standardise"] is variant
        assert found[name].choice.items() <= row.settings.hyper.items()
    fine("report", "--suite", "digits", *out)
    table = (tmp_path / "digits" / "tuned.csv").read_text()
    assert "itrd+sdd[standardise=True]" in table
    assert "lambda_corr" in table
    (tmp_path / "tuned" / "digits" / "resnet14-resnet8" / "itrd+sdd.json").unlink()  # it is no other's weights
    fine("run", *WORDS, "--seeds", "1,", "--methods", "sdd[standardise]+itrd", "--weights", "tuned", *out)


def test_a_variant_without_weights_of_its_own_is_a_sentence(tmp_path: Path) -> None:
    words = [*WORDS, "--weights", "tuned", "--out", str(tmp_path)]
    said = refused("run", *words, "--methods", "sdd[standardise]+itrd")
    assert "no tuned weights of itrd+sdd[standardise=True] on resnet14:resnet8" in said
    said = refused("tune", *WORDS, "--methods", "sdd[standardise,weight=2]+itrd", "--out", str(tmp_path))
    assert "chooses the values of itrd+sdd itself (lambda_corr, lambda_mutual, weight); leave them out" in said
