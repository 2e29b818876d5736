"""Every method on every pair of the published suites, with the real networks: sound gradients or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, models, registry, suites
from kdbench.bench import costs, prepared
from kdbench.suites import costs as kept

B, N, K, SIDE = 8, 50_000, 100, 32
QUICK = ("resnet32x4:resnet8x4", "vgg13:MobileNetV2", "wrn_40_2:ShuffleV1")
CONVENTION = {":".join(pair): suite.convention for suite in map(suites.load, ("crd", "semckd")) for pair in suite.pairs}

OTHER_SHAPES = {
    "wrn_40_2:wrn_40_1",
    "vgg13:MobileNetV2",
    "ResNet50:MobileNetV2",
    "ResNet50:vgg8",
    "resnet32x4:ShuffleV1",
    "resnet32x4:ShuffleV2",
    "wrn_40_2:ShuffleV1",
    "resnet32x4:vgg8",
    "resnet32x4:vgg13",
    "vgg13:ShuffleV2",
    "wrn_40_2:MobileNetV2",
}
OTHER_DEPTH = {"resnet32x4:vgg8", "resnet32x4:vgg13", "vgg13:ShuffleV2", "wrn_40_2:MobileNetV2"}
#: Method -> (pairs that it refuses, words of its sentence). Everything else must work.
REFUSALS: dict[str, tuple[set[str], str]] = {
    "ab": (OTHER_DEPTH, r"the student has \d stages, the teacher \d; it pairs them one to one"),
    "afd_se": (OTHER_SHAPES, "the stages must have equal shapes"),
    "fsp": (OTHER_SHAPES, "the taps must have equal channels"),
    "wkd_f": ({"wrn_40_2:MobileNetV2"}, "no kernel brings the student's 2x2 map to the teacher's 8x8"),
    "mgd": ({"ResNet50:MobileNetV2", "ResNet50:vgg8"}, "a map of 2048 channels takes 75 million weights"),
    "kdsvd": (OTHER_SHAPES, "needs as many channels in the student's stages as in the teacher's"),
}


class Shown:
    """Both models of a pair on one batch of noise, with as many views as a method asks for."""

    def __init__(self, pair: str) -> None:
        torch.manual_seed(0)
        teacher, student = (models.create(name, K, image_size=SIDE) for name in pair.split(":"))
        prepared.settle(teacher)
        self.teacher, self.student = teacher, student.train()
        labels = torch.arange(N) % K
        self.pair = models.make_pair(
            student, teacher, image_shape=(3, SIDE, SIDE), num_classes=K, train_labels=labels, batch_size=B
        )
        self.seen: dict[int, tuple[Outputs, Outputs, Batch]] = {}

    def look(self, views: int) -> tuple[Outputs, Outputs, Batch]:
        """Student (as leaves of a graph), teacher and batch; the models are run once for each number of views."""
        if views not in self.seen:
            image = torch.randn(views * B, 3, SIDE, SIDE)
            idx = torch.randperm(N)[:B]
            with torch.no_grad():
                found = self.student(image), self.teacher(image)
            self.seen[views] = *found, Batch(image, self.pair.train_labels[idx], idx, torch.tensor(0.5))
        student, teacher, batch = self.seen[views]
        return prepared.leaves(student), teacher, batch


shown = lru_cache(maxsize=3)(Shown)


def build(name: str, facts: Pair, convention: str, pair: str) -> Distiller:
    cls = registry.get(name)
    torch.manual_seed(1)
    return cls.build(facts, **suites.convention(convention).hyper(name, pair, cls.hyperparameters()))


def sound(terms: dict[str, Tensor], method: nn.Module, student: Outputs) -> None:
    """Finite terms; finite gradients, of the student's outputs and of the method's parameters."""
    assert all(term.isfinite() for term in terms.values()), terms
    total = torch.stack([term.float() for term in terms.values()]).sum()
    total.backward()
    reached = [tensor.grad for tensor in student.tensors().values() if tensor.grad is not None]
    own = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert reached or own, "no gradient reaches anything"
    assert all(grad.isfinite().all() for grad in reached)
    for name, grad in own.items():
        assert grad is not None, f"{name} gets no gradient"
        assert grad.isfinite().all(), f"the gradient of {name} is not finite"


def quick(at: int, name: str) -> set[str]:
    """Every method on a pair, a third of them on each; a pair that it refuses costs nothing."""
    return {QUICK[at % len(QUICK)]} | ({*QUICK} & REFUSALS.get(name, (set(), ""))[0])


CELLS = [
    pytest.param(name, pair, id=f"{name}-{pair}", marks=() if pair in quick(at, name) else pytest.mark.slow)
    for pair in CONVENTION
    for at, name in enumerate(registry.names())
]


@pytest.mark.parametrize(("name", "pair"), CELLS)
def test_gradients_are_finite_or_a_sentence_says_why_not(name: str, pair: str) -> None:
    of = shown(pair)
    refused, sentence = REFUSALS.get(name, (set(), ""))
    if pair in refused:
        with pytest.raises(ValueError, match=sentence):
            build(name, of.pair, CONVENTION[pair], pair)
        return
    method = build(name, of.pair, CONVENTION[pair], pair)
    stages: dict[str, Callable[..., dict[str, Tensor]]] = {"train": method.loss}
    if method.pretrain_epochs:
        stages = {"pretrain": method.pretrain_terms, **stages}
    for stage, loss in stages.items():
        student, teacher, batch = of.look(1 + len(method.views))
        method.train()
        method.on_stage(stage)
        method.zero_grad()
        sound(loss(student, teacher, batch), method, student)
    method.eval()
    assert method.predict(student).shape == student.logits.shape


def test_no_refused_pair_has_a_published_number() -> None:
    refused = {(*pair.split(":"), name) for name, (pairs, _) in REFUSALS.items() for pair in pairs}
    assert refused <= {(*pair.split(":"), name) for pair in CONVENTION for name in registry.names()}
    for suite in map(suites.load, ("crd", "semckd")):
        assert not refused & set(suites.published(suite))


def test_conventions_name_only_what_the_class_has() -> None:
    """Whatever a convention's tables say of a method, on any pair, is a hyper-parameter of its class.

    Save for ``kd_weight``: methods that stand in for KD have none, and their tables set it to 0 for combinations.
    """
    conventions = [suites.convention(name) for name in suites.convention_names()]
    tables = [(one.name, table) for one in conventions for table in (one.methods, *one.pairs.values())]
    for name in registry.names():
        known = registry.get(name).hyperparameters()
        for convention, table in tables:
            strange = set(table.get(name, {})) - set(known)
            strange -= {"kd_weight"} if table.get(name, {}).get("kd_weight") == 0 else set()
            assert not strange, f"{convention} sets {', '.join(strange)} of {name}, which has {', '.join(known)}"


def test_every_method_has_a_measured_cost() -> None:
    assert set(kept.load()) == set(registry.names()), "run make costs"


def test_what_costs_more_than_a_quarter_is_declared() -> None:
    dear = {name for name, cost in kept.load().items() if cost.share > kept.LIMIT}
    assert dear == set(kept.EXPENSIVE)


def test_a_cost_is_measured() -> None:
    """The smallest networks of the published widths: the sum of the parts is a step, and VID's extra is not nothing."""
    plain, vid = (costs.measure(name, "resnet20:resnet8", n=1) for name in ("student", "vid"))
    assert plain.extra_train_params == 0
    assert plain.share < 0.02
    assert vid.extra_train_params == 3 * (16**2 + 32**2 + 64**2) + 16 + 32 + 64
    assert vid.extra_ms == pytest.approx(vid.share * vid.student_step_ms, rel=0.05)
    assert 0.01 < vid.share < 1
