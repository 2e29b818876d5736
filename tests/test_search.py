"""What tuning tries of each method: as many candidates of every one, the values in force among them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from kdbench import Distiller, Pair, registry, suites
from kdbench.distiller import FACTORS
from kdbench.registry import get
from kdbench.registry.combine import combined
from kdbench.testing.toys import TOYS, Problem, served

NOTHING = {"student", "fsp"}  # all others have six
PAIRS = ("resnet56:resnet20", "vgg13:MobileNetV2")
COMBINED = (
    "crd+mag",
    "fitnet+mas",
    "kd+simkd",
    "crd+fitnet",
    "kd+lskd",
    "dkd+lskd",
    "at+dist+kd",
    "dkd+ea",
)


def in_force(name: str, convention: str, pair: str) -> dict[str, Any]:
    known = get(name).hyperparameters()
    return {key: hyper.default for key, hyper in known.items()} | suites.convention(convention).hyper(name, pair, known)


@pytest.mark.parametrize("name", [*registry.names(), *COMBINED])
def test_every_method_has_six_candidates_that_can_be_built(name: str) -> None:
    cls = get(name)
    toy = Problem(served(cls, TOYS)[0])
    for convention, pair in product(suites.convention_names(), PAIRS):
        present = in_force(name, convention, pair)
        wholes = [present | one for one in cls.search_space(present)]
        assert len(wholes) == (1 if name in NOTHING else 6), (convention, pair)
        assert present in wholes, "the values in force are among them"
        assert all(one not in wholes[:at] for at, one in enumerate(wholes)), "all are different"
        for whole in wholes:
            cls.build(toy.pair, **whole)


def test_the_main_weight_times_the_factors() -> None:
    assert FACTORS == (1 / 100, 1 / 10, 1 / 3, 1, 3, 10)
    assert get("semckd").search_space({}) == [{"beta": b} for b in (4.0, 40.0, 133.0, 400.0, 1200.0, 4000.0)]
    assert get("semckd").search_space({"beta": 0.8123, "soft": 2.0})[2:4] == [{"beta": 0.271}, {"beta": 0.8123}]
    assert get("kd").search_space({"kd_weight": 1})[3:] == [{"kd_weight": w} for w in (1.0, 3.0, 10.0)]


def test_a_weight_of_zero_switches_off_and_is_not_scaled() -> None:
    assert get("semckd").search_space({"beta": 0.0}) == [{}]
    assert get("crd+mag").search_space({"kd_weight": 0.0}) == get("crd").search_space({})


def test_rows_of_search_take_in_the_values_in_force() -> None:
    smooth = get("label_smoothing")
    assert [one["eps"] for one in smooth.search_space({})] == [0.01, 0.03, 0.05, 0.1, 0.2, 0.4]
    assert [one["eps"] for one in smooth.search_space({"eps": 0.2})] == [0.01, 0.03, 0.05, 0.1, 0.2, 0.4]
    assert [one["eps"] for one in smooth.search_space({"eps": 0.3})] == [0.01, 0.03, 0.05, 0.3, 0.2, 0.4]
    assert get("dist").search_space({"gamma": 1.0})[2:5] == [
        {"beta": 0.667, "gamma": 0.667},
        {"beta": 2.0, "gamma": 1.0},
        {"beta": 6.0, "gamma": 6.0},
    ]


def test_the_fourth_row_of_search_is_the_default() -> None:
    for name in registry.names():
        cls = get(name)
        for key, values in (cls.search or {}).items():
            assert values[FACTORS.index(1)] == cls.hyperparameters()[key].default, name
            assert sorted(values) == list(values), f"{name}: from weak to strong"


def test_a_combination_scales_its_parts_weights_together_and_alone() -> None:
    assert get("crd+fitnet").search_space({"crd.beta": 1.0}) == [
        {"crd.beta": 1.0, "fitnet.beta": 100.0},
        {"crd.beta": 0.01, "fitnet.beta": 1.0},
        {"crd.beta": 0.1, "fitnet.beta": 10.0},
        {"crd.beta": 3.0, "fitnet.beta": 300.0},
        {"crd.beta": 0.1, "fitnet.beta": 100.0},
        {"crd.beta": 1.0, "fitnet.beta": 10.0},
    ]
    assert get("crd+mag").search_space({"kd_weight": 1.0})[-1] == {"beta": 0.8, "kd_weight": 0.1}


def test_of_three_parts_the_first_two_are_also_scaled_alone() -> None:
    found = get("at+crd+fitnet").search_space({})
    assert len(found) == 6
    assert found[4:] == [
        {"at.beta": 100.0, "crd.beta": 0.8, "fitnet.beta": 100.0},
        {"at.beta": 1000.0, "crd.beta": 0.08, "fitnet.beta": 100.0},
    ]


def test_a_weight_that_two_parts_share_is_scaled_once() -> None:
    assert get("kd+lskd").search_space({"kd_weight": 9.0}) == get("lskd").search_space({})


class Share(Distiller):
    """A part whose values in force may be any row, not the fourth."""

    search = {"share": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}  # noqa: RUF012

    def __init__(self, pair: Pair, *, share: float = 0.4, **common: float) -> None:
        super().__init__(pair, **common)


@pytest.mark.parametrize("one", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("other", [0.1, 0.2, 0.4, 0.5, 0.7])
def test_six_different_ones_wherever_the_values_in_force_stand(one: float, other: float) -> None:
    cls = combined(("a", "b"), (Share, Share))
    found = cls.search_space({"a.share": one, "b.share": other})
    assert found[0] == {"a.share": one, "b.share": other}
    assert len(found) == len({tuple(row.items()) for row in found}) == 6
