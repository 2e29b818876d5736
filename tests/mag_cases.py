"""Golden cases of MAG's main stage, which MAS has in common with it."""

from __future__ import annotations

from golden import Case, total
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
