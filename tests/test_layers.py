"""Who may import whom. An arrow that points the wrong way is told as a sentence."""

import ast
import doctest
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdbench

PACKAGE = Path(kdbench.__file__).parent
#: What a wing of the house (the first name below the package) may import of the others. No file is exempt.
BELOW_RUN = {"distiller", "version", "utils", "suites", "record", "registry", "data", "models", "engine", "tracking"}
WITH_RUN = BELOW_RUN | {"run"}
LIBRARY = WITH_RUN | {"report", "tuning", "probes", "export"}  # the verbs as functions, without a screen
EVERYTHING = LIBRARY | {"testing", "bench", "library", "terminal"}
#: Files of the library that sit in strangers' training loops: they know of networks and methods, not of runs.
BESIDE_A_LOOP = ("attach", "attached", "checks", "create", "facts", "hooks", "sides", "trial")
IN_A_LOOP = {"distiller", "registry", "suites", "models", "engine", "utils"}
ARROWS: dict[str, set[str]] = {
    "distiller": set(),
    "version": set(),
    "utils": {"version"},
    "suites": {"utils"},
    "record": {"utils"},
    "tracking": {"utils", "__init__"},  # in a process of its own, which must not load torch
    "registry": {"distiller"},
    "data": {"distiller", "utils"},
    "models": {"distiller", "utils"},
    "engine": {"distiller", "utils"},
    "report": {"record", "suites", "utils"},
    "testing": {"distiller", "registry", "engine"},
    "run": BELOW_RUN,
    "tuning": WITH_RUN,
    "probes": WITH_RUN | {"bench"},  # the cost probe counts and times as the bench does
    "bench": WITH_RUN,
    "export": WITH_RUN | {"probes"},  # a kept student is loaded where it is measured again
    "library": LIBRARY,
    "terminal": EVERYTHING,
    "cli": EVERYTHING,
    "methods": {"distiller", "registry"},
    "__init__": EVERYTHING - {"terminal"},  # the public names, loaded when they are asked for
    "__main__": {"cli"},
}
#: Loaded in one place only: what they cost at import is paid by who asks for a report.
HEAVY = {"pandas": {"report"}, "matplotlib": {"report"}, "rich": {"terminal"}}


def imports(file: Path) -> tuple[tuple[int, str, bool], ...]:
    """Line, dotted name and whether it is done when the file is imported, of every import in a file."""
    package = ".".join(("kdbench", *file.relative_to(PACKAGE).with_suffix("").parts[:-1]))
    return tuple(_imports(parsed(file.read_text()), package))


#: Of a text; each file is asked for by several tests.
parsed = cache(ast.parse)


@cache
def _late(tree: ast.Module) -> set[int]:
    return {id(node) for body in ast.walk(tree) if _is_late(body) for node in ast.walk(body)}


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str, bool]]:
    late = _late(tree)
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
    if first in ("__version__", "__path__", ""):
        return "version" if first == "__version__" else "__init__"
    return kdbench.home(first).split(".")[1] if first in kdbench.__all__ else first


def files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Importing part, imported part, and where, within kdbench."""
    for file in files():
        here = file.relative_to(PACKAGE)
        for line, dotted, _ in imports(file):
            if dotted.split(".")[0] == "kdbench":
                yield here.parts[0].removesuffix(".py"), part_of(dotted), f"kdbench/{here} line {line}"


def test_arrows_point_the_right_way() -> None:
    wrong = [
        f"{where}: {part} may import {', '.join(sorted(ARROWS[part])) or 'nothing of kdbench'}, not {other}"
        for part, other, where in arrows()
        if part in ARROWS and other not in ARROWS[part] | {part}
    ]
    assert wrong == [], "\n".join(wrong)


def test_what_sits_in_a_training_loop_knows_of_no_run() -> None:
    wrong = [
        f"{where}: {', '.join(sorted(IN_A_LOOP))} is all that it may import, not {other}"
        for part, other, where in arrows()
        if part == "library"
        and any(f"library/{name}.py" in where for name in BESIDE_A_LOOP)
        and other not in IN_A_LOOP | {"library"}
    ]
    assert wrong == [], "\n".join(wrong)


def test_every_file_has_its_place() -> None:
    parts = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in files()}
    assert not parts - set(ARROWS), f"say in ARROWS what {', '.join(sorted(parts - set(ARROWS)))} may import"
    assert len(list(PACKAGE.glob("*.py"))) <= 8, "a new file belongs into a wing"


def module_of(file: Path) -> str:
    return ".".join(("kdbench", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def graph() -> dict[str, set[str]]:
    """Each file of kdbench, as a module, with those that it imports, at any time. A package is its ``__init__``."""
    known = {module_of(file) for file in files()}
    found: dict[str, set[str]] = {}
    for file in files():
        here, targets = module_of(file), set()
        for dotted in named(file):
            while dotted and dotted not in known:
                dotted = dotted.rpartition(".")[0]
            targets |= {dotted} - {here, "", "kdbench"}
        found[here] = targets
    return found


def named(file: Path) -> Iterator[str]:
    """As ``imports``, down to the names: ``from a import b`` gives ``a.b``; ``kdbench.Pair`` is its home."""
    for node in ast.walk(parsed(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                public = node.module == "kdbench" and alias.name in kdbench.__all__
                yield kdbench.home(alias.name) if public else f"{node.module}.{alias.name}"


def test_nothing_goes_round_in_a_circle() -> None:
    """Imports inside functions and for types count: a circle is a circle whenever it is closed."""
    edges = graph()
    del edges["kdbench"]  # the public names, which load when they are asked for
    try:
        tuple(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


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
                    " torch, another method's public function or shared pieces (_layers, _exits)"
                )
    assert wrong == [], "\n".join(wrong)


def test_methods_take_only_public_functions_of_each_other() -> None:
    wrong = []
    for file in sorted((PACKAGE / "methods").glob("*.py")):
        for node in ast.walk(parsed(file.read_text())):
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


def test_a_run_begins_without_what_it_does_not_need(tmp_path: Path) -> None:
    """What others of kdbench load takes seconds; some of it torchvision and timm load themselves, where it is there."""
    words = (
        "run -s digits -m student -p resnet14:resnet8 --seeds 1 --epochs 1 --limit-train 64 --workers 1 --device cpu"
    )
    heavy = ("matplotlib", "sklearn", "ray", "tensorboard", "onnx", "torch._inductor.compile_fx", "kdbench.report.make")
    code = (
        "import sys\nfrom kdbench.cli import main\n"
        f"try:\n    main({[*words.split(), '--out', str(tmp_path)]!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def length(text: str) -> int:
    """Lines of a file; those of examples in docstrings are left out, for no file shall lack one to stay short."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in ast.walk(parsed(text)) if isinstance(node, documented)]
    examples = [one for doc in docs for one in doctest.DocTestParser().get_examples(doc)]
    return len(text.splitlines()) - sum(len((one.source + one.want).splitlines()) for one in examples)


def test_files_are_short() -> None:
    long = {str(file.relative_to(PACKAGE)): n for file in files() if (n := length(file.read_text())) >= 400}
    assert not long, f"under 400 lines a file, one concern each, examples not counted: {long}"


def test_lines_of_examples_are_not_counted() -> None:
    assert length('def one():\n    """Gives 1.\n\n    >>> one()\n    1\n    """\n    return 1\n') == 5


def test_a_wrong_arrow_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("engine", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "engine" / "fit.py").write_text("from ..models import create\nfrom kdbench import Pair, registry\n")
    (tmp_path / "models" / "one.py").write_text("def late():\n    from kdbench.models import other\n")
    (tmp_path / "models" / "other.py").write_text("from kdbench import cli\nimport kdbench.models.one\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert {(part, other) for part, other, _ in arrows()} >= {
        ("engine", "models"),
        ("engine", "distiller"),
        ("engine", "registry"),
        ("models", "cli"),
    }
    with pytest.raises(AssertionError, match="engine may import distiller, utils, not models"):
        test_arrows_point_the_right_way()
    with pytest.raises(AssertionError, match="cli is the top"):
        test_nobody_imports_cli()
    with pytest.raises(AssertionError, match=r"kdbench.models.one imports kdbench.models.other imports"):
        test_nothing_goes_round_in_a_circle()
