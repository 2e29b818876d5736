"""Which kept students, and which of their teachers, a command looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kdbench import record
from kdbench.record import Record
from kdbench.run import grid, words
from kdbench.run.grid import Cell
from kdbench.utils.findings import TEACHER
from kdbench.utils.globs import fits
from kdbench.utils.wording import quoted


@dataclass(frozen=True)
class Target:
    """One network to look at: a kept student, or the teacher of some.

    ``record`` is the student's; of a teacher it is that of one of its students, which says data and recipe.
    ``teacher`` is beside whom it is looked at; empty where nobody is.
    """

    record: Record
    out: Path
    teacher: str = ""
    teacher_sha256: str = ""
    of_teacher: bool = False

    @property
    def student_file(self) -> Path:
        """Where the kept student lies."""
        return grid.files(self.out, Cell.of(self.record)).student

    @property
    def method(self) -> str:
        """As tables show it."""
        return TEACHER if self.of_teacher else self.record.method

    @property
    def pair(self) -> str:
        """``teacher:student``, the student alone, or the teacher alone."""
        if self.of_teacher:
            return self.teacher
        return f"{self.teacher}:{self.record.student}" if self.teacher else self.record.student

    def __str__(self) -> str:
        if self.of_teacher:
            return f"teacher {self.teacher} ({self.teacher_sha256[:8]})"
        return f"{self.record.method} on {self.pair}, seed {self.record.seed}"

    def file(self, probe: str, settings: str) -> Path:
        """Where what a probe finds is kept; ``settings`` is their hash."""
        student = "" if self.of_teacher else self.record.student
        folder = record.runs_folder(self.out, self.record.suite, self.teacher, student)
        one = self.record
        stem = f"{TEACHER}-{self.teacher_sha256[:12]}"
        if not self.of_teacher:
            stem = record.cell_stem(one.method, one.seed, one.settings_hash)
        return home(self.out) / folder.relative_to(self.out / "runs") / f"{stem}-{probe}-{settings}.json"


def home(out: Path) -> Path:
    """Where everything that probes write lies.

    >>> home(Path("results"))
    PosixPath('results/probes')
    """
    return out / "probes"


@dataclass(frozen=True)
class Choice:
    """What a command looks at.

    ``alone`` are students by themselves, ``beside`` students beside a teacher (one without a teacher of its own
    stands beside each that its pairs have), ``teachers`` these teachers; ``problems`` are records that cannot be read.
    """

    alone: list[Target]
    beside: list[Target]
    teachers: list[Target]
    problems: list[str]


def choose(
    out: Path, suites: Sequence[str] = (), pairs: str = "all", methods: str = "all", seeds: str | None = None
) -> Choice:
    """The finished cells of an output folder that the words name.

    Args:
        out: what ``kdbench run`` wrote to.
        suites: names; none: all that have records.
        pairs: ``all``, ``teacher:student`` or globs of it, with commas between.
        methods: ``all``, methods, rows of a table such as ``semckd[beta=200]``, or globs.
        seeds: a count or a list, as for ``kdbench run``; None: all that are there.

    Raises:
        ValueError: nothing is there, or a word names nothing of it.

    >>> choose(Path("results"))
    Traceback (most recent call last):
    ValueError: no finished runs under results/runs; `kdbench run` makes some, --out names another folder
    """
    found, problems = record.read_all(out / "runs")
    done = [one for one in found if one.status == "done"]
    if not done:
        raise ValueError(f"no finished runs under {out / 'runs'}; `kdbench run` makes some, --out names another folder")
    there = sorted({one.suite for one in done})
    for name in suites:
        if name not in there:
            raise ValueError(f"no finished runs of suite {quoted(name)} under {out / 'runs'}; {_near(name, there)}")
    done = [one for one in done if not suites or one.suite in suites]
    done = _of_methods(done, methods)
    if seeds is not None:
        wanted = words.seeds(seeds, ())
        if not any(one.seed in wanted for one in done):
            has = ", ".join(map(str, sorted({one.seed for one in done})))
            raise ValueError(f"no finished runs with seeds {', '.join(map(str, wanted))}; there are seeds {has}")
        done = [one for one in done if one.seed in wanted]
    every = [one for one in found if one.status == "done" and one.suite in {kept.suite for kept in done}]
    return _of_pairs(out, done, every, pairs, problems)


def _of_methods(done: list[Record], text: str) -> list[Record]:
    labels = sorted({one.method for one in done})
    names = sorted({one.settings.method for one in done})
    chosen: set[str] = set()
    for word in _split(text):
        if word == "all":
            return done
        fitting = {one.method for one in done if fits(word, one.method) or fits(word, one.settings.method)}
        if not fitting:
            raise ValueError(f"no finished runs of method {quoted(word)}; {_near(word, [*labels, *names])}")
        chosen |= fitting
    if not chosen:
        raise ValueError(f"no method is named in {quoted(text)}; there are {', '.join(labels)}")
    return [one for one in done if one.method in chosen]


def _of_pairs(out: Path, done: list[Record], every: list[Record], text: str, problems: list[str]) -> Choice:
    """Students with their teachers; one whose method needs no teacher stands beside those of its pairs."""
    taught: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    for one in every:
        if one.teacher:
            taught.setdefault((one.suite, one.student), {})[one.teacher, one.teacher_sha256] = None
    beside: list[Target] = []
    lonely: list[Target] = []
    for one in done:
        own = [(one.teacher, one.teacher_sha256)] if one.teacher else list(taught.get((one.suite, one.student), ()))
        beside += [Target(one, out, *teacher) for teacher in own]
        if not own:
            lonely.append(Target(one, out))
    words_ = [word for word in _split(text) if word != "all"]
    known = sorted({one.pair for one in [*beside, *lonely]})
    for word in words_:
        if not any(fits(word, pair) for pair in known):
            raise ValueError(f"no finished runs on pair {quoted(word)}; {_near(word, known)}")
    if words_ and "all" not in _split(text):
        beside = [one for one in beside if any(fits(word, one.pair) for word in words_)]
        lonely = [one for one in lonely if any(fits(word, one.pair) for word in words_)]
    alone = {
        (one.record.suite, one.record.pair, one.record.method, one.record.seed, one.record.settings_hash): Target(
            one.record, out, one.record.teacher, one.record.teacher_sha256
        )
        for one in [*beside, *lonely]
    }
    teachers = {
        (one.record.suite, one.teacher, one.teacher_sha256): Target(
            one.record, out, one.teacher, one.teacher_sha256, of_teacher=True
        )
        for one in beside
    }
    return Choice(list(alone.values()), beside, list(teachers.values()), problems)


def _split(text: str) -> list[str]:
    """At commas outside of brackets: ``kd,semckd[beta=1,tau=2]`` are two."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and parts[-1].count("[") > parts[-1].count("]"):
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return [part for part in parts if part]


def _near(word: str, names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    near = get_close_matches(word, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
