"""Who may import whom. An arrow that points the wrong way is told as a sentence."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdbench

PACKAGE = Path(kdbench.__file__).parent
CONTRACT = {"distiller"}
KIT = {"_toy", "_loose", "_onebatch", "_history"}
FREE = {"", "__main__"}  # the public names, and the two-line entry point

#: What a module of kdbench (the first name below the package) may import of the others.
ARROWS: dict[str, set[str]] = {
    "distiller": set(),
    "registry": CONTRACT | {"combine"},
    "combine": CONTRACT | {"registry"},
    "testing": CONTRACT | {"registry"} | KIT,
    **{part: CONTRACT | {"registry"} | KIT for part in KIT},
    "utils": set(),
    "environment": set(),
    "record": {"utils"},
    "suites": {"utils"},
    "grid": {"registry", "record", "suites"},
    "engine": CONTRACT | {"record", "utils"},
    "models": CONTRACT | {"utils"},
    "data": CONTRACT | {"utils"},
    "report": {"record"},
    "methods": CONTRACT | {"registry"},
}
#: These put the parts together and may import everything but cli.
ASSEMBLY = {
    "session",
    "runner",
    "group",
    "outcome",
    "assistants",
    "teaching",
    "tables",
    "finish",
    "console",
    "screens",
    "teacher_verbs",
    "normalisation",
    "remeasure",
    "cards",
    "costs",
    "doctor",
    "estimate",
    "bench",
}
#: Loaded in one place only: what they cost at import is paid by who asks for a report.
HEAVY = {"pandas": {"report"}, "matplotlib": {"report"}}


def imports(file: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether it is done when the file is imported, of every import in a file."""
    tree = ast.parse(file.read_text())
    late = {id(node) for body in ast.walk(tree) if _is_late(body) for node in ast.walk(body)}
    package = ".".join(("kdbench", *file.relative_to(PACKAGE).with_suffix("").parts[:-1]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) not in late
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "kdbench" else [base]
            yield from ((node.lineno, name, id(node) not in late) for name in names)


def _is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def part_of(dotted: str) -> str:
    """``kdbench.engine.fit`` -> ``engine``; a public name such as ``kdbench.Pair`` -> its home."""
    first = [*dotted.split("."), ""][1]
    if first in kdbench.__all__:
        return "registry" if first == "register" else "distiller"
    return "" if first in ("__version__", "__path__") else first


def files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Importing part, imported part, and where, within kdbench."""
    for file in files():
        here = file.relative_to(PACKAGE)
        part = here.parts[0].removesuffix(".py")
        for line, dotted, _ in imports(file):
            if dotted.split(".")[0] == "kdbench":
                yield part.replace("__init__", ""), part_of(dotted), f"kdbench/{here} line {line}"


def test_arrows_point_the_right_way() -> None:
    wrong = [
        f"{where}: {part} may import {', '.join(sorted(ARROWS[part])) or 'nothing of kdbench'}, not {other}"
        for part, other, where in arrows()
        if part in ARROWS and other not in ARROWS[part] | {part, ""}
    ]
    assert wrong == [], "\n".join(wrong)


def test_every_module_has_its_place() -> None:
    parts = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in files()}
    unplaced = parts - set(ARROWS) - ASSEMBLY - {"cli", "__init__", "__main__"}
    assert not unplaced, f"say in ARROWS what {', '.join(sorted(unplaced))} may import"


def test_nobody_imports_cli() -> None:
    wrong = [
        f"{where}: cli is the top, nothing imports it"
        for part, other, where in arrows()
        if other == "cli" and part not in ("cli", "__main__")
    ]
    assert wrong == [], "\n".join(wrong)


def test_nobody_but_the_registry_and_methods_imports_a_method() -> None:
    wrong = [
        f"{where}: ask registry.get for a method"
        for part, other, where in arrows()
        if other == "methods" and part != "methods"
    ]
    assert wrong == [], "\n".join(wrong)


def test_methods_import_the_contract_torch_and_each_other() -> None:
    allowed = {"torch", "kdbench", *sys.stdlib_module_names}
    wrong = []
    for file in sorted((PACKAGE / "methods").glob("*.py")):
        for line, dotted, _ in imports(file):
            first, *rest = dotted.split(".")
            # Shared small modules need types that the public names leave out.
            home = file.stem.startswith("_") and dotted == "kdbench.distiller"
            public = dotted.startswith("kdbench.methods") or home or (rest and rest[0] in kdbench.__all__)
            if first not in allowed or (first == "kdbench" and not public):
                wrong.append(
                    f"methods/{file.name} line {line}: {dotted}; a method takes `from kdbench import ...`,"
                    " torch, another method's public function or _layers"
                )
    assert wrong == [], "\n".join(wrong)


def test_methods_take_only_public_functions_of_each_other() -> None:
    wrong = []
    for file in sorted((PACKAGE / "methods").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdbench.methods."):
                wrong += [
                    f"methods/{file.name} line {node.lineno}: {alias.name} is private to {node.module}"
                    for alias in node.names
                    if alias.name.startswith("_")
                ]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_load_where_they_are_needed(library: str) -> None:
    wrong = [
        f"kdbench/{file.relative_to(PACKAGE)} line {line}: only {', '.join(HEAVY[library])} loads {library}"
        for file in files()
        for line, dotted, _ in imports(file)
        if dotted.split(".")[0] == library and file.relative_to(PACKAGE).parts[0] not in HEAVY[library]
    ]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_answers_without_torch(words: list[str]) -> None:
    heavy = ("torch", "timm", "torchvision", "pandas", "matplotlib")
    code = (
        "import sys\nfrom kdbench.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_files_are_short() -> None:
    long = {str(file.relative_to(PACKAGE)): n for file in files() if (n := len(file.read_text().splitlines())) >= 400}
    assert not long, f"under 400 lines a file, one concern each: {long}"


def test_a_wrong_arrow_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "fit.py").write_text("from ..models import create\nfrom kdbench import Pair, registry\n")
    (tmp_path / "grid.py").write_text("def late():\n    from kdbench import cli\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert {(part, other) for part, other, _ in arrows()} == {
        ("engine", "models"),
        ("engine", "distiller"),
        ("engine", "registry"),
        ("grid", "cli"),
    }
    with pytest.raises(AssertionError, match="engine may import distiller, record, utils, not models"):
        test_arrows_point_the_right_way()
    with pytest.raises(AssertionError, match="cli is the top"):
        test_nobody_imports_cli()
