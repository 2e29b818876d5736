"""``kdbench.attach`` among careless hands: the plain sum or one sentence, and nothing of the user's left changed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_attach import LABELS, SIDE, B, K, N, Small, attach, batch, networks
from torch import Tensor, nn

import kdbench
from kdbench import models


def plain_sum(d: Any, student: nn.Module, teacher: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """CE + KD by hand, of two networks in eval mode."""
    logits = []
    for net in (student, teacher):
        shown = net.eval()(image)
        logits.append(getattr(shown, "logits", shown))
    ours, theirs = logits[0], logits[1].detach()
    tau = d.method.tau
    far = F.kl_div(F.log_softmax(ours / tau, 1), F.softmax(theirs / tau, 1), reduction="batchmean") * tau**2
    return d.method.ce_weight * F.cross_entropy(ours, label) + d.method.kd_weight * far  # type: ignore[no-any-return]


def write(teacher: Any) -> None:
    for p in teacher.parameters():
        p.mul_(1.5)


def assign(teacher: Any) -> None:
    for p in teacher.parameters():
        p.data = p.data * 1.5


def replace(teacher: Any) -> None:
    teacher.net.fc = nn.Linear(64, K)


@pytest.mark.parametrize("change", [write, assign, replace])
def test_a_teacher_that_changes_answers_anew(change: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    student, teacher = models.create("resnet8", K), models.create("resnet14", K)
    d = kdbench.attach(student, teacher, "kd", batch_size=B, image_size=32)
    image, label = torch.randn(B, 3, 32, 32), batch()[1]
    with torch.no_grad():
        before = d(image, label)
        change(teacher)
    wanted = plain_sum(d, student, teacher, image, label)
    assert torch.allclose(d(image, label), wanted, atol=1e-4)
    assert not torch.allclose(before, wanted, atol=1e-3)


def test_no_weight_is_both_networks() -> None:
    student, teacher = networks()
    teacher.fc = student.fc
    for pair in ((student, teacher), (student, nn.Sequential(student)), (nn.Sequential(student), student)):
        for method in ("kd", "student"):
            with pytest.raises(ValueError, match=r"the student's .* is the teacher's .*copy\.deepcopy\(teacher\)"):
                attach(method, networks=pair)


def test_one_logit_is_no_distribution() -> None:
    student, teacher = networks()
    for net in (student, teacher):
        net.fc = nn.Linear(net.fc.in_features, 1)
    with pytest.raises(ValueError, match=r"the student .* gives one logit; a distribution over classes needs two"):
        attach("kd", networks=(student, teacher))


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", ">i8", "int8"])
def test_labels_and_positions_are_numpys_of_any_kind(kind: str) -> None:
    student, teacher = networks()
    image, label, idx = batch()
    turned = LABELS.numpy().astype(kind)[::-1][::-1]
    torch.manual_seed(1)
    wanted = attach("crd", networks=(student, teacher))
    torch.manual_seed(1)
    d = attach("crd", networks=(student, teacher), labels=turned, batch_size=np.int64(B), image_size=np.int64(SIDE))
    state = torch.get_rng_state()
    want = wanted(image, label, idx)
    torch.set_rng_state(state)
    assert torch.equal(d(image, label.numpy().astype(kind), idx.numpy()[::-1].astype(kind)[::-1]), want)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.ma.masked_array([1, 2, 3], [True, False, False]), "not MaskedArray with hidden entries"),
        (LABELS.to_sparse(), "not a tensor of layout torch.sparse_coo"),
        (LABELS.to("meta"), r"not a tensor without values \(device meta\)"),
        (np.array([2**63], dtype=np.uint64), "not ndarray"),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged), "not a nested tensor"),
    ],
)
def test_labels_of_no_kind(labels: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attach("kd", labels=labels)


def test_labels_of_the_batch_are_those_that_were_said() -> None:
    image, label, idx = batch()
    with pytest.raises(ValueError, match=r"the image at idx \d+ has class \d here and \d in the labels"):
        attach("crd")(image, (label + 1) % K, idx)
    assert attach("kd")(image, (label + 1) % K, idx).isfinite()  # it goes by those of the batch alone


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (lambda image: image.double(), "the images are torch.float64, the student's weights torch.float32"),
        (lambda image: image.half(), "the images are torch.float16, the student's weights torch.float32"),
        (lambda image: image.to("meta"), r"images are normalised .* without values"),
        (lambda image: image.to_sparse(), r"images are normalised .* that is sparse or nested"),
    ],
)
def test_images_of_another_format(images: Callable[[Tensor], Tensor], sentence: str) -> None:
    d, (image, label, _) = attach("kd"), batch()
    for call in (lambda: d(images(image), label), lambda: d.predict(images(image))):
        with pytest.raises(ValueError, match=sentence):
            call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert d(image.half(), label).isfinite()
        with pytest.raises(ValueError, match=r"the images are torch\.float64"):
            d(image.double(), label)


def test_formats_that_change_after_the_attachment() -> None:
    student, teacher = networks()
    d, (image, label, _) = attach("fitnet", networks=(student, teacher)), batch()
    image = image.double()
    student.double()
    with pytest.raises(ValueError, match=r"the student's weights are torch\.float64, the teacher's torch\.float32"):
        d(image, label)
    teacher.double()
    with pytest.raises(ValueError, match=r"those of the method torch.float32; move it, too: d.to\(torch.float64\)"):
        d(image, label)
    d.double()
    assert d(image, label).dtype is torch.float64
    student.to("meta")
    with pytest.raises(ValueError, match="the student's weights are without values"):
        d(image, label)


def test_empty_and_lonely_batches() -> None:
    with pytest.raises(ValueError, match="this batch is empty"):
        attach("fitnet")(torch.zeros(0, 3, SIDE, SIDE), torch.zeros(0, dtype=torch.int64))
    image, label, idx = batch(1)
    assert attach("fitnet")(image, label, idx).isfinite()
    with pytest.raises(ValueError, match=r"a batch norm cannot be trained on a batch of one image.*drop_last=True"):
        attach("reviewkd")(image, label, idx)


class Fickle(Small):
    """Another network in training than in the eval mode of the first look."""

    def __init__(self, how: str) -> None:
        super().__init__(4)
        self.how = how

    def forward(self, image: Tensor) -> Any:
        if self.training and self.how == "writes":
            image.mul_(2)
        x = self.one(self.stem(image))
        if self.training and self.how == "again":
            x = self.one(x)
        logits = self.fc(self.pool(self.three(self.two(x))).flatten(1))
        if self.how == "named":
            return {"first": logits * 0, "second": logits}
        return logits.repeat(2, 1) if self.training and self.how == "wide" else logits


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("again", "the tap one was called 2 times in this forward pass"),
        ("writes", "the student Fickle writes into its images"),
        ("wide", "the student Fickle gives .12, 5. for 6 images, not the 6 x 5 logits"),
        ("named", "Fickle returns first, second, and none of them is called logits"),
    ],
)
def test_a_student_that_is_not_what_it_was(how: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attach("fitnet", networks=(Fickle(how), Small(6)))(*batch())


def test_threads_see_their_own_images() -> None:
    student, teacher = networks()
    student.eval()
    d = attach("fitnet", networks=(student, teacher))
    shown = [batch(seed=seed)[:2] for seed in range(4)]
    wanted = [d(*one) for one in shown]
    wrong: list[object] = []

    def call(at: int) -> None:
        try:
            wrong.extend(at for _ in range(30) if not torch.equal(d(*shown[at]), wanted[at]))
        except ValueError as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_switches_of_torch_do_not_matter_to_an_attachment() -> None:
    image, label, idx = batch()
    student, teacher = networks()
    torch.manual_seed(1)
    wanted = attach("semckd", networks=(student.eval(), teacher))(image, label, idx)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
            torch.manual_seed(1)
            d = attach("semckd", networks=(student, teacher))
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(default)
    with torch.inference_mode():
        shown = image.clone(), label.clone(), idx.clone()
    loss = d(*shown)
    loss.backward()
    assert torch.equal(loss, wanted)
    with torch.inference_mode():
        made = Small(4)
    with pytest.raises(ValueError, match=r"the student Small was made in torch\.inference_mode"):
        attach("kd", networks=(made, teacher))


def test_attaching_leaves_counters_and_random_numbers() -> None:
    class Counts(Small):
        def __init__(self) -> None:
            super().__init__(4)
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, image: Tensor) -> Any:
            self.calls = self.calls + 1
            return F.dropout(super().forward(image), 0.1)  # whatever the mode

    student, teacher = Counts(), Small(6)
    state = torch.get_rng_state()
    attach("kd", networks=(student, teacher))
    assert torch.equal(torch.get_rng_state(), state)
    assert student.calls == 0


def test_an_attached_method_can_be_pickled_and_compiled() -> None:
    for frozen in (False, True):
        student, teacher = networks()
        teacher.requires_grad_(not frozen)
        d = attach("simkd", networks=(student.eval(), teacher))
        again = pickle.loads(pickle.dumps(d))
        assert torch.equal(again(*batch()), d(*batch()))
    d = attach("kd")
    assert d._networks is not None
    d._networks.student.given.eval()
    assert torch.equal(torch.compile(d, backend="eager")(*batch()[:2]), d(*batch()[:2]))
    student.compile(backend="eager")
    with pytest.raises(ValueError, match="Small was compiled"):
        attach("fitnet", networks=(student, Small(6)))


@pytest.mark.parametrize("clock", [[7, 9, -3], [1, 2, 0], [2, 0, 0], [0, 0, -1]])
def test_a_state_that_cannot_be_its_own(clock: list[int]) -> None:
    d = attach("kd")
    with pytest.raises(ValueError, match="this state is not one of kd, or it was changed"):
        d.load_state_dict({"clock": torch.tensor(clock)})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"image_size": None}, "image_size is a side in px"),
        ({"image_size": 16.0}, "image_size is a side in px"),
        ({"image_size": True}, "image_size is a side in px"),
        ({"image_size": {16: 1, 8: 1}}, "image_size is a side in px"),
        ({"image_size": 10**9}, "image_size is a side in px"),
        ({"batch_size": True}, "batch_size is a whole number"),
        ({"steps": "3"}, "steps is the number of calls"),
        ({"steps": float("nan")}, "steps is the number of calls"),
        ({"labels": None, "num_train": True}, "num_train is the number of training images"),
        ({"labels": None, "num_train": 10**30}, "num_train is the number of training images"),
        ({"num_train": str(N)}, f"labels are those of {N} images, and num_train says '{N}'"),
        ({"device": True}, "device is a name such as"),
        ({"device": "meta"}, "device 'meta' cannot be used: it holds no values"),
        ({"convention": 3}, "a convention is a name or the path"),
        ({"tau": 10**400}, r"kd\[tau\] is a finite number, 4.0 by default, not inf"),
        ({"pair": 2}, "kd has no hyper-parameter 'pair'"),
        ({"taps": {"stem", "one"}}, "taps of Small are two paths"),
        ({"taps": (path for path in ("stem", "one"))}, "taps of Small are two paths"),
        ({"taps": ["three", "stem"]}, "taps of Small go from shallow to deep, and 'three' is deeper than 'stem'"),
    ],
)
def test_words_of_wrong_kinds(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attach("kd", **words)


@pytest.mark.parametrize("share", [[0.5], "0.5", 1j, True, float("nan"), 1.0, torch.ones(2)])
def test_progress_is_a_number_below_one(share: Any) -> None:
    d = attach("kd")
    with pytest.raises(ValueError, match="progress is the share of the stage that is done, 0 or more and below 1, not"):
        d.progress = share
    d.progress = 1 - 1e-12  # 1 in float32
    assert d._batch(*batch()).progress < 1
    d.progress = None
    assert d.progress is None


@pytest.mark.parametrize(
    ("loader", "words", "sentence"),
    [
        (None, {}, "the loader gives .* and is no NoneType"),
        ("abc", {}, "the loader gives .* and is no str"),
        ([torch.zeros(1)], {}, "a batch of the loader is .* not a Tensor"),
        ([batch()], {"epochs": 1.5}, "epochs is the length of the stage"),
        ([batch()], {"epochs": 0}, "epochs is the length of the stage"),
        ([batch()], {"total_epochs": "x"}, "total_epochs is the length of your run"),
        ([batch()], {"lr": float("nan")}, "lr is a number, 0 or more, not nan"),
        ([batch()], {"steps": 0}, "steps is the number of calls"),
        ([(batch()[0] * float("nan"), *batch()[1:])], {}, "in epoch 1 of pre-training the loss of ft is nan"),
    ],
)
def test_a_preparation_that_cannot_be_leaves_all_modes(loader: Any, words: dict[str, Any], sentence: str) -> None:
    student, teacher = networks()
    d = attach("ft", networks=(student, teacher))
    student.train().two.eval()
    d.eval()
    with pytest.raises(ValueError, match=sentence):
        d.prepare(loader, **{"epochs": 1, **words})
    assert (student.training, student.two.training, d.training) == (True, False, False)
    with torch.no_grad():
        assert d.prepare([batch()], epochs=1) == 1
    assert not student.two.training


def test_a_loss_of_nothing_is_told() -> None:
    with pytest.raises(ValueError, match="kd has no term to minimise"):
        attach("kd", ce_weight=0.0, kd_weight=0.0)(*batch())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: kdbench.report(select=["last"]), "--select takes a text"),  # type: ignore[arg-type]
        (lambda: kdbench.run(torch.tensor(1)), "methods, pairs, .* are texts"),
        (lambda: kdbench.run("kd", set=torch.tensor(1)), "--set takes KEY=VALUE"),
        (lambda: kdbench.run("kd", plugin=torch.tensor(1)), "--plugin takes a path"),
        (lambda: kdbench.run("kd", checkpoint_minutes=10**400, suite="digits"), "--checkpoint-minutes"),
        (lambda: kdbench.create("kd", attach("kd").pair, networks=["a"]), "networks are written teacher:student"),  # type: ignore[arg-type]
        (lambda: kdbench.create("kd", 3), "a pair is a kdbench.Pair, .* not int"),  # type: ignore[arg-type]
    ],
)
def test_words_of_the_verbs_of_wrong_kinds(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_look_at_the_loss_changes_no_state() -> None:
    """In evaluation, without gradients: banks, centres and normalisers are those of the training alone."""
    looked = []
    for name in kdbench.registry.names():
        cls = kdbench.registry.get(name)
        if cls.pretrain_epochs or cls.views or cls.assistant:
            continue
        try:
            d = attach(name)
        except ValueError:  # not for these networks
            continue
        image, label, idx = batch()
        d.eval()
        d.progress = 0.5
        before = {key: value.clone() for key, value in d.state_dict().items() if isinstance(value, Tensor)}
        with torch.no_grad():
            d(image, label, idx)
        after = d.state_dict()
        changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
        assert not changed, f"{name}: {changed}"
        looked.append(name)
    assert len(looked) > 40
    assert "crd" in looked
