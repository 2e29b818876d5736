"""The conformance kit: proves that a method keeps the contract of ``kdbench.distiller``.

``check_distiller(cls)`` runs every check and answers in sentences; ``CHECKS`` is the same list for
``pytest.mark.parametrize``. A check is a plain function that raises ``Broken`` with what the rule is,
what was found and what would do; the first line of its docstring is the rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from kdbench.distiller import FACTORS, Distiller, Hyper, Pair
from kdbench.engine.guard import Signals
from kdbench.engine.process import Process
from kdbench.testing.hard_labels import check_hard_labels_are_declared
from kdbench.testing.hyper_effects import check_hyperparameters_do_something
from kdbench.testing.one_batch import (
    check_bf16_stays_finite,
    check_loss_compiles_whole,
    check_on_stage_only_sets,
    check_predict_gives_logits,
    check_reads_no_more_than_declared,
    check_sure_logits_stay_finite,
    check_tail_batch_works,
    check_tensors_follow_the_device,
    check_terms_are_finite_scalars,
    check_time_is_read_from_progress,
    check_two_classes_work,
)
from kdbench.testing.other_problems import check_it_never_seeds, check_other_sizes_work
from kdbench.testing.process_left import check_process_is_left_alone
from kdbench.testing.toys import TOYS, Broken, Problem, Toy, refusal, require, said, seeded, served
from kdbench.testing.training import (
    check_alone_as_in_company,
    check_every_parameter_is_trained,
    check_it_trains,
    check_no_state_outside_the_state_dict,
    check_resume_is_exact,
    check_student_learns_from_the_method,
    check_teacher_is_left_alone,
    check_teacher_is_used_as_declared,
)

__all__ = ["CHECKS", "TOYS", "Broken", "Check", "Finding", "Toy", "check_distiller", "variant"]

PROVENANCES = ("authors' code", "port", "formula", "reading")
FAMILIES = ("control", "logit", "feature", "relation", "contrastive", "two-stage", "modified student")
VIEWS = ("rot90", "rot180", "rot270", "randaugment")  # kdbench.data.views, which the kit may not import


class Check(Protocol):
    """A check of the kit; without ``toys`` it tries all toy pairs.

    >>> CHECKS[0].__name__
    'check_it_says_where_it_comes_from'
    """

    @property
    def __name__(self) -> str: ...

    def __call__(self, cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
        """Raise ``Broken`` unless the method keeps the rule."""


class Finding(NamedTuple):
    """What one check found. ``sentence`` says what is wrong, or, where ``ok``, the rule that is kept.

    >>> Finding("it_trains", False, "it does not").skipped
    False
    """

    check: str
    ok: bool
    sentence: str
    skipped: bool = False  # a toy pair refused (ok), or checks not tried after a failure (not ok)


def check_distiller(
    cls: type[Distiller], *, pairs: Sequence[Toy] | None = None, checks: Sequence[Check] | None = None
) -> list[Finding]:
    """Run all checks (or ``checks``) on all toy pairs (or ``pairs``); never raises for what the method does.

    After a failure that would make all others fail too, the rest is not tried.

    >>> from kdbench import registry
    >>> for finding in check_distiller(registry.get("fsp"), checks=[check_a_toy_pair_is_served]):
    ...     print(finding.ok, finding.sentence)
    True It can be built for a pair; ValueError in `__init__` is the way to refuse one.
    True refuses the toy pair 'alike': fsp: the taps must have equal channels; ...
    True refuses the toy pair 'unlike': fsp: the taps must have equal channels; ...
    """
    toys, checks = tuple(pairs or TOYS), tuple(checks or CHECKS)
    findings: list[Finding] = []
    with seeded(0), _surviving() as (signals, process):
        for done, check in enumerate(checks, start=1):
            process.note()
            name = check.__name__.removeprefix("check_")
            rule = (inspect.getdoc(check) or "").partition("\n")[0].replace("``", "`")
            try:
                check(cls, toys)
                findings.append(Finding(name, True, rule))
            except BaseException as error:  # a stranger's method may raise anything
                if signals.meant(error):
                    raise
                findings.append(Finding(name, False, said(error, cls)))
                process.put_back()
                if check in _GATES and done < len(checks):
                    left = f"{len(checks) - done} more checks were not tried, because {name} fails"
                    return [*findings, Finding("the_rest", False, left, skipped=True)]
            process.put_back()  # what is changed is told by the check that is about it, and spoils no other
            if check is check_a_toy_pair_is_served:
                findings += [
                    Finding(name, True, f"refuses the toy pair {toy.name!r}: {refusal(cls, toy)}", skipped=True)
                    for toy in toys
                    if refusal(cls, toy)
                ]
    return findings


@contextmanager
def _surviving() -> Iterator[tuple[Signals, Process]]:
    """Who knows Ctrl-C from a method that raises the like, and who puts the process back."""
    process = Process()
    try:
        with Signals() as signals:
            yield signals, process
    finally:
        process.close()


def variant(cls: type[Distiller], **hyper: Any) -> type[Distiller]:
    """The same method, or combination, with other defaults, to be checked as a class of its own.

    Raises:
        ValueError: it has no hyper-parameter of such a name.

    >>> from kdbench import registry
    >>> variant(registry.get("fitnet"), tap=1).hyperparameters()["tap"].default
    1
    """
    known = cls.hyperparameters()
    if strange := [name for name in hyper if name not in known]:
        raise ValueError(f"{cls.__name__} has no hyper-parameter {', '.join(strange)}; it has {', '.join(known)}")

    class Variant(cls):  # type: ignore[misc, valid-type]
        @classmethod
        def hyperparameters(klass) -> dict[str, Hyper]:
            return {name: own._replace(default=hyper.get(name, own.default)) for name, own in known.items()}

        @classmethod
        def build(klass, pair: Pair, **given: Any) -> Distiller:
            made: Distiller = super().build(pair, **{**hyper, **given})
            return made

    Variant.__name__, Variant.__qualname__ = cls.__name__, cls.__qualname__
    Variant.__module__, Variant.__doc__ = cls.__module__, cls.__doc__
    return Variant


def check_a_toy_pair_is_served(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It can be built for a pair; ValueError in ``__init__`` is the way to refuse one.

    >>> from kdbench import registry
    >>> check_a_toy_pair_is_served(variant(registry.get("fitnet"), tap=9))
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: every toy pair is refused, so nothing can be checked: alike: fitnet: tap=9 ...
    """
    refusals = {toy.name: refusal(cls, toy) for toy in toys}
    require(
        not all(refusals.values()),
        "every toy pair is refused, so nothing can be checked: "
        + "; ".join(f"{name}: {why or 'ValueError without a sentence'}" for name, why in refusals.items()),
    )


def check_it_says_where_it_comes_from(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Reference, provenance, family, deviations and a docstring with the formula are there.

    >>> class Mine(Distiller):
    ...     pass
    >>> check_it_says_where_it_comes_from(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: `reference` is empty; give the citation with a link
    """
    require(cls.reference.strip(), "`reference` is empty; give the citation with a link")
    require(cls.provenance in PROVENANCES, f"`provenance` is {cls.provenance!r}; it is one of {', '.join(PROVENANCES)}")
    require(cls.family in FAMILIES, f"`family` is {cls.family!r}; it is one of {', '.join(FAMILIES)}")
    listed = isinstance(cls.deviations, tuple) and all(isinstance(d, str) and d.strip() for d in cls.deviations)
    require(listed, '`deviations` must be a tuple of sentences; a single one needs a comma: ("...",)')
    require((vars(cls).get("__doc__") or "").strip(), f"{cls.__name__} has no docstring; write the formula of the loss")


def check_class_attributes_agree(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Views are known, and what is said of a pre-training stage fits together.

    >>> class Mine(Distiller):
    ...     views = ("rot45",)
    >>> check_class_attributes_agree(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: `views` names rot45; there are rot90, rot180, rot270, randaugment
    """
    require(isinstance(cls.views, tuple), f"`views` must be a tuple of names, not {cls.views!r}")
    strange = [view for view in cls.views if view not in VIEWS]
    require(not strange, f"`views` names {', '.join(strange)}; there are {', '.join(VIEWS)}")
    require(cls.pretrain_epochs >= 0, f"`pretrain_epochs` is {cls.pretrain_epochs}; 0 means no such stage")
    overridden = any(part.pretrain_terms is not Distiller.pretrain_terms for part in cls.components())
    if cls.pretrain_epochs:
        require(overridden, "`pretrain_epochs` is set but `pretrain_terms` is not written")
    else:
        settings = ("pretrain_student", "pretrain_lr", "pretrain_drops")
        unused = [name for name in settings if getattr(cls, name) != getattr(Distiller, name)]
        unused += ["pretrain_terms"] * overridden
        require(not unused, f"{', '.join(unused)} would never be used, because `pretrain_epochs` is 0")
    drops = cls.pretrain_drops
    require(
        list(drops) == sorted(drops) and all(0 < drop < 1 for drop in drops),
        f"`pretrain_drops` is {drops}; they are rising shares of the stage between 0 and 1, not epochs",
    )
    require(cls.pretrain_lr is None or cls.pretrain_lr > 0, f"`pretrain_lr` is {cls.pretrain_lr}; it must be above 0")


def check_hyperparameters_are_keywords_with_defaults(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Every hyper-parameter is keyword-only and has a default that the command line can change.

    >>> class Mine(Distiller):
    ...     def __init__(self, pair, beta=1.0): ...
    >>> check_hyperparameters_are_keywords_with_defaults(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: hyper-parameters must be keyword-only; put `*` before beta
    """
    for part in cls.components():
        _, _, *rest = inspect.signature(part.__init__).parameters.values()  # self, pair
        loose = [p.name for p in rest if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        require(not loose, f"hyper-parameters must be keyword-only; put `*` before {', '.join(loose)}")
        bare = [p.name for p in rest if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        require(not bare, f"{', '.join(bare)} needs a default, the paper's value")
    known = cls.hyperparameters()
    for word in ("later", "signed"):
        off = [name for name in getattr(cls, word) if name not in known]
        require(not off, f"`{word}` names {', '.join(off)}, which is no hyper-parameter")
    odd = [name for name, hyper in known.items() if not isinstance(hyper.default, bool | int | float | str)]
    require(not odd, f"the default of {', '.join(odd)} must be a number, a bool or a string: the command line sets it")


def check_hyperparameters_arrive(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """It takes every hyper-parameter that it names, and passes the common ones on to the base class.

    >>> from kdbench import registry
    >>> check_hyperparameters_arrive(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    known = cls.hyperparameters()
    pair = Problem(served(cls, toys)[0]).pair
    cls.build(pair, **{name: hyper.default for name, hyper in known.items()})
    given = {name: value for name, value in (("ce_weight", 0.25), ("kd_weight", 0.75), ("tau", 3.0)) if name in known}
    method = cls.build(pair, **given)
    lost = [name for name, value in given.items() if getattr(method, name) != value]
    require(not lost, f"{', '.join(lost)} is taken but not passed on; call super().__init__(pair, **common)")


def check_names_of_the_contract_are_free(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """What an instance keeps has names of its own, not those of the contract's methods and class attributes.

    >>> class Mine(Distiller):
    ...     def __init__(self, pair, **common):
    ...         super().__init__(pair, **common)
    ...         self.terms = []
    >>> check_names_of_the_contract_are_free(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: self.terms is set, a name of the contract, which hides it; take another
    """
    method = cls.build(Problem(served(cls, toys)[0]).pair)
    own = (method.named_parameters(recurse=False), method.named_buffers(recurse=False), method.named_children())
    kept = [*vars(method), *(name for named in own for name, _ in named)]
    contract = {name for name in vars(Distiller) if not name.startswith("__")} - {"reads"}  # which __init__ may set
    taken = [name for name in kept if name in contract]
    require(not taken, f"self.{', self.'.join(taken)} is set, a name of the contract, which hides it; take another")


def check_tuning_has_its_candidates(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Tuning has six candidates to build, the values in force among them, or is told that there is nothing to tune.

    >>> from kdbench import registry
    >>> check_tuning_has_its_candidates(registry.get("fitnet"))  # keeps the rule, so nothing is said
    """
    for part in cls.components():
        found, nothing = part.search_space({}), part.search is not None and not part.search
        require(
            len(found) == (1 if nothing else len(FACTORS)),
            f"tuning has {len(found)} candidate(s) for {part.__name__}, not {len(FACTORS)}, because the default of"
            f" {part.main_weight} is 0; name another weight, or say `search = {{}}` where there is nothing to tune",
        )
    found, known = cls.search_space({}), cls.hyperparameters()
    now = [{name: known[name].default for name in one} for one in found]
    require(all(one not in found[:at] for at, one in enumerate(found)), f"candidates for tuning are the same: {found}")
    require(any(map(dict.__eq__, found, now)), f"the values in force are no candidate for tuning: {found}")
    for one, base in zip(found, now, strict=True):
        odd = [name for name, value in one.items() if type(value) is not type(base[name])]
        require(not odd, f"the candidate {one} for tuning has another type of {', '.join(odd)} than the default")
    pair = Problem(served(cls, toys)[0]).pair
    for one in cls.search_space({}):
        try:
            cls.build(pair, **one)
        except ValueError as error:
            text = f"the candidate {one} for tuning is refused: {said(error, cls)}; give six that work in `search`"
            raise Broken(text) from error


CHECKS: tuple[Check, ...] = (
    check_it_says_where_it_comes_from,
    check_class_attributes_agree,
    check_hyperparameters_are_keywords_with_defaults,
    check_a_toy_pair_is_served,
    check_hyperparameters_arrive,
    check_names_of_the_contract_are_free,
    check_tuning_has_its_candidates,
    check_terms_are_finite_scalars,
    check_tail_batch_works,
    check_hyperparameters_do_something,
    check_process_is_left_alone,
    check_two_classes_work,
    check_other_sizes_work,
    check_it_never_seeds,
    check_bf16_stays_finite,
    check_sure_logits_stay_finite,
    check_predict_gives_logits,
    check_reads_no_more_than_declared,
    check_hard_labels_are_declared,
    check_on_stage_only_sets,
    check_time_is_read_from_progress,
    check_loss_compiles_whole,
    check_tensors_follow_the_device,
    check_it_trains,
    check_student_learns_from_the_method,
    check_teacher_is_used_as_declared,
    check_teacher_is_left_alone,
    check_every_parameter_is_trained,
    check_no_state_outside_the_state_dict,
    check_resume_is_exact,
    check_alone_as_in_company,
)
#: When one of these fails, what comes after says nothing new.
_GATES = (check_a_toy_pair_is_served, check_terms_are_finite_scalars, check_it_trains)
