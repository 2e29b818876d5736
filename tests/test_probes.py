"""What each probe measures, on made-up networks and images whose numbers are known."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import data, models, probes
from kdbench.data import DataMissing, Dataset, stl10
from kdbench.engine.evaluate import measure
from kdbench.probes import cifar_c, linear
from kdbench.probes.cka import correlation_difference, hsic, logit_difference, similarity
from kdbench.probes.corruption import LEVELS, STRENGTHS, corrupt
from kdbench.probes.reliability import best_temperature, calibration
from kdbench.probes.robust import _Lent, _top1, area
from kdbench.probes.whole import finetune, with_new_head


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def pictures(n: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# -- similarity ---------------------------------------------------------------------------


def test_cka_of_equal_turned_and_scaled_maps_is_1_and_of_independent_ones_near_0() -> None:
    maps = drawn(200, 6, 4, 4)
    turned = torch.linalg.qr(drawn(96, 96, seed=1)).Q
    same = 7 * (maps.flatten(1) @ turned) + 3
    noise = drawn(200, 500, seed=2)
    parts = [
        ({"a": maps[at], "n": noise[at]}, {"a": maps[at], "t": same[at], "n": drawn(50, 40, seed=9 + at.start)})
        for at in (slice(first, first + 50) for first in range(0, 200, 50))
    ]
    found = similarity(parts)
    assert (found.rows, found.columns) == (("a", "n"), ("a", "t", "n"))
    assert found.values[0][:2] == pytest.approx((1.0, 1.0), abs=1e-5)
    # Without the debiasing, 50 images in 500 dimensions would look alike: over .9.
    assert abs(found.values[1][2] or 0) < 0.1
    assert abs(found.values[0][2] or 0) < 0.1


def test_hsic_is_the_unbiased_one() -> None:
    """Against the definition: the mean over all ordered quadruples of four different images."""
    n = 6
    x, y = drawn(n, 3).double(), drawn(n, 2, seed=1).double()
    k, m = x @ x.T, y @ y.T
    quads = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i in range(n)
        for j in range(n)
        for q in range(n)
        for r in range(n)
        if len({i, j, q, r}) == 4
    ]
    zeroed = [gram - gram.diagonal().diag_embed() for gram in (k, m)]
    torch.testing.assert_close(hsic(*zeroed), torch.stack(quads).mean())


def test_cka_of_a_constant_layer_is_no_number_and_too_few_images_are_told() -> None:
    found = similarity([({"c": torch.ones(8, 3)}, {"x": drawn(8, 3)})])
    assert found.values == ((None,),)
    with pytest.raises(ValueError, match="minibatches of 4 images or more"):
        similarity([({"c": torch.ones(3, 3)}, {"x": torch.ones(3, 3)})])
    with pytest.raises(ValueError, match="not finite"):
        similarity([({"c": torch.full((8, 3), math.nan)}, {"x": drawn(8, 3)})])


def test_correlations_and_mean_logits_of_classes() -> None:
    logits, labels = drawn(300, 5), torch.arange(300) % 5
    other = logits @ drawn(5, 5, seed=1)
    expected = np.abs(np.corrcoef(logits.numpy().T) - np.corrcoef(other.numpy().T))
    np.testing.assert_allclose(correlation_difference(logits, other).numpy(), expected, atol=1e-6)
    assert float(logit_difference(logits, 3 * logits + 2, labels).max()) < 1e-6  # standardised
    moved = logit_difference(logits, other, labels)
    assert float(moved.diagonal().abs().max()) == 0
    assert float(moved.mean()) > 0.1


# -- calibration --------------------------------------------------------------------------


def test_errors_of_calibration_of_a_constructed_case() -> None:
    """Ten images at 65 % confidence, 9 right; ten at 85 %, 5 right: (25 + 35) / 2 = 30 %."""
    sure = torch.tensor([0.65] * 10 + [0.85] * 10)
    logits = torch.stack([sure, 1 - sure], dim=1).log()
    labels = torch.tensor([0] * 9 + [1] + [0] * 5 + [1] * 5)
    found = calibration(logits, labels, bins=10)
    assert found.ece == pytest.approx(30)
    assert calibration(logits, labels, bins=2).adaptive_ece == pytest.approx(30)
    brier = [2 * (0.35**2 * 9 + 0.65**2), 2 * (0.15**2 * 5 + 0.85**2 * 5)]
    assert found.brier == pytest.approx(sum(brier) / 20)
    nll = -(9 * math.log(0.65) + math.log(0.35) + 5 * math.log(0.85) + 5 * math.log(0.15)) / 20
    assert found.nll == pytest.approx(nll)
    filled = {(round(one.high, 1), one.images): one.accuracy for one in found.bins if one.images}
    assert filled == {(0.7, 10): pytest.approx(0.9), (0.9, 10): pytest.approx(0.5)}
    assert sum(one.images for one in found.bins) == 20


def test_ece_is_the_records() -> None:
    logits, labels = 3 * drawn(500, 7), torch.arange(500) % 7
    assert calibration(logits, labels).ece == pytest.approx(measure(logits, labels)["ece"], abs=1e-3)
    assert calibration(logits, labels).nll == pytest.approx(measure(logits, labels)["nll"], abs=1e-5)


def test_the_temperature_undoes_a_scale() -> None:
    chances = drawn(4000, 5).softmax(dim=1)
    labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    honest = chances.log()
    one = best_temperature(honest, labels)
    assert one == pytest.approx(1, abs=0.15)
    assert best_temperature(3 * honest, labels) == pytest.approx(3 * one, rel=1e-4)
    assert calibration(3 * honest, labels, temperature=3 * one).ece < calibration(3 * honest, labels).ece


def test_calibration_of_nothing_and_of_no_numbers() -> None:
    with pytest.raises(ValueError, match="no images"):
        calibration(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="not finite"):
        calibration(torch.full((2, 3), math.inf), torch.zeros(2, dtype=torch.int64))


# -- agreement ----------------------------------------------------------------------------


def test_agreement_by_class_and_on_errors() -> None:
    teacher = F.one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3) * 5.0
    student = F.one_hot(torch.tensor([0, 1, 1, 1, 2, 0]), 3) * 5.0
    labels = torch.tensor([0, 0, 1, 2, 2, 0])  # the teacher errs on the fourth and the last
    found = probes.agreement(student, teacher, labels)
    assert found.agreement == pytest.approx(100 * 4 / 6)
    assert (found.on_teachers_errors, found.right_on_errors) == (50.0, 50.0)
    assert found.on_teachers_hits == pytest.approx(75)
    shares = [share for share, _ in found.classes]
    assert shares == [pytest.approx(100 / 3), 100.0, 100.0]
    target = teacher.softmax(dim=1)
    kl = (target * (target.log() - student.log_softmax(dim=1))).sum(dim=1)
    assert found.kl == pytest.approx(float(kl.mean()), rel=1e-5)
    assert probes.agreement(teacher, teacher, labels).kl == 0
    right = probes.agreement(teacher, teacher, teacher.argmax(dim=1))
    assert right.on_teachers_errors is None
    with pytest.raises(ValueError, match="one shape"):
        probes.agreement(student, teacher[:, :2], labels)


# -- robustness ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_corruption_follows_from_place_and_seed_alone_and_grows(kind: str) -> None:
    images = pictures(9) // 2 + 60
    for level in range(1, LEVELS + 1):
        whole = corrupt(images, kind, level, seed=3)
        parts = [corrupt(images[at : at + 4], kind, level, seed=3, first=at) for at in range(0, 9, 4)]
        assert torch.equal(whole, torch.cat(parts)), "the batches make no difference"
        assert whole.dtype == torch.uint8
        assert whole.shape == images.shape
    changed = [(corrupt(images, kind, level).int() - images.int()).abs().float().mean() for level in range(LEVELS + 1)]
    assert changed[0] == 0
    assert changed == sorted(changed)
    assert changed[1] > 0
    if kind in ("gaussian_noise", "salt_and_pepper", "occlusion"):
        assert not torch.equal(corrupt(images, kind, 5), corrupt(images, kind, 5, seed=1))


def test_strengths_are_what_they_say() -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    noise = (corrupt(grey, "gaussian_noise", 5).float() - 128) / 255
    assert float(noise.std()) == pytest.approx(0.10, rel=0.02)
    salted = corrupt(grey, "salt_and_pepper", 5)
    assert float((salted != 128).float().mean()) == pytest.approx(0.07, rel=0.05)
    assert set(salted.unique().tolist()) == {0, 128, 255}
    black = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    assert (corrupt(black, "occlusion", 4) == 128).sum(dim=(1, 2, 3)).tolist() == [3 * 16 * 16] * 3
    faded, clear = (one.float().flatten(2) for one in (corrupt(pictures(2), "contrast", 5), pictures(2)))
    torch.testing.assert_close(faded.std(dim=2), 0.15 * clear.std(dim=2), rtol=0.03, atol=0.0)
    torch.testing.assert_close(faded.mean(dim=2), clear.mean(dim=2), rtol=0.0, atol=0.1)


@pytest.mark.parametrize(("kind", "level", "words"), [("fog", 1, "no corruption 'fog'"), ("blur", 6, "levels 0 to 5")])
def test_corruptions_that_there_are_not(kind: str, level: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        corrupt(pictures(1), kind, level)
    with pytest.raises(ValueError, match="uint8 images are corrupted"):
        corrupt(pictures(1).float(), "blur", 1)


@pytest.mark.parametrize("n", [1, 2, 999, 1000, 1001, 2001, 2002])
def test_every_image_is_counted_once_and_never_alone(n: int) -> None:
    labels = torch.arange(n) % 2
    images = torch.arange(n)[:, None, None, None].expand(n, 3, 4, 4)  # each image says its place

    def answer(shown: Tensor) -> Tensor:
        assert len(shown) > 1 or n == 1, "a loader takes two"
        places = shown[:, 0, 0, 0]
        return F.one_hot(torch.where(places < n // 2, places % 2, 1 - places % 2), 2).float()

    assert _top1(answer, images, labels) == pytest.approx(100 * (n // 2) / n)


def test_what_is_lent_to_the_next_network_is_what_would_be_made() -> None:
    made = two_colours(20)
    lent = _Lent()
    for _ in range(2):
        found = lent.make("one")(made.test_images, "gaussian_noise", 3, seed=1, first=5)
        assert torch.equal(found, corrupt(made.test_images, "gaussian_noise", 3, seed=1, first=5))
    assert len(lent.kept) == 1
    other = lent.make("two")(made.test_images, "gaussian_noise", 3, seed=1, first=6)
    assert torch.equal(other, corrupt(made.test_images, "gaussian_noise", 3, seed=1, first=6))
    assert len(lent.kept) == 1, "another data set's are let go"


def test_area_under_a_curve() -> None:
    assert area([80.0] * 6) == 80
    assert area([100.0, 0.0, 0.0, 0.0, 0.0, 0.0]) == pytest.approx(10)


def folder_of_cifar_c(home: Path, labels: Tensor, side: int, kinds: dict[str, np.ndarray]) -> Path:
    home.mkdir(exist_ok=True)
    np.save(home / "labels.npy", np.tile(labels.numpy(), 5))
    for kind, images in kinds.items():
        np.save(home / f"{kind}.npy", images)
    return home


def test_cifar_c_is_read_severity_by_severity(tmp_path: Path) -> None:
    labels = torch.tensor([1, 0, 2])
    images = np.arange(15, dtype=np.uint8)[:, None, None, None] * np.ones((15, 4, 4, 3), np.uint8)
    home = folder_of_cifar_c(tmp_path / "c", labels, 4, {"fog": images})
    found = list(cifar_c.parts(home, labels, (3, 4, 4)))
    assert [(kind, severity, part[:, 0, 0, 0].tolist()) for kind, severity, part in found] == [
        ("fog", level, [3 * level - 3, 3 * level - 2, 3 * level - 1]) for level in range(1, 6)
    ]
    before = cifar_c.fingerprint(home)
    cifar_c.fingerprint.cache_clear()
    np.save(home / "fog.npy", images + 1)
    assert cifar_c.fingerprint(home) != before
    with pytest.raises(ValueError, match="another data set"):
        list(cifar_c.parts(home, labels.flip(0), (3, 4, 4)))
    with pytest.raises(ValueError, match="uint8"):
        list(cifar_c.parts(home, labels, (3, 8, 8)))
    (home / "fog.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read as an array"):
        list(cifar_c.parts(home, labels, (3, 4, 4)))
    (home / "fog.npy").unlink()
    with pytest.raises(ValueError, match="has no corruptions; --cifar-c takes"):
        cifar_c.kinds(home)


# -- transfer -----------------------------------------------------------------------------


def blobs(n: int, classes: int = 4, apart: float = 8.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % classes
    return apart * F.one_hot(labels, 12).float() + drawn(n, 12, seed=seed), labels


@pytest.mark.parametrize("protocol", ["logistic", "sgd", "mag"])
def test_separable_vectors_are_told_apart_and_noise_is_not(protocol: linear.Protocol) -> None:
    train, labels = blobs(120)
    test, truth = blobs(80, seed=1)
    state = torch.get_rng_state()
    assert linear.transfer(train, labels, test, truth, protocol=protocol).top1 == 100
    found = linear.transfer(drawn(120, 12, seed=2), labels, drawn(80, 12, seed=3), truth, protocol=protocol)
    assert found.top1 < 50  # a quarter by chance
    again = linear.transfer(drawn(120, 12, seed=2), labels, drawn(80, 12, seed=3), truth, protocol=protocol)
    assert again == found
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the default generator"


def test_the_penalty_is_chosen_on_a_part_of_the_training_images() -> None:
    """Where few of many dimensions tell, a strong penalty is right; the test labels have no say."""
    train, labels = blobs(60, classes=2, apart=1.0)
    train = torch.cat([train, drawn(60, 200, seed=5)], dim=1)
    test = torch.cat([blobs(40, classes=2, apart=1.0, seed=6)[0], drawn(40, 200, seed=7)], dim=1)
    found = linear.transfer(train, labels, test, torch.arange(40) % 2)
    other = linear.transfer(train, labels, test, 1 - torch.arange(40) % 2)
    assert found.penalty == other.penalty
    assert found.top1 == pytest.approx(100 - other.top1)
    assert found.penalty is not None
    assert found.penalty < 1
    assert (found.held_out_top1 or 0) > 50


def test_recipes_are_those_of_the_releases() -> None:
    assert linear.RECIPES["sgd"] == (120, 0.05, 0.01, (30, 60, 90), 64, 5e-4)
    assert linear.RECIPES["mag"] == (50, 0.02, 0.01, (20, 25), 64, 5e-4)
    assert linear.is_light("ShuffleV2")
    assert linear.is_light("timm/mobilenetv2_100")


def test_classes_without_training_images_and_odd_vectors() -> None:
    train, labels = blobs(40, classes=2)
    found = linear.transfer(train, labels, train, labels + 1, protocol="sgd")
    assert found.top1 == 0 or found.top1 == 50  # class 2 is never said
    with pytest.raises(ValueError, match="two classes"):
        linear.transfer(train, torch.zeros_like(labels), train, labels)
    with pytest.raises(ValueError, match="not finite"):
        linear.transfer(train * math.inf, labels, train, labels)


def test_stl10_as_torchvision_lays_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataMissing, match=r"stl10_binary lacks train_X.bin, train_y.bin, test_X.bin, test_y.bin; unpack"
    ):
        data.load("stl10", tmp_path)
    home = tmp_path / "stl10_binary"
    home.mkdir()
    made = {}
    for part, n in (("train", 4), ("test", 3)):
        images = np.zeros((n, 3, 96, 96), np.uint8)
        images[:, 0, 5, 7] = np.arange(n) + 1  # column 5, row 7 in the file
        made[f"{part}_X.bin"], made[f"{part}_y.bin"] = images.tobytes(), np.arange(1, n + 1, dtype=np.uint8).tobytes()
    for name, content in made.items():
        (home / name).write_bytes(content)
    with pytest.raises(DataMissing, match=r"train_X.bin.* are not the official files by their MD5 sums"):
        data.load("stl10", tmp_path)
    sums = tuple((name, hashlib.md5(content).hexdigest()) for name, content in made.items())
    monkeypatch.setattr(stl10, "FILES", sums)
    found = data.load("stl10", tmp_path)
    assert found.image_shape == (3, 96, 96)
    assert found.train_images[:, 0, 7, 5].tolist() == [1, 2, 3, 4]
    assert found.test_labels.tolist() == [0, 1, 2]
    assert found.num_classes == 10


# -- finetune, cost, attention ------------------------------------------------------------


def two_colours(n: int = 96, side: int = 8) -> Dataset:
    labels = torch.arange(n) % 2
    images = (pictures(n, side) // 4) + (150 * labels).to(torch.uint8)[:, None, None, None]
    return Dataset("colours", images, labels, images[:32], labels[:32], ("dark", "bright"))


def test_finetuning_learns_goes_on_and_leaves_the_student_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.create("resnet8", 10, image_size=8).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    curve = finetune(net, two_colours(), epochs=3, lr=0.05, batch_size=16, checkpoint=tmp_path / "x.ckpt")
    assert [point["epoch"] for point in curve] == [1, 2, 3]
    assert curve[-1]["top1"] == 100
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not list(tmp_path.iterdir()), "the checkpoint has gone"
    assert (
        finetune(net, two_colours(), epochs=3, lr=0.05, batch_size=16, checkpoint=tmp_path / "x.ckpt")[-1]["terms"]
        == (curve[-1]["terms"])
    )


@pytest.mark.parametrize("name", ["resnet8", "MobileNetV2", "timm/resnet10t"])
def test_a_new_head_is_all_that_is_new(name: str) -> None:
    net = models.create(name, 10, image_size=32)
    for classes in (10, 3):  # also where the old one would fit
        fresh = with_new_head(net, classes, 32).state_dict()
        changed = (
            {key for key, value in net.state_dict().items() if not torch.equal(value, fresh[key])}
            if classes == 10
            else ({key for key, value in net.state_dict().items() if value.shape != fresh[key].shape})
        )
        assert len(changed) in (1, 2), changed  # MobileNetV2's bias begins at zero, both times
        assert all(fresh[key].shape[0] == classes for key in changed)


def test_cost_counts_a_network_and_puts_the_threads_back() -> None:
    threads = torch.get_num_threads()
    layer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.nn.Flatten(), torch.nn.Linear(320, 7)
    )
    found = probes.cost(layer, (3, 8, 8), batch=4, repeat=3)
    assert found.macs == 8 * 8 * 9 * 3 * 5 + 320 * 7
    assert found.latency_1_ms > 0
    assert torch.get_num_threads() == threads


def test_attention_is_summed_up_by_class() -> None:
    sharp, even = torch.eye(3)[None].repeat(2, 1, 1), torch.full((4, 3, 3), 1 / 3)
    found = probes.attention(torch.cat([sharp, even]), torch.tensor([1, 1, 0, 0, 0, 0]), 3)
    torch.testing.assert_close(found.classes[1], torch.eye(3).double())
    torch.testing.assert_close(found.mean, (2 * torch.eye(3) + 4 / 3).double() / 6)
    assert found.entropy.tolist() == pytest.approx([4 / 6] * 3, abs=1e-6)
    assert bool(found.classes[2].isnan().all())
    with pytest.raises(ValueError, match="sum to 1"):
        probes.attention(torch.ones(2, 3, 3), torch.zeros(2, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="one of each"):
        probes.attention(torch.ones(0, 3, 3), torch.zeros(0, dtype=torch.int64), 1)
