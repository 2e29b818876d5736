"""MAG equals the released code, in both stages."""

import pytest
import torch
from mag_cases import check_main_stage, rename
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench import Batch
from kdbench.registry import get


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
