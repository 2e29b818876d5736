"""What papers report: every row can be read, names what kdbench has, and equals the collection that it was taken from."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import PAIRS, make, save, table

import kdbench
from kdbench import models, registry, suites
from kdbench.cli import main
from kdbench.report import report
from kdbench.run.session import label
from kdbench.suites import Published, Standing

SHARED = Path(__file__).parents[2] / "shared" / "published" / "published.csv"
DATASETS = sorted({suites.load(name).dataset for name in suites.names()})
EVERYTHING = [(pair, one) for name in DATASETS for pair, ones in suites.reported(name).items() for one in ones]
REPORTED = [(pair, one) for pair, one in EVERYTHING if not pair[0].startswith("timm/")]


def test_every_row_names_networks_and_methods_that_are_here() -> None:
    zoo = {
        *models.names(),
        *(network for name in suites.names() for pair in suites.load(name).pairs for network in pair),
    }
    for pair, one in EVERYTHING:
        assert set(pair) <= zoo, pair
        assert 20 < one.number.mean < 100
        assert one.number.source
        assert one.convention in ("", *suites.convention_names())
        if one.spec:  # as a row of a table is labelled, or no row would find it
            (spec,) = registry.parse(one.spec)
            assert label(spec.name, dict(spec.hyper)) == one.spec
            registry.get(spec.name)


def test_no_source_says_two_things_of_one_method_and_pair() -> None:
    seen = Counter((pair, one.method, one.spec, one.convention, one.number.source) for pair, one in EVERYTHING)
    assert [key for key, times in seen.items() if times > 1] == []


def test_a_source_with_both_conventions_is_two_tables() -> None:
    tables = {one.title: one for one in suites.published_on("cifar100") if one.title.startswith("ICKD")}
    means = {one.convention: one.numbers["vgg13", "vgg8", "ickd"].mean for one in tables.values()}
    assert means == {"crd": 73.42, "semckd": 73.88}


def test_what_departs_from_the_recipe_is_told() -> None:
    """Of the sources whose recipes are known to be others; a bar must be of the same."""
    own_words = {
        "SSKD README, ECCV 2020": "teachers",
        "HSAKD README, IJCAI 2021": "auxiliary",
        "KD++, arXiv 2305.17007": "Nesterov",
        "NORM README, ICLR 2023": "layer",
        "SKD README, CVPR 2026": "lr .1",
        "ReviewKD, CVPR 2021, as quoted by NORM": "Nesterov",
    }
    for _, one in REPORTED:
        assert own_words.get(one.number.source, "") in one.departs, one
        if one.spec.startswith(("simkd", "mlkd")):
            assert one.departs, one


def test_a_student_that_keeps_a_projector_is_no_bar_wherever_its_number_stands() -> None:
    for one in suites.every_number():
        if one.standing.method.lower().startswith("simkd"):
            assert "student keeps a projector" in one.standing.departs, one
    frame = kdbench.published("semckd")
    same = frame[(frame.departs == "") & (frame.teacher == "resnet32x4") & (frame.student == "resnet8x4")]
    assert same["mean"].max() == 77.62


def test_of_an_unnamed_convention_all_have_the_same_weights() -> None:
    """Or a number that was made with CE and .9 L would stand beside a row with CE, KD and L."""
    for pair, one in EVERYTHING:
        if not one.spec or one.convention or one.departs or one.number.rule is None:
            continue
        (spec,) = registry.parse(one.spec)
        known = registry.get(spec.name).hyperparameters()
        conventions = map(suites.convention, suites.convention_names())
        weights = [convention.hyper(spec.name, ":".join(pair), known) | dict(spec.hyper) for convention in conventions]
        assert all(other == weights[0] for other in weights), one


def test_a_table_says_of_its_own_numbers_what_is_otherwise() -> None:
    """OFA-KD's weights are its own; of DKD's ImageNet recipe the batch is another, and no source tells the epoch."""
    assert {method for _, _, method in suites.alike(suites.load("heterogeneous"))} == {"teacher"}
    imagenet = suites.load("imagenet")
    number = suites.alike(imagenet)["timm/resnet34", "timm/resnet18", "dkd"]
    assert number.rule == imagenet.published_rule
    assert number.source.endswith("Table 3 (batch 512, lr .2; epoch not told)")
    assert suites.table(imagenet)["timm/resnet34", "timm/resnet18", "dkd"].number.rule is None
    assert ("timm/resnet34", "timm/resnet18", "semckd") not in suites.alike(imagenet)
    assert suites.alike(suites.load("crd")) == suites.published(suites.load("crd"))


@pytest.mark.parametrize(
    "name", ["ctkd", "nkd", "sdd", "rld", "itrd", "ickd", "nd", "ikl", "wkd_l", "wkd_f", "ea", "mgd", "wsld"]
)
def test_the_card_of_a_method_has_its_numbers(name: str) -> None:
    said = CliRunner().invoke(main, ["info", name]).output
    assert "published elsewhere" in said
    assert any(
        f"{':'.join(pair)} {one.number.mean:.2f}" in said for pair, one in EVERYTHING if name in one.spec.split("+")
    )


def test_the_card_of_a_combination_has_its_numbers_alone() -> None:
    said = CliRunner().invoke(main, ["info", "wttm+itrd"]).output
    assert "resnet32x4:resnet8x4 77.36" in said
    assert "WTTM+CRD" not in said


def test_the_list_is_of_a_suite_or_of_all() -> None:
    def lines(*words: str) -> list[list[str]]:
        done = CliRunner().invoke(main, ["list", "published", *words])
        assert done.exit_code == 0, done.output
        return [line.split("\t") for line in done.output.splitlines() if "\t" in line]

    everything, crd = lines(), lines("--suite", "crd")
    pairs = {":".join(pair) for pair in suites.load("crd").pairs}
    assert {row[0] for row in crd} == pairs < {row[0] for row in everything}
    assert {len(row) for row in everything} == {11}
    best = ["resnet56:resnet20", "cifar100", "72.32", "", "4", "DKD+LS", "", "", "not told", "", "LSKD, CVPR 2024"]
    assert best in crd
    means = [float(row[2]) for row in crd if row[0] == "resnet56:resnet20"]
    assert means == sorted(means, reverse=True)
    done = CliRunner().invoke(main, ["list", "published", "--suite", "digits"])
    assert "no published number of a pair of suite digits" in done.output


def test_the_frame_is_the_list() -> None:
    frame = kdbench.published("crd")
    listed = CliRunner().invoke(main, ["list", "published", "--suite", "crd"]).output.splitlines()
    assert len(frame) == len(listed) > 500
    assert set(frame["rule"]) == {"last", "best_test", ""}
    assert frame["n"].dropna().min() >= 1
    assert len(kdbench.published()) > len(frame)
    with pytest.raises(ValueError, match="no suite"):
        kdbench.published("crdd")
    for odd in (3, True, ["crd"], ("crd", "imagenet"), float("nan"), b"crd"):
        with pytest.raises(ValueError, match=r"a suite is a name, or the path of a \.toml file, as text, not"):
            kdbench.published(odd)  # type: ignore[arg-type]


def standing(spec: str, departs: str = "", rule: str | None = "best_test", convention: str = "") -> Standing:
    number = Published(73.0, None, None, f"of {spec}, {departs}, {rule}, {convention}", rule)  # type: ignore[arg-type]
    return Standing(spec.upper(), number, departs, spec, convention)


@pytest.mark.usefixtures("undrawn")
def test_only_like_numbers_stand_beside_a_row(tmp_path: Path) -> None:
    save(tmp_path, make("kd", PAIRS[0], 0, top1_last=72.0, top1_best_test=72.5))
    like = [standing("kd"), standing("kd", rule="last", convention="semckd")]
    unlike = [
        standing("kd", departs="lr .1"),
        standing("kd", rule=None),
        standing("kd", convention="crd"),
        standing("crd"),
    ]
    (made,) = report(tmp_path, standing={"semckd": {PAIRS[0]: [*unlike, *like]}}, formats=("md",))
    rows = [[item.text for item in row.items] for row in table(made, "reproduction").rows]
    assert [(row[2], row[3], row[4], row[5]) for row in rows] == [
        ("73.00", "72.50 (1)", "-0.50", "best test"),
        ("73.00", "72.00 (1)", "-1.00", "last"),
    ]
    assert [row[7] for row in rows] == [one.number.source for one in like]


def collected() -> Iterator[dict[str, str]]:
    with SHARED.open(encoding="utf-8", newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["dataset"] == "CIFAR-100")


@pytest.mark.skipif(
    not SHARED.is_file(), reason="the collection of published numbers lies in ../shared, which is absent"
)
@pytest.mark.parametrize(
    ("source", "paper", "fewest"),
    [
        ("TTM/WTTM, ICLR 2024", "Transformed Teacher Matching", 60),
        ("ITRD README, BMVC 2022", "Information Theoretic", 26),
        ("CTKD README, AAAI 2023", "CTKD", 6),
        ("LSKD, CVPR 2024", "Logit Standardization", 85),
        ("SDD, CVPR 2024", "SDD: ", 45),
        ("MAG README, 2021", "Multi-granularity", 160),
        ("NTCE-KD README, 2024", "NTCE-KD", 22),
        ("KD++, arXiv 2305.17007", "KD++", 24),
    ],
)
def test_the_numbers_are_those_of_the_collection(source: str, paper: str, fewest: int) -> None:
    def plain(network: str) -> str:
        word = network.lower().replace("-", "").replace("_", "").replace(".", "")
        return word.replace("shufflenetv", "shufflev").replace("mobilenetv205", "mobilenetv2")

    there = {
        (plain(row["teacher"]), plain(row["student"]), f"{float(row['mean']):.2f}")
        for row in collected()
        if row["paper"].startswith(paper) and row["mean"]
    }
    mine = [(pair, one) for pair, one in REPORTED if one.number.source == source]
    assert len(mine) >= fewest
    for (teacher, student), one in mine:
        assert (plain(teacher), plain(student), f"{one.number.mean:.2f}") in there, (teacher, student, one)
