"""Suites and conventions: what they say, and what they refuse."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench import registry, suites
from kdbench.suites import Suite

EVERY = {"ce_weight", "kd_weight", "tau", "beta", "tap", "alpha"}


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_stands(name: str) -> None:
    suite = suites.load(name)
    assert suite.name == name
    assert len(set(suite.pairs)) == len(suite.pairs)
    assert suites.convention(suite.convention).name == suite.convention
    table = suites.published(suite)
    assert {key[:2] for key in table} <= set(suite.pairs)
    assert all(entry.rule in (None, suite.published_rule) and 20 < entry.mean < 95 for entry in table.values())


@pytest.mark.parametrize("name", suites.names())
def test_every_pair_is_of_models_that_exist(name: str) -> None:
    models = pytest.importorskip("kdbench.models")
    for pair in suites.load(name).pairs:
        assert tuple(models.resolve(model) for model in pair) == pair


@pytest.mark.parametrize(
    ("suite", "pair", "method", "mean", "std"),
    [
        ("crd", "resnet32x4:resnet8x4", "kd", 73.33, None),
        ("crd", "resnet32x4:resnet8x4", "crd", 75.51, None),
        ("crd", "ResNet50:MobileNetV2", "at", 58.58, None),
        ("crd", "vgg13:vgg8", "teacher", 74.64, None),
        ("semckd", "resnet32x4:resnet8x4", "semckd", 76.23, 0.04),
        ("semckd", "resnet32x4:resnet8x4", "kd", 74.42, 0.05),
        ("semckd", "wrn_40_2:MobileNetV2", "hkd_port", 69.23, 0.16),
        ("semckd", "resnet32x4:vgg8", "simkd", 75.76, None),
    ],
)
def test_published_numbers(suite: str, pair: str, method: str, mean: float, std: float | None) -> None:
    teacher, student = pair.split(":")
    entry = suites.published(suites.load(suite))[teacher, student, method]
    assert (entry.mean, entry.std, entry.n) == (mean, std, None)


def test_published_tables_are_whole() -> None:
    semckd, crd = (suites.published(suites.load(name)) for name in ("semckd", "crd"))
    for pair in suites.load("semckd").pairs:
        for method in ("teacher", "student", "kd", "fitnet", "at", "sp", "vid", "hkd_port", "semckd"):
            assert (*pair, method) in semckd
    assert len(crd) == 188  # 15 rows of 13 pairs, less the 7 pairs that FSP cannot serve


def test_schedule() -> None:
    recipe = suites.load("semckd").recipe
    assert recipe.milestones_for(240) == (150, 180, 210)
    assert recipe.milestones_for(24) == (15, 18, 21)
    assert min(recipe.milestones_for(1)) == 1  # the first epoch runs at the full rate
    assert recipe.lr_for("resnet8x4") == 0.05
    assert {recipe.lr_for(light) for light in ("MobileNetV2", "ShuffleV1", "ShuffleV2")} == {0.01}


@pytest.mark.parametrize(
    ("model", "light"),
    [
        ("timm/mobilenetv2_100", True),  # README's own example
        ("timm/mobilenetv3_small_050.lamb_in1k", True),
        ("timm/MobileNetV4_conv_small", True),
        ("MOBILENETV2", True),
        ("cifar_shufflev2", True),
        ("ShuffleV2_1.5", True),
        ("timm/resnet18.mobilenet", False),  # a tag is no name
        ("timm/tf_mobilenetv3_small_075", False),
        ("resnet8", False),
    ],
)
def test_light_models_by_any_of_their_names(model: str, light: bool) -> None:
    suite = suites.load("semckd")
    assert suite.recipe.lr_for(model) == (0.01 if light else 0.05)
    assert suite.lr_for(model) == suite.recipe.lr_for(model)
    assert suite.lr_for(model, role="teacher") == suite.teacher.lr_for(model)


@pytest.mark.parametrize(
    ("pattern", "models"),
    [
        ("timm/*", {"timm/resnet18", "timm/resnet18.a1_in1k", "timm/vgg11"}),
        ("timm/resnet18.A1*", {"timm/resnet18.a1_in1k"}),
        ("ResNet*", {"resnet8", "timm/resnet18", "timm/resnet18.a1_in1k"}),
        ("resnet8", {"resnet8"}),
    ],
)
def test_patterns_of_light_models(pattern: str, models: set[str]) -> None:
    recipe = suites.load("semckd").set("recipe.light", pattern).recipe
    every = ("resnet8", "vgg8", "timm/resnet18", "timm/resnet18.a1_in1k", "timm/vgg11")
    assert {model for model in every if recipe.lr_for(model) == recipe.light_lr} == models


def test_the_rate_of_a_teacher_is_its_own() -> None:
    suite = suites.load("digits").set("teacher.lr", "0.3").set("teacher.light_lr", "0.2")
    assert (suite.lr_for("resnet8"), suite.lr_for("resnet8", role="teacher")) == (suite.recipe.lr, 0.3)
    assert suite.lr_for("timm/mobilenetv2_100", role="teacher") == 0.2


def test_settings_can_be_overridden() -> None:
    suite = suites.load("digits")
    changed = suite.override(recipe__lr="0.1", recipe__milestones="5,10", recipe__mean="0.5,0.5,0.5")
    assert (changed.recipe.lr, changed.recipe.milestones) == (0.1, (5, 10))
    assert changed.teacher.mean == changed.recipe.mean == (0.5, 0.5, 0.5)
    assert changed.teacher.lr == suite.teacher.lr
    assert changed.recipe.model_dump(exclude={"lr", "milestones", "mean"}) == suite.recipe.model_dump(
        exclude={"lr", "milestones", "mean"}
    )
    assert suite.set("recipe.nesterov", "true").recipe.nesterov
    assert suite.set("recipe.mean", ".9,-.5,1.").recipe.mean == (0.9, -0.5, 1.0)
    assert suite.set("recipe.light", "resnet*,wrn*").recipe.lr_for("resnet8") == suite.recipe.light_lr
    assert suite.set("dataset", "cifar10").dataset == "cifar10"
    assert suite.set("teacher.epochs", "60").teacher.milestones == tuple(2 * m for m in suite.teacher.milestones)
    semckd = suites.load("semckd")
    assert suites.published(semckd.set("recipe.lr", "0.1")) == suites.published(semckd)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("recipe.lrr", "1", "did you mean recipe.lr"),
        ("lr", "1", "did you mean recipe.lr?"),
        ("name", "mine", "no setting"),
        ("recipe.lr", "fast", "not 'fast'"),
        ("recipe.lr", "-1", "greater than 0"),
        ("recipe.lr", "nan", "recipe.lr"),
        ("recipe.epochs", "3", "--epochs"),
        ("recipe.milestones", "10,5", "must rise"),
        ("recipe.milestones", "500", "within"),
        ("recipe.mean", "0.5,0.5", "recipe.mean"),
        ("recipe.flip", "perhaps", "boolean"),
        ("recipe.batch_size", "1", "greater than or equal to 2"),
        ("teacher.mean", "1,1,1", "no setting"),
        ("convention", "semkd", "did you mean semckd"),
    ],
)
def test_what_set_refuses(key: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")) as raised:
        suites.load("digits").set(key, value)
    assert "\n" not in str(raised.value)


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean digits"):
        suites.load("digit")
    with pytest.raises(ValueError, match="did you mean semckd"):
        suites.convention("semkd")
    with pytest.raises(ValueError, match="no suite file"):
        suites.load("nowhere.toml")


MINE = """
name = "mine"
title = "my own"
dataset = "digits"
image_size = 8
num_classes = 10
convention = "my_convention.toml"
pairs = ["resnet20:resnet8"]
default_methods = ["kd"]
published = "mine.csv"
published_rule = "last"
[recipe]
epochs = 20
batch_size = 32
lr = 0.1
light_lr = 0.1
milestones = [10, 15]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[teacher]
epochs = 40
"""


def write(folder: Path, text: str = MINE) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_a_suite_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "my_convention.toml").write_text(
        'name = "my"\ntitle = "t"\nce_weight = 2.0\nkd_weight = 3.0\ncombined_kd_weight = 1.0\n'
    )
    (tmp_path / "mine.csv").write_text(
        "teacher,student,method,mean,std,n,source,rule\nresnet20,resnet8,kd,91.5,0.2,3,me,last\n"
    )
    suite = suites.load(write(tmp_path))
    assert suite.teacher.milestones == (20, 30)
    assert suites.published(suite)["resnet20", "resnet8", "kd"] == (91.5, 0.2, 3, "me", "last")
    assert suites.convention(suite.convention).hyper("kd", "a:b", EVERY) == {"ce_weight": 2.0, "kd_weight": 3.0}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[recipe]", "[recipe", "not readable as TOML"),
        ("epochs = 20", "", r"recipe.epochs: field required"),
        ("epochs = 20", "epoch = 20", "recipe"),
        ('"resnet20:resnet8"', '"resnet20"', "teacher:student"),
        ('["resnet20:resnet8"]', "[]", "one pair"),
        ('title = "my own"', "titel = 1", "titel|title"),
        ('published_rule = "last"', "", "go together"),
        ('published_rule = "last"', 'published_rule = "best"', "published_rule"),
    ],
)
def test_a_suite_that_is_wrong(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in MINE
    with pytest.raises(ValueError, match=words) as raised:
        suites.load(write(tmp_path, MINE.replace(old, new, 1)))
    assert "\n" not in str(raised.value)
    assert "mine.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("imagefolder:pics@32", "imagefolder:HOME/pics@32"),
        ("imagefolder:pics", "imagefolder:HOME/pics"),
        ("imagefolder:./a/../pics/@32", "imagefolder:HOME/pics@32"),
        ("imagefolder:.@32", "imagefolder:HOME@32"),
        ("imagefolder:..@32", "imagefolder:ABOVE@32"),
        ("imagefolder:a@b/c", "imagefolder:HOME/a@b/c"),
        ("imagefolder:/data/pics@32", "imagefolder:/data/pics@32"),
        ("imagefolder:~/pics@32", "imagefolder:/my/house/pics@32"),
        ("imagefolder:", "imagefolder:"),
        ("imagefolder:@32", "imagefolder:@32"),
        ("digits", "digits"),
    ],
)
def test_an_image_folder_is_looked_for_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, read: str
) -> None:
    home, elsewhere = tmp_path / "suites", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    write(home, MINE.replace('dataset = "digits"', f'dataset = "{written}"'))
    monkeypatch.setenv("HOME", "/my/house")
    monkeypatch.chdir(elsewhere)  # wherever the command is started, and however the file is named
    wanted = read.replace("HOME", str(home)).replace("ABOVE", str(tmp_path))
    for name in (str(home / "mine.toml"), "../suites/mine.toml"):
        suite = suites.load(name)
        assert suite.dataset == wanted
        assert suite.set("recipe.lr", "0.1").dataset == wanted
    # On the command line the same word starts from the current folder.
    set_ = suites.load("digits").set("dataset", written)
    assert set_.dataset == read.replace("HOME", str(elsewhere)).replace("ABOVE", str(tmp_path))


def test_a_path_of_the_suite_and_one_of_the_data_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites may not import data, so each makes paths absolute itself."""
    from kdbench.data.names import canonical

    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/usr/lib")
    for path in ("a", "./a/", "../a", "link", "link/../a", "a b", "~/a", "ä/é", "a@b/c", "x" * 300):
        word = suites.load("digits").set("dataset", f"imagefolder:{path}@32").dataset
        assert word == canonical(f"imagefolder:{path}@32") == canonical(word)


def test_a_published_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.csv of suite mine"):
        suites.published(suites.load(write(tmp_path)))


@pytest.mark.parametrize(
    ("name", "method", "wanted"),
    [
        ("crd", "kd", {"ce_weight": 0.1, "kd_weight": 0.9, "tau": 4.0}),
        ("crd", "fitnet", {"ce_weight": 1.0, "kd_weight": 0.0, "tap": 2, "beta": 100.0}),
        ("crd", "crd", {"ce_weight": 1.0, "kd_weight": 0.0, "beta": 0.8}),
        ("crd", "crd+kd", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 0.8}),
        ("crd", "kd+crd", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 0.8}),
        ("crd", "crd+mas", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 0.8}),
        ("crd", "abkd", {"ce_weight": 1.0, "kd_weight": 0.0, "alpha": 0.8, "beta": 0.3}),
        ("crd", "ikl", {"ce_weight": 1.0, "kd_weight": 0.0, "alpha": 1.0, "beta": 4.0}),
        ("crd", "ikl+lskd", {"ce_weight": 1.0, "kd_weight": 0.0, "tau": 2.0, "alpha": 1.0, "beta": 4.0}),
        ("crd", "ofa", {"ce_weight": 1.0, "kd_weight": 0.0}),
        ("crd", "wkd_l", {"ce_weight": 1.0, "kd_weight": 0.0}),
        ("crd", "wkd_f", {"ce_weight": 1.0, "kd_weight": 0.0, "beta": 0.08}),
        ("semckd", "wkd_f", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 0.08}),
        ("semckd", "mgd", {"ce_weight": 1.0, "kd_weight": 1.0, "alpha": 0.0012}),
        ("crd", "dkd", {"ce_weight": 1.0, "kd_weight": 0.0, "alpha": 1.0, "beta": 2.0}),
        ("crd", "ctkd", {"ce_weight": 0.1, "kd_weight": 0.0, "beta": 2.0}),
        ("crd", "nkd", {"ce_weight": 1.0, "kd_weight": 0.0, "tau": 3.0}),
        ("crd", "rld+lskd", {"ce_weight": 1.0, "kd_weight": 0.0, "tau": 2.0, "alpha": 9.0, "beta": 72.0}),
        ("crd", "ickd", {"ce_weight": 1.0, "kd_weight": 0.0, "beta": 2.5}),
        ("semckd", "ickd", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 2.5}),
        ("semckd", "sdd", {"ce_weight": 1.0, "kd_weight": 0.0, "beta": 2.0}),
        ("semckd", "wsld", {"ce_weight": 1.0, "kd_weight": 0.0, "tau": 4.0, "alpha": 2.25}),
        ("semckd", "kd", {"ce_weight": 1.0, "kd_weight": 1.0, "tau": 4.0}),
        ("semckd", "fitnet", {"ce_weight": 1.0, "kd_weight": 1.0, "tap": 1, "beta": 100.0}),
        ("semckd", "semckd", {"ce_weight": 1.0, "kd_weight": 1.0, "beta": 400.0}),
        ("semckd", "simkd", {"ce_weight": 0.0, "kd_weight": 0.0, "beta": 1.0}),
        ("semckd", "nobody", {"ce_weight": 1.0, "kd_weight": 1.0}),
    ],
)
def test_weights(name: str, method: str, wanted: dict[str, float]) -> None:
    assert suites.convention(name).hyper(method, "resnet56:resnet20", EVERY) == wanted


def test_weights_of_a_pair_and_of_a_class_that_knows_few() -> None:
    crd = suites.convention("crd")
    assert crd.hyper("dkd", "resnet110:resnet20", EVERY)["beta"] == 8.0  # none was published for this pair
    assert crd.hyper("student", "a:b", {"ce_weight"}) == {"ce_weight": 1.0}
    shared = {"ce_weight", "kd_weight", "tau", "crd.beta", "semckd.beta"}
    assert crd.hyper("semckd+crd", "a:b", shared) == {
        "ce_weight": 1.0,
        "kd_weight": 0.0,
        "crd.beta": 0.8,
        "semckd.beta": 400.0,
    }


@pytest.mark.parametrize("name", suites.convention_names())
def test_every_weight_listed_is_one_that_the_method_has(name: str) -> None:
    """A misspelt key would be dropped without a word."""
    convention = suites.convention(name)
    tables = [convention.methods, *convention.pairs.values()]
    for table in tables:
        for method in set(table) & set(registry.names()):
            missing = set(table[method]) - set(registry.get(method).hyperparameters())
            assert not missing - {"kd_weight", "ce_weight"}, f"{method}: {missing}"


def test_no_torch() -> None:
    code = "import sys; from kdbench import suites as s; s.published(s.load('crd')); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_suites_are_frozen() -> None:
    suite = suites.load("digits")
    with pytest.raises(ValueError, match="frozen"):
        suite.name = "other"
    assert isinstance(suite, Suite)


@pytest.mark.parametrize(
    ("suite", "pair", "method", "mean"),
    [
        ("imagenet", "timm/resnet34:timm/resnet18", "kd", 71.03),
        ("imagenet", "timm/resnet50:timm/mobilenetv1_100", "dkd", 72.05),
        ("cub200", "vgg13:vgg8", "sdd", 67.32),
        ("heterogeneous", "timm/vit_small_patch16_224:timm/resnet18", "ofa", 80.15),
        ("heterogeneous", "timm/mixer_b16_224:timm/mobilenetv2_100", "teacher", 87.29),
        ("heterogeneous-tokens", "timm/convnext_tiny:timm/swin_pico_patch4_window7_224", "fitnet", 24.06),
        ("heterogeneous-tokens", "timm/convnext_tiny:timm/resmlp_12_224", "fitnet", 45.47),
        ("cub200", "resnet32x4:MobileNetV2", "semckd", 56.89),
    ],
)
def test_published_numbers_of_larger_data(suite: str, pair: str, method: str, mean: float) -> None:
    teacher, student = pair.split(":")
    assert suites.published(suites.load(suite))[teacher, student, method].mean == mean


def test_recipes_of_the_literature() -> None:
    tokens = suites.load("heterogeneous-tokens")
    recipe = tokens.recipe
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.clip_grad) == ("adamw", 5e-4, 0.05, 5.0)
    assert (recipe.mixup, recipe.cutmix, recipe.random_erasing, recipe.label_smoothing) == (0.8, 1.0, 0.25, 0.1)
    assert len(tokens.pairs) + len(suites.load("heterogeneous").pairs) == 12
    assert suites.load("imagenet").recipe.milestones == (30, 60, 90)
    tiny = suites.load("tiny-transformers")
    assert (tiny.recipe.drop_path, tiny.teacher.drop_path, tiny.teacher.optimizer) == (0.1, 0.0, "sgd")


@pytest.mark.parametrize("name", suites.convention_names())
def test_globs_of_pairs_are_beaten_by_a_pairs_own_table(name: str) -> None:
    convention = suites.convention(name)

    def of(method: str, pair: str) -> dict[str, object]:
        return convention.hyper(method, pair, EVERY | {"weight", "lowest", "w_ofa", "M"})

    for pair, weight, lowest in (
        ("resnet56:resnet8", 2.0, -1.0),
        ("resnet110:resnet20", 2.0, -1.0),
        ("resnet32x4:ShuffleV1", 8.0, 0.0),
        ("vgg13:vgg8", 8.0, -1.0),
        ("ResNet50:vgg8", 8.0, -1.0),
    ):
        found = of("mkl", pair)
        assert (found["weight"], found["lowest"]) == (weight, lowest), pair
    for student in ("MobileNetV2", "timm/mobilenetv2_100"):
        assert of("ofa", f"vgg13:{student}")["w_ofa"] == 0.1
    assert of("ofa", "vgg13:vgg8")["w_ofa"] == 1.0
    assert (of("sdd", "vgg13:ShuffleV2")["beta"], of("sdd", "vgg13:vgg8")["M"]) == (6.0, "1-2")
    assert of("sdd", "wrn_40_2:MobileNetV2")["beta"] == 6.0
    imagenet = of("dkd", "timm/resnet34:timm/resnet18")
    assert (imagenet["beta"], imagenet["tau"]) == (0.5, 1.0)
    own = convention.model_copy(
        update={"pairs": {"a:b": {"kd": {"tau": 1.0}}, "a:*": {"kd": {"tau": 2.0}}, "*:b": {"kd": {"tau": 3.0}}}}
    )
    assert [own.hyper("kd", pair, EVERY)["tau"] for pair in ("a:b", "a:c", "c:b", "c:d")] == [1.0, 2.0, 3.0, 4.0]
