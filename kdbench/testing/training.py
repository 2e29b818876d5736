"""The checks of the conformance kit that need whole training runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.distiller import Batch, Distiller
from kdbench.engine.lane import Diverged
from kdbench.engine.torch_private import versions
from kdbench.testing.hidden_state import loose_state, plain_tensors
from kdbench.testing.toys import TOYS, Broken, Problem, Toy, candidates, differing, require, served
from kdbench.testing.trainee import Trainee


class History(NamedTuple):
    """A run that nothing interrupted.

    >>> from kdbench import registry
    >>> [stage for stage, checkpoint in history(registry.get("ft"), TOYS[0]).saved]
    ['pretrain', 'train', 'train']
    """

    problem: Problem
    before: dict[str, Tensor]  # facts of the problem, before
    saved: list[tuple[str, bytes]]  # stage and checkpoint at the start of every epoch but the first
    end: dict[str, Tensor]  # all that training leaves behind
    trainable: dict[str, set[str]]  # parameters of the method that require a gradient, by stage
    reached: dict[str, set[str]]  # those that got one
    loose: tuple[dict[str, object], dict[str, object]]  # state outside state_dict, before and after


def history(cls: type[Distiller], toy: Toy) -> History:
    """Train to the end, and remember; the last few are kept for the checks that follow.

    >>> from kdbench import registry
    >>> told = history(registry.get("fitnet"), TOYS[0])
    >>> told.trainable["train"] == told.reached["train"], "regressor.0.weight" in told.reached["train"]
    (True, True)
    """
    return _history(cls, toy)  # type: ignore[arg-type]  # mypy doubts that a class of modules can be hashed


@lru_cache(maxsize=4)
def _history(cls: type[Distiller], toy: Toy) -> History:
    problem = Problem(toy)
    trainee = Trainee(problem, cls)
    before, loose = problem.facts(), loose_state(trainee.method)
    saved: list[tuple[str, bytes]] = []
    trainable: dict[str, set[str]] = {}
    reached: dict[str, set[str]] = {stage: set() for stage in trainee.stages}
    while not trainee.done:
        named = dict(trainee.method.named_parameters())
        trainable[trainee.stage] = {name for name, p in named.items() if p.requires_grad}
        for parameter in named.values():
            parameter.grad = None
        for batch in trainee.batches():
            trainee.step(batch)
            reached[trainee.stage] |= {name for name, p in named.items() if p.grad is not None}
        trainee.end_epoch()
        if not trainee.done:
            saved.append((trainee.stage, trainee.save()))
    end = trainee.everything()
    return History(problem, before, saved, end, trainable, reached, (loose, loose_state(trainee.method)))


def _first(cls: type[Distiller], toys: Sequence[Toy]) -> History:
    return history(cls, served(cls, toys)[0])


def check_it_trains(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It goes through every stage on every toy pair, and state and student stay finite.

    >>> from kdbench import registry
    >>> check_it_trains(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        try:
            end = history(cls, toy).end
        except Diverged as error:
            raise Broken(f"in training on the toy pair {toy.name!r} the loss is not finite: {error}") from error
        bad = [name for name, tensor in end.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
        require(not bad, f"after training on the toy pair {toy.name!r}, {', '.join(bad[:3])} is not finite")


def check_student_learns_from_the_method(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """The method's own terms give the student a gradient.

    >>> from kdbench import registry
    >>> check_student_learns_from_the_method(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    trainee = Trainee(Problem(served(cls, toys)[0]), cls)
    trainee.enter("train")
    for batch in trainee.batches():
        own = _own_terms(trainee, batch)
        total = torch.stack([term.float() for term in own.values()]).sum()
        weights = list(trainee.student.parameters())
        grads = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else ()
        if any(grad is not None and grad.any() for grad in grads):
            return
    require(False, f"no gradient of {', '.join(own)} reaches the student; is a map of the student's detached?")


def _own_terms(trainee: Trainee, batch: Batch) -> dict[str, Tensor]:
    """Terms beside CE and KD; without any, those beside CE; of a plain control, all."""
    student, teacher = trainee.look(batch)
    with trainee.own_rng():
        own = trainee.method.terms(*trainee.method.transform(student, teacher), batch)
        if own:  # a second call may write into what the first one's backward pass needs
            return own
        whole = trainee.method.loss(student, teacher, batch)
    return {name: term for name, term in whole.items() if name != "ce"} or whole


def check_teacher_is_used_as_declared(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Other answers of the teacher change the loss; if none do, ``needs_teacher`` must be False.

    >>> class Mine(Distiller):
    ...     pass
    >>> check_teacher_is_used_as_declared(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: the loss is the same whatever the teacher says; ...
    """
    if not cls.needs_teacher:
        require(cls.family == "control", '`needs_teacher` is False, so the family must be "control"')
        return
    trainee = Trainee(Problem(served(cls, toys)[0]), cls)
    changed: set[str] = set()
    for stage in trainee.stages:
        trainee.enter(stage)
        batch = trainee.some_batch()
        student, teacher = trainee.look(batch)
        swapped = teacher.map(lambda t: t.roll(1, 0) * 1.5)._replace(classifier=teacher.classifier)
        swapped = swapped._replace(logits=swapped.logits.roll(1, 1))  # all images may be of one class to it
        saved = trainee.save()
        with trainee.own_rng():
            one = trainee.stage_loss(student, teacher, batch)
        trainee.load(saved)
        with trainee.own_rng():
            other = trainee.stage_loss(student, swapped, batch)
        changed |= set(differing(one, other))
    require(changed, "the loss is the same whatever the teacher says; set needs_teacher = False, or use the teacher")


def check_teacher_is_left_alone(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Neither teacher, data nor anything that other methods see too is changed.

    >>> from kdbench import registry
    >>> check_teacher_is_left_alone(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        problem = Problem(toy)
        trainee = Trainee(problem, cls)
        for stage in trainee.stages:
            trainee.enter(stage)
            batch = trainee.some_batch()
            student, teacher = trainee.look(batch)
            sides = (("student", student), ("teacher", teacher))
            shown = {f"{side}.{path}": t for side, of in sides for path, t in of.tensors().items()}
            shown |= {"batch.image": batch.image, "batch.label": batch.label, "batch.idx": batch.idx}
            copies = {name: tensor.detach().clone() for name, tensor in shown.items()}
            shared = {name: tensor for name, tensor in shown.items() if not name.startswith("student.")}
            shared["batch.progress"] = batch.progress
            before = versions(shared.values())  # the engine goes by them: what is written may be the same
            with trainee.own_rng():
                trainee.stage_loss(student, teacher, batch)
            written = zip(shared, before, versions(shared.values()), strict=True)
            touched = list(dict.fromkeys([*differing(copies, shown), *(name for name, a, b in written if a != b)]))
            require(not touched, f"the loss changes {', '.join(touched)} in place; other methods see them too")
    told = _first(cls, toys)
    moved = differing(told.before, told.problem.facts())
    require(not moved, f"training changes {', '.join(moved[:3])}; clone what comes from the pair before it is trained")


def check_every_parameter_is_trained(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Every parameter gets a gradient in the stage that trains it.

    >>> from kdbench import registry
    >>> check_every_parameter_is_trained(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        told = history(cls, toy)
        fresh = cls.build(told.problem.pair)
        meant = {name for name, p in fresh.named_parameters() if p.requires_grad}
        for stage, names in told.trainable.items():
            if stage == "pretrain":
                require(
                    names or cls.pretrain_student,
                    "on_stage('pretrain') leaves nothing for the pre-training stage to train",
                )
        never = sorted(meant - set().union(*told.reached.values()))
        require(not never, f"{', '.join(never[:4])} never gets a gradient; use it, or leave it out")
        idle = sorted(told.trainable["train"] - told.reached["train"])
        require(
            not idle,
            f"{', '.join(idle[:4])} requires a gradient in the main stage and gets none; freeze it in"
            " on_stage('train')",
        )


def check_no_state_outside_the_state_dict(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """What changes in training, and every tensor, is a parameter or a registered buffer.

    >>> from kdbench import registry
    >>> check_no_state_outside_the_state_dict(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    told = _first(cls, toys)
    early, late = told.loose
    changed = [name for name in dict.fromkeys((*early, *late)) if early.get(name, "") != late.get(name, "")]
    require(
        not changed,
        f"{', '.join(changed[:4])} changes in training but is not in state_dict(); register_buffer keeps a tensor,"
        " batch.progress tells the time",
    )
    trainee = Trainee(told.problem, cls)
    trainee.step(trainee.some_batch())
    plain = plain_tensors(trainee.method)
    require(
        not plain,
        f"{', '.join(plain[:4])} is a plain tensor, which .to(device) leaves behind; use register_buffer"
        " (persistent=False for a constant)",
    )


def check_resume_is_exact(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """A copy that trained on other batches, loads a checkpoint and goes on ends bit for bit the same.

    >>> from kdbench import registry
    >>> check_resume_is_exact(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    told = _first(cls, toys)
    for cut, (stage, saved) in enumerate(told.saved, start=1):
        copy = Trainee(told.problem, cls, seed=1)
        copy.wander(stage)
        try:
            copy.load(saved)
        except (RuntimeError, KeyError) as error:
            text = " ".join(str(error).split())[:300]
            require(False, f"the checkpoint after epoch {cut} cannot be loaded into a fresh copy: {text}")
        while not copy.done:
            for batch in copy.batches():
                copy.step(batch)
            copy.end_epoch()
        wrong = differing(told.end, copy.everything())
        require(
            not wrong,
            f"resumed after epoch {cut}, {', '.join(wrong[:3])} ends differently; something that matters is not in"
            " state_dict(), or random numbers do not come from torch's default generator",
        )


def check_alone_as_in_company(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Beside another student with the same method it ends bit for bit as alone.

    >>> from kdbench import registry
    >>> check_alone_as_in_company(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    told = _first(cls, toys)
    other = next((values for values in candidates(cls) if values), {})  # another instance has other weights
    one, mate = Trainee(told.problem, cls), Trainee(told.problem, cls, seed=1, hyper=other)
    while not one.done:
        for batch in one.batches():
            mate.step(batch)
            one.step(batch)
        mate.end_epoch()
        one.end_epoch()
    wrong = differing(told.end, one.everything())
    require(
        not wrong,
        f"beside another instance {', '.join(wrong[:3])} ends differently than alone; nothing may live on the class, in"
        " the module or in a generator that both share",
    )
