"""The contract between a distillation method and everything else. Read this file first.

A method is a *loss module*: it turns what a student and a teacher show on one batch into named scalar terms. The engine
owns both models, the optimizer and the loop, so that two rows of a table can differ by the method alone.

Letters used for shapes, here and in every method file:
    B images of a batch        C channels        H, W height and width of a map
    D width of the pooled vector                 K classes         N training images
    S, T student and teacher layers              L tokens of an image
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Levels of ``Distiller.reads``, from the least to all.
READS = ("logits", "pooled", "maps")
#: What a term pulls at, see ``Distiller.roles``.
ROLES = ("task", "target", "rest")
#: What tuning multiplies a main weight by. Published weights are more often too large for another pair than too small.
FACTORS = (1 / 100, 1 / 10, 1 / 3, 1.0, 3.0, 10.0)


class Outputs(NamedTuple):
    """What one forward pass of a model shows to a method.

    >>> feats = torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)
    >>> seen = Outputs(feats, last=feats[-1], pooled=torch.zeros(2, 6), logits=torch.zeros(2, 10))
    >>> list(seen.tensors())
    ['feats[0]', 'feats[1]', 'last', 'pooled', 'logits']
    >>> seen.map(torch.Tensor.double).logits.dtype
    torch.float64
    """

    feats: tuple[Tensor, ...]  # (B, C, H, W) each: the stem, then the stages, shallow to deep
    last: Tensor  # (B, C, H, W), what the head pools; not always feats[-1]
    pooled: Tensor  # (B, D), the input of the classifier
    logits: Tensor  # (B, K)
    preacts: tuple[Tensor, ...] | None = None  # feats before their last ReLU; None: no such tap
    classifier: tuple[Tensor, Tensor | None] | None = None  # (K, D) and (K,), gradients pass
    #: (B, L, C) each, at the places of ``feats``, where a network works on rows of tokens and ``feats`` are maps made
    #: of them: what belongs to no place of the image (class, distillation token) first, then the patches row by row.
    tokens: tuple[Tensor, ...] | None = None
    #: (B, K) each, where ``logits`` are the mean of two heads': the class token's, then the distillation token's.
    heads: tuple[Tensor, Tensor] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """The same with ``change`` applied to every tensor in the order of ``tensors``, twice to one in two places."""

        def each(value: Any) -> Any:
            return tuple(map(each, value)) if isinstance(value, tuple) else None if value is None else change(value)

        return Outputs(*map(each, self))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is there, by its path: in the order of the fields, taps shallow to deep."""
        found: dict[str, Tensor] = {}
        for name, value in zip(self._fields, self, strict=True):
            if isinstance(value, Tensor):
                found[name] = value
            else:
                found |= {f"{name}[{at}]": part for at, part in enumerate(value or ()) if part is not None}
        return found

    def shapes(self) -> Shapes:
        """Sizes of these outputs."""

        def size(feat: Tensor) -> tuple[int, int, int]:
            return feat.shape[1], feat.shape[2], feat.shape[3]

        rows = None if self.tokens is None else tuple((one.shape[1], one.shape[2]) for one in self.tokens)
        return Shapes(tuple(map(size, self.feats)), size(self.last), self.pooled.shape[1], rows)


class Batch(NamedTuple):
    """One training batch, on the device.

    >>> batch = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([7, 3]), torch.tensor(0.25))
    >>> batch.idx, batch.progress
    (tensor([7, 3]), tensor(0.2500))
    """

    image: Tensor  # (B, 3, H, W), normalised
    label: Tensor  # (B,) int64
    idx: Tensor  # (B,) int64, position of each image in the training set
    progress: Tensor  # () float32 in [0, 1), share of the stage that is done
    #: (B, K) what cross-entropy learns where that is no single class: images that are mixed, smoothed labels. ``label``
    #: is then that of the image which has the ``idx``, and of a mixed one it is only a part of the truth.
    target: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """What ``F.cross_entropy`` takes for the labels: (B,) classes, or (B, K) where one class is not the truth."""
        return self.label if self.target is None else self.target


class Shapes(NamedTuple):
    """Sizes of one model's ``Outputs``, measured once on a real forward pass.

    >>> feats = torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)
    >>> Outputs(feats, feats[-1], torch.zeros(2, 6), torch.zeros(2, 10)).shapes()
    Shapes(feats=((4, 8, 8), (6, 4, 4)), last=(6, 4, 4), pooled=6, tokens=None)
    """

    feats: tuple[tuple[int, int, int], ...]  # (C, H, W) per tap
    last: tuple[int, int, int]  # (C, H, W)
    pooled: int  # D
    tokens: tuple[tuple[int, int], ...] | None = None  # (L, C) per tap


class Hyper(NamedTuple):
    """One hyper-parameter, as the signature states it.

    >>> Distiller.hyperparameters()["tau"]
    Hyper(default=4.0, common=True, choices=())
    """

    default: Any
    common: bool  # declared by Distiller itself, not by the method
    choices: tuple[Any, ...] = ()  # of ``base: Literal["kd", "dkd"] = "kd"``; nothing else can be asked for


@dataclass(frozen=True)
class Pair:
    """All that a method may know when it is built.

    ``head`` is the teacher's own, frozen: last map (B, C, H, W) -> logits (B, K). Gradients pass through it to the map.
    ``teacher_norms`` holds, for each of the teacher's preacts from the first stage on, weight and bias (C,) of the
    batch norm that made it; None where the model has no such layer.

    >>> sizes = Shapes(((4, 8, 8),), (4, 8, 8), 4)
    >>> pair = Pair(sizes, sizes, lambda last: last.mean(dim=(2, 3)), 4, torch.tensor([0, 1, 2, 3, 3]), batch_size=2)
    >>> pair.num_train
    5
    """

    student: Shapes
    teacher: Shapes
    head: Callable[[Tensor], Tensor]
    num_classes: int
    train_labels: Tensor  # (N,) int64, on the CPU
    batch_size: int
    teacher_norms: tuple[tuple[Tensor, Tensor], ...] | None = None
    averaged: tuple[bool, bool] = (True, True)  # of student and teacher: the pooled vector is the mean of the last map

    @property
    def num_train(self) -> int:
        """N, the number of training images."""
        return len(self.train_labels)


def kl(student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
    """tau^2 * batchmean KL(softmax(teacher / tau) || softmax(student / tau)); (B, K) each -> ().

    In fp32 at least: in half precision the small differences between two softened distributions are mostly rounding.

    >>> f"{kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]]), tau=4.0):.3f}"
    '1.775'
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    ours, theirs = student.to(wide) / tau, teacher.to(wide) / tau
    with torch.autocast(student.device.type, enabled=False):
        divergence = F.kl_div(F.log_softmax(ours, dim=1), F.softmax(theirs, dim=1), reduction="batchmean")
    return divergence * tau**2


def kl_of_label(student: Tensor, teacher: Tensor, tau: float, label: Tensor) -> Tensor:
    """The part of ``kl`` that lies between the label's class and all others together: (B, K) each, (B,) -> ().

    tau^2 * batchmean KL between the pairs (p_y, 1 - p_y); what is left of ``kl`` lies among the other classes
    (Zhao et al. 2022). Where logits hold several views, one after another, the labels are those of each.

    >>> z_s, z_t, label = torch.zeros(1, 2), torch.tensor([[0.0, 4.0]]), torch.tensor([1])
    >>> f"{kl_of_label(z_s, z_t, 4.0, label):.3f}"  # of two classes the other is all others
    '1.775'
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    hit = label.repeat(len(student) // len(label))[:, None] == torch.arange(student.shape[1], device=label.device)
    with torch.autocast(student.device.type, enabled=False):
        log_s, log_t = (
            torch.stack(
                [log_p.masked_fill(~hit, 0).sum(dim=1), log_p.masked_fill(hit, -torch.inf).logsumexp(dim=1)], dim=1
            )
            for log_p in (F.log_softmax(z.to(wide) / tau, dim=1) for z in (student, teacher))
        )
        return (log_t.exp() * (log_t - log_s)).sum(dim=1).mean() * tau**2


class Distiller(nn.Module):
    """A distillation method. Subclass it in one file, write ``terms``, and it is in the suite.

    loss = ce_weight * CE(z_S, y) + kd_weight * KL_tau(z_S, z_T) + sum of terms

    What a method adds - trainable modules as attributes, memory banks as buffers indexed by ``batch.idx`` - must all
    be in ``state_dict()``: that is how a run resumes. The engine trains every parameter that requires a gradient with
    the student's own optimizer.

    Rules for ``terms``, because it is compiled and captured: tensors in, tensors out; no ``.item()``, no branch on a
    tensor's value, no counter in Python (``batch.progress`` tells the time); randomness from torch's default generator
    only. The batch size is constant save for the epoch's last batch: a branch on a shape is fine. What comes back is
    already weighted; the names become columns of the training curve.

    Args:
        pair: shapes and facts of the teacher-student pair.
        ce_weight: weight of the cross-entropy; 0 leaves it out.
        kd_weight: weight of the KL term between the logits; 0 leaves it out.
        tau: temperature of that term.

    Raises:
        ValueError: in ``__init__`` only, when the method cannot serve the pair; the leaderboard prints the sentence.

    >>> class Match(Distiller):
    ...     def __init__(self, pair, *, beta=2.0, **common):
    ...         super().__init__(pair, **common)
    ...         self.beta = beta
    ...     def terms(self, student, teacher, batch):
    ...         return {"match": self.beta * F.mse_loss(student.pooled, teacher.pooled)}
    >>> from kdbench.testing.toys import TWIN, Problem
    >>> problem = Problem(TWIN)
    >>> batch = next(problem.batches(epoch=0, total=1, views=1))
    >>> seen = problem.show(batch.image)  # here the teacher is its own student
    >>> list(Match.build(problem.pair, kd_weight=1.0).loss(seen, seen, batch))
    ['ce', 'kd', 'match']
    """

    #: Citation, with a link.
    reference: ClassVar[str] = ""
    #: What the numbers were proven against: "authors' code", "port", "formula" or "reading".
    provenance: ClassVar[str] = ""
    #: Where this class differs from the paper or from the release, one sentence each.
    deviations: ClassVar[tuple[str, ...]] = ()
    #: control, logit, feature, relation, contrastive, two-stage or modified student.
    family: ClassVar[str] = "feature"
    #: Whether it reads ``batch.label``, or keeps something by ``batch.idx``: refused where mixup or cutmix mix images.
    needs_hard_labels: ClassVar[bool] = False
    #: Whether its own loss has a cross-entropy that ``loss`` does not add: refused with the recipe's label smoothing.
    own_cross_entropy: ClassVar[bool] = False
    #: A control may ignore the teacher (plain student, label smoothing).
    needs_teacher: ClassVar[bool] = True
    #: What of the teacher's ``Outputs`` the main stage reads, one of ``READS``: each level includes those before it;
    #: ``classifier`` is open to all. Below "maps", outputs kept in a table can stand in for the teacher's pass. Where a
    #: hyper-parameter asks for more, ``__init__`` sets it.
    reads: str = "maps"

    #: The hyper-parameter that weighs the method's own loss: tuning tries it times each of ``FACTORS``.
    main_weight: ClassVar[str] = "beta"
    #: What tuning tries instead, where a weight times ten is no valid one or one number is not the method's weight:
    #: for each name six values from weak to strong, the fourth its default; the i-th of all names are one candidate.
    #: {}: the method has nothing of its own to tune.
    search: ClassVar[Mapping[str, tuple[bool | int | float | str, ...]] | None] = None
    #: Hyper-parameters that came after results were published; at their default they are no part of a cell's settings.
    later: ClassVar[tuple[str, ...]] = ()
    #: Hyper-parameters that may be below 0, though their names are those of weights and shares.
    signed: ClassVar[tuple[str, ...]] = ()

    #: Epochs of a stage before the main one, stated for a 240-epoch recipe and scaled with the run; 0: there is none.
    pretrain_epochs: ClassVar[int] = 0
    #: Whether that stage trains the student's body too, not the method's modules alone.
    pretrain_student: ClassVar[bool] = False
    #: Learning rate of that stage; None: the student's. It falls tenfold at pretrain_drops.
    pretrain_lr: ClassVar[float | None] = None
    pretrain_drops: ClassVar[tuple[float, ...]] = ()  # shares of the stage, such as (.5, .75)
    #: Who teaches in the teacher's place: (method, "double") is the student's network at twice its width, distilled
    #: from the teacher by that method, once for all that want it. Such a method sees the assistant as its teacher,
    #: in ``pair``, ``terms`` and KD; None: the teacher itself.
    assistant: ClassVar[tuple[str, str] | None] = None

    #: By name of a term, one of ``ROLES``: what it pulls at. "task": the labels, as ``ce``; "target": the probability
    #: of the label's class; "rest": all that is not named. For recipes that give parts of a loss their own momenta.
    roles: ClassVar[Mapping[str, str]] = {}
    #: Set by the engine: ``loss`` gives the KD term in two, what pulls at the label's class and what does not.
    split_kd: bool = False

    #: Submodules that ``weights(student, teacher)`` reads, where a method has it: how much each student stage listens
    #: to each of the teacher's, (B, S, T). They are kept with the student, for ``kdbench probe attention``.
    attention_modules: ClassVar[tuple[str, ...]] = ()

    #: In ``a+b``: methods whose loss this one takes over and changes, each with the hyper-parameters that make it do
    #: so. It is added once, without plain KD; further losses on the logits are refused: they could be meant, too.
    absorbs: ClassVar[dict[str, dict[str, Any]]] = {}
    #: In ``a+b``: methods beside which this one would not be what it says, each with what would go wrong.
    apart: ClassVar[Mapping[str, str]] = {}

    #: Further views of every image: names of kdbench.data.views. Images, idx and Outputs then
    #: hold all views one after another (view-major, the plain view first); labels stay (B,).
    views: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pair: Pair, *, ce_weight: float = 1.0, kd_weight: float = 0.0, tau: float = 4.0) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight, self.tau = ce_weight, kd_weight, tau

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The method's own scalars, named and weighted. This is what a method writes."""
        return {}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """CE + KD + terms, by name; their sum is minimised. The engine calls this."""
        plain = student.logits[: len(batch.label)] if self.views else student.logits  # labels are of the first view
        named = {"ce": self.ce_weight * F.cross_entropy(plain, batch.truth)} if self.ce_weight else {}
        student, teacher = self.transform(student, teacher)
        if self.kd_weight:
            whole = kl(student.logits, teacher.logits, self.tau)
            if self.split_kd:
                target = kl_of_label(student.logits, teacher.logits, self.tau, batch.label)
                named |= {"kd_target": self.kd_weight * target, "kd_rest": self.kd_weight * (whole - target)}
            else:
                named["kd"] = self.kd_weight * whole
        own = self.terms(student, teacher, batch)
        if taken := sorted(named.keys() & own):
            raise ValueError(f"terms() returns {', '.join(taken)}, a name of the base class; take another")
        return named | own

    def transform(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        """What the KD term and all terms see in place of the raw outputs (CE stays on the raw).

        For methods that change a target instead of adding a loss: MAS averages three teacher logits, logit
        standardisation z-scores both sides. In ``a+b`` it applies to both.
        """
        return student, teacher

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """As ``loss``, for the stage before the main one (all of it: no CE or KD is added)."""
        raise NotImplementedError(f"{type(self).__name__} has pretrain_epochs but no pretrain_terms")

    def on_stage(self, stage: str) -> None:
        """Called when ``stage`` ("pretrain" or "train") begins and after every ``train()``: it sets, and never counts.

        The place to freeze what the stage must not train: ``requires_grad_(False)`` and ``eval()``.
        """

    def predict(self, student: Outputs) -> Tensor:
        """(B, K) logits to score. The student's own, unless the method changes the network."""
        return student.logits

    # What a class is asked before there is an instance. A combination ``a+b`` answers the same questions.

    @classmethod
    def build(cls, pair: Pair, **hyper: Any) -> Self:
        """The method for a pair, with hyper-parameters as ``hyperparameters`` names them.

        Raises:
            ValueError: the method cannot serve the pair.
        """
        return cls(pair, **hyper)

    @classmethod
    def hyperparameters(cls) -> dict[str, Hyper]:
        """Keyword-only parameters of ``__init__``, following ``**common`` up to the base.

        Raises:
            ValueError: one has no default.
        """
        common = inspect.signature(Distiller.__init__).parameters
        found: dict[str, Hyper] = {}
        for klass in cls.__mro__:
            if (init := vars(klass).get("__init__")) is None:
                continue
            parameters = inspect.signature(init).parameters.values()
            for parameter in parameters:
                if parameter.kind is parameter.KEYWORD_ONLY:
                    if parameter.default is parameter.empty:
                        raise ValueError(f"{cls.__name__}: hyper-parameter {parameter.name!r} has no default")
                    one = Hyper(parameter.default, parameter.name in common, _choices(init, parameter))
                    found.setdefault(parameter.name, one)
            if klass is Distiller or not any(one.kind is one.VAR_KEYWORD for one in parameters):
                break
        return found

    @classmethod
    def search_space(cls, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What tuning tries of this method: overrides of ``defaults``, every method as many, so that none is favoured.

        Six, all different, and the values in force are one of them: ``main_weight`` times each of ``FACTORS`` (to
        three digits), or the rows of ``search``, where the values in force take the fourth place unless they are a
        row. One that changes nothing, ``{}``, where there is nothing to tune: the method says so, or a main weight
        of 0 has switched its loss off.

        Args:
            defaults: the values in force, a suite's, say; what is not named has the signature's value.

        Raises:
            ValueError: what is to be tuned is no hyper-parameter, or no number to scale; ``search`` has not six values.

        >>> from kdbench import registry
        >>> [one["beta"] for one in registry.get("crd").search_space({"beta": 0.6})]
        [0.006, 0.06, 0.2, 0.6, 1.8, 6.0]
        """
        known = cls.hyperparameters()
        present = {name: hyper.default for name, hyper in known.items()} | dict(defaults)
        names = [cls.main_weight] if cls.search is None else list(cls.search)
        if strange := [name for name in names if name not in known]:
            raise ValueError(
                f"{cls.__name__} has no hyper-parameter {', '.join(strange)} to tune (it has {', '.join(known)}); name"
                " its weight in `main_weight`, or say `search = {}`"
            )
        if cls.search is None:
            if type(default := known[cls.main_weight].default) is not float:
                raise ValueError(
                    f"{cls.__name__}: {cls.main_weight}={default!r} is no float that could be scaled; write a decimal"
                    " point, or give six values in `search`"
                )
            weight = float(present[cls.main_weight])
            scaled = (weight if factor == 1 else float(f"{weight * factor:.3g}") for factor in FACTORS)
            return [{cls.main_weight: value} for value in scaled] if weight else [{}]
        if any(len(values) != len(FACTORS) for values in cls.search.values()):
            raise ValueError(f"{cls.__name__}: `search` gives {len(FACTORS)} values for each name, no more, no fewer")
        rows = [dict(zip(names, row, strict=True)) for row in zip(*cls.search.values(), strict=True)] or [{}]
        if (now := {name: present[name] for name in names}) not in rows:
            rows[FACTORS.index(1)] = now
        return rows

    @classmethod
    def components(cls) -> tuple[type[Distiller], ...]:
        """The methods whose terms are added: the class itself, or those that a combination joins."""
        return (cls,)

    @classmethod
    def modifies_student(cls) -> bool:
        """Whether the evaluated network is not the plain student: ranked in a class of its own."""
        return cls.predict is not Distiller.predict


def _choices(init: Callable[..., None], parameter: inspect.Parameter) -> tuple[Any, ...]:
    told = parameter.annotation
    if isinstance(told, str) and "Literal" in told:  # from __future__ import annotations
        with suppress(NameError):  # another annotation names what only a type checker imports
            told = get_type_hints(init)[parameter.name]
    return get_args(told) if get_origin(told) is Literal else ()
