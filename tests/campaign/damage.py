"""Every kind of file, damaged in every way: the right numbers or a sentence, never a traceback, never a wrong table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign import facts, folder
from campaign.area import Area, Fault, Try
from campaign.child import Ended, command, copied
from campaign.judging import shortened, sound
from campaign.spoil import KINDS, OTHER, spoil
from kdbench import record


@dataclass(frozen=True)
class Subject:
    """A kind of file: where such files lie in the folder, who reads them, and what holds of them."""

    where: str
    verbs: tuple[str, ...]
    #: It says what is to be trained: another content may mean another cell.
    meant: bool = False
    #: A verb that must not end well on any of these files if a byte of them is another.
    strict: tuple[str, ...] = ()
    #: Words that are not kdbench's.
    foreign: str = ""
    #: A command to be run before the damage, where what it makes belongs to the folder that it lies in.
    first: str = ""


_PAIR = "out/{}/digits/resnet14-resnet8"
SUBJECTS = {
    "record": Subject(_PAIR.format("runs") + "/fitnet-*.json", ("run", "report", "status", "eval")),
    "failure": Subject(_PAIR.format("runs") + "/*.failed.json", ("failed", "report", "status")),
    "checkpoint": Subject(_PAIR.format("runs") + "/vid-*.ckpt", ("resume", "status")),
    "midway": Subject(_PAIR.format("runs") + "/crd-*.ckpt", ("midway", "status")),
    "student": Subject(_PAIR.format("students") + "/fitnet-*", ("eval", "report", "run"), strict=("eval",)),
    "weights": Subject("out/teachers/digits/resnet14-quick-*.safetensors", ("more", "eval", "run")),
    "card": Subject("out/teachers/digits/resnet14-quick-*.json", ("more", "eval", "status")),
    "main-weights": Subject("out/teachers/digits/resnet8.*.safetensors", ("verify", "table"), strict=("verify",)),
    "main-card": Subject("out/teachers/digits/resnet8.json", ("verify", "import")),
    "rows": Subject("out/tables/digits-resnet14-*/logits.rows", ("filled",)),
    "sums": Subject("out/tables/digits-resnet14-*/logits.sums", ("filled",)),
    "header": Subject("out/tables/digits-resnet14-*/table.json", ("filled",)),
    "main-rows": Subject("out/tables/digits-resnet8-*/logits.rows", ("table",)),
    "tuned": Subject("out/tuned/digits/resnet14-resnet8/fitnet.json", ("tuned", "tune", "report", "status")),
    "trial": Subject("out/tuned/runs/digits/resnet14-resnet8/fitnet-*.json", ("tune", "report", "status")),
    "trial-student": Subject("out/tuned/students/digits/resnet14-resnet8/fitnet-*", ("tune", "tuned")),
    "lock": Subject("out/.locks/digits/resnet14-resnet8/vid-*.lock", ("resume",)),
    "teacher-lock": Subject("out/teachers/digits/resnet14-quick-*.lock", ("more",)),
    "table-lock": Subject("out/tables/digits-resnet14-*.lock", ("filled",)),
    "long-csv": Subject("out/digits.csv", ("report",)),
    "leaderboard": Subject("out/digits/leaderboard.*", ("report",)),
    "suite": Subject("own.toml", ("own",), meant=True),
    "convention": Subject("convention.toml", ("own",), meant=True),
    "plugin": Subject("plugin.py", ("plugin",), meant=True, foreign="(?s)plugin.*"),
    "broken": Subject("broken.py", ("failed",), meant=True, foreign="(?s)broken.*"),
    "speeds": Subject("cache/kdbench/**/*.json", ("dry",)),
    "costs": Subject("cost.csv", ("report",)),
    "picture": Subject("pictures/train/bee/*", ("pictures",), first="pictures-first"),
    "test-picture": Subject("pictures/val/cow/*", ("pictures",), first="pictures-first"),
    "pack": Subject("pack/*", ("packed", "pack"), first="pack"),
    "cifar": Subject("data/cifar-100-python/*", ("cifar",), strict=("cifar",)),
    "import": Subject("net.safetensors", ("import",)),
    "import-pth": Subject("net.pth", ("import-pth",)),
}
#: A command that must be given more time than these seconds waits for what never comes.
_PATIENCE = 90


def prepare(home: Path) -> None:
    """The good folder, and what every command makes of it."""
    good = folder.make(home)
    for verb, words in folder.VERBS.items():
        here = copied(good, home / f"after-{verb}")
        if first := folder.BEFORE.get(verb):
            sound(command(folder.VERBS[first], here, before=folder.reading(here)), {0})
        ended = sound(command(words, here, before=folder.reading(here)), {0, 1})
        (home / f"after-{verb}.json").write_text(json.dumps(ended.code))


def names(home: Path, most: int) -> list[str]:
    """Subject, damage, verb; in an order in which any number of them has some of each."""
    every = [
        f"{subject}/{kind}/{verb}/{again}"
        for subject, one in SUBJECTS.items()
        for kind in KINDS
        for verb in one.verbs
        for again in range(4 if kind in ("flip", "flips", "cut", "other") else 1)
    ]
    step = next(step for step in range(len(every) * 5 // 8, len(every)) if _coprime(step, len(every)))
    return [every[at * step % len(every)] for at in range(min(most, len(every)))]


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1


def hold(one: Try) -> int:
    """A damaged file, and one command that may read it."""
    name, kind, verb, _ = one.name.split("/")
    subject = SUBJECTS[name]
    here = copied(one.home / "good", one.folder / "here")
    if subject.first:
        sound(command(folder.VERBS[subject.first], here, before=folder.reading(here)), {0})
    path = one.draw.choice(sorted(here.glob(subject.where)))
    old = path.read_bytes()
    done = spoil(path, kind, one.draw)
    same = path.is_file() and path.read_bytes() == old
    ended = command(folder.VERBS[verb], here, before=folder.reading(here), killed=_PATIENCE)
    try:
        usual = json.loads((one.home / f"after-{verb}.json").read_text())
        sound(ended, {usual} if same else {0, 1, 2}, but=subject.foreign)
        told = kind == "gone" and "not measured: " in ended.said  # of a student that is not kept, which is no fault
        if ended.code == 0 and not same and verb in subject.strict and not told:
            raise Fault("exit code 0, and nothing was said of it")
        _numbers(here, one.home / f"after-{verb}", subject, verb, ended, path, kind)
    except Fault as fault:
        raise Fault(f"{done}, then {verb}: {fault} (it said: {shortened(ended.said)})") from None
    return 1


def _numbers(here: Path, good: Path, subject: Subject, verb: str, ended: Ended, path: Path, kind: str) -> None:
    """No record and no row is another than without the damage, and those that are missing are told."""
    found, wanted = _records(here / "out"), _records(good / "out")
    for name in found.keys() & wanted.keys():
        ours, theirs = found[name], wanted[name]
        if subject.meant and ours["plugin_sha256"] != theirs["plugin_sha256"]:
            continue
        facts.same({name: ours}, {name: theirs})
    if len({str(one["data"]) for name, one in found.items() if " pictures " in name}) > 1:
        raise Fault("records of two data sets lie in one table")
    started = verb in ("run", "more", "filled", "resume", "midway", "tuned", "own", "cifar")
    if started and ended.code == 0 and not subject.meant and (lost := wanted.keys() - found.keys()):
        raise Fault(f"exit code 0, and {min(lost)} is not there")
    if verb == "report" and ended.code == 0:
        _table(here / "out" / "digits.csv", good / "out" / "digits.csv", ended, path, kind)


def _records(out: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for home in (out, out / "tuned"):
        for one in record.read_all(home / "runs")[0]:
            if one.status == "done":
                found[f"{home.name} {one.suite} {one.pair} {one.method} {one.seed} {one.settings_hash}"] = (
                    one.measured()
                )
    return found


def _table(found: Path, wanted: Path, ended: Ended, path: Path, kind: str) -> None:
    ours, theirs = _rows(found), _rows(wanted)
    for name, row in ours.items():
        if row != theirs.get(name):
            raise Fault(f"row {name} of the table is another")
    # A good file of another cell in its place leaves no trace of the one that it was.
    traced = os.path.lexists(path) and kind != OTHER
    if len(ours) < len(theirs) and traced and path.name not in "".join(ended.said.split()):
        raise Fault(f"{len(theirs) - len(ours)} rows are not in the table, and {path.name} is not named")


def _rows(table: Path) -> Mapping[str, Mapping[str, str]]:
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"{row['teacher']} {row['student']} {row['method']} {row['settings_hash']} {row['status']}": row for row in rows
    }


AREA = Area("damage", 1500, prepare, names, hold)
