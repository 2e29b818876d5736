"""SSKD equals the released code."""

import torch

from golden import Case, cases, unweighted
from kdbench import Outputs
from kdbench.methods.sskd import SSKD, kept, similarity


def view_major(rows: torch.Tensor) -> torch.Tensor:
    """Rows of a case stand image by image (upright, three rotations); ours stand view by view."""
    return rows.reshape(-1, 4, rows.shape[1]).transpose(0, 1).reshape(rows.shape)


def outputs(case: Case, side: str) -> Outputs:
    pooled, logits = (view_major(case[f"in.{side}.{what}"]) for what in ("pooled", "logits"))
    blank = torch.zeros(len(logits), 1, 1, 1, dtype=case.dtype)
    return Outputs((blank,), blank, pooled, logits)


def rename(name: str) -> str:
    return name.replace(".proj.fc1.", "_head.0.").replace(".proj.fc2.", "_head.2.")


@cases("sskd")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher, hyper = outputs(case, "student"), outputs(case, "teacher"), case.meta["hyper"]
    assert hyper["kd_T"] == hyper["tf_T"]
    weights = {f"w_{name}": value for name, value in hyper["weights"].items()}
    method = SSKD(
        case.pair(student, teacher),
        **weights,
        tau=hyper["kd_T"],
        tau_ss=hyper["ss_T"],
        ratio_tf=hyper["ratio_tf"],
        ratio_ss=hyper["ratio_ss"],
    )
    renamed = case.load(method, rename)
    method.train()
    method.on_stage("train")
    found = method.loss(student, teacher, case.batch())
    weighed = {name: (value, weights[f"w_{name}"]) for name, value in found.items()}
    case.check(torch.stack(list(found.values())).sum(), method, renamed, **unweighted(**weighed))


@cases("sskd")
def test_rows_kept(case: Case) -> None:
    """As many rows as theirs; the same ones, but for ties in rank."""
    case.open()
    hyper, label = case.meta["hyper"], case["in.labels"]
    b = len(label)
    rotated = view_major(case["in.teacher.logits"])[b:]
    similar = case["aux.teacher_similarity"].reshape(b, 3, b).transpose(0, 1).reshape(3 * b, b)
    for scores, target, what in ((rotated, label.repeat(3), "tf"), (similar, torch.arange(b).repeat(3), "ss")):
        ours = kept(scores, target, hyper[f"ratio_{what}"])
        theirs = torch.zeros(3 * b, dtype=case.dtype)
        theirs[case[f"aux.kept_{what}"]] = 1
        rank = (scores > scores.gather(1, target[:, None])).sum(dim=1)
        group_major = rank.reshape(3, b).T.flatten()
        assert ours.sum() == theirs.sum()
        assert sorted(rank[ours.bool()].tolist()) == sorted(group_major[theirs.bool()].tolist())


def test_kept_takes_the_right_rows_and_the_best_of_the_wrong_ones() -> None:
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [1, 3, 2], [3, 2, 1]])
    target = torch.tensor([0, 2, 1, 1, 2])  # ranks 0, 2, 1, 0, 2
    assert kept(scores, target, 0.0).tolist() == [1, 0, 0, 1, 0]
    assert kept(scores, target, 0.34).tolist() == [1, 0, 1, 1, 0]
    assert kept(scores, target, 0.7).tolist() == [1, 1, 1, 1, 0]
    assert kept(scores, target, 1.0).tolist() == [1, 1, 1, 1, 1]
    assert kept(scores[1:2], target[1:2], 0.0).tolist() == [0]


def test_first_stage_finds_the_original_of_a_rotated_image() -> None:
    pooled = torch.eye(5)[:3].repeat(4, 1)  # every rotation looks like its original
    assert similarity(pooled, 3).argmax(dim=1).tolist() == [0, 1, 2] * 3
