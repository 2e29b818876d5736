"""Every setting of a recipe: off it changes nothing; on, a lane ends the same alone, in company and after a stop."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from kdbench import data, models, record, registry, suites
from kdbench.cli import main
from kdbench.data import Loader
from kdbench.distiller import Batch
from kdbench.engine import optimizers
from kdbench.engine.fit import Setting, fit
from kdbench.engine.graph.rollback import undone
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.engine.terms import smoothed
from kdbench.testing.toys import TWIN, Problem

CPU = torch.device("cpu")
EPOCHS, BATCH, IMAGES = 2, 8, 28


class Quiet:
    def step(self, lanes: int) -> None:
        """Nothing."""

    def epoch(self, stage: str, lanes: object) -> None:
        """Nothing."""


class Stopped(Exception):
    """As a kill."""


class Stopping(Quiet):
    def epoch(self, stage: str, lanes: object) -> None:
        raise Stopped


def digits() -> data.Dataset:
    return data.limit(data.load("digits"), IMAGES)


def loader(**changes: Any) -> Loader:
    one = digits()
    given: dict[str, Any] = {"batch_size": BATCH, "mean": (0.3,) * 3, "std": (0.4,) * 3, "crop_padding": 1, "seed": 5}
    return Loader(one.train_images, one.train_labels, num_classes=10, **(given | changes))


def teacher() -> models.Tapped:
    torch.manual_seed(1)
    return models.create("resnet8", 10, image_size=8).eval().requires_grad_(False)


def lane(folder: Path, method: str = "kd", **plan: Any) -> Lane:
    torch.manual_seed(2)
    net = models.create("resnet8", 10, image_size=8)
    labels = digits().train_labels
    pair = models.make_pair(
        net, teacher(), image_shape=(3, 8, 8), num_classes=10, train_labels=labels, batch_size=BATCH
    )
    torch.manual_seed(3)
    given: dict[str, Any] = {"eval_every": 1} | plan
    return Lane(
        f"{method} {plan}",
        net,
        registry.get(method).build(pair),
        Plan(EPOCHS, 0.01, **given),
        seed=4,
        path=folder / f"{method}.ckpt",
        settings="",
        teacher="",
        device=CPU,
        precision=Precision(),
    )


def setting(**changes: Any) -> Setting:
    one = digits()
    test = Loader(one.test_images[:16], one.test_labels[:16], batch_size=16, mean=(0.3,) * 3, std=(0.4,) * 3)
    return Setting(teacher(), loader(**changes), lambda: test.plain(16), CPU, Precision())


def some_batches() -> list[Batch]:
    return [Batch(image, label, idx, torch.tensor(0.0)) for image, label, idx in loader().epoch(0)]


def trained(lanes: list[Lane], watch: Quiet | None = None, **changes: Any) -> list[tuple[str, Any, Any]]:
    ended: dict[Lane, tuple[str, Any, Any]] = {}

    def finish(one: Lane) -> None:
        assert one.failure is None, one.failure
        curve = [{k: v for k, v in point.items() if k != "seconds"} for point in one.curve]
        ended[one] = one.weights_sha256(), curve, {k: v.clone() for k, v in one.kept_state().items()}

    fit(setting(**changes), lanes, watch or Quiet(), finish)
    return [ended[one] for one in lanes]


def same(one: tuple[str, Any, Any], other: tuple[str, Any, Any]) -> bool:
    state = one[2].keys() == other[2].keys() and all(torch.equal(one[2][k], other[2][k]) for k in one[2])
    return one[:2] == other[:2] and state


RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adamw": ({"optimizer_name": "adamw", "weight_decay": 0.05, "schedule": "cosine"}, {}),
    "lamb": ({"optimizer_name": "lamb", "clip_grad": 1.0}, {}),
    "mixed": ({"label_smoothing": 0.1}, {"mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.5}),
    "all": ({"optimizer_name": "adamw", "ema": 0.9, "accumulate": 3}, {"augment": "rrc+rand-m9-inc1", "mixup": 0.5}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_alone_is_in_company_is_resumed(name: str, tmp_path: Path) -> None:
    plan, batches = RECIPES[name]
    alone, company, stopped = (tmp_path / kind for kind in ("alone", "company", "stopped"))
    wanted = trained([lane(alone, "fitnet", **plan)], **batches)[0]
    assert same(trained([lane(company, "at", **plan), lane(company, "fitnet", **plan)], **batches)[1], wanted)
    # The watcher hears of an epoch before its checkpoint is written: save as the loop would have.
    first = lane(stopped, "fitnet", **plan)
    with pytest.raises(Stopped):
        fit(setting(**batches), [first], Stopping(), lambda one: None)
    first.save()
    again = lane(stopped, "fitnet", **plan)
    assert again.resume()
    assert again.epoch == 1
    assert same(trained([again], **batches)[0], wanted)


def test_drop_path_follows_the_random_numbers() -> None:
    torch.manual_seed(0)
    net = models.create("timm/test_vit", 10, image_size=32, drop_path=0.5).train()
    image = torch.randn(4, 3, 32, 32)

    def seen(seed: int) -> Tensor:
        torch.manual_seed(seed)
        logits: Tensor = net(image).logits
        return logits

    assert torch.equal(seen(1), seen(1))
    assert not torch.equal(seen(1), seen(2))
    net = models.create("timm/test_vit", 10, image_size=32).train()
    assert torch.equal(seen(1), seen(2))
    with pytest.raises(ValueError, match="resnet8 has no stochastic depth"):
        models.create("resnet8", 10, drop_path=0.1)


def test_smoothed_cross_entropy_is_torchs(tmp_path: Path) -> None:
    one = lane(tmp_path, "student", label_smoothing=0.2)
    image, label, idx = next(iter(loader().epoch(0)))
    batch = Batch(image, label, idx, torch.tensor(0.0))
    terms = one.terms(None, batch)
    logits = one.student(image).logits
    assert torch.allclose(terms["ce"], F.cross_entropy(logits, label, label_smoothing=0.2), atol=1e-6)
    mixed = batch._replace(target=torch.full((len(label), 10), 0.1))
    assert torch.allclose(smoothed(mixed, 10, 0.3).truth, mixed.truth)


def test_what_is_left_of_an_epoch_is_a_step(tmp_path: Path) -> None:
    """28 images make 4 batches: of 3 batches a step, the fourth is a step of its own."""
    one = lane(tmp_path, "student", accumulate=3, momentum=0.0, weight_decay=0.0)
    other = lane(tmp_path, "student", accumulate=1, momentum=0.0, weight_decay=0.0)
    batches = some_batches()
    for each in (one, other):
        each.start_epoch()
    for batch in batches[:3]:
        one.step(None, batch)
    assert one.waiting == 0
    other.student.load_state_dict(one.student.state_dict())
    one.step(None, batches[3])
    other.step(None, batches[3])
    assert one.waiting == 1
    one.end_epoch(0.0)
    ours, theirs = (dict(x.student.named_parameters()) for x in (one, other))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in ours)


def test_averaged_weights_follow_and_are_kept(tmp_path: Path) -> None:
    one = lane(tmp_path, "student", ema=0.75)
    before = {k: v.clone() for k, v in one.student.state_dict().items()}
    one.step(None, some_batches()[0])
    assert one.average is not None
    for name, value in one.student.state_dict().items():
        wanted = 0.75 * before[name] + 0.25 * value if value.is_floating_point() else value
        assert torch.allclose(one.average.state[name], wanted, atol=1e-6)
    now = one.weights_sha256()
    with one.average.shown():
        assert one.weights_sha256() != now
    assert one.weights_sha256() == now
    assert {name.split(".")[0] for name in one.kept_state()} == {"student", "ema"}


def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    batch = some_batches()[0]
    plans: list[dict[str, Any]] = [{"optimizer_name": "adamw"}, {"ema": 0.5}, {"accumulate": 2}]
    for plan in plans:
        one, other = (lane(tmp_path, "student", **plan) for _ in range(2))
        with undone(one):
            one.step(None, batch)
        for each in (one, other):
            each.step(None, batch)
            each.step(None, batch)
        assert one.weights_sha256() == other.weights_sha256()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("adamq", "timm has no optimizer 'adamq'; did you mean adam"),
        ("adahessian", "adahessian"),
        ("bnbadam", "bnbadam does not train here"),
        ("adafactor", "other shapes than the weights"),
    ],
)
def test_optimizers_that_cannot_go_on_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        optimizers.prove(name)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "lamb", "lion", "nadamw", "rmsprop", "lars", "momentum"])
def test_optimizers_that_can(name: str) -> None:
    optimizers.prove(name)


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = Plan(1, 0.1, optimizer_name="adamw", weight_decay=0.05).optimizer(net.parameters(), CPU).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.05, [4]),
        (0.0, [1, 1, 1]),
    ]


@pytest.mark.parametrize("name", registry.names())
def test_methods_that_read_hard_labels_say_so(name: str) -> None:
    """Loss and gradients may depend on ``label`` and ``idx`` only where the method says that it needs them."""
    cls = registry.get(name)
    if cls.needs_hard_labels or cls.views:
        return
    found = []
    for changed in (False, True):
        problem = Problem(TWIN)
        torch.manual_seed(0)
        method = cls.build(problem.pair)
        for stage in ("pretrain", "train"):
            if stage == "pretrain" and not cls.pretrain_epochs:
                continue
            method.on_stage(stage)
            batch = next(problem.batches(epoch=0, total=1, views=1))
            target = torch.full((len(batch.label), problem.pair.num_classes), 1 / problem.pair.num_classes)
            label, idx = (batch.label.flip(0), batch.idx.flip(0)) if changed else (batch.label, batch.idx)
            batch = batch._replace(label=label, idx=idx, target=target)
            seen = problem.show(batch.image)
            torch.manual_seed(1)
            terms = (method.loss if stage == "train" else method.pretrain_terms)(seen, seen, batch)
            found.append({key: term.detach() for key, term in terms.items()})
    half = len(found) // 2
    for one, other in zip(found[:half], found[half:], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_no_default_is_in_a_hash() -> None:
    facts = suites.load("digits").recipe.facts_for("resnet8", 20)
    assert not set(facts) & {"optimizer", "label_smoothing", "ema", "drop_path", "accumulate", "augment", "mixup"}


WORDS = ["--suite", "digits", "--seeds", "1", "--epochs", "1", "--limit-train", "64", "--pairs", "resnet20:resnet8"]
FULL = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "label_smoothing": "0.1",
    "ema": "0.5",
    "accumulate": "2",
    "augment": "rrc+rand-m9-mstd0.5-inc1",
    "mixup": "0.8",
    "cutmix": "1.0",
    "random_erasing": "0.25",
}


def test_a_run_says_and_uses_the_recipe(tmp_path: Path) -> None:
    sets = [word for key, value in FULL.items() for word in ("--set", f"recipe.{key}={value}")]
    words = ["run", *WORDS, *sets, "--methods", "student,dkd,label_smoothing", "--out", str(tmp_path)]
    dry = CliRunner().invoke(main, [*words, "--dry-run"]).output.replace("\n", " ")
    for said in ("adamw", "cosine", "label smoothing 0.1", "ema 0.5", "x 2 for a step", "rrc+rand-m9", "mixup 0.8"):
        assert said in dry
    done = CliRunner().invoke(main, [*words, "--set", "recipe.drop_path=0"])
    assert done.exit_code == 0, done.output
    assert "dkd needs one label for each image, and recipe.mixup and recipe.cutmix mix two" in done.output.replace(
        "\n", " "
    )
    one = next(one for one in record.read_all(tmp_path / "runs")[0] if one.status == "done")
    assert one.ema_top1_last is not None
    assert one.curve[-1].ema_top1 == one.ema_top1_last
    assert {key: str(one.settings.recipe[key]) for key in FULL} == FULL


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("recipe.augment", "rrd", "neither crop nor rrc nor a policy"),
        ("recipe.augment", "rrc+", "ends in a plus"),
        ("recipe.augment", "rrc+rand-m9-mstdnan", "'mstdnan' is no setting with its number"),
        ("recipe.augment", "rrc+original-mstdx", "'mstdx' is no setting with its number"),
        ("recipe.augment", "rand-mx", "'mx' is no setting with its number"),
        ("recipe.mixup", "1e-320", "mixup is 0, which is none, or 0.01 or more, not 9.99989e-321"),
        ("recipe.cutmix", "0.001", "cutmix is 0, which is none, or 0.01 or more, not 0.001"),
        ("recipe.optimizer", "adamwe", "did you mean"),
        ("recipe.label_smoothing", "1.0", "less than 1"),
        ("recipe.accumulate", "0", "greater than or equal to 1"),
        ("teacher.ema", "0.9", "no setting"),
    ],
)
def test_what_will_not_do_is_a_sentence(key: str, value: str, why: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", *WORDS, "--set", f"{key}={value}", "--out", str(tmp_path), "--dry-run"])
    assert done.exit_code == 2
    assert why in done.output.replace("\n", " ")


@pytest.mark.parametrize("word", ["rand-m9-mstd0.5-inc1", "rand-m10-inc1", "rand-mstd101-inc1"])
def test_a_policy_at_its_highest_level_is_no_error(word: str) -> None:
    """timm then posterizes to 0 bits, which Pillow refuses from 13 on: one picture of 500 of the usual policy."""
    from PIL import Image

    from kdbench.data.augment import policy

    posterize = next(op for op in policy(word, 8).ops if op.name.startswith("Posterize"))  # type: ignore[attr-defined]
    picture = Image.new("RGB", (8, 8), (255, 128, 3))
    assert not np.array(posterize.aug_fn(picture, 0)).any()
    assert np.array(posterize.aug_fn(picture, 4))[0, 0].tolist() == [240, 128, 0]
    for seed in range(600):
        random.seed(seed)
        np.random.seed(seed)
        policy(word, 8)(picture)
