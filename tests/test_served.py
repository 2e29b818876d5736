"""The table of who serves whom: whole, without a crash, and true where it is tried again."""

from pathlib import Path

import pytest

from kdbench import registry
from kdbench.bench import served

TABLE = Path(__file__).parents[1] / "results" / "served.md"
NETWORKS = ("timm/test_vit", "timm/test_convnext")
#: Of every family; all of them take minutes. The fast suite has a served one of each kind of outputs, and two refused.
METHODS = ("kd", "crd", "fitnet", "at", "semckd", "ofd", "ab", "simkd", "reviewkd", "fsp")
QUICK = ("crd", "semckd", "ofd", "fsp")


def cells() -> dict[str, list[str]]:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}


def test_the_table_has_every_method_and_no_crash() -> None:
    assert list(cells()) == sorted([*registry.names(), *served.VARIANTS])
    assert all(len(row) == len(served.NETWORKS) for row in cells().values())
    assert "crash" not in TABLE.read_text(encoding="utf-8").partition("| method")[2]


@pytest.mark.parametrize(
    ("name", "methods"),
    [(NETWORKS[0], QUICK), *(pytest.param(name, METHODS, marks=pytest.mark.slow) for name in NETWORKS)],
)
def test_the_table_is_true(name: str, methods: tuple[str, ...]) -> None:
    found = served.survey(methods, name)
    at = list(served.NETWORKS.values()).index(name)
    sentences = TABLE.read_text(encoding="utf-8").splitlines()
    for method in methods:
        for sign, role in zip(cells()[method][at].split(), ("student", "teacher"), strict=True):
            one = found[method, name, role]
            assert one.verdict in ("served", "refused"), one
            assert (sign == "+") == (one.verdict == "served")
            if one.sentence:
                assert f"{sign}. {one.sentence}" in sentences


def test_a_crash_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(registry.get("kd"), "loss", broken)
    assert served.survey(["kd"], "timm/test_resnet")["kd", "timm/test_resnet", "student"].verdict == "crashed"
