"""From a name to a method's class: the methods/ folder, plug-in files, entry points, ``a+b``.

One file that cannot be imported never hides the others: it is listed as broken, with its
sentence, and asking for it says why.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module, metadata, util
from pathlib import Path

from kdbench.distiller import Distiller
from kdbench.registry import digests
from kdbench.registry._words import quoted
from kdbench.registry.combine import combined

_GROUP = "kdbench.methods"
_PLUGIN = "kdbench_plugin_"

#: Methods that a reader of the literature looks for and will not find, with the reason.
ABSENT = {
    "dml": "two students teach each other, so it needs a second network with an optimizer of its own; here a lane"
    " trains one student, and a method is never given a network",
    "dot": "it is a rule for the gradients of any method's loss, not a loss; write --set recipe.gradients=dot beside"
    " one such as kd",
    "deepkd": "it is a rule for the gradients of any method's loss, not a loss; write --set recipe.gradients=deepkd"
    " beside one such as kd or dkd",
    "fcfd": "it sends maps through the student's own remaining stages along paths drawn at random, so it needs the"
    " student's network in hand, with statistics of its own; here only the engine has it, and how paths are drawn is"
    " not published exactly enough to be written anew",
    "vkd": "of its loss we know the orthogonal projection and a smooth L1, but neither which features of a"
    " convolutional pair it compares nor the weight, so it would be our invention under its name",
    "srd": "whether the sum under its logarithm runs over an image or over the batch, and which way its KL goes, is not"
    " known to us exactly enough, so it would be our invention under its name",
    "l2t_ww": "its weights learn from a gradient through several updates of the student, so it needs the student and"
    " its optimizer in hand; here only the engine has them, so that two rows differ by the loss alone",
}

_classes: dict[str, type[Distiller]] = {}
_broken: dict[str, str] = {}
_refused: dict[str, str] = {}  # plug-ins that were asked for and could not be loaded
_attending: list[Callable[[str, Callable[[], object]], object]] = []


def register(cls: type[Distiller]) -> type[Distiller]:
    """Class decorator: puts a method into the registry under the name of its file.

    Raises:
        ValueError: the class is no Distiller, or the name is taken by another module.

    >>> @register
    ... class Mine(Distiller):
    ...     pass
    >>> get(Mine.__module__.rpartition(".")[2]) is Mine
    True
    """
    if not (isinstance(cls, type) and issubclass(cls, Distiller)):
        raise ValueError(f"@register takes a subclass of kdbench.Distiller, not {cls!r}")
    name = cls.__module__.rpartition(".")[2].removeprefix(_PLUGIN)
    if name == "__main__":  # a notebook, or the script itself
        name = cls.__name__.lower()
    if name == "all":
        raise ValueError("no method can be named all, which stands for every method; rename its file")
    there = _classes.get(name)
    if there is not None and there.__module__ != cls.__module__:
        raise ValueError(f"method {name!r} is defined twice: in {_file(there)} and in {_file(cls)}; rename one file")
    if there is not None and there.__qualname__ != cls.__qualname__:
        raise ValueError(f"{_file(cls)} registers two methods; one file holds one method")
    if not cls.__module__.startswith(("kdbench.", _PLUGIN)):
        digests.registered(cls)
    _classes[name] = cls
    return cls


def name_of(cls: type[Distiller]) -> str:
    """The name a class was registered under; of a combination, those of its components, ``a+b``.

    Raises:
        ValueError: it was not.

    >>> name_of(get("mag + crd"))
    'crd+mag'
    """
    return "+".join(_name_of(part) for part in cls.components())


def _name_of(cls: type[Distiller]) -> str:
    for name, known in _classes.items():
        if known is cls:
            return name
    raise ValueError(f"{cls.__name__} is not registered; put @register above it")


def names() -> list[str]:
    """Every method that can be used, sorted.

    >>> {"kd", "semckd", "student"} <= set(names())
    True
    """
    _discover()
    return sorted(_classes)


def broken() -> dict[str, str]:
    """Methods that could not be imported, with the reason.

    >>> broken()
    {}
    """
    _discover()
    return dict(_broken)


def get(name: str) -> type[Distiller]:
    """The class of one name, or of a combination such as ``mag+crd``.

    Raises:
        ValueError: unknown, with the nearest names; or broken or left out, with the reason.

    >>> get("fitnet").__name__, get("fitnet+mag").__name__
    ('FitNet', 'fitnet+mag')
    >>> get("fitnets")
    Traceback (most recent call last):
    ValueError: no method 'fitnets'; did you mean fitnet...?
    """
    _discover()
    parts = sorted(part.strip() for part in name.split("+"))
    if not all(parts):
        missing = "there is no method" if len(parts) == 1 else "a + has no method beside it"
        raise ValueError(f"{missing} in {quoted(name)}; write a name, or two with a + between them")
    if len(set(parts)) < len(parts):
        raise ValueError(f"{quoted(name)} names a method twice")
    found = tuple(_look_up(part) for part in parts)
    return found[0] if len(found) == 1 else combined(tuple(parts), found)


def _look_up(name: str) -> type[Distiller]:
    if name in _classes:
        return _classes[name]
    if name in _broken:
        raise ValueError(f"method {name!r} is there but broken: {_broken[name]}")
    if name in _refused:
        raise ValueError(_refused[name])
    if name in ABSENT:
        raise ValueError(f"method {name!r} is left out: {ABSENT[name]}")
    low = name[:100].lower()
    near = [low] if low in _classes else get_close_matches(low, _classes, n=3, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
    raise ValueError(f"no method {quoted(name)}; {known}")


def load_plugin(path: str | Path) -> str:
    """Import a method from a file of the user's, or networks (``kdbench.register_model``); returns the file's name.

    Raises:
        ValueError: no such file, it cannot be imported, it registers nothing, or its name is taken.

    >>> load_plugin("nowhere.py")
    Traceback (most recent call last):
    ValueError: no plug-in file 'nowhere.py'
    """
    _discover()  # so that a plug-in never takes the name of a method of ours
    try:
        file = Path(path).expanduser().resolve()
        there = file.is_file()
    except (OSError, RuntimeError, ValueError):  # no such user; a name that no file can have
        there = False
    if not there:
        _refused[Path(path).stem] = f"no plug-in file {quoted(path, 200)}"
        raise ValueError(_refused[Path(path).stem])
    _refused.pop(file.stem, None)
    try:
        return _loaded(file, path)
    except ValueError as error:
        _refused[file.stem] = str(error)
        raise


def _loaded(file: Path, path: str | Path) -> str:
    name = file.stem
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"plug-in {file.name}: the file's name is the method's; use letters, digits, - and _ only")
    module_name = _PLUGIN + name
    if module_name in sys.modules and digests.known(str(file)) not in ("", _sha256(file.read_bytes())):
        raise ValueError(f"plug-in {file.name} was changed after it was loaded; start Python anew to use it")
    if name in _classes and Path(_file(_classes[name])).resolve() == file:
        return name  # one of ours, written as a path
    if module_name in sys.modules:
        other = getattr(sys.modules[module_name], "__file__", None)
        if other == str(file):
            return name
        raise ValueError(f"method {name!r} is defined twice: in {other} and in {file}; rename one file")
    spec = util.spec_from_file_location(module_name, file)
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise ValueError(f"plug-in {str(path)!r} is not a Python file")
    module = util.module_from_spec(spec)
    sys.modules[module_name] = module
    others = _classes.copy()
    try:
        text = file.read_bytes()  # what is hashed is what is run: no compiled file of before, no edit in between
        digests.imported(str(file), text)
        exec(compile(text, str(file), "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        _forget(module_name)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"plug-in {file.name} cannot be imported: {_sentence(error)}") from error
    finally:
        taken = sorted(one for one, cls in others.items() if _classes.get(one) is not cls)
        _classes.update(others)
    if taken:
        _forget(module_name)
        raise ValueError(f"plug-in {file.name} puts something else in the place of {', '.join(taken[:3])}; rename it")
    own = name in _classes and _classes[name].__module__ == module_name
    if not own and not any(hasattr(one, "__kdbench_model__") for one in vars(module).values()):
        _forget(module_name)
        raise ValueError(f"plug-in {file.name} registers no method; put @register above its class")
    return name


def unload(name: str, why: str) -> None:
    """Forget a plug-in again; who asks for its method is told why.

    >>> unload("nothing", "plug-in nothing.py registers no method")
    >>> get("nothing")
    Traceback (most recent call last):
    ValueError: plug-in nothing.py registers no method
    """
    _forget(_PLUGIN + name)
    _refused[name] = why


def strangers() -> list[str]:
    """What another process must load to know the same methods and networks: plug-in files, in their order, as paths.

    Methods of modules that the user has imported himself are named as ``module:NAME``. Entry points need no telling.

    >>> "module:kdbench.methods.kd" in strangers()
    False
    """
    points = {point.module for point in metadata.entry_points(group=_GROUP)}
    own = [cls.__module__ for cls in _classes.values()]
    others = [name for name in own if not name.startswith((_PLUGIN, "kdbench.methods.")) and name not in points]
    return [*plugin_files(), *(f"module:{name}" for name in dict.fromkeys(others))]


def plugin_files() -> list[str]:
    """The plug-in files that are loaded, in their order, as paths.

    >>> [file for file in plugin_files() if file.endswith("methods/kd.py")]
    []
    """
    return [
        str(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith(_PLUGIN) and getattr(module, "__file__", None)
    ]


def source_sha256(name: str) -> str:
    """sha256 of the file of a method that is not kdbench's own, or of its code where there is no file; empty for ours.

    Raises:
        ValueError: see ``get``.

    >>> source_sha256("kd")
    ''
    """
    others = [cls for cls in get(name).components() if not cls.__module__.startswith("kdbench.methods.")]
    found = [digests.of(cls) for cls in sorted(others, key=_file)]
    return found[0] if len(found) == 1 else _sha256("".join(found).encode()) if found else ""


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def idea(cls: type[Distiller]) -> str:
    """First line of the method's file: its idea in one sentence.

    >>> idea(get("student"))
    "The plain student: cross-entropy with the labels, no teacher. Every table's base line."
    """
    module = sys.modules.get(cls.__module__)
    return (inspect.getdoc(module) or inspect.getdoc(cls) or "").partition("\n")[0] if module else ""


@cache
def _discover() -> None:
    homes = [Path(home) / "methods" for home in sys.modules["kdbench"].__path__]
    for file in sorted({f for home in homes if home.is_dir() for f in home.glob("[!_]*.py")}):
        module_name = f"kdbench.methods.{file.stem}"
        _try(file.stem, module_name, partial(import_module, module_name))
    for point in metadata.entry_points(group=_GROUP):
        load: Callable[[], object] = point.load
        for around in _attending:
            load = partial(around, f"the package of entry point {point.name!r}", load)
        _try(point.name, point.module, load)


def attend(around: Callable[[str, Callable[[], object]], object]) -> None:
    """Let entry points be loaded by ``around``, which is given what is loaded, for a sentence, and how.

    >>> attend(lambda what, load: load())
    >>> _attending.clear()
    """
    _attending[:] = [around]


def _try(name: str, module_name: str, load: Callable[[], object]) -> None:
    try:
        load()
        if name not in _classes:
            raise ValueError(f"it registers no method {name!r}; put @register above the class, in {name}.py")
    except (Exception, SystemExit) as error:  # whatever a stranger's file does must not hide the others
        _forget(module_name)
        _broken[name] = _sentence(error)


def _forget(module_name: str) -> None:
    """A module that failed half-way leaves no method behind."""
    sys.modules.pop(module_name, None)
    for name in [name for name, cls in _classes.items() if cls.__module__ == module_name]:
        del _classes[name]


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _file(cls: type[Distiller]) -> str:
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or cls.__module__)
