"""From a request to cells: what `kdbench run` was asked for, resolved and checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import kdbench.run.plugins  # noqa: F401 - from here on entry points are loaded under its eyes
from kdbench import registry, suites
from kdbench.record import Assistant, Settings
from kdbench.run import assistants, grid, tuned, words
from kdbench.run.choices import choose_device, choose_pairs, choose_suite, compiles
from kdbench.run.devices import AUTO, Hands, choose
from kdbench.run.devices import hands as choose_hands
from kdbench.run.grid import Cell
from kdbench.run.shards import shard
from kdbench.suites import Convention, Suite
from kdbench.tracking.known import chosen as trackers
from kdbench.utils import environment
from kdbench.utils.wording import exact, quoted


@dataclass(frozen=True)
class Request:
    """The words of the command line, before they are looked at.

    >>> Request("semckd,kd", pairs="resnet32x4:*", suite="semckd").teachers.as_posix()
    'results/teachers'
    """

    methods: str | None = None
    pairs: str = "all"
    suite: str = AUTO
    seeds: str | None = None
    epochs: int | None = None
    limit_train: int | None = None
    overrides: tuple[str, ...] = ()
    out: Path = Path("results")
    data_dir: Path | None = None
    data_source: str = AUTO
    data_workers: int | None = None
    device: str = AUTO
    precision: str = "fp32"
    lanes: int | None = None
    graphs: str = AUTO
    verify: bool = False  # an epoch of one lane of each group is trained by its graph and by the loop, and compared
    table: str = AUTO
    compile: bool | None = None  # None: where it pays, see ``choices.compiles``
    force: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    shard: str | None = None
    workers: str = AUTO
    executor: str = AUTO
    ray_address: str | None = None  # of the cluster for executor "ray"; None: RAY_ADDRESS, else one of this machine
    weights: str = "published"
    track: str | None = None  # trackers that hear of every epoch, see ``kdbench.run.tracked``
    checkpoint_minutes: float | None = None  # between two checkpoints; 0: one after every epoch; None: as usual
    notify: str | None = None  # a command for the shell when it has ended, see ``kdbench.run.notify``
    home: Path | None = None  # where teachers and their tables lie; None: in ``out``

    @property
    def teachers(self) -> Path:
        """The folder of the teachers."""
        return (self.home or self.out) / "teachers"


@dataclass(frozen=True)
class Job:
    """A request that makes sense: its suite and its cells, in order.

    >>> job = resolve(Request("kd", "resnet20:resnet8", "digits", seeds="1"))
    >>> list(job.states().values())
    ['missing']
    """

    request: Request
    suite: Suite
    device: str
    cells: list[Cell]
    notes: list[str] = field(default_factory=list)  # sentences to show before the run
    hands: Hands = field(default_factory=Hands)  # who does it; as long as they are ``auto``, this process alone

    def states(self) -> dict[Cell, str]:
        """Each cell's state on disk."""
        return {cell: grid.state(self.request.out, cell) for cell in self.cells}


def resolve(request: Request, find: Callable[[str], str] | None = None) -> Job:
    """Check every word of a request.

    Args:
        request: what was asked for.
        find: of a single device, its name; None: ``choose_device``. Another, where the run will be elsewhere.

    Raises:
        ValueError: one sentence that names what was given and what would do.

    >>> len(resolve(Request("kd,semckd", "all", "digits", seeds="3")).cells)
    18
    >>> resolve(Request("semkd", suite="digits"))
    Traceback (most recent call last):
    ValueError: no method 'semkd'; did you mean semckd ...?
    """
    hands, said = _hands(request, find or choose_device)
    device = hands.devices[0]
    suite, notes = choose_suite(request.suite, device)
    notes += said
    for setting in request.overrides:
        key, found, value = setting.partition("=")
        if not found:
            raise ValueError(f"--set takes key=value, not {quoted(setting)}")
        suite = suite.set(key.strip(), value.strip())
    request = replace(request, compile=_compiled(request.compile, suite, device))
    words.length(request.epochs, request.limit_train, request.lanes)
    epochs = suite.recipe.epochs if request.epochs is None else request.epochs
    if request.graphs not in (AUTO, "off"):
        raise ValueError(f"--graphs takes auto or off, not {quoted(request.graphs)}")
    if request.verify and (device == "cpu" or request.graphs == "off"):
        why = "on the CPU the loop itself trains" if device == "cpu" else "--graphs off has the loop itself train"
        notes.append(f"--verify has nothing to compare: {why}, step by step, and no graph")
    if request.table not in (AUTO, "off"):
        raise ValueError(f"--table takes auto or off, not {quoted(request.table)}")
    words.minutes(request.checkpoint_minutes)
    words.command(request.notify)
    trackers(request.track)
    if request.weights not in ("published", "tuned"):
        raise ValueError(f"--weights takes published or tuned, not {quoted(request.weights)}")
    from kdbench.data import protocol
    from kdbench.data.augment import Augment
    from kdbench.data.selection import check as check_source
    from kdbench.engine.optimizers import prove
    from kdbench.engine.precision import Precision  # loads torch, so only once the words are right

    check_source(request.data_source)
    for one in (suite.recipe, suite.teacher):
        prove(one.optimizer)
        Augment.of(one.augment)
    protocol.check(suite.recipe.model_dump() | {"label_noise": suite.recipe.label_noise or suite.teacher.label_noise})
    words.number("--data-workers", request.data_workers, 0, words.DATA_WORKERS)

    part = None if request.shard is None else words.shard(request.shard)
    specs = words.methods(request.methods, suite)
    pairs = choose_pairs(request.pairs, suite)
    seeds = words.seeds(request.seeds, suite.default_seeds)
    import torch

    precision = Precision(request.precision)
    precision.check(torch.device(device))
    if slow := precision.warning(torch.device(device)):
        notes.append(slow)
    if device == "cpu" and (odd := environment.threads_note()):
        notes.append(odd)
    convention = suites.convention(suite.convention)
    for spec in specs:
        registry.sound(registry.get(spec.name))
    words.weights(convention, specs, pairs)
    if request.weights == "published" and (others := words.weights_of_others(suite, specs, request.suite)):
        notes.append(others)
    words.size(len(specs), len(pairs), len(seeds))
    made = (
        make_cell(suite, convention, teacher, student, spec, seed, epochs, request)
        for seed in seeds
        for teacher, student in pairs
        for spec in specs
    )
    cells = list(dict.fromkeys(made))  # one cell under two names; one without teacher on many pairs
    tuned.same_budget(request.out, cells)
    notes += tuned.under_others(request.out, cells)
    if part is not None:
        cells = shard(cells, *part)
    return Job(request, suite, device, cells, notes, hands)


def _hands(request: Request, find: Callable[[str], str]) -> tuple[Hands, list[str]]:
    """Who does it, and what is to be said of that.

    Raises:
        ValueError: there is no such device or executor, or what they have is not enough.
    """
    from kdbench.run.executors.cluster import hands as on_ray

    if on_ray.check(request.executor, request.ray_address):
        return on_ray.hands(request.ray_address, request.workers, request.device)
    devices = choose(request.device, find)
    hands = choose_hands(request.executor, request.workers, devices)
    if "," in request.device and len(hands.devices) < len(devices):
        raise ValueError(
            f"--device names {len(devices)} devices, and each needs a worker; --workers {len(devices)} has them"
        )
    return hands, []


def make_cell(
    suite: Suite,
    convention: Convention,
    teacher: str,
    student: str,
    spec: registry.Spec,
    seed: int,
    epochs: int,
    request: Request,
) -> Cell:
    """One cell, with that of its assistant if its method has one.

    >>> (spec,), suite = registry.parse("kd"), suites.load("digits")
    >>> common = suites.convention(suite.convention)
    >>> make_cell(suite, common, "resnet20", "resnet8", spec, 0, 30, Request()).pair
    'resnet20:resnet8'
    """
    from kdbench import models

    method = registry.get(spec.name)
    usual = published_hyper(convention, spec.name, teacher, student)
    weights: Literal["published", "tuned"] = "published"
    choice = ""
    variant, fixed = variant_of(spec, usual) if request.weights == "tuned" else ("", {})
    if request.weights == "tuned" and tuned.tunable(spec.name, usual | fixed):
        weights, choice = "tuned", variant
        where = (suite.name, suite.dataset, suite.convention, teacher if method.needs_teacher else "", student)
        suite_words = ["--suite", suite.name if request.suite == AUTO else request.suite]
        suite_words += [word for setting in request.overrides for word in ("--set", setting)]
        chosen = tuned.choice(request.out, *where, variant, seed, usual | fixed, suite_words, teacher)
        if chosen and chosen.keys() <= dict(spec.hyper).keys():
            raise ValueError(
                f"{spec} sets {' and '.join(sorted(chosen))}, which is all that tuning chose; leave the"
                " brackets out, or take --weights published"
            )
        usual |= chosen
    standing = in_force(spec.name, usual)
    said = {name: value for name, value in spec.hyper if value != standing[name]}
    recipe = suite.recipe.facts_for(student, epochs)
    recipe |= {name: list(recipe[name]) for name in ("mean", "std")} | scaled(suite)
    assistant = assisted = None
    try:
        named = assistants.network(spec.name, student)
    except assistants.Refused:  # the runner asks again, and writes it down for the table
        pass
    else:
        if named is not None:
            by, network = named
            plainly = replace(request, weights="published")  # as a teacher: one for all that learn from it
            assistant = make_cell(suite, convention, teacher, network, registry.Spec(by), seed, epochs, plainly)
            assisted = Assistant(student=network, method=by, hyper=assistant.settings.hyper)
    settings = Settings(
        suite=suite.name,
        dataset=suite.dataset,
        convention=suite.convention,
        teacher=teacher if method.needs_teacher else "",
        student=student,
        method=spec.name,
        hyper=usual | said,
        seed=seed,
        epochs=epochs,
        recipe=recipe,
        limit_train=request.limit_train,
        precision=request.precision,
        compile=bool(request.compile),
        assistant=assisted,
        pretrained=models.weights_identity(student),
        weights=weights,
    )
    quick = epochs < suite.recipe.epochs or request.limit_train is not None
    return Cell(settings, label(spec.name, said, weights), quick, assistant, choice)


def scaled(suite: Suite) -> dict[str, int]:
    """The side of the images that networks see, where pictures of another size lie in the data set."""
    from kdbench.data import names

    return {} if names.side(suite.dataset) in (suite.image_size, None) else {"image_size": suite.image_size}


def published_hyper(convention: Convention, method: str, teacher: str, student: str) -> dict[str, Any]:
    """Every hyper-parameter of a method: its defaults, and what the convention says of it on the pair.

    One that came later (``Distiller.later``) is there only where the convention sets it.

    >>> published_hyper(suites.convention("crd"), "kd", "resnet20", "resnet8")
    {'ce_weight': 0.1, 'kd_weight': 0.9, 'tau': 4.0}
    """
    cls = registry.get(method)
    known = cls.hyperparameters()
    usual: dict[str, Any] = {name: found.default for name, found in known.items() if name not in cls.later}
    return usual | convention.hyper(method, f"{teacher}:{student}", known)


def in_force(method: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Every hyper-parameter of a method as it stands: ``usual``, and the defaults of those that came later.

    >>> in_force("fitnet", {"beta": 10.0})["teacher_tap"]
    -1
    """
    return {name: known.default for name, known in registry.get(method).hyperparameters().items()} | dict(usual)


def variant_of(spec: registry.Spec, usual: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A method with what is set otherwise than usual and not tuned: its label, and these values.

    >>> (spec,) = registry.parse("itrd+sdd[standardise]")
    >>> variant_of(spec, published_hyper(suites.convention("crd"), spec.name, "resnet56", "resnet20"))
    ('itrd+sdd[standardise=True]', {'standardise': True})
    """
    standing = in_force(spec.name, usual)
    said = {name: value for name, value in spec.hyper if value != standing[name]}
    sought = {name for one in registry.get(spec.name).search_space(dict(usual) | said) for name in one}
    fixed = {name: value for name, value in said.items() if name not in sought}
    return label(spec.name, fixed), fixed


def label(name: str, said: Mapping[str, Any], weights: str = "published") -> str:
    """The method as tables show it: its name, whether it is tuned, and what was set otherwise than the suite has it.

    >>> label("sdd", {"standardise": True, "tau": 2.0}), label("semckd", {"beta": 400.0001})
    ('sdd[standardise=True,tau=2]', 'semckd[beta=400.0001]')
    """
    name += "" if weights == "published" else f"@{weights}"
    inside = ",".join(f"{key}={exact(value)}" for key, value in said.items())
    return f"{name}[{inside}]" if inside else name


def _compiled(wanted: bool | None, suite: Suite, device: str) -> bool:
    """Raises: ValueError: students are to be compiled, and the recipe goes through them twice."""
    rule = suite.recipe.gradients
    if wanted and rule != "sum":
        raise ValueError(f"--compile and recipe.gradients={rule} exclude each other: it goes through a student twice")
    return compiles(device) and rule == "sum" if wanted is None else wanted
