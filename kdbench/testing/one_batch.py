"""The checks of the conformance kit that look at one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from kdbench.distiller import READS, Batch, Distiller
from kdbench.engine.terms import check_name
from kdbench.engine.torch_private import depends_on_values
from kdbench.testing.strays import Strays, on_meta
from kdbench.testing.toys import TOYS, B, Broken, Problem, Toy, differing, require, said, served
from kdbench.testing.trainee import Trainee


def check_terms_are_finite_scalars(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Every term is a finite 0-dim tensor under a name of its own, and their sum can be minimised.

    >>> class Mine(Distiller):
    ...     def terms(self, student, teacher, batch):
    ...         return {"match": (student.pooled.mean(dim=1) - teacher.pooled.mean(dim=1)) ** 2}
    >>> check_terms_are_finite_scalars(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: term 'match' has shape (8,), not (); reduce it, as by .mean()
    """
    for toy in served(cls, toys):
        trainee = Trainee(Problem(toy), cls)
        for stage in trainee.stages:
            trainee.enter(stage)
            batch = trainee.some_batch()
            if stage == "train":
                own = trainee.method.terms(*trainee.method.transform(*trainee.look(batch)), batch)
                common = cls.hyperparameters()
                taken = [name for name in ("ce", "kd") if name in own and f"{name}_weight" in common]
                require(not taken, f"terms() returns {', '.join(taken)}, a name of the base class; take another")
            _sound(trainee.terms(batch), f"in stage {stage!r} on the toy pair {toy.name!r}")


def _sound(terms: Mapping[str, Tensor], where: str) -> Tensor:
    """The sum of terms that were found to be right."""
    require(isinstance(terms, dict), f"the terms must come as a dict of name to tensor, not {type(terms).__name__}")
    require(terms, f"there is no term to minimise {where}; with the default weights something must be left")
    for name, term in terms.items():
        try:
            check_name(name, longest=60)
        except (TypeError, ValueError) as error:
            raise Broken(str(error)) from error
        kind = type(term).__name__
        require(isinstance(term, Tensor), f"term {name!r} is a {kind}, not a tensor; leave out .item() and float()")
        require(term.dim() == 0, f"term {name!r} has shape {tuple(term.shape)}, not (); reduce it, as by .mean()")
        require(term.is_floating_point(), f"term {name!r} has dtype {term.dtype}; a loss is floating point")
        require(torch.isfinite(term), f"term {name!r} is {term.item()} {where}")
    total = torch.stack([term.float() for term in terms.values()]).sum()
    require(total.requires_grad, f"no term depends on anything trained {where}; is something detached or frozen?")
    return total


def step(trainee: Trainee, batch: Batch, where: str) -> None:
    """Terms and gradients of one batch, which must be finite.

    Raises:
        Broken: they are not, or the loss fails; ``where`` begins or ends the sentence.

    >>> from kdbench import registry
    >>> trainee = Trainee(Problem(TOYS[0]), registry.get("kd"))
    >>> step(trainee, trainee.some_batch(), "on a batch")
    """
    for parameter in (*trainee.student.parameters(), *trainee.method.parameters()):
        parameter.grad = None
    try:
        total = _sound(trainee.terms(batch), where)
        total.backward()
    except (Broken, NotImplementedError):
        raise
    except Exception as error:
        raise Broken(f"{where} it fails with {said(error, type(trainee.method))}") from error
    named = (*trainee.student.named_parameters(), *trainee.method.named_parameters())
    bad = [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not bad, f"the gradient of {', '.join(bad[:3])} is not finite {where}")


def _each_stage(cls: type[Distiller], problem: Problem, where: str, precision: str = "") -> None:
    trainee = Trainee(problem, cls, precision=precision)
    for stage in trainee.stages:
        trainee.enter(stage)
        step(trainee, trainee.some_batch(), where)


def check_tail_batch_works(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """An epoch's last batch may be shorter than ``pair.batch_size``, and gives terms of the same names.

    >>> from kdbench import registry
    >>> check_tail_batch_works(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        trainee = Trainee(Problem(toy), cls)
        for stage in trainee.stages:
            trainee.enter(stage)
            whole, *_, tail = trainee.batches()
            step(trainee, tail, f"on a last batch of {len(tail.label)} images instead of {B}")
            names = [set(trainee.terms(batch)) for batch in (whole, tail)]
            require(names[0] == names[1], f"a shorter batch changes the names of the terms: {names[0]} and {names[1]}")


def check_two_classes_work(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It serves a data set of two classes.

    >>> from kdbench import registry
    >>> check_two_classes_work(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        _each_stage(cls, Problem(toy, num_classes=2), "with two classes")


def check_bf16_stays_finite(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Terms and gradients are finite under bf16 autocast, where maps are bf16 and logits float.

    >>> from kdbench import registry
    >>> check_bf16_stays_finite(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    _each_stage(cls, Problem(served(cls, toys)[0]), "under bf16 autocast", precision="bf16")


def check_sure_logits_stay_finite(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Terms and gradients are finite for logits some hundreds apart, whose softmax underflows.

    >>> from kdbench import registry
    >>> check_sure_logits_stay_finite(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    problem = Problem(served(cls, toys)[0])
    trainee = Trainee(problem, cls)
    for module in (problem.teacher, trainee.student):
        with torch.no_grad():
            module.fc.weight.mul_(500)
    for stage in trainee.stages:
        trainee.enter(stage)
        where = "for logits some hundreds apart (log_softmax(z) is safe there, log(softmax(z)) is not)"
        step(trainee, trainee.some_batch(), where)


def check_predict_gives_logits(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """In eval mode ``predict`` gives finite (B, K) logits, for one image as for many, whatever the company.

    >>> from kdbench import registry
    >>> check_predict_gives_logits(registry.get("simkd"))  # keeps the rule, so nothing is said
    """
    for toy in served(cls, toys):
        problem = Problem(toy)
        trainee = Trainee(problem, cls)
        trainee.enter("train")
        trainee.student.eval()
        trainee.method.eval()
        with torch.no_grad():
            many, again, one = (trainee.method.predict(trainee.student(problem.image[:b])) for b in (B, B, 1))
        require(isinstance(many, Tensor), f"predict gives {type(many).__name__}, not the (B, K) logits")
        for logits, b in ((many, B), (one, 1)):
            wanted = (b, problem.num_classes)
            require(logits.shape == wanted, f"predict gives shape {tuple(logits.shape)} for {b} images, not {wanted}")
        require(torch.isfinite(many).all(), "predict gives logits that are not finite")
        require(
            torch.equal(many, again),
            "predict answers differently when it is asked again; in eval mode nothing is drawn, counted or changed",
        )
        require(
            torch.allclose(many[:1], one, rtol=1e-3, atol=1e-4),
            "predict answers differently for an image alone and among others; does something ignore eval()?",
        )


def check_reads_no_more_than_declared(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """The main stage reads no more of the teacher than ``reads`` says.

    >>> class Mine(Distiller):
    ...     reads = "logits"
    ...     def terms(self, student, teacher, batch):
    ...         return {"match": (student.pooled.mean() - teacher.pooled.mean()) ** 2}
    >>> check_reads_no_more_than_declared(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: `reads` is 'logits', but term match changes when the teacher shows ...
    """
    for toy in served(cls, toys):
        trainee = Trainee(Problem(toy), cls)
        trainee.enter("train")
        reads = trainee.method.reads
        require(reads in READS, f"`reads` is {reads!r}; it is one of {', '.join(READS)}")
        if reads == "maps":
            continue
        batch, saved = trainee.some_batch(), trainee.save()
        student, teacher = trainee.look(batch)
        blind = teacher.map(lambda t: torch.full_like(t, torch.nan))
        blind = blind._replace(logits=teacher.logits, classifier=teacher.classifier)
        if reads == "pooled":
            blind = blind._replace(pooled=teacher.pooled)
        found = []
        for side in (teacher, blind):
            trainee.load(saved)
            with trainee.own_rng():
                found.append(trainee.method.loss(student, side, batch))
        wrong = differing(*found)
        more = "pooled or maps" if reads == "logits" else "maps"
        require(
            not wrong,
            f"`reads` is {reads!r}, but term {', '.join(wrong)} changes when the teacher shows no {more};"
            " declare what the method reads",
        )


def check_on_stage_only_sets(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """``on_stage`` may be called any number of times: it sets, it never counts.

    >>> from kdbench import registry
    >>> check_on_stage_only_sets(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    problem = Problem(served(cls, toys)[0])
    for stage in Trainee(problem, cls).stages:
        once, again, often = (Trainee(problem, cls) for _ in range(3))
        for trainee, calls in ((once, 1), (again, 1), (often, 4)):
            for _ in range(calls):
                trainee.enter(stage)
        batch = once.some_batch()
        modes = [{n: m.training for n, m in t.method.named_modules()} for t in (once, often)]
        trained = [{n: p.requires_grad for n, p in t.method.named_parameters()} for t in (once, often)]
        same = modes[0] == modes[1] and trained[0] == trained[1]
        same = same and not differing(once.everything(), often.everything())
        terms = once.terms(batch)
        if not differing(terms, again.terms(batch)):  # else chance is in them, which other checks name
            same = same and not differing(terms, often.terms(batch))
        require(same, f"on_stage({stage!r}) called four times leaves another state than once; it must only set")


def check_time_is_read_from_progress(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """The same state, batch and random numbers give the same terms: nothing is counted in Python.

    >>> from kdbench import registry
    >>> check_time_is_read_from_progress(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    problem = Problem(served(cls, toys)[0])
    trainee = Trainee(problem, cls)
    for stage in trainee.stages:
        trainee.enter(stage)
        batch, saved = trainee.some_batch(), trainee.save()
        first = {name: term.detach() for name, term in trainee.terms(batch).items()}
        for _ in range(3):
            trainee.load(saved)
            wrong = differing(first, {name: term.detach() for name, term in trainee.terms(batch).items()})
            require(
                not wrong,
                f"term {', '.join(wrong)} changes when the same batch meets the same state and random numbers again;"
                " read the time from batch.progress, draw from torch's default generator only",
            )


def check_loss_compiles_whole(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """The loss compiles as one graph, once for all batches of a size: no .item(), no branch on a value.

    >>> from kdbench import registry
    >>> check_loss_compiles_whole(registry.get("kd"))  # keeps the rule, so nothing is said
    """
    trainee, fresh = (Trainee(Problem(served(cls, toys)[0]), cls) for _ in range(2))
    for stage in trainee.stages:
        trainee.enter(stage)
        fresh.enter(stage)
        first, second, *_ = trainee.batches()
        batches = (first, first, second)
        wanted = [trainee.terms(batch) for batch in batches]
        try:
            found, reads = _compiled(fresh, batches)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if "fail_on_recompile" in text:
                again = "the loss is compiled again for a second batch, so a Python value in it changes"
                raise Broken(f"{again}: {text.partition('. ')[2][-300:]}") from None
            raise Broken(
                "the loss does not compile as one graph; look for .item(), float(), print, numpy, nonzero, a boolean"
                f" index or an `if` on a tensor's value: {text[:300]}"
            ) from None
        require(
            not reads,
            (
                "the loss waits for the device to read a value, or a size that depends on one, with .item(), float(),"
                f" nonzero or a boolean index: {', '.join(reads)}"
            ),
        )
        for have, want in zip(found, wanted, strict=True):
            off = [n for n, value in want.items() if not torch.allclose(have[n], value, rtol=1e-3, atol=1e-5)]
            require(not off, f"compiled and plain give different values for term {', '.join(off)}")


def _compiled(trainee: Trainee, batches: Sequence[Batch]) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Terms of the batches by the compiled loss, and its operations that give no tensor of known shape.

    The second batch may compile the loss again, the last must not.
    """
    reads: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        for node in graph.graph.nodes:
            if depends_on_values(node):
                reads.append(getattr(node.target, "__name__", str(node.target)))
        forward: Callable[..., Any] = graph.forward
        return forward

    torch.compiler.reset()
    try:
        with warnings.catch_warnings():
            # torch looks at the .grad of the student's maps, which are no leaves, and warns of itself.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            # torch 2.9 makes an object of an autograd.Function, and warns of itself.
            warnings.filterwarnings("ignore", message=".*torch.autograd.function.Function.* should not be instantiated")
            loss = torch.compile(trainee.stage_loss, fullgraph=True, backend=look, dynamic=False)
            found = []
            for number, batch in enumerate(batches):
                stance = torch.compiler.set_stance("fail_on_recompile" if number > 1 else "default")
                with trainee.own_rng(), stance:
                    found.append(loss(*trainee.look(batch), batch))
            return found, list(dict.fromkeys(reads))
    finally:
        torch.compiler.reset()


#: Faults of other kinds, which other checks find; a tensor that strays is noted before it raises.
_OTHER = (NotImplementedError, RuntimeError, TypeError)


def check_tensors_follow_the_device(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """What loss, gradients and ``predict`` make or keep is on the device of their inputs; constants are Python numbers.

    Tried on torch's "meta" device, where a tensor of the CPU shows, and on the CPU, where also backward passes
    show what is copied from the host.

    >>> from kdbench import registry
    >>> check_tensors_follow_the_device(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for device in (torch.device("meta"), torch.device("cpu")):
        problem = Problem(served(cls, toys)[0])
        trainee, strays = Trainee(problem, cls), Strays(device)
        for module in (problem.teacher, trainee.student, trainee.method):
            module.to(device)
        for stage in trainee.stages:
            trainee.enter(stage)
            batch = Batch(*(tensor.to(device) for tensor in trainee.some_batch() if tensor is not None))
            student, teacher = trainee.look(batch)
            with on_meta(), trainee.own_rng(), suppress(*_OTHER), strays:
                terms = trainee.stage_loss(student, teacher, batch)
                torch.stack([term.float() for term in terms.values()]).sum().backward()
        for module in (trainee.student, trainee.method):
            module.eval()
        with torch.no_grad():
            student = trainee.student(batch.image)
            with on_meta(), suppress(*_OTHER), strays:
                trainee.method.predict(student)
        require(
            not strays.found,
            (
                f"a tensor is not on the device of the inputs: {'; '.join(strays.found[:3])}; register_buffer what is"
                " kept, give device=... to what is made, and write constants as Python numbers"
            ),
        )
