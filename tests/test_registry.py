"""Names, plug-in files, the grammar of --methods, combinations."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from forking import afresh
from toys import Plugin

import kdbench
from kdbench import Distiller, Pair, register, registry
from kdbench.registry import Spec, convert, discovery, get, load_plugin, parse
from kdbench.registry.combine import combined
from kdbench.registry.hyper import check
from kdbench.testing.toys import ALIKE, Problem
from kdbench.testing.trainee import Trainee

ROOT = Path(kdbench.__file__).parents[1]
GOOD = '''"""An idea in one line.

More of it.
"""
from kdbench import Distiller, register

@register
class Mine(Distiller):
    """loss = CE."""
    reference = "none"
'''


pytestmark = pytest.mark.usefixtures("own_registry")


def write(file: Path, text: str = GOOD) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# -- names --------------------------------------------------------------------------------------


def test_a_method_is_named_by_its_file() -> None:
    assert {"kd", "fitnet", "student"} <= set(registry.names())
    assert get("fitnet").__module__ == "kdbench.methods.fitnet"
    assert registry.name_of(get("fitnet")) == "fitnet"
    with pytest.raises(ValueError, match="Distiller is not registered"):
        registry.name_of(Distiller)


@pytest.mark.parametrize(("wanted", "words"), [("fitnets", "did you mean fitnet"), ("zzz", "there are .*kd.*student")])
def test_unknown_name_gets_the_nearest(wanted: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"no method '{wanted}'; {words}"):
        get(wanted)


def test_only_distillers_are_registered() -> None:
    with pytest.raises(ValueError, match="takes a subclass of kdbench"):
        register(dict)  # type: ignore[arg-type]


def test_a_name_from_two_modules_is_refused() -> None:
    class FitNet(Distiller):
        pass

    FitNet.__module__ = "methods.fitnet"  # what `import methods.fitnet` from the checkout would make
    with pytest.raises(ValueError, match=r"'fitnet' is defined twice: .*rename one file"):
        register(FitNet)
    assert get("fitnet").__module__ == "kdbench.methods.fitnet"


def test_two_methods_in_one_file_are_refused() -> None:
    class Other(Distiller):
        pass

    Other.__module__ = "kdbench.methods.fitnet"
    with pytest.raises(ValueError, match="registers two methods"):
        register(Other)


def test_the_folder_is_not_imported_twice(tmp_path: Path) -> None:
    code = (
        "import sys; from kdbench import registry; registry.names(); "
        "print([n for n in sys.modules if n.startswith('methods')])\n"
        "try:\n    import methods.kd\nexcept ValueError as error:\n    print(error)"
    )
    first, second = afresh(code, tmp_path / "said")
    assert first == "[]"
    assert "'kd' is defined twice" in second


def test_idea_is_the_first_line_of_the_file(tmp_path: Path, plugin: Plugin) -> None:
    assert registry.idea(plugin(write(tmp_path / "mine.py"))) == "An idea in one line."


# -- plug-in files ------------------------------------------------------------------------------


def test_plugin_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py")
    assert load_plugin(file) == "mine"
    assert load_plugin(str(file)) == "mine", "the same file again is no error"
    assert get("mine").reference == "none"
    assert "mine" in registry.names()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("absent.py", None, "no plug-in file"),
        ("notes.txt", "hello", "is not a Python file"),
        ("no_method.py", "x = 1", "registers no method; put @register"),
        ("syntax.py", "def (", "cannot be imported: SyntaxError"),
        ("missing.py", "import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named 'nowhere"),
        ("leaves.py", "raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("half.py", GOOD + "\n1 / 0\n", "cannot be imported: ZeroDivisionError"),
        ("kd.py", GOOD, "'kd' is defined twice"),
        ("a+b.py", GOOD, "letters, digits, - and _ only"),
        ("two.py", GOOD + "\n@register\nclass Second(Mine):\n    pass\n", "registers two methods"),
    ],
)
def test_a_bad_plugin_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    before = registry.names()
    file = tmp_path / name if text is None else write(tmp_path / name, text)
    with pytest.raises(ValueError, match=words.replace("+", r"\+")) as caught:
        load_plugin(file)
    assert "\n" not in str(caught.value)
    assert registry.names() == before
    assert not any(module.endswith(file.stem) and module.startswith("kdbench_plugin_") for module in sys.modules)


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    load_plugin(write(tmp_path / "a" / "mine.py"))
    with pytest.raises(ValueError, match=r"'mine' is defined twice: in .*/a/mine.py and in .*/b/mine.py"):
        load_plugin(write(tmp_path / "b" / "mine.py"))
    assert get("mine")


def test_a_plugin_never_takes_the_name_of_ours(tmp_path: Path) -> None:
    """Also when it is the first thing that a process loads."""
    file = write(tmp_path / "kd.py")
    code = (
        "from kdbench import registry\n"
        f"try:\n    registry.load_plugin({str(file)!r})\nexcept ValueError as error:\n    print(error)\n"
        "print(registry.get('kd').__module__, registry.broken())"
    )
    first, second = afresh(code, tmp_path / "said")
    assert "defined twice" in first
    assert second == "kdbench.methods.kd {}"


# -- broken files -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty methods/ that the registry discovers when next asked."""
    from kdbench import methods

    (tmp_path / "methods").mkdir()
    monkeypatch.setattr(kdbench, "__path__", [str(tmp_path)])
    monkeypatch.setattr(methods, "__path__", [str(tmp_path / "methods")])
    monkeypatch.setattr(discovery, "_classes", {})
    monkeypatch.setattr(discovery, "_broken", {})
    monkeypatch.setattr(discovery, "_discover", discovery._discover.__wrapped__)
    for module in [name for name in sys.modules if name.startswith("kdbench.methods.")]:
        monkeypatch.delitem(sys.modules, module)
    return tmp_path / "methods"


def test_one_broken_file_hides_no_other(folder: Path) -> None:
    for name, text in (
        ("good", GOOD),
        ("syntax", "def ("),
        ("empty", ""),
        ("half", GOOD + "\nraise ValueError('half a method')\n"),
        ("leaves", "import sys\nsys.exit(1)"),
        ("_layers", "1 / 0"),
    ):
        write(folder / f"{name}.py", text)
    assert registry.names() == ["good"]
    broken = registry.broken()
    assert set(broken) == {"syntax", "empty", "half", "leaves"}
    assert "registers no method" in broken["empty"]
    assert broken["half"] == "half a method"
    with pytest.raises(ValueError, match="method 'half' is there but broken: half a method"):
        get("half")


def test_entry_points(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "theirs" / "outside.py")
    write(tmp_path / "theirs" / "misnamed.py")
    write(tmp_path / "theirs" / "unregistered.py", GOOD.replace("@register", ""))
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    points = [
        metadata.EntryPoint(name, value, "kdbench.methods")
        for name, value in (
            ("outside", "outside:Mine"),
            ("other", "misnamed:Mine"),
            ("unregistered", "unregistered:Mine"),
            ("gone", "not_installed:Mine"),
        )
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    assert registry.names() == ["outside"]
    assert set(registry.broken()) == {"other", "unregistered", "gone"}
    assert "registers no method 'other'" in registry.broken()["other"]
    for name in ("outside", "misnamed", "unregistered"):
        sys.modules.pop(name, None)


# -- hyper-parameters ---------------------------------------------------------------------------


def test_hyperparameters_follow_common_to_the_base() -> None:
    found = get("fitnet").hyperparameters()
    assert {name: hyper.default for name, hyper in found.items()} == {
        "tap": 2,
        "beta": 100.0,
        "relu": True,
        "teacher_tap": -1,
        "ce_weight": 1.0,
        "kd_weight": 0.0,
        "tau": 4.0,
    }
    assert {name for name, hyper in found.items() if hyper.common} == {"ce_weight", "kd_weight", "tau"}


def test_hyperparameters_stop_where_common_is_not_taken() -> None:
    assert list(get("student").hyperparameters()) == ["ce_weight"]


def test_hyperparameters_of_a_class_without_its_own_init() -> None:
    class Child(get("fitnet")):  # type: ignore[misc]
        pass

    class Bolder(Child):
        def __init__(self, pair: Pair, *, beta: float = 7.0, **rest: float) -> None:
            super().__init__(pair, beta=beta, **rest)

    assert Child.hyperparameters() == get("fitnet").hyperparameters()
    assert Bolder.hyperparameters()["beta"].default == 7.0
    assert Bolder.hyperparameters()["tap"].default == 2


def test_a_hyperparameter_without_default_is_refused() -> None:
    class Bare(Distiller):
        def __init__(self, pair: Pair, *, beta: float, **common: float) -> None:
            super().__init__(pair, **common)

    with pytest.raises(ValueError, match="Bare: hyper-parameter 'beta' has no default"):
        Bare.hyperparameters()


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("3", 2, 3),
        ("-3", 2, -3),
        ("1e3", 2, 1000),
        ("3", 2.0, 3.0),
        (".5", 1.0, 0.5),
        ("1e-3", 1.0, 1e-3),
        ("yes", False, True),
        ("FALSE", True, False),
        ("1", False, True),
        ("leading", "lagging", "leading"),
    ],
)
def test_convert(text: str, default: object, value: object) -> None:
    found = convert(text, default, "x")
    assert found == value
    assert type(found) is type(default)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("three", 2),
        ("2.5", 2),
        ("inf", 2),
        ("", 2),
        ("x", 1.0),
        ("nan", 1.0),
        ("maybe", True),
        ("2", True),
    ],
)
def test_convert_refuses_with_an_example(text: str, default: object) -> None:
    with pytest.raises(ValueError, match=f"^here takes a value like {default!r}, not {text!r}$"):
        convert(text, default, "here")


# -- the grammar of --methods -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("kd", ["kd"]),
        ("kd, fitnet ,kd", ["kd", "fitnet"]),
        ("fitn*", ["fitnet"]),
        ("k?", ["kd"]),
        ("fitnet[beta=200]", ["fitnet[beta=200.0]"]),
        ("fitnet[beta=200,400]", ["fitnet[beta=200.0]", "fitnet[beta=400.0]"]),
        ("fitnet[beta=1;2, tap=0]", ["fitnet[beta=1.0,tap=0]", "fitnet[beta=2.0,tap=0]"]),
        (
            "fitnet[tap=1,2,beta=1,2],kd",
            [
                "fitnet[beta=1.0,tap=1]",
                "fitnet[beta=2.0,tap=1]",
                "fitnet[beta=1.0,tap=2]",
                "fitnet[beta=2.0,tap=2]",
                "kd",
            ],
        ),
        ("fitnet[]", ["fitnet"]),
        ("mag+fitnet", ["fitnet+mag"]),
        ("mag + fitnet,fitnet+mag", ["fitnet+mag"]),
        ("fitnet+mag[low_dim=8]", ["fitnet+mag[low_dim=8]"]),
        ("student[ce_weight=0.5]", ["student[ce_weight=0.5]"]),
    ],
)
def test_parse(text: str, specs: list[str]) -> None:
    assert sorted(map(str, parse(text))) == sorted(specs)


def test_parse_all_is_every_method() -> None:
    assert parse("all") == [Spec(name) for name in registry.names()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no method was asked for"),
        (" , ", "no method was asked for"),
        ("fitnets", "did you mean fitnet"),
        ("zz*", "no method matches 'zz\\*'; there are"),
        ("fitnet[beta]", "write \\[key=value\\]"),
        ("fitnet[gamma=1]", "has no hyper-parameter 'gamma'; it has tap, beta"),
        ("fitnet[tap=x]", "fitnet\\[tap\\] takes"),
        ("fitnet[beta=1", "cannot read"),
        ("fitnet]", "cannot read"),
        ("fitnet[beta=1]x", "cannot read"),
        ("kd+kd", "names a method twice"),
        ("kd+nothing", "no method 'nothing'"),
        ("student[tau=2]", "no hyper-parameter 'tau'"),
    ],
)
def test_parse_refuses_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


# -- combinations -------------------------------------------------------------------------------


def part(**body: object) -> type[Distiller]:
    """A method that adds one term under ``name``."""
    name = str(body.pop("name", "extra"))

    def terms(self: Distiller, student: object, teacher: object, batch: object) -> dict[str, torch.Tensor]:
        return {name: student.pooled.square().mean()}  # type: ignore[attr-defined]

    defaults = {"reference": "R", "provenance": "port", "__doc__": "loss", "terms": terms}
    return type("Part", (Distiller,), {**defaults, **body})


def parts_of(built: Distiller) -> list[Any]:
    """The methods of a combination, with attributes of their own."""
    return list(built.get_submodule("parts").children())


def test_a_combination_is_one_class_in_any_order() -> None:
    assert get("mag+fitnet") is get("fitnet+mag")
    assert get("fitnet+mag").part_names == ("fitnet", "mag")  # type: ignore[attr-defined]


def test_a_combination_answers_what_a_method_answers() -> None:
    cls = get("mag + fitnet")
    assert cls.components() == (get("fitnet"), get("mag"))
    assert [part.components() for part in cls.components()] == [(get("fitnet"),), (get("mag"),)]
    assert registry.name_of(cls) == "fitnet+mag"
    built = cls.build(Problem(ALIKE).pair, tap=1, low_dim=8, tau=2.0)
    assert isinstance(built, cls)
    assert get("fitnet").build(Problem(ALIKE).pair, tap=1).tap == 1
    assert Distiller.build(Problem(ALIKE).pair, tau=2.0).tau == built.tau == 2.0
    with pytest.raises(ValueError, match="Part is not registered"):
        registry.name_of(combined(("a", "b"), (part(), part())))


class Wordy(Distiller):
    def __init__(self, pair: Pair, *, kind: Literal["near", "far"] = "near", **common: float) -> None:
        super().__init__(pair, **common)


class Later(Distiller):
    """As ``from __future__ import annotations`` has it."""

    def __init__(self, pair: Pair, *, kind: "Literal['near', 'far']" = "near", **common: float) -> None:
        super().__init__(pair, **common)


class Unseen(Distiller):
    """One of its annotations is for type checkers alone."""

    def __init__(self, pair: "Nowhere", *, kind: "Literal['near', 'far']" = "near") -> None:  # type: ignore # noqa: F821
        super().__init__(pair)


def test_words_that_a_signature_lists_are_the_only_ones() -> None:
    assert Wordy.hyperparameters()["kind"].choices == Later.hyperparameters()["kind"].choices == ("near", "far")
    check(Wordy, "kind", "far", "wordy[kind]")
    for odd in ("left", "Near", "", 3, None, True, ["near"], torch.zeros(2)):
        with pytest.raises(ValueError, match=r"wordy\[kind\] is one of near, far, not "):
            check(Wordy, "kind", odd, "wordy[kind]")
    assert Unseen.hyperparameters()["kind"].choices == ()


@pytest.mark.parametrize(
    "text", ["ctkd[base=foo]", "ea[base=rld]", "sdd[weighting=both]", "ofa[exits=none]", "deit[targets=warm]"]
)
def test_a_word_that_a_method_does_not_know_is_refused_before_anything_is_trained(text: str) -> None:
    with pytest.raises(ValueError, match="is one of"):
        parse(text)


def test_a_name_in_capitals_is_one_suggestion() -> None:
    with pytest.raises(ValueError, match=r"no method 'CTKD'; did you mean ctkd\?"):
        get("CTKD")


def test_nobody_asks_whether_it_is_a_combination() -> None:
    """Only the two files that make one know what it looks like inside."""
    asked = re.compile(r"\bCombined\b|\bpart_(names|classes)\b|registry\.combine\b|[\"']\+[\"'] (not )?in\b")
    makers = {"registry/combine.py", "registry/discovery.py"}
    wrong = [
        f"kdbench/{path}: {found[0]}"
        for file in sorted((ROOT / "kdbench").rglob("*.py"))
        if (path := str(file.relative_to(ROOT / "kdbench"))) not in makers and (found := asked.search(file.read_text()))
    ]
    assert wrong == []


def test_a_combination_adds_terms_and_counts_ce_and_kd_once() -> None:
    cls = combined(("a", "b"), (part(), part()))
    trainee = Trainee(Problem(ALIKE), cls)
    batch = trainee.some_batch()
    assert list(trainee.terms(batch)) == ["ce", "extra", "b.extra"], "kd_weight is 0"
    built = cls.build(trainee.problem.pair, kd_weight=2.0, ce_weight=0.5)
    alone = Distiller(trainee.problem.pair, kd_weight=2.0, ce_weight=0.5)
    seen = trainee.look(batch)
    both, base = built.loss(*seen, batch), alone.loss(*seen, batch)
    assert {name: both[name].item() for name in ("ce", "kd")} == {name: base[name].item() for name in ("ce", "kd")}


def test_a_part_cannot_replace_the_combinations_ce() -> None:
    """mlkd calls a term of its own "ce"."""
    trainee = Trainee(Problem(ALIKE), combined(("a", "b"), (part(name="ce"), part())))
    assert list(trainee.terms(trainee.some_batch())) == ["ce", "a.ce", "extra"]


def test_hyperparameters_of_a_combination() -> None:
    fitnet, ab = get("fitnet"), get("pffu")  # both have beta
    cls = combined(("f", "p"), (fitnet, ab))
    known = cls.hyperparameters()
    assert {"f.beta", "p.beta", "tap", "grid", "ce_weight", "kd_weight", "tau"} <= set(known)
    assert "beta" not in known
    pair = Problem(ALIKE).pair
    built = cls.build(pair, **{"f.beta": 3.0, "p.beta": 5.0, "tap": 1, "tau": 2.0, "kd_weight": 0.5})
    first, second = parts_of(built)
    assert (first.beta, second.beta, first.tap) == (3.0, 5.0, 1)
    assert {m.tau for m in (built, first, second)} == {2.0}
    for wrong in ("nothing", "beta", "f.grid", "p.tau"):
        with pytest.raises(ValueError, match=f"has no hyper-parameter '{wrong}'; it has"):
            cls.build(pair, **{wrong: 1})


def _other_prediction(self: Distiller, student: object) -> None: ...


def _whole_loss(self: Distiller, student: object, teacher: object, batch: object) -> None: ...


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"pretrain_epochs": 1}, {"pretrain_epochs": 2}, "a and b each train a stage of their own first"),
        ({"predict": _other_prediction}, {"predict": _other_prediction}, "a and b each change the student's network"),
        ({"views": ("rot90",)}, {}, "a and b look at different views"),
        ({"loss": _whole_loss}, {}, "a writes its whole loss itself"),
    ],
)
def test_what_cannot_be_combined_says_why(one: dict[str, object], other: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"^a\\+b: {words}"):
        combined(("a", "b"), (part(**one), part(**other)))


def test_what_a_method_absorbs_is_there_and_can_be_asked_for() -> None:
    for name in registry.names():
        own = get(name).hyperparameters()
        for other, given in get(name).absorbs.items():
            assert other in registry.names(), name
            assert set(given) <= set(own), name
            taken = {key for key, hyper in get(other).hyperparameters().items() if not hyper.common}
            assert taken <= set(own), f"{name} cannot pass {', '.join(taken - set(own))} of {other} on"


def test_an_absorbed_part_is_not_added_and_leaves_its_names() -> None:
    def init(self: Any, pair: Pair, *, kind: str = "", power: float = 1.0, **common: float) -> None:
        Distiller.__init__(self, pair, **common)
        self.kind, self.power = kind, power

    taker = part(name="taken", absorbs={"b": {"kind": "b"}}, __init__=init)
    cls = combined(("a", "b", "c"), (taker, part(__init__=init), part(name="third", __init__=init)))
    assert {"b.power", "c.power", "kind"} <= set(cls.hyperparameters())
    assert not {"a.power", "a.kind", "b.kind", "kd_weight"} & set(cls.hyperparameters())
    trainee = Trainee(Problem(ALIKE), cls)
    assert list(trainee.terms(trainee.some_batch())) == ["ce", "taken", "third"]
    built = cls.build(trainee.problem.pair, **{"b.power": 3.0})
    first, second = parts_of(built)
    assert (first.kind, first.power, second.power) == ("b", 3.0, 1.0)


def test_facts_of_a_combination() -> None:
    first = part(provenance="reading", deviations=("One.",), views=("rot90",), needs_teacher=False)
    second = part(pretrain_epochs=3, pretrain_drops=(0.5,), pretrain_lr=0.1, views=("rot90",), deviations=("Two.",))
    cls = combined(("a", "b"), (first, second))
    assert (cls.reference, cls.provenance, cls.deviations) == ("R + R", "reading", ("One.", "Two."))
    assert (cls.pretrain_epochs, cls.pretrain_drops, cls.pretrain_lr) == (3, (0.5,), 0.1)
    assert cls.views == ("rot90",)
    assert cls.needs_teacher
    assert not cls.modifies_student()


def test_prediction_of_a_combination_is_that_of_the_part_that_changes_it() -> None:
    cls = get("fitnet+simkd")
    assert cls.modifies_student()
    trainee = Trainee(Problem(ALIKE), cls)
    student, _ = trainee.look(trainee.some_batch())
    trainee.method.eval()
    assert torch.equal(trainee.method.predict(student), parts_of(trainee.method)[1].predict(student))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dot", "write --set recipe.gradients=dot"),
        ("deepkd", "write --set recipe.gradients=deepkd"),
        ("fcfd", "it needs the student's network in hand"),
        ("vkd", "the orthogonal projection"),
        ("srd", "the sum under its logarithm"),
        ("kd+vkd", "the orthogonal projection"),
    ],
)
def test_what_is_left_out_says_why(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        registry.get(name)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("kd[semckd.tau=3]", "method 'kd' has no hyper-parameter 'semckd.tau'"),
        ("at+kd[mag.tau=3]", "no hyper-parameter 'mag.tau'"),
        ("at[tau=2]+fitnet[tau=3]", "tau is one for the whole of at+fitnet"),
        ("ea[base=dkd]+kd", "method 'ea' has no 'base' to set in ea+kd; it has weight"),
        ("rld[warmup=-0.1]", "rld[warmup] is 0 or more"),
        ("wkd_f[eps=-1]", "wkd_f[eps] is 0 or more"),
        *(
            (f"{row}]", "is 0 or more")
            for row in (
                *("dkd[alpha=-1", "dist[gamma=-1", "rkd[beta_d=-1", "rkd[beta_a=-1", "dskd[aux_ce=-1", "pffu[lam=-1"),
                *("tfkd[multiplier=-1", "ttm[gamma=-1", "itrd[lambda_corr=-1", "at[p=-1", "dkd+rkd[beta_d=-1"),
                *("sdd[beta=-1", "ctkd[beta=-1", "ea[beta=-1", "ctkd[loops=-3"),
            )
        ),
        *(
            (f"{row}]", "is 1 or more")
            for row in (
                *(
                    "kdsvd[k=0",
                    "cat_kd[resolution=0",
                    "cc[dim=-1",
                    "mag[low_dim=0",
                    "mas[high_dim=-1",
                    "crd[feat_dim=0",
                ),
                *("afd[qk_dim=0", "pffu[hidden=0", "hkd[epochs=-240", "crd+mag[low_dim=0"),
            )
        ),
        *((f"{row}]", "is a share from 0 to 1") for row in ("crd[nce_m=5", "crd[nce_m=-1", "sskd[ratio_tf=-1")),
        ("semckd[soft=0]", "semckd[soft] is a temperature and above 0"),
        ("sdd[M=1,2]", "sdd[M] is one of 1-2-4, 1-2, 1-4, 1, not '2'"),
    ],
)
def test_words_in_brackets_that_are_of_no_part_or_of_two(row: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        registry.parse(row)


def test_a_weight_that_may_be_negative_says_so() -> None:
    class Mine(Distiller):
        signed = ("gamma",)

        def __init__(self, pair: Pair, *, gamma: float = 1.0, alpha: float = 1.0) -> None: ...

    class Below(Distiller):
        def __init__(self, pair: Pair, *, alpha: float = -0.5) -> None: ...

    check(Below, "alpha", -1.0, "below[alpha]")  # its default says that it is no weight
    check(Mine, "gamma", -1.0, "mine[gamma]")
    for row in ("abkd+dkd[dkd.alpha=-1]", "abkd+dkd[dkd.beta=-1]"):
        with pytest.raises(ValueError, match=r"is 0 or more|weighs a loss"):
            registry.parse(row)
    assert registry.parse("abkd+dkd[abkd.beta=-0.2]")
    assert registry.parse("ctkd[t_end=0]")
    with pytest.raises(ValueError, match="is 0 or more"):
        check(Mine, "alpha", -1.0, "mine[alpha]")
    assert registry.parse("abkd[alpha=1.2,beta=-0.2]")


def test_a_prefix_of_the_rows_own_part_is_taken() -> None:
    assert registry.parse("kd[kd.tau=3]") == registry.parse("kd[tau=3]")
    assert registry.parse("mag+crd[crd.nce_k=10]") == registry.parse("mag+crd[nce_k=10]")
