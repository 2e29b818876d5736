"""MAG equals the released code, in both stages."""

import pytest
import torch
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Batch
from kdbench.registry import get


def rename(name: str) -> str:
    """teacher.low_dim.encoder.fc1.weight -> low.encoder.0.weight, student.low_dim.encoder... -> student_low.0..."""
    for theirs, ours in (
        ("student.low_dim.encoder", "student_low"),
        ("student.high_dim.encoder", "student_high"),
        ("teacher.low_dim", "low"),
        ("teacher.high_dim", "high"),
        ("fc1", "0"),
        ("fc2", "2"),
    ):
        name = name.replace(theirs, ours)
    return name


def check_main_stage(name: str, case: Case) -> None:
    """Loss, its parts and every gradient of one case; used for MAS too."""
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    low, high = hyper["encoder_dims"]
    method = get(name).build(
        case.pair(student, teacher),
        low_dim=low,
        high_dim=high,
        low_tau=hyper["low_T"],
        high_tau=hyper["high_T"],
        tau=hyper["T"],
        ce_weight=hyper["ce_weight"],
        kd_weight=hyper["div_weight"],
    )
    renamed = case.load(method, rename)
    method.train().on_stage("train")
    named = method.loss(student, teacher, case.batch())
    assert list(named) == ["ce", "kd", "kl_low", "kl_high"]
    case.check(
        total(named),
        method,
        renamed,
        low_dim=named["kl_low"],
        high_dim=named["kl_high"],
        ce=named["ce"] / hyper["ce_weight"],
        div=named["kd"] / hyper["div_weight"],
    )
    frozen = [p for name in ("low", "high") for p in method.get_submodule(name).parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


@cases("mag")
def test_golden(case: Case) -> None:
    check_main_stage("mag", case)


@cases("mag_tubes")
@pytest.mark.parametrize("name", ["mag", "mas"])
def test_golden_tubes(case: Case, name: str) -> None:
    case.open()
    teacher = case.outputs("teacher")
    hyper = case.meta["hyper"]
    low, high = hyper["encoder_dims"]
    method = get(name).build(
        case.pair(teacher, teacher), low_dim=low, high_dim=high, low_tau=hyper["low_T"], high_tau=hyper["high_T"]
    )
    renamed = case.load(method, rename)
    method.train().on_stage("pretrain")
    label = case["in.labels"]
    seen = Batch(torch.zeros(len(label), 3, 1, 1), label, torch.arange(len(label)), torch.tensor(0.0))
    named = method.pretrain_terms(teacher, teacher, seen)
    case.check(total(named), method, renamed, low_dim=named["tube_low"], high_dim=named["tube_high"])


@pytest.mark.parametrize("name", ["mag", "mas", "at+mag", "crd+mag"])
def test_each_stage_trains_what_its_loss_reaches_and_no_more(name: str) -> None:
    student, teacher = outputs((3, 8, 8), (4, 4, 4), grad=True), outputs((3, 8, 8), (7, 4, 4), seed=1)
    made = pair(student, teacher, train_labels=torch.arange(20) % 5)
    method = get(name).build(made, **({"nce_k": 4} if name == "crd+mag" else {}))
    method.double()
    for stage in ("pretrain", "train", "pretrain", "train"):  # going back and forth must not accumulate
        method.zero_grad()
        method.train()
        method.on_stage(stage)
        stage_loss = method.loss if stage == "train" else method.pretrain_terms
        total(stage_loss(student, teacher, batch())).backward(retain_graph=True)
        named = dict(method.named_parameters())
        tubes = {key for key in named if {"low", "high"} & set(key.split("."))}
        reached = {key for key, parameter in named.items() if parameter.grad is not None}
        assert reached == (tubes if stage == "pretrain" else set(named) - tubes)
        part = next((p for p in getattr(method, "parts", []) if isinstance(p, get("mag"))), method)
        assert all(p.requires_grad == (p.grad is not None) for p in part.parameters())
