"""kill -9 at any moment: the command is repeated, nothing is done twice, and what stays is what it would have been."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from campaign import facts, odd_files
from campaign.area import Area, Fault, Try
from campaign.child import Ended, command, copied
from campaign.deaths import SIGNALS, Counter, Death, after, at_byte, at_change
from campaign.judging import shortened, sound
from campaign.ledger import Ledger
from kdbench.engine import checkpoint

SMALL = (
    *("--suite", "digits", "--pairs", "resnet14:resnet8", "--seeds", "1", "--device", "cpu", "--limit-train", "64"),
    *("--set", "teacher.epochs=2"),
)


@dataclass(frozen=True)
class Scenario:
    """A command to be killed, what lies in its folder before, and what is compared after."""

    words: tuple[str, ...]
    base: str = "empty"  # a folder of the area's home
    share: int = 1  # of the tries
    look: Callable[[Path], facts.Facts] = facts.of
    between: Callable[[Path, Path], None] | None = None  # (base, out): what must hold after every death
    thrifty: bool = True  # nothing that was saved is trained again

    def asked(self, home: Path, out: Path) -> list[str]:
        """The command line."""
        return [*(word.format(home=home) for word in self.words), "--out", str(out)]


def report_files(out: Path) -> facts.Facts:
    """What a report has written."""
    files = [*out.glob("*.csv"), *(path for path in (out / "digits").rglob("*") if path.is_file())]
    return {path.relative_to(out).as_posix(): _hash(path) for path in files if not path.name.startswith(".")}


def pack_files(out: Path) -> facts.Facts:
    """What a pack of pictures holds."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(out).as_posix(): _hash(path) for path in files if path.suffix != ".lock"}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _old_or_new(base: Path, out: Path) -> None:
    """Every file of a report is the old one or the new one."""
    old, new = report_files(base), report_files(base.parent / "whole-report")
    for name, value in report_files(out).items():
        if value not in (old.get(name), new.get(name)):
            raise Fault(f"{name} is neither the old report's nor the new one's")


def _verified(base: Path, out: Path) -> None:
    """The old teacher is there or the new one."""
    words: list[str | Path] = ["teacher", "verify", "resnet8", "--suite", "digits", "--out", out]
    sound(command(words, out.parent), {0})


SCENARIOS = {
    "train": Scenario(("run", *SMALL, "--methods", "student,kd,fitnet,crd", "--epochs", "3"), "taught", 5),
    "stages": Scenario(("run", *SMALL, "--methods", "ft,mag", "--epochs", "2"), "taught", 3),
    "assistant": Scenario(("run", *SMALL, "--methods", "hkd", "--epochs", "2"), "taught", 1),
    "fresh": Scenario(("run", *SMALL, "--methods", "kd,at", "--epochs", "2"), "empty", 3),
    "teacher": Scenario(("teacher", "train", "resnet8", "--suite", "digits", "--epochs", "2"), "empty", 3),
    "table": Scenario(("teacher", "table", "resnet8", "--suite", "digits"), "imported", 3),
    "filling": Scenario(("run", *SMALL, "--methods", "kd,at", "--epochs", "3", "--set", "recipe.crop_padding=0"), "taught", 3),
    "import": Scenario(
        ("teacher", "import", "{home}/other.safetensors", "--name", "resnet8", "--suite", "digits", "--replace"),
        "imported", 3, between=_verified,
    ),
    "tune": Scenario(
        ("tune", *SMALL[:4], *SMALL[6:], "--methods", "fitnet", "--epochs", "1", "--trials", "2"), "taught", 3
    ),
    "force": Scenario(("run", *SMALL, "--methods", "kd", "--epochs", "2", "--force"), "whole-fresh", 1, thrifty=False),
    "report": Scenario(("report",), "reported", 2, look=report_files, between=_old_or_new),
    # A checkpoint after nearly every step, in mid-epoch.
    "midway": Scenario(
        ("run", *SMALL, "--methods", "kd,crd,ft", "--epochs", "2", "--set", "recipe.batch_size=8",
         "--checkpoint-minutes", "1e-5"), "taught", 5,
    ),
    "finetune": Scenario(
        ("teacher", "finetune", "resnet8", "--suite", "digits", "--weights", "{home}/other.safetensors", "--epochs", "2",
         "--set", "teacher.lr=0.01"), "empty", 2,
    ),
    "fetch": Scenario(
        ("teacher", "fetch", "resnet8", "--suite", "digits", "--from", "{home}/other.safetensors", "--table",
         "{home}/teachers.toml", "--replace", "--no-verify"), "imported", 2, between=_verified,
    ),
    "pack": Scenario(("data", "pack", "imagefolder:{home}/pictures@8"), "empty", 2, look=pack_files),
}  # fmt: skip


def prepare(home: Path) -> None:
    """Make every scenario's folder before, its folder after an undisturbed command, and what that took."""
    (home / "empty").mkdir()
    made = home / "made"
    for method, epochs in (("student", "2"), ("student", "3"), ("kd", "2")):
        sound(command(["run", *SMALL, "--methods", method, "--epochs", epochs, "--out", made], home), {0})
    for taught in (home / "taught", home / "imported"):
        shutil.copytree(made / "teachers", taught / "teachers")
    students = sorted((made / "students" / "digits" / "resnet8").glob("*.safetensors"))
    shutil.copy(students[1], home / "other.safetensors")
    _published(home / "other.safetensors", home / "teachers.toml")
    odd_files.pictures(home / "pictures")
    words: list[str | Path] = [
        "teacher",
        "import",
        students[0],
        "--name",
        "resnet8",
        "--suite",
        "digits",
        "--out",
        home / "imported",
    ]
    sound(command(words, home), {0})
    for name, scenario in SCENARIOS.items():
        if scenario.base == "reported":
            _report_before(home)
        _undisturbed(home, name, scenario)


def _published(file: Path, table: Path) -> None:
    """A table of published teachers with one, whose file this is."""
    values = {
        **{"name": "theirs", "network": "resnet8", "dataset": "digits", "sha256": _hash(file), "licence": "MIT"},
        **{"bytes": file.stat().st_size, "top1": 50.0, "address": "https://example.org/other.safetensors"},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    lines = [f"{name} = {odd_files.toml(value)}" for name, value in values.items()]
    table.write_text("\n".join(["[[teacher]]", *lines]) + "\n")


def _report_before(home: Path) -> None:
    """A report that has become old: two more methods have been trained since."""
    before = home / "reported"
    shutil.copytree(home / "whole-fresh", before)
    sound(command(["report", "--out", before], home), {0})
    shutil.copytree(home / "whole-train" / "runs", before / "runs", dirs_exist_ok=True)


def _undisturbed(home: Path, name: str, scenario: Scenario) -> None:

    out = copied(home / scenario.base, home / f"whole-{name}")
    counter, started = Counter(out), time.monotonic()
    sound(command(scenario.asked(home, out), home, before=counter.before), {0})
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    took = {"seconds": time.monotonic() - started, "changes": counter.count, "largest": max(sizes)}
    (home / f"whole-{name}.json").write_text(json.dumps(took))


def planned(one: Try) -> int:
    """Deaths of a try."""
    return one.draw.choice((1, 1, 2, 3))


def names(home: Path, most: int) -> list[str]:
    """Tries for ``most`` deaths: 1.75 of each on average."""
    turn = [name for at in range(5) for name, scenario in SCENARIOS.items() if at < scenario.share]
    return [f"{turn[number % len(turn)]}-{number}" for number in range(math.ceil(most / 1.7))]


def hold(one: Try) -> int:
    """One command, killed and repeated; returns how often it died."""
    scenario = SCENARIOS[one.name.partition("-")[0]]
    took = json.loads((one.home / f"whole-{one.name.partition('-')[0]}.json").read_text())
    wanted = scenario.look(one.home / f"whole-{one.name.partition('-')[0]}")
    deaths, told = planned(one), []
    killed = rounds = 0
    ledger = _begun(one, scenario, rounds)
    while killed < deaths and rounds < 20:
        death = _drawn(one, took, ledger.out)
        told.append(death.what)
        ended = command(
            scenario.asked(one.home, ledger.out), one.folder, before=ledger.writing(death.before), killed=death.seconds
        )
        try:
            if ended.code in SIGNALS:
                killed += 1
                _whole(ledger.out)
                if scenario.between is not None:
                    scenario.between(one.home / scenario.base, ledger.out)
            else:  # it came to its end before
                _compare(scenario, ended, wanted, ledger)
                rounds += 1
                ledger = _begun(one, scenario, rounds)
        except Fault as fault:
            raise Fault(f"{', then '.join(told)}: {fault}") from None
    ended = command(scenario.asked(one.home, ledger.out), one.folder, before=ledger.writing(None))
    try:
        _compare(scenario, ended, wanted, ledger)
    except Fault as fault:
        raise Fault(f"{', then '.join(told)}, and repeated: {fault}") from None
    return killed


def _begun(one: Try, scenario: Scenario, number: int) -> Ledger:
    out = copied(one.home / scenario.base, one.folder / f"out{number}")
    return Ledger(out, one.folder / f"ledger{number}.txt")


def _drawn(one: Try, took: dict[str, Any], out: Path) -> Death:
    kind = one.draw.random()
    if kind < 0.35:
        return after(one.draw.uniform(0, took["seconds"]))
    if kind < 0.85:
        return at_change(one.draw.randint(1, took["changes"]), out)
    return at_byte(int(math.exp(one.draw.uniform(math.log(100), math.log(took["largest"])))))


def _compare(scenario: Scenario, ended: Ended, wanted: facts.Facts, ledger: Ledger) -> None:
    sound(ended, {0})
    try:
        facts.same(scenario.look(ledger.out), wanted)
        _whole(ledger.out)
    except Fault as fault:
        raise Fault(f"{fault} (it said: {shortened(ended.said)})") from None
    if scenario.thrifty:
        ledger.check()


def _whole(out: Path) -> None:
    """No file that a command may believe is half a file."""
    for path in out.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".ckpt":
                checkpoint.peek(path)
        except Exception as error:
            raise Fault(f"{path.name} is half a file: {error}") from error


AREA = Area("kill", 1000, prepare, names, hold)
