"""`kdbench probe` from the command line to files, tables and the report, and everything that can get in its way."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, kdbench
from safetensors.torch import load_file, save_file
from test_data import gallery

from kdbench import data, record
from kdbench.probes import catalogue
from kdbench.probes.subject import Subject
from kdbench.utils import findings
from kdbench.utils.findings import Finding


def fine(*words: object, code: int = 0) -> str:
    """Output of a command that must end with this code."""
    result = kdbench(*words)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods, two of them with modules that are kept; tests must not change it."""
    out = tmp_path_factory.mktemp("probed")
    fine("run", *SMALL, "--methods", "student,kd,semckd,simkd", "--out", out)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "o"))


def found(out: Path, probe: str) -> dict[str, Finding]:
    every, problems = findings.read_all(out / "probes")
    assert not problems
    return {f"{one.method} {one.variant}".strip(): one for one in every if one.probe == probe}


def records(out: Path) -> dict[str, record.Record]:
    return {one.method: one for one in record.read_all(out / "runs")[0]}


@pytest.mark.usefixtures("undrawn")  # drawn they are in test_probe_report
def test_numbers_are_the_records_and_the_teachers(copied: Path) -> None:
    output = fine("probe", "calibration,robustness", "agreement", "--out", copied)
    assert "14 measured" in output.splitlines()[-1]  # 5 networks twice, 4 of them beside the teacher
    assert "measured robustness of teacher resnet14" in output
    kept, robust, honest, agree = (
        records(copied),
        found(copied, "robustness"),
        found(copied, "calibration"),
        found(copied, "agreement"),
    )
    assert set(robust) == set(honest) == {"teacher", "student", "kd", "semckd", "simkd"}
    assert set(agree) == set(robust) - {"teacher"}
    for name, one in kept.items():
        assert robust[name].summary["clean (%)"] == pytest.approx(one.top1_last, abs=1e-4)
        assert honest[name].summary["ECE (%)"] == pytest.approx(one.ece, abs=1e-3)
        assert honest[name].summary["NLL"] == pytest.approx(one.nll, abs=1e-4)
        clean = [row["top1"] for row in robust[name].rows if row["level"] == 0]
        assert len(clean) == 6
        assert set(clean) == {robust[name].summary["clean (%)"]}
    for name in ("kd", "semckd", "simkd"):
        assert agree[name].summary["agreement (%)"] == pytest.approx(kept[name].agreement, abs=1e-4)
    assert robust["teacher"].summary["clean (%)"] == pytest.approx(kept["kd"].teacher_top1, abs=1e-4)
    assert robust["kd"].identity["network"] == kept["kd"].weights_sha256
    assert robust["student"].teacher == ""
    assert agree["student"].teacher == "resnet14"  # beside the teacher of its pair
    home = copied / "probes" / "digits"
    rows = list(csv.DictReader((home / "robustness.csv").read_text().splitlines()))
    assert len(rows) == 5 * 36
    assert {row["method"] for row in rows} == set(robust)
    assert {path.name for path in home.glob("*.png")} == {"calibration.png", "robustness.png", "agreement.png"}
    assert (home / "robustness.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_what_is_there_is_kept_and_measured_anew_when_it_rests_on_something_else(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["probe", "calibration", "--methods", "kd", "--out", str(copied)]
    fine(*words)
    before = {path: path.read_bytes() for path in (copied / "probes").rglob("*.json")}
    assert "2 kept" in fine(*words).splitlines()[-1]
    assert {path: path.read_bytes() for path in (copied / "probes").rglob("*.json")} == before
    assert "2 measured" in fine(*words, "--force").splitlines()[-1]
    assert "2 measured" in fine(*words, "--set", "calibration.bins=7").splitlines()[-1]
    assert len(list((copied / "probes").rglob("*.json"))) == 4, "another setting is another file"
    path = next((copied / "probes").rglob("kd-*.json"))
    whole = path.read_text()
    for broken in (whole[:-9], "[]", whole.replace('"kd"', '"dk"'), whole.replace('"probe": "c', '"probe": "C', 1)):
        path.write_text(broken)
        output = fine(*words, "--set", f"calibration.bins={findings_bins(whole)}")
        assert f"note calibration of kd on resnet14:resnet8, seed 0: {path}" in output
        assert "it is measured anew" in output
        assert "1 measured, 1 kept" in output
    for fact in ("network", "data", "normalisation", "precision"):
        one = findings.read(path)
        findings.write(one.model_copy(update={"identity": one.identity | {fact: "other"}}), path)
        output = fine(*words, "--set", f"calibration.bins={findings_bins(whole)}")
        assert f"measured before with another {fact}: measured anew" in output
    probe = catalogue.PROBES["calibration"]
    usual = probe.version
    object.__setattr__(probe, "version", usual + 1)
    try:
        assert "measured before with another version of the probe" in fine(*words)
    finally:
        object.__setattr__(probe, "version", usual)


def findings_bins(text: str) -> int:
    return int(json.loads(text)["settings"]["bins"])


def test_one_network_that_fails_leaves_the_others_alone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    students = copied / "students" / "digits"
    cut = next(students.rglob("kd-*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:100])
    changed = next(students.rglob("semckd-*.safetensors"))
    state = load_file(changed)
    save_file({key: value + 1 if key.endswith("conv1.weight") else value for key, value in state.items()}, changed)
    next(students.rglob("simkd-*.safetensors")).unlink()
    output = fine("probe", "calibration", "--out", copied, code=1)
    assert f"failed calibration of kd on resnet14:resnet8, seed 0: {cut} is damaged" in output
    assert "does not hold the weights that the record was measured with" in output
    assert "its student was not kept: there is no" in output
    assert "2 measured, 3 failed" in output.splitlines()[-1]  # the student and the teacher

    def odd(*_: object) -> object:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(Subject, "answers", odd)
    output = fine("probe", "calibration", "--methods", "student", "--force", "--out", copied, code=1)
    assert "RuntimeError" in output
    assert "no such luck" in output


def test_a_teacher_that_is_gone_is_told_and_what_needs_none_goes_on(copied: Path) -> None:
    for path in (copied / "teachers").rglob("*.json"):
        path.unlink()
    output = fine("probe", "calibration", "--methods", "kd,student", "--out", copied, code=1)
    assert "failed calibration of teacher resnet14" in output
    assert "2 measured, 1 failed" in output
    output = fine("probe", "agreement", "--methods", "kd", "--out", copied, code=1)
    assert "its teacher resnet14" in output
    assert "is not in" in output


def test_other_data_are_not_measured_on(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.probes import kept

    def other(name: str, root: object, limit: int | None, side: int | None = None) -> data.Dataset:
        return data.limit(data.load("digits"), 50)

    monkeypatch.setattr(kept, "images", other)
    assert "are not those it was measured on" in fine("probe", "cost", "--out", copied, code=1)


def older(out: Path, method: str) -> None:
    """A record as it was before it knew what is kept beside its student."""
    (path,) = (out / "runs").rglob(f"{method}-s0-*.json")
    record.write(record.read(path).model_copy(update={"kept_sha256": ""}), path)


@pytest.mark.parametrize("method", ["simkd", "semckd"])
def test_parts_of_a_method_that_changed_are_told_wherever_they_are_loaded(method: str, copied: Path) -> None:
    student = next((copied / "students").rglob(f"{method}-*.safetensors"))
    state = load_file(student)
    name = next(key for key in state if key.startswith("method.") and state[key].is_floating_point())
    save_file(state | {name: state[name] * 1.0001}, student)
    sentence = f"does not hold the parts of {method} that the record was measured with"
    assert sentence in fine("eval", "--out", copied, code=1)
    probe = {"simkd": "calibration", "semckd": "attention"}[method]
    assert sentence in fine("probe", probe, "--methods", method, "--out", copied, code=1)
    words = ["export", method, "--results", copied, "--out", copied / "x.safetensors"]
    assert sentence in " ".join(fine(*words, code=2).split())
    older(copied, method)  # which does not know, and is believed
    assert f"measured calibration of {method}" in fine("probe", "calibration", "--methods", method, "--out", copied)
    save_file(state, student)
    again = fine("probe", "calibration", "--methods", method, "--out", copied)
    assert ("modules of the method: measured anew" in " ".join(again.split())) == (method == "simkd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in a folder")
def test_a_pipe_in_the_place_of_a_student_is_told(copied: Path) -> None:
    student = next((copied / "students").rglob("kd-*.safetensors"))
    student.unlink()
    os.mkfifo(student)
    for verb in (["eval"], ["probe", "calibration", "--methods", "kd"]):
        assert "it is a pipe or a device, no file" in " ".join(fine(*verb, "--out", copied, code=1).split())
    student.unlink()
    student.mkdir()
    assert f"{student}: Is a directory" in fine("eval", "--out", copied, code=1).replace("\n", "")


def test_attention_is_kept_beside_the_student_and_missing_from_older_ones(copied: Path) -> None:
    output = fine("probe", "attention", "--out", copied)
    assert "measured attention of semckd on resnet14:resnet8, seed 0: mean entropy" in output
    assert "n/a attention of 3 networks" in output
    one = found(copied, "attention")["semckd"]
    alpha = one.matrices["alpha"]
    assert [sum(value or 0 for value in row) for row in alpha.values] == pytest.approx([1.0] * 3)
    classes = {row["class"] for row in one.rows}
    assert classes == {"all", *map(str, range(10))}
    student = next((copied / "students").rglob("semckd-*.safetensors"))
    state = load_file(student)
    assert {key.split(".")[1] for key in state if key.startswith("method.")} == {"query", "key"}
    older(copied, "semckd")
    # Queries of nothing are all alike; without queries there is a sentence.
    save_file({key: value * (not key.startswith("method.query")) for key, value in state.items()}, student)
    fine("probe", "attention", "--methods", "semckd", "--force", "--out", copied)
    even = found(copied, "attention")["semckd"]
    assert [value for row in even.matrices["alpha"].values for value in row] == pytest.approx([1 / 3] * 9)
    assert even.summary["mean entropy"] == pytest.approx(1)
    assert alpha != even.matrices["alpha"]
    save_file({key: value for key, value in state.items() if key.startswith("student.")}, student)
    output = fine("probe", "attention", "--methods", "semckd", "--force", "--out", copied, code=1)
    assert "was kept before kdbench kept the attention of semckd" in output
    assert "4 of 4 kept students equal to the record" in fine("eval", "--out", copied)


def test_attention_says_what_training_ended_with(finished: Path) -> None:
    """The kept modules give, on one batch, the weights that the method itself gives."""
    from kdbench import models, registry
    from kdbench.distiller import Outputs
    from kdbench.engine.attending import attention_state

    shown = models.create("resnet8", 10, image_size=8).eval()
    pair = models.make_pair(
        shown, shown, image_shape=(3, 8, 8), num_classes=10, train_labels=torch.arange(64) % 10, batch_size=64
    )
    one, other = registry.get("semckd").build(pair), registry.get("semckd+fitnet").build(pair, **{"fitnet.beta": 1.0})
    assert {key.split(".")[0] for key in attention_state(one)} == {"query", "key"}
    assert {".".join(key.split(".")[:3]) for key in attention_state(other)} == {"parts.1.query", "parts.1.key"} or {
        ".".join(key.split(".")[:3]) for key in attention_state(other)
    } == {"parts.0.query", "parts.0.key"}
    twin = registry.get("semckd").build(pair)
    twin.load_state_dict(attention_state(one), strict=False)
    with torch.no_grad():
        seen: Outputs = shown(torch.randn(64, 3, 8, 8))
        assert torch.equal(one.weights(seen, seen), twin.weights(seen, seen))  # type: ignore[operator]
    assert attention_state(registry.get("fitnet").build(pair)) == {}


def test_similarity_and_cost_of_what_is_kept(copied: Path) -> None:
    fine("probe", "similarity,cost", "--out", copied, "--set", "cost.repeat=2", "--set", "similarity.batch=128")
    cka = found(copied, "similarity")["kd"].matrices["cka"]
    assert cka.rows == cka.columns == ("stem", "stage 1", "stage 2", "stage 3", "pooled", "logits")
    assert all(value is not None and -0.5 < value <= 1.0001 for row in cka.values for value in row)
    cost = found(copied, "cost")
    assert cost["kd"].summary["parameters"] == cost["student"].summary["parameters"]
    assert cost["simkd"].summary["parameters"] > cost["kd"].summary["parameters"]  # type: ignore[operator]
    assert cost["teacher"].summary["MACs"] > cost["kd"].summary["MACs"]  # type: ignore[operator]
    assert "condition" in cost["kd"].identity


def test_transfer_and_finetune_to_an_image_folder(copied: Path, tmp_path: Path) -> None:
    home = gallery(tmp_path / "pictures")
    for part in ("train", "val"):
        for place, folder in enumerate(sorted((home / part).iterdir())):
            for number in range(6):
                paint_one(folder / f"more{number}.png", place, number)
    word = f"imagefolder:{home}@16"  # resized to the student's 8
    words = [
        "--set",
        f"transfer.data={word}",
        "--set",
        f"finetune.data={word}",
        "--set",
        "transfer.protocol=logistic,mag",
    ]
    output = fine(
        "probe", "transfer,finetune", "--methods", "kd", *words, "--set", "finetune.epochs=1", "--out", copied
    )
    assert "6 measured" in output.splitlines()[-1]
    assert set(found(copied, "transfer")) == {
        f"{who} pictures, {how}" for who in ("kd", "teacher") for how in ("logistic", "mag")
    }
    assert not list((copied / "probes").rglob("*.ckpt"))
    assert "6 kept" in fine(
        "probe", "transfer,finetune", "--methods", "kd", *words, "--set", "finetune.epochs=1", "--out", copied
    )
    paint_one(home / "train" / next(iter(sorted((home / "train").iterdir()))).name / "more0.png", 1, 99)
    from kdbench.probes import other_data

    other_data._sized.cache_clear()
    output = fine("probe", "transfer", "--methods", "kd", *words[:2], "--out", copied)
    assert "measured before with another transfer data: measured anew" in output


def paint_one(file: Path, place: int, number: int) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (80 * place + number, 250 - 80 * place, number)).save(file)


def test_data_that_are_not_here(copied: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    output = fine("probe", "transfer,cost", "--methods", "kd", "--data-dir", empty, "--out", copied)
    assert "n/a transfer of 2 networks" in output
    assert "stl10 is not here, which --set transfer.data=NAME replaces" in output
    asked = ["--set", "transfer.data=stl10", "--data-dir", str(empty)]
    output = fine("probe", "transfer", "--methods", "kd", *asked, "--out", copied, code=1)
    assert "failed transfer of kd on resnet14:resnet8, seed 0, stl10, logistic: stl10 is not complete" in output
    assert "nothing" not in output


def test_cifar_c_where_its_files_lie(copied: Path, tmp_path: Path) -> None:
    digits = data.load("digits")
    images = digits.test_images.permute(0, 2, 3, 1).numpy()
    home = tmp_path / "c"
    home.mkdir()
    np.save(home / "labels.npy", np.tile(digits.test_labels.numpy(), 5))
    np.save(home / "same.npy", np.concatenate([images] * 5))
    np.save(home / "spatter.npy", np.concatenate([np.zeros_like(images)] * 5))
    words = ["--cifar-c", str(home), "--set", "robustness.corruptions=blur", "--methods", "kd", "--out", str(copied)]
    assert "4 measured" in fine("probe", "robustness", *words).splitlines()[-1]
    one = found(copied, "robustness")["kd CIFAR-C"]
    assert one.summary["same (%)"] == one.summary["clean (%)"] == one.summary["mean (%)"]  # spatter is an extra
    assert {row["corruption"] for row in one.rows} == {"same", "spatter"}
    assert "--cifar-c is of the probe robustness" in fine("probe", "cost", "--cifar-c", home, "--out", copied, code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["robustnes"], "no probe 'robustnes'; did you mean robustness?"),
        ([","], "name a probe: calibration"),
        (["cost", "--set", "cost.batches=2"], "no setting 'cost.batches'; there are cost.batch, cost.repeat"),
        (["cost", "--set", "cost.batch=x"], "cost.batch='x' will not do"),
        (["cost", "--set", "batch=2"], "--set takes probe.key=value"),
        (["cost", "--set", "transfer.data=stl10"], "'transfer', which is not asked for; asked for: cost"),
        (["transfer", "--set", "transfer.protocol=svm"], "transfer.protocol='svm' will not do"),
        (["transfer", "--set", "transfer.data="], "transfer.data='' will not do: name a data set"),
        (["transfer", "--set", "transfer.protocol="], "transfer.protocol='' will not do: protocol is empty"),
        (["robustness", "--set", "robustness.corruptions=fog"], "no corruption 'fog'; there are gaussian_noise"),
        (["robustness", "--set", "robustness.corruptions=cifar-c"], "whose folder --cifar-c names"),
        (["robustness", "--set", "robustness.images=1"], "accuracy is that of 2 images or more"),
        (["robustness", "--cifar-c", "/no/where"], "/no/where has no corruptions; --cifar-c takes"),
        (["cost", "--methods", "kdd"], "no finished runs of method 'kdd'; did you mean kd"),
        (["cost", "--pairs", "resnet14:resnet20"], "no finished runs on pair 'resnet14:resnet20'; did you mean"),
        (["cost", "--seeds", "7,"], "no finished runs with seeds 7; there are seeds 0"),
        (["cost", "--suite", "digit"], "no finished runs of suite 'digit'"),
        (["cost", "--out", "nowhere-at-all"], "no finished runs under"),
    ],
)
def test_words_that_will_not_do(finished: Path, words: list[str], said: str) -> None:
    where = [] if "--out" in words else ["--out", str(finished)]
    assert said in " ".join(fine("probe", *words, *where, code=2).split())


def test_words_choose(finished: Path, tmp_path: Path) -> None:
    from kdbench.probes.choose import choose

    assert {one.method for one in choose(finished, methods="s*").alone} == {"student", "semckd", "simkd"}
    assert [str(one) for one in choose(finished, pairs="*:resnet8", methods="student").beside] == [
        "student on resnet14:resnet8, seed 0"
    ]
    assert len(choose(finished).teachers) == 1
    assert [probe.name for probe in catalogue.choose(["all"])] == list(catalogue.PROBES)


@pytest.mark.usefixtures("undrawn")
def test_the_report_shows_what_was_found_of_these_networks_only(copied: Path) -> None:
    words = ["report", "--methods", "kd,student", "--formats", "html,md", "--out", str(copied)]
    page = copied / "digits" / "leaderboard.html"
    fine(*words)
    assert "probe-" not in page.read_text()
    fine("probe", "calibration,agreement", "--methods", "kd,student,simkd", "--out", copied)
    fine(*words)
    for name in ("calibration", "agreement"):
        assert f'<section id="probe-{name}"' in page.read_text()
        assert f'<section id="figure-probe-{name}"' in page.read_text()
    text = (copied / "digits" / "leaderboard.md").read_text()
    assert "temperature scaling" in text
    assert "simkd" not in text
    # A network that was trained anew has other weights: what was found of the old one is not its.
    for path in (copied / "probes").rglob("kd-*calibration*.json"):
        one = findings.read(path)
        older = one.identity | {"network": "0" * 64}
        findings.write(one.model_copy(update={"identity": older, "summary": {"ECE (%)": 77.77}}), path)
    damaged = next((copied / "probes").rglob("student-*calibration*.json"))
    damaged.write_text("{}")
    assert f"left out: {damaged}" in fine(*words)
    assert "77.77" not in page.read_text()
