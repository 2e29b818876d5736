"""``kdbench export``: what others load is the student as it was scored, and says what it is."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import kdbench
from kdbench import models, record
from kdbench.cli import main
from kdbench.export import cells, deployed, facts, files
from kdbench.export.files import read_facts
from kdbench.run import grid

NO_ONNX = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of kd, one of simkd and of the plain student; tests must not change what is there."""
    out = tmp_path_factory.mktemp("export")
    small: dict[str, Any] = {"suite": "digits", "epochs": 1, "limit_train": 96, "out": out}
    kdbench.run("kd", "resnet14:resnet8", seeds=2, **small)
    kdbench.run("simkd,kd[tau=2],student", "resnet14:resnet8", seeds=1, **small)
    return out


def one(results: Path, method: str = "kd", seed: int = 0) -> record.Record:
    return next(r for r in record.read_all(results / "runs")[0] if (r.method, r.seed) == (method, seed))


def student(results: Path, method: str = "kd") -> deployed.Deployed:
    return kdbench.load_student(one(results, method), out=results)


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# -- which one ---------------------------------------------------------------------------


def test_a_cell_is_found_by_record_path_and_words(results: Path) -> None:
    wanted = one(results, "kd", 1)
    where = grid.files(results, grid.Cell.of(wanted))
    for cell in (
        wanted,
        where.record,
        str(where.record),
        str(where.student),
        "kd resnet14:resnet8 1",
        ["kd", "s1"],
        ["kd resnet14:resnet8 1"],
        "kd seed=1",
        wanted.settings_hash,
        "digits kd resnet14 resnet8 1",
    ):
        found, home = cells.find(cell, results)
        assert found == wanted, cell
        assert home.samefile(results)
    assert cells.find("kd[tau=2]", results)[0].method == "kd[tau=2]"


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("kd", r"2 runs are called so: kd on resnet14:resnet8, seed 0 \(\w{8}\); kd on resnet14:resnet8, seed 1"),
        ("resnet8", "5 runs are called so: "),
        ("kd 7", "no finished run has '7' beside the words before it"),
        ("fitnet", "no finished run has 'fitnet'; there are digits, kd, kd"),
        ("", "no cell was named"),
        ([], "no cell was named"),
        (3, "a cell is a record, a path, or words"),
        ("nowhere.json", "there is no record nowhere.json"),
        ("/nowhere.json", "there is no record /nowhere.json"),
        ("/nowhere.safetensors", r"does not lie in an output folder, as OUT/students/SUITE/PAIR/nowhere\.safetensors"),
        ("a/b/c/d/e.safetensors", "e.safetensors does not lie in an output folder, as OUT/students/SUITE/PAIR/"),
        ("~nobody-here/x.json", "begins with the home folder of a user that is not known here"),
    ],
)
def test_a_cell_that_is_none_is_a_sentence(results: Path, cell: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        cells.find(cell, results)


def test_a_path_with_a_blank_is_a_path_however_it_is_given(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, home := tmp_path / "sp ace" / "ü r")
    where = grid.files(home, grid.Cell.of(one(results, "kd", 1)))
    for cell in (where.record, str(where.record), [str(where.record)], f" {where.student} "):
        found, out = cells.find(cell, results)
        assert (found.seed, out.samefile(home)) == (1, True)


def test_a_record_that_was_carried_away_is_told(results: Path, tmp_path: Path) -> None:
    kept = grid.files(results, grid.Cell.of(one(results, "student"))).record
    away = tmp_path / kept.name
    away.write_bytes(kept.read_bytes())
    with pytest.raises(ValueError, match="does not lie in an output folder, as OUT/runs/SUITE/PAIR/"):
        cells.find(away, results)


def test_a_student_that_was_lost_or_changed_is_told(results: Path, tmp_path: Path) -> None:
    plain = one(results, "student")
    where = grid.files(tmp_path, grid.Cell.of(plain))
    record.write(plain, where.record)
    with pytest.raises(ValueError, match="the student of student on resnet8, seed 0 was not kept in"):
        kdbench.export(str(where.record), out=tmp_path / "a.safetensors")
    state = load_file(grid.files(results, grid.Cell.of(plain)).student)
    where.student.parent.mkdir(parents=True)
    save_file({key: value + 1 for key, value in state.items()}, where.student)
    with pytest.raises(ValueError, match="does not hold the weights that the record was measured with"):
        kdbench.export(str(where.record), out=tmp_path / "a.safetensors")
    where.student.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"\.safetensors cannot be read"):
        kdbench.export(str(where.record), out=tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


# -- what is written ---------------------------------------------------------------------


def test_weights_have_the_networks_own_keys_and_say_what_they_are(results: Path, tmp_path: Path) -> None:
    wanted, file = student(results), tmp_path / "kd.safetensors"
    made = kdbench.export("kd 0 resnet8", results=results, out=file, licence="mit")
    assert (made.files, made.difference) == ([file, tmp_path / "kd.safetensors.md"], 0.0)
    net = models.create("resnet8", 10, image_size=8).net.eval()
    net.load_state_dict(load_file(file))
    assert torch.equal(net(images()), wanted(images()))
    said = read_facts(file)
    of = wanted.record
    assert said["metrics"]["top1_last"] == of.top1_last
    assert (said["licence"], said["difference"], said["settings"]) == ("mit", 0.0, of.settings_hash)
    assert (said["weights_sha256"], said["data"]) == (of.weights_sha256, of.data["fingerprint"])
    assert (said["mean"], said["std"]) == (of.settings.recipe["mean"], of.settings.recipe["std"])
    assert (said["classes"], said["image_shape"]) == (list("0123456789"), [3, 8, 8])
    card = (tmp_path / "kd.safetensors.md").read_text()
    for text in ("Licence of these weights: mit", "[0.307, 0.307, 0.307]", f"{of.top1_last:.2f}%", of.weights_sha256):
        assert text in card


def test_the_card_of_a_file_shows_how_to_load_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for to in ("torch", "torch-export"):
        made = kdbench.export("kd 0 resnet8", to, results=results)
        lines = made.files[-1].read_text().split("```python\n")[1].split("```")[0]
        found: dict[str, Any] = {}
        exec(lines, found)
        assert torch.allclose(found["net"](images()), student(results)(images()), atol=1e-6)


@pytest.mark.parametrize("name", ["timm/resnet10t", "resnet8"])
def test_timm_loads_its_folder(results: Path, tmp_path: Path, name: str) -> None:
    wanted = student(results)
    if name != "resnet8":  # as trained on the same images
        torch.manual_seed(0)
        net = models.create(name, 10, image_size=8)
        of = wanted.record.model_copy(update={"settings": wanted.record.settings.model_copy(update={"student": name})})
        wanted = deployed.Deployed(net, None, of, wanted.classes, wanted.image_shape)
    made, off = files.to_timm(wanted, tmp_path, "")
    assert [path.name for path in made] == ["model.safetensors", "config.json", "README.md"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == list(wanted.mean)
    assert config["label_names"] == list("0123456789")
    if name == "resnet8":
        again = timm.create_model("cifar_resnet8", num_classes=10, checkpoint_path=str(tmp_path / "model.safetensors"))
    else:
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
        assert again.pretrained_cfg["num_classes"] == 10  # type: ignore[index]
    assert torch.allclose(again.eval()(images()), wanted(images()), atol=1e-6)
    assert off < 1e-5


def test_the_lines_of_a_card_load_a_network_of_a_fixed_size(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's default for it is 224 pixels; it was trained on 32."""
    monkeypatch.chdir(tmp_path)
    name, record_ = "timm/vit_tiny_patch16_224", student(results).record
    torch.manual_seed(0)
    net = models.create(name, 10, image_size=32, pretrained=False)
    of = record_.model_copy(update={"settings": record_.settings.model_copy(update={"student": name})})
    wanted = deployed.Deployed(net, None, of, tuple("0123456789"), (3, 32, 32))
    files.to_timm(wanted, tmp_path, "")
    lines = (tmp_path / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(lines, found)
    shown = torch.randn(3, 3, 32, 32)
    assert torch.allclose(found["net"](shown), wanted(shown), atol=1e-6)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.allclose(again(shown), wanted(shown), atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["fixed_input_size"]


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_a_program_runs_by_itself_on_any_number_of_images(results: Path, tmp_path: Path, method: str) -> None:
    file = tmp_path / "net.pt2"
    made = kdbench.export(one(results, method), "torch-export", results=results, out=file)
    assert made.difference is not None
    assert made.difference < 1e-5
    extra = {"kdbench.json": ""}
    net = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["kdbench.json"])["method"] == method
    for n in (1, 5):
        assert torch.allclose(net(images(n)), student(results, method)(images(n)), atol=1e-5)


def test_a_changed_network_is_written_as_it_is_deployed(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "simkd.safetensors"
    made = kdbench.export("simkd", results=results, out=file)
    assert made.difference == 0.0
    state = load_file(file)
    assert {key.split(".")[0] for key in state} == {"student", "method", "teacher"}
    assert {key for key in state if key.startswith("teacher.")} == {"teacher.fc.weight", "teacher.fc.bias"}
    assert "parts of the method" in (tmp_path / "simkd.safetensors.md").read_text()
    wanted = student(results, "simkd")
    assert not torch.equal(wanted(images()), wanted.student(images()).logits)
    with pytest.raises(ValueError, match="simkd changes the network, and timm has no model for it"):
        kdbench.export("simkd", "timm", results=results, out=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_file_that_is_not_the_student_would_be_seen(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = files.state

    def wrong(*of: Any) -> dict[str, Tensor]:
        return {key: value * 2 if key == "fc.bias" else value for key, value in plain(*of).items()}

    monkeypatch.setattr(files, "state", wrong)
    made = kdbench.export("student", results=results, out=tmp_path / "a.safetensors")
    assert made.difference is not None
    assert made.difference > 1e-3
    assert read_facts(tmp_path / "a.safetensors")["difference"] == made.difference


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_onnx_gives_the_students_logits(results: Path, tmp_path: Path, method: str) -> None:
    if NO_ONNX:
        pytest.skip(f"{' and '.join(NO_ONNX)} are not installed")
    import onnx
    import onnxruntime

    file = tmp_path / "net.onnx"
    made = kdbench.export(one(results, method), "onnx", results=results, out=file)
    assert made.difference is not None
    assert made.difference < 1e-4
    said = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(said["kdbench"])["method"] == method
    session = onnxruntime.InferenceSession(str(file))
    for n in (1, 5):
        (found,) = session.run(None, {"images": images(n).numpy()})
        assert torch.allclose(torch.from_numpy(found), student(results, method)(images(n)), atol=1e-4)


def test_onnx_without_its_packages_is_a_sentence(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.export.programs.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ONNX needs onnx and onnxscript: pip install 'kdbench\[export\]'"):
        kdbench.export("student", "onnx", results=results, out=tmp_path / "a.onnx")


# -- the hub -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["student", "simkd"])
def test_a_folder_for_the_hub_is_prepared_and_stays_here(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def never(*words: object) -> str:
        raise AssertionError("uploaded")

    monkeypatch.setattr("kdbench.export.hub.upload", never)
    folder = tmp_path / "hub"
    made = kdbench.export(method, "hub", results=results, out=folder, licence="apache-2.0")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert f"{folder} is prepared, not uploaded" in made.notes[-1]
    _, header, card = (folder / "README.md").read_text().split("---\n", 2)
    yaml = pytest.importorskip("yaml").safe_load(header)
    assert yaml["license"] == "apache-2.0"
    assert yaml["pipeline_tag"] == "image-classification"
    assert yaml["model-index"][0]["results"][0]["metrics"][0]["value"] == round(one(results, method).top1_last or 0, 2)
    assert card.strip().startswith("# resnet8, ")
    assert json.loads((folder / "config.json").read_text())["kdbench"]["licence"] == "apache-2.0"
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["kdbench"])["suite"] == "digits"


def test_an_upload_needs_a_name_a_login_and_the_hub(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {"results": results, "out": tmp_path / "hub", "upload": True}
    for repo in (None, "name", "a/b/c", "/b"):
        with pytest.raises(ValueError, match="--upload needs the repository, --repo OWNER/NAME"):
            kdbench.export("student", "hub", **words, repo=repo)
    with pytest.raises(ValueError, match="--upload goes with --to hub, not with --to torch"):
        kdbench.export("student", "torch", **words, repo="a/b")
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match="--upload needs a login at Hugging Face: hf auth login"):
        kdbench.export("student", "hub", **words, repo="a/b")
    assert not (tmp_path / "hub").exists()
    sent: list[tuple[Path, str]] = []

    def upload(folder: Path, repo: str) -> str:
        sent.append((folder, repo))
        return "https://hub/a/b"

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "known")
    monkeypatch.setattr("kdbench.export.hub.upload", upload)
    made = kdbench.export("student", "hub", **words, repo="a/b")
    assert sent == [(tmp_path / "hub", "a/b")]
    assert made.notes[-1] == "uploaded to https://hub/a/b"


def test_an_export_takes_the_place_of_an_export_alone(results: Path, tmp_path: Path) -> None:
    for to, name, victim in (
        ("torch", "mine.pth", "mine.pth"),
        ("torch", "x", "x.md"),
        ("hub", "hub", "hub/README.md"),
        ("torch", "own/model.safetensors", "own/README.md"),
        ("timm", "timm", "timm/config.json"),
    ):
        theirs = tmp_path / victim
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text(work := "weeks of work on students that kdbench has trained")
        with pytest.raises(ValueError, match="is there and no export of kdbench; name another --out, or move it away"):
            kdbench.export("student", to, results=results, out=tmp_path / name)
        assert theirs.read_text() == work
        theirs.unlink()
        for method in ("student", "kd seed=1"):  # its own it writes anew
            made = kdbench.export(method, to, results=results, out=tmp_path / name)
        for file in made.files:  # but not what somebody has gone on with
            whole = file.read_bytes()
            file.write_bytes(whole + b"\n")
            with pytest.raises(ValueError, match="is there and no export of kdbench"):
                kdbench.export("student", to, results=results, out=tmp_path / name)
            file.write_bytes(whole)
        kdbench.export("student", to, results=results, out=tmp_path / name)


# -- on a terminal -----------------------------------------------------------------------


def test_the_verb_says_what_it_wrote_and_how_near_it_is(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["export", "kd", "resnet8", "0", "--results", str(results)])
    assert told.exit_code == 0, told.output
    stem = f"resnet14-resnet8-{record.cell_stem('kd', 0, one(results).settings_hash)}"
    assert "the student's on 8 fixed images: 0" in " ".join(told.output.split())
    assert f"wrote {stem}.safetensors, {stem}.safetensors.md" in " ".join(told.output.split())
    assert (tmp_path / f"{stem}.safetensors").is_file()
    again = CliRunner().invoke(main, ["export", "kd", "--results", str(results)])
    assert (again.exit_code, again.stderr[:24]) == (2, "Error: 2 runs are called")


def test_a_place_that_does_not_fit_is_a_sentence(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a folder, and --to torch writes one file; name it"):
        kdbench.export("student", results=results, out=tmp_path)
    with pytest.raises(ValueError, match="is a file, and --to timm writes a folder"):
        kdbench.export("student", "timm", results=results, out=tmp_path / "file")
    with pytest.raises(ValueError, match="no export to 'tflite'; there are torch, timm, torch-export, onnx, hub"):
        kdbench.export("student", "tflite", results=results)


def test_no_text_of_a_record_gives_orders_to_the_card(results: Path) -> None:
    wanted = student(results)
    wanted.classes = ("<script>", "a|b\n# c", "`x`", *wanted.classes[3:])
    said = facts.facts(wanted, "x](y)\n---", None)
    card = facts.card(wanted, said, "a.safetensors", "net", header=True)
    assert "<script>" not in card.replace("\\<script", "")
    assert "\n# c" not in card
    header = card.split("---\n")[1]
    assert pytest.importorskip("yaml").safe_load(header)["license"] == "x](y)\n---"
    assert "onnxruntime is not installed" in card


def test_an_export_takes_no_place_of_what_is_read_again(results: Path) -> None:
    (kept,) = (results / "students").rglob("kd-s0-*.safetensors")
    before = kept.read_bytes()
    with pytest.raises(ValueError, match="lies among the files of the output folder"):
        kdbench.export(one(results), results=results, out=kept)
    with pytest.raises(ValueError, match="lies among the files of the output folder"):
        kdbench.export(one(results), to="hub", results=results, out=results / "runs" / "hub")
    assert kept.read_bytes() == before
    assert not (results / "runs" / "hub").exists()
