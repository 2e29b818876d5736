"""``kdbench.attach``: what it takes, what it hands back, and one sentence for whatever cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdbench
from kdbench import Distiller, models, registry
from kdbench.library.attached import Attached

K, N, B, SIDE = 5, 20, 6, 16
LABELS = torch.arange(N) % K


class Small(nn.Module):
    """A stranger's network: in-place ReLUs, a stem at full size, three stages, dropout before its classifier."""

    def __init__(self, width: int, *, dropout: bool = False) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))

        self.stem = block(3, width, 1)
        self.one, self.two, self.three = block(width, width, 1), block(width, 2 * width, 2), block(2 * width, 9, 2)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5) if dropout else nn.Identity()
        self.fc = nn.Linear(9, K)

    def forward(self, image: Tensor) -> Any:
        maps = self.three(self.two(self.one(self.stem(image))))
        return self.fc(self.drop(self.pool(maps).flatten(1)))


class Wrapped(nn.Module):
    """A network whose output is not the logits themselves."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, image: Tensor) -> Any:
        logits = self.inner(image)
        return {
            "tuple": (logits, None),
            "dict": {"logits": logits},
            "object": SimpleNamespace(logits=logits, loss=None),
        }[self.how]


def networks(seed: int = 0) -> tuple[Small, Small]:
    torch.manual_seed(seed)
    return Small(4), Small(6)


def batch(size: int = B, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randperm(N, generator=generator)[:size]
    return torch.randn(size, 3, SIDE, SIDE, generator=generator), LABELS[idx], idx


def attach(method: Any = "kd", **words: Any) -> Attached:
    student, teacher = words.pop("networks", None) or networks()
    given: dict[str, Any] = {"labels": LABELS, "batch_size": B, "image_size": SIDE, **words}
    return kdbench.attach(student, teacher, method, **given)


def hooks(*nets: nn.Module) -> int:
    return sum(len(module._forward_hooks) for net in nets for module in net.modules())


def assisted(name: str) -> bool:
    return registry.get(name).assistant is not None


# -- networks of any make ----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in registry.names() if not assisted(name)])
def test_every_method_trains_a_strangers_network(name: str) -> None:
    student, teacher = networks()
    if name == "ofd":
        with pytest.raises(ValueError, match="the teacher names no batch norms before its last ReLUs"):
            attach(name)
        return
    if name in ("afd_se", "fsp", "kdsvd"):
        student = Small(6)  # they compare maps of equal channels
    d = attach(name, networks=(student, teacher), steps=4)
    trained = [*student.parameters(), *d.parameters()]
    for stage in d.stages:
        d.on_stage(stage, steps=2)
        for p in trained:
            p.grad = None
        image, label, idx = batch()
        if "randaugment" in d.method.views:
            image = torch.cat([image, image.flip(3)])
        loss = d(image, label, idx)
        loss.backward()
        assert loss.isfinite()
        assert torch.allclose(loss, sum(d.terms.values()))  # type: ignore[arg-type]
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("name", "size", "taps"),
    [
        ("resnet18", 64, ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", 64, ["features.0", "features.1", "features.3", "features.6", "features.13", "features"]),
        ("vit_b_16", 32, ["conv_proj", *(f"encoder.layers.encoder_layer_{at}" for at in (2, 5, 8, 11))]),
    ],
)
def test_stages_of_torchvision_are_found(name: str, size: int, taps: list[str]) -> None:
    torchvision = pytest.importorskip("torchvision")
    words = {"image_size": size} if name.startswith("vit") else {}
    net = torchvision.models.get_model(name, num_classes=K, **words)
    reader: Any = attach(networks=(Small(4), net), image_size=size)._networks.teacher.tapped.reader  # type: ignore[union-attr]
    assert [hook.path for hook in reader.feats] == taps


def test_what_is_seen_is_what_the_modules_give() -> None:
    student, teacher = networks()
    d = attach(networks=(student, teacher))
    assert d._networks is not None
    image = batch()[0]
    student.eval()
    with torch.no_grad():
        seen = d._networks.student.tapped(image)
        stem = student.stem(image)
        one = student.one(stem)
        maps = student.three(student.two(one))
    assert [tuple(feat.shape[1:]) for feat in seen.feats] == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (9, 4, 4)]
    for found, wanted in ((seen.feats[0], stem), (seen.feats[1], one), (seen.last, maps), (seen.feats[-1], maps)):
        assert torch.equal(found, wanted)
    assert torch.equal(seen.pooled, maps.mean(dim=(2, 3)))
    assert torch.equal(seen.logits, student(image))
    assert torch.allclose(d._networks.student.tapped.head(seen.last), seen.logits, atol=1e-6)
    weight, bias = seen.classifier
    assert weight.data_ptr() == student.fc.weight.data_ptr()
    assert bias is student.fc.bias


def test_taps_can_be_named_for_both_or_for_each() -> None:
    for taps in (["stem", "two", "three"], {"student": ["stem", "two", "three"], "teacher": ["stem", "two", "three"]}):
        shapes = attach("fitnet", taps=taps, tap=1).pair.student
        assert shapes.feats == ((4, 16, 16), (8, 8, 8), (9, 4, 4))


@pytest.mark.parametrize(
    ("taps", "sentence"),
    [
        (["stem", "tow"], "Small has no module 'tow'; did you mean two"),
        (["stem"], r"taps of Small are two paths of modules at least, the stem first, not \['stem'\]"),
        ("stem", "taps of Small are two paths of modules at least, the stem first, not 'stem'"),
        (["stem", "fc"], r"'fc' of Small gives a tensor of shape \(1, 5\), which is no map"),
        ({"pupil": ["stem", "two"]}, "taps are those of the student and of the teacher, not of 'pupil'"),
    ],
)
def test_taps_that_are_none(taps: Any, sentence: str) -> None:
    student, teacher = networks()
    with pytest.raises(ValueError, match=sentence):
        attach("fitnet", networks=(student, teacher), taps=taps)
    assert hooks(student, teacher) == 0


@pytest.mark.parametrize("how", ["tuple", "dict", "object"])
def test_logits_may_lie_in_what_is_returned(how: str) -> None:
    student, teacher = networks()
    torch.manual_seed(0)
    plain = attach("semckd", networks=(student, teacher))
    torch.manual_seed(0)
    d = attach("semckd", networks=(Wrapped(student, how), Wrapped(teacher, how)))
    assert torch.equal(d(*batch()), plain(*batch()))


def test_a_network_that_gives_outputs_shows_them() -> None:
    from kdbench.testing.toys import TWIN, Net

    student, teacher = (Net(*side, num_classes=K) for side in (TWIN.student, TWIN.teacher))
    d = attach("fitnet", networks=(student, teacher))
    assert d(*batch()).isfinite()
    assert hooks(student, teacher) == 0


def test_networks_of_timm_and_of_the_zoo_are_taken_as_they_are() -> None:
    timm = pytest.importorskip("timm")
    student, teacher = timm.create_model("resnet10t", num_classes=K), models.create("resnet8", K, image_size=SIDE)
    d = attach("fitnet", networks=(student, teacher), image_size=SIDE)
    assert d(*batch()).isfinite()
    d.detach()
    assert hooks(student) == 0


def test_a_squeezed_head_serves_what_reads_logits_alone() -> None:
    class Squeezed(Small):
        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = super().forward(image).tanh()
            return logits

    student, teacher = Squeezed(4), Squeezed(6)
    assert attach("kd", networks=(student, teacher))(*batch()).isfinite()
    with pytest.raises(ValueError, match="the logits of the student Squeezed come from no linear layer"):
        attach("semckd", networks=(student, teacher))


def test_a_network_without_maps_serves_what_reads_none() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 7), nn.ReLU(), nn.Linear(7, K))
    _, teacher = networks()
    for name in ("kd", "crd"):
        assert attach(name, networks=(net, teacher))(*batch()).isfinite()
    with pytest.raises(ValueError, match="the student Sequential shows no maps that could be stages, and semckd reads"):
        attach("semckd", networks=(net, teacher))
    assert hooks(net, teacher) > 0  # those of kd and crd alone


def test_images_need_be_neither_square_nor_coloured() -> None:
    def grey(width: int) -> nn.Module:
        layers = [nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(True), nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU(True)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K))

    d = attach("semckd", networks=(grey(4), grey(6)), image_size=(1, 28, 20))
    assert d.pair.student.feats == ((4, 14, 10), (8, 7, 5))
    assert d(torch.randn(B, 1, 28, 20), batch()[1]).isfinite()


def test_two_methods_share_a_student() -> None:
    student, teacher = networks()
    one, other = attach("semckd", networks=(student, teacher)), attach("fitnet", networks=(student, teacher))
    alone = other(*batch())
    one(*batch())
    one.detach()
    assert torch.equal(other(*batch()), alone)
    other.detach()
    assert hooks(student, teacher) == 0


def test_number_formats_go_together() -> None:
    student, teacher = networks()
    with pytest.raises(ValueError, match=r"the student's weights are torch.float64, the teacher's torch.float32"):
        attach("semckd", networks=(student.double(), teacher))
    image, label, idx = batch()
    assert attach("semckd", networks=(student, teacher.double()))(image.double(), label, idx).dtype is torch.float64
    student, teacher = networks()
    d = attach("semckd", networks=(student, teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = d(image, label, idx)
    loss.backward()
    assert loss.dtype is torch.float32


def test_wrappers_are_called_as_they_are_and_compiled_networks_are_told() -> None:
    student, teacher = networks()
    torch.manual_seed(0)
    plain = attach("semckd", networks=(student, teacher))
    torch.manual_seed(0)
    wrapped = attach("semckd", networks=(nn.DataParallel(student), teacher))
    assert torch.equal(plain(*batch()), wrapped(*batch()))
    with pytest.raises(ValueError, match=r"was compiled, .* attach the network that torch\.compile was given"):
        attach("semckd", networks=(torch.compile(student, backend="eager"), teacher))


def test_detach_leaves_no_hook_and_no_loss() -> None:
    student, teacher = networks()
    before = hooks(student, teacher)
    d = attach("semckd", networks=(student, teacher))
    assert hooks(student, teacher) > before
    d.detach()
    d.detach()
    assert hooks(student, teacher) == before
    for call in (lambda: d(*batch()), lambda: d.predict(batch()[0])):
        with pytest.raises(ValueError, match="semckd was detached from its student; attach it again"):
            call()


def test_hooks_keep_nothing_when_the_student_is_used_alone() -> None:
    student, teacher = networks()
    d = attach("semckd", networks=(student, teacher))
    assert d._networks is not None
    student(batch()[0])
    reader: Any = d._networks.student.tapped.reader
    assert not any(hook.shown for hook in (*reader.feats, reader.last, reader.given))


# -- what is trained, kept and deployed --------------------------------------------------


def test_parameters_and_state_are_the_methods_alone() -> None:
    student, teacher = networks()
    d = attach("crd", networks=(student, teacher))
    theirs = {id(p) for net in (student, teacher) for p in net.parameters()}
    assert [*d.parameters()]
    assert not theirs & {id(p) for p in d.parameters()}
    assert all(key == "clock" or key.startswith("method.") for key in d.state_dict())
    assert not any(module is student or module is teacher for module in d.modules())


def test_a_loop_goes_on_from_its_state() -> None:
    def loop(d: Attached, student: Small, calls: range) -> None:
        optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.01)
        for number in calls:
            torch.manual_seed(number)
            optimizer.zero_grad()
            d(*batch(seed=number)).backward()
            optimizer.step()

    whole_student, teacher = networks()
    torch.manual_seed(7)
    whole = attach("crd", networks=(whole_student, teacher))
    loop(whole, whole_student, range(4))
    student, teacher = networks()
    torch.manual_seed(7)
    first = attach("crd", networks=(student, teacher))
    loop(first, student, range(2))
    kept = {name: value.clone() for name, value in first.state_dict().items()}, student.state_dict()
    torch.manual_seed(8)
    other, _ = networks(3)
    second = attach("crd", networks=(other, teacher))
    second.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    assert second.calls == 2
    loop(second, other, range(2, 4))
    for ours, theirs in ((other, whole_student), (second, whole)):
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )


def test_predict_is_the_network_as_it_is_deployed() -> None:
    student, teacher = networks()
    d = attach("simkd", networks=(student, teacher))
    image = batch()[0]
    assert d._networks is not None
    student.train()
    found = d.predict(image)
    assert [student.training, d.method.training, found.requires_grad] == [True, True, False]
    student.eval()
    d.method.eval()
    with torch.no_grad():
        assert torch.equal(found, d.method.predict(d._networks.student.tapped(image)))
        assert not torch.equal(found, student(image))
        assert torch.equal(attach("kd", networks=(student, teacher)).predict(image), student(image))


def test_the_teacher_answers_in_eval_mode_whoever_switched_it() -> None:
    student, teacher = networks()
    teacher.drop = nn.Dropout(0.9)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    d = attach("kd", networks=(student, teacher))
    student.eval()
    calm = d(*batch())
    teacher.train()
    assert torch.equal(d(*batch()), calm)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_student_keeps_its_mode() -> None:
    student, teacher = networks()
    d = attach("kd", networks=(student, teacher))
    d.train()
    student.eval()
    before = student.stem[1].running_mean.clone()  # type: ignore[operator]
    d(*batch())
    assert torch.equal(student.stem[1].running_mean, before)  # type: ignore[arg-type]
    student.train()
    d.eval()
    d(*batch())
    assert student.training
    assert not torch.equal(student.stem[1].running_mean, before)  # type: ignore[arg-type]


def test_a_convention_is_chosen_and_weights_are_set() -> None:
    terms = {}
    for convention in ("semckd", "crd", None):
        d = attach("crd", convention=convention)
        d(*batch())
        terms[convention] = set(d.terms)
    assert terms["semckd"] - terms["crd"] == {"kd"}
    assert terms[None] == terms["crd"]
    assert attach("semckd[beta=3]").method.beta == 3.0
    assert attach("semckd", beta=5.0, convention="crd").method.beta == 5.0
    assert attach("crd+fitnet", **{"crd.beta": 2.0}).method.parts[0].beta == 2.0  # type: ignore[index,union-attr]
    assert attach("mag+crd").stages == ("pretrain", "train")


def test_a_class_of_ones_own_is_a_method() -> None:
    class Mine(Distiller):
        def terms(self, student: Any, teacher: Any, batch: Any) -> dict[str, Tensor]:
            return {"mine": (student.pooled - teacher.pooled).square().mean()}

    d = attach(Mine)
    d(*batch())
    assert list(d.terms) == ["ce", "kd", "mine"]


# -- time, stages, views -----------------------------------------------------------------


def test_a_method_that_changes_with_the_time_must_know_it() -> None:
    d = attach("dkd")
    with pytest.raises(ValueError, match="the share of the stage that is done"):
        d(*batch())
    d.progress = 0.5
    assert d(*batch()).isfinite()
    counted = attach("dkd", steps=4)
    shares = [(counted(*batch()), counted.progress)[1] for _ in range(5)]
    assert shares == [0.25, 0.5, 0.75, 1 - 2**-24, 1 - 2**-24]
    staged = attach("dkd+ft", steps=4).on_stage("pretrain", steps=2)
    staged(*batch())
    assert staged.progress == 0.5
    assert staged.on_stage("train").progress == 0.0  # of the steps that attach was told
    with torch.no_grad():
        counted(*batch())
    counted.eval()
    counted(*batch())
    assert counted.calls == 5
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="progress is the share of the stage that is done, 0 or more and below 1"):
            d.progress = share


def test_a_method_of_two_stages_says_so_until_it_is_prepared() -> None:
    d = attach("ft")
    for call in (lambda: d(*batch()), lambda: d.on_stage("train")):
        with pytest.raises(ValueError, match=r"call d.prepare\(loader\), or d.on_stage\('pretrain'\)"):
            call()
    d.on_stage("pretrain")
    with pytest.raises(ValueError, match="ft has not been pre-trained"):
        d.on_stage("train")  # begun, and not a step was made
    d(*batch()).backward()
    d.on_stage("train")
    assert d.stage == "train"
    again = attach("ft")
    again.load_state_dict(d.state_dict())
    assert again.stage == "train"
    again(*batch())
    assert list(again.terms) == ["ce", "kd", "factor"]
    with pytest.raises(ValueError, match="kd has one stage, 'train', not a stage 'pretrain'"):
        attach("kd").on_stage("pretrain")


@pytest.mark.parametrize("name", ["ft", "ab"])
def test_prepare_is_the_stage_by_hand(name: str) -> None:
    def batches() -> Iterator[tuple[Tensor, ...]]:
        return iter([batch(seed=1), batch(4, seed=2)])

    student, teacher = networks()
    torch.manual_seed(3)
    d = attach(name, networks=(student, teacher))
    before = [p.clone() for p in student.parameters()]
    stats = [b.clone() for b in student.buffers()]
    assert d.prepare([batch(seed=1), batch(4, seed=2)], epochs=2, lr=0.02) == 2
    assert (d.stage, student.training) == ("train", True)
    moved = any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    seen = any(not torch.equal(a, b) for a, b in zip(stats, student.buffers(), strict=True))
    assert moved == seen == d.method.pretrain_student
    other, teacher = networks()
    torch.manual_seed(3)
    e = attach(name, networks=(other, teacher)).on_stage("pretrain")
    trained = [*other.parameters(), *e.parameters()] if e.trains_student else [*e.parameters()]
    optimizer = torch.optim.SGD(trained, lr=e.method.pretrain_lr or 0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for one in batches():
            optimizer.zero_grad()
            e(*one).backward()
            optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(d.method.state_dict().values(), e.method.state_dict().values(), strict=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_prepare_of_one_stage_does_nothing_and_an_empty_loader_is_told() -> None:
    assert attach("kd").prepare([batch()]) == 0
    with pytest.raises(ValueError, match="the loader gives no batch to pre-train with"):
        attach("ft").prepare(iter(()), epochs=1)
    with pytest.raises(ValueError, match="the loader gives no batch to pre-train with"):
        attach("ft").prepare(iter([batch()]), epochs=2)  # a stream that is gone after one epoch


def test_rotated_views_are_made_and_others_are_asked_for() -> None:
    student, teacher = networks()
    student.eval()
    d = attach("sskd", networks=(student, teacher))
    d.prepare([batch()], epochs=1)
    image, label, idx = batch()
    whole = torch.cat([image, *(torch.rot90(image, turn, (2, 3)) for turn in (1, 2, 3))])
    assert torch.equal(d(image, label, idx), d(whole, label, idx))
    m = attach("mlkd")
    with pytest.raises(ValueError, match=r"mlkd looks at 2 views of every image \(plain, randaugment\)"):
        m(image, label, idx)


# -- one sentence each -------------------------------------------------------------------


def test_a_bank_asks_for_positions_and_others_do_not() -> None:
    image, label, _ = batch()
    assert attach("kd")(image, label).isfinite()
    for name in ("crd", "crd+mag"):
        d = attach(name)
        if len(d.stages) == 2:
            d.on_stage("pretrain")(image, label)
            d.on_stage("train")
        with pytest.raises(ValueError, match=r"call d\(images, labels, idx\) with the position of each image"):
            d(image, label)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"idx": torch.arange(3)}, "idx has 3 positions, labels are 6; each image has one"),
        ({"idx": torch.full((B,), N)}, "idx lie between 0 and 19, one is 20: there are 20 training images"),
        ({"idx": torch.zeros(B)}, "idx are whole numbers, one for each image, not torch.float32"),
        ({"label": torch.full((B,), K)}, "labels lie between 0 and 4, one is 5: crd was attached for 5 classes"),
        ({"label": torch.full((B,), -1)}, "labels lie between 0 and 4, one is -1"),
        ({"label": torch.rand(B, K)}, "labels that are mixed or smoothed belong to no method here"),
        ({"label": torch.zeros(4, dtype=torch.int64)}, "there are 6 images and 4 labels"),
        ({"label": None}, "labels are whole numbers, one for each image, not NoneType"),
        ({"image": torch.zeros(B, 3, 8, 8)}, r"attached for images of shape \(3, 16, 16\), these have \(3, 8, 8\)"),
        ({"image": torch.zeros(B, 3, SIDE, SIDE, dtype=torch.uint8)}, "normalised floating-point numbers"),
        ({"image": [1, 2]}, "images are normalised floating-point numbers, .* not list"),
    ],
)
def test_a_batch_that_cannot_be(change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = dict(zip(("image", "label", "idx"), batch(), strict=True)) | change
    with pytest.raises(ValueError, match=sentence):
        attach("crd")(given["image"], given["label"], given["idx"])


def test_labels_may_be_of_any_whole_kind() -> None:
    d = attach("kd", labels=None)
    image, label, _ = batch()
    wanted = d(image, label)
    for other in (label.int(), label.tolist(), label.numpy(), label.to(torch.uint8)):
        assert torch.equal(d(image, other), wanted)


def test_batches_of_a_size_that_the_method_is_made_for() -> None:
    d = attach("semckd")
    d(*batch())
    d(*batch(4))  # the last of an epoch
    d(*batch())
    d(*batch(4))
    with pytest.raises(ValueError, match="two in a row are shorter, this one has 4, so attach it with the batch_size"):
        d(*batch(4))
    with pytest.raises(ValueError, match=r"semckd is made for batches of 6 images, .* this one has 7"):
        d(*batch(7))
    any_size = attach("crd")
    for size in (4, 4, 7, 2):
        any_size(*batch(size))


@pytest.mark.parametrize(
    ("method", "words", "sentence"),
    [
        ("crd", {"labels": None}, "crd must know how many training images there are; give labels= or num_train="),
        ("crd", {"labels": None, "num_train": N}, "crd must know the labels of all training images"),
        ("semckd", {"labels": None}, "semckd must know how many training images there are; give labels= or num_train="),
        ("kd", {"labels": [0, K]}, "labels lie between 0 and 4, the student's last class; one is 5"),
        ("kd", {"labels": [0.5, 1.0]}, "labels are the classes of the training images, one whole number each"),
        ("kd", {"labels": "abc"}, "labels are the classes of the training images, one whole number each, not str"),
        ("kd", {"labels": []}, "labels are"),
        ("kd", {"num_train": 3}, "labels are those of 20 images, and num_train says 3"),
        ("kd", {"batch_size": 1}, "batch_size is a whole number of images, 2 or more, not 1"),
        ("kd", {"image_size": 0}, r"image_size is a side in px, \(H, W\) or \(C, H, W\), not 0"),
        ("kd", {"steps": 0}, "steps is the number of calls of the main stage, 1 or more, not 0"),
        ("kd", {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ("kd", {"device": "tpux"}, "device 'tpux' cannot be used"),
        ("kd", {"convention": "mine"}, "no convention 'mine'"),
        ("kd", {"bta": 1.0}, "kd has no hyper-parameter 'bta'"),
        ("kd", {"tau": -1.0}, r"kd\[tau\] is a temperature and above 0"),
        ("semckd", {"beta": "much"}, r"semckd\[beta\] takes a value like"),
        ("kdd", {}, "no method 'kdd'; did you mean"),
        ("kd,fitnet", {}, "'kd,fitnet' names 2 methods"),
        (3, {}, "a method is a name or a subclass of kdbench.Distiller, not 3"),
        (Small, {}, "a method is a name or a subclass of kdbench.Distiller"),
    ],
)
def test_words_that_cannot_be(method: Any, words: dict[str, Any], sentence: str) -> None:
    student, teacher = networks()
    with pytest.raises(ValueError, match=sentence):
        attach(method, networks=(student, teacher), **words)
    assert hooks(student, teacher) == 0


def test_networks_that_cannot_be() -> None:
    student, teacher = networks()
    other = Small(4)
    other.fc = nn.Linear(9, K + 1)
    for pair, sentence in (
        ((student, None), "kd needs a teacher, and none was given"),
        ((student, student), "kd was given one network as student and teacher"),
        ((student, other), "the teacher Small has 6 classes, the data 5"),
        ((student, "resnet8"), "the teacher is a torch.nn.Module, not str"),
        ((nn.Flatten(), teacher), "the student Flatten has no weights"),
        ((nn.Sequential(nn.Flatten(), nn.LazyLinear(K)), teacher), "the student Sequential has weights without values"),
        ((student, Small(6).to("meta")), "the teacher Small has weights without values"),
        ((nn.Sequential(nn.Linear(3, 4)), teacher), "Sequential cannot take images of shape"),
        ((nn.Sequential(nn.Conv2d(3, K, 3)), teacher), "Sequential returns a tensor of shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            attach("kd", networks=pair)
    assert hooks(student, teacher, other) == 0
    assert attach("student", networks=(student, None))(*batch()).isfinite()


def test_an_assistants_place_is_told() -> None:
    teacher = models.create("resnet14", K, image_size=SIDE)
    with pytest.warns(UserWarning, match="hkd learns from an assistant, .* it takes resnet14"):
        attach("hkd", networks=(models.create("resnet8", K, image_size=SIDE), teacher))
    attach("hkd", networks=(models.create("resnet8", K), models.create("resnet8_double", K)))  # as it should be


def test_attaching_draws_and_changes_nothing() -> None:
    student, teacher = networks()
    student.train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    attach("kd", networks=(student, teacher))
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_whatever_is_elsewhere_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    d = attach("crd")
    assert d._networks is not None
    assert d._networks.teacher is not None
    assert d._networks.answering is not None
    monkeypatch.setattr(type(d._networks), "device", torch.device("meta"))
    d._networks.follow(d.method)
    for part in (d.method, d._networks.teacher.given, d._networks.answering):
        assert all(tensor.is_meta for tensor in (*part.parameters(), *part.buffers()))
    assert not any(p.is_meta for p in d._networks.student.given.parameters())


@pytest.mark.gpu
def test_teacher_and_method_follow_the_student() -> None:
    student, teacher = networks()
    d = attach("crd", networks=(student, teacher))
    student.cuda()
    loss = d(*batch())
    loss.backward()
    assert {tensor.device.type for tensor in (loss, *d.parameters(), *teacher.parameters())} == {"cuda"}
    assert d.predict(batch()[0]).is_cuda
    assert attach("semckd", device="cuda")(*batch()).is_cuda
