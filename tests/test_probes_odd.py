"""Probes on odd tensors: what cannot be measured is refused, and what does not matter changes no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdbench.probes import robust
from kdbench.probes.cka import similarity
from kdbench.probes.fidelity import agreement
from kdbench.probes.linear import transfer
from kdbench.probes.probe import Context
from kdbench.probes.reliability import best_temperature, calibration
from kdbench.probes.robust import RobustnessSettings, robustness


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


Z, Y = drawn(20, 5), torch.arange(20) % 5
PICTURES = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ODD: list[tuple[Callable[[], object], str]] = [
    (lambda: agreement(Z * float("nan"), Z, Y), "its logits are not finite"),
    (lambda: agreement(Z, Z / 0, Y), "the teacher's logits are not finite"),
    (lambda: agreement(Z, Z[:, :4], Y), "logits of one shape are compared"),
    (lambda: agreement(Z, Z, Y[:3]), "there are 20 images and 3 labels"),
    (lambda: calibration(Z, Y - 1), "labels of 5 classes are 0 to 4, not -1 to 3"),
    (lambda: calibration(Z, Y + 1), "labels of 5 classes are 0 to 4, not 1 to 5"),
    (lambda: calibration(Z, Y.float()), "labels are .* whole numbers"),
    (lambda: calibration(Z[:0], Y[:0]), "there are no images"),
    (lambda: calibration(Z[0], Y), "logits are .N, K. floating-point numbers"),
    (lambda: calibration(Z.long(), Y), "logits are .N, K. floating-point numbers"),
    (lambda: calibration(Z, Y, bins=0), "takes one bin or more and a temperature above 0, not 0 and 1"),
    (lambda: calibration(Z, Y, temperature=-1.0), "a temperature above 0, not 15 and -1"),
    (lambda: calibration(Z, Y, temperature=float("nan")), "a temperature above 0, not 15 and nan"),
    (lambda: best_temperature(Z / 0, Y), "its logits are not finite"),
    (lambda: transfer(Z, Y, Z, Y, protocol="foo"), "no protocol 'foo'; there are logistic, sgd, mag"),  # type: ignore[arg-type]
    (lambda: transfer(Z, Y[:7], Z, Y), "there are 20 images and 7 labels"),
    (lambda: transfer(Z, Y, Z[:0], Y[:0]), "there are no images"),
    (lambda: transfer(Z, Y, Z / 0, Y), "its pooled vectors are not finite"),
    (lambda: similarity([({"a": Z}, {"b": Z[:7]})]), "the layers of a minibatch are those of the same images"),
    (lambda: similarity([({"a": Z / 0}, {"b": Z})]), "its maps are not finite"),
    (
        lambda: robustness(lambda x: torch.full((len(x), 5), float("nan")), PICTURES, Y, ["contrast"]),
        "its logits are not finite",
    ),
    (
        lambda: robustness(
            lambda x: torch.zeros(len(x), 5) + (0.0 if torch.equal(x, PICTURES) else float("inf")),
            PICTURES,
            Y,
            ["blur"],
        ),
        "its logits on corrupted images are not finite",
    ),
    (lambda: robustness(lambda x: torch.zeros(len(x), 5), PICTURES, Y[:3], ["blur"]), "20 images and 3 labels"),
]


@pytest.mark.parametrize(("measure", "sentence"), ODD)
def test_what_cannot_be_measured_is_refused(measure: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        measure()


def test_labels_of_any_whole_numbers_are_labels() -> None:
    for kind in (torch.int32, torch.uint8, torch.int16):
        assert calibration(Z, Y.to(kind)) == calibration(Z, Y)
        assert agreement(Z, Z, Y.to(kind)) == agreement(Z, Z, Y)
        assert transfer(Z, Y.to(kind), Z, Y.to(kind)) == transfer(Z, Y, Z, Y)


def test_images_that_are_equally_sure_stand_in_no_order() -> None:
    labels = torch.arange(200) % 10
    logits = torch.zeros(200, 10)
    logits[:, 0] = 3.0
    sorted_ = labels.sort().values
    wanted = calibration(logits, sorted_)
    for seed in range(3):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        assert calibration(logits, sorted_[order]).adaptive_ece == pytest.approx(wanted.adaptive_ece, abs=1e-9)
    assert wanted.adaptive_ece == pytest.approx(wanted.ece, abs=1e-9)


def test_a_small_last_minibatch_counts_as_little_as_it_tells() -> None:
    """Of two batches the second has four images, and with equal weights their sum says little of the first."""
    found = []
    for seed in range(30):
        x = drawn(404, 6, seed=seed)
        y = x + 1.5 * drawn(404, 6, seed=seed + 100)
        whole = similarity([({"a": x}, {"b": y})]).values[0][0]
        parts = similarity([({"a": x[:400]}, {"b": y[:400]}), ({"a": x[400:]}, {"b": y[400:]})]).values[0][0]
        assert whole is not None
        assert parts is not None
        found.append(parts - whole)
    assert max(map(abs, found)) < 0.01


@pytest.mark.parametrize("n", [50, 64])
@pytest.mark.parametrize("value", [0.0, 0.1, 7.7, 1000.1, -3e-9])
def test_a_constant_layer_has_no_cka_whatever_the_constant(value: float, n: int) -> None:
    flat, x = torch.full((n, 7), value), drawn(n, 7)
    assert similarity([({"a": flat}, {"b": x, "c": flat})]).values == ((None, None),)
    beside = torch.cat([x, flat], dim=1)  # a channel that says nothing changes nothing
    (with_it,), (without,) = (similarity([({"a": one}, {"b": x**3})]).values for one in (beside, x))
    assert with_it[0] == pytest.approx(without[0], abs=1e-5)


def test_settings_that_no_measurement_can_have_are_refused_before_one(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="accuracy is that of 2 images or more"):
        RobustnessSettings(images=1)
    context = Context(data_dir=None, asked=frozenset(), cifar_c=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no corruptions; --cifar-c takes the unpacked folder"):
        robust.PROBE.spread(RobustnessSettings(), context)
