"""The values that <TAB> offers for flags and arguments: names of files, so that no torch is imported."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

_HOME = Path(__file__).resolve().parents[1]
_RUNS = Path("runs")


def completed(parameter: inspect.Parameter) -> inspect.Parameter:
    """Let a command's parameter complete its values, by its name, or by what its metavar says that it takes."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    mark = get_args(parameter.annotation)[1]
    if values := _values(parameter.name, mark.metavar or ""):
        mark.autocompletion = _completer(values)
    return parameter


def _values(name: str, metavar: str) -> Callable[[], list[str]] | None:
    """Return the function that lists the values of a parameter, if any are known."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    words = metavar.strip("[]").split("|")
    known = [_BY_WORD[word] for word in words if word in _BY_WORD]
    literal = [word for word in words if re.fullmatch("[a-z][a-z-]*", word)]
    return (lambda: [*literal, *(value for each in known for value in each())]) if known or literal else None


def _completer(values: Callable[[], list[str]]) -> Callable[[Any, list[str], str], list[str]]:
    """Complete the last of several names joined by ``+`` or ``,``; where none fits, the shell itself offers files."""

    def complete(ctx: Any, args: list[str], incomplete: str) -> list[str]:
        start = max(incomplete.rfind("+"), incomplete.rfind(",")) + 1
        done, part = incomplete[:start], incomplete[start:]
        return [f"{done}{value}" for value in values() if value.startswith(part)]

    return complete


def methods() -> list[str]:
    """Return the names of the methods."""
    return [name.replace("_", "-") for name in _files("methods")]


def models() -> list[str]:
    """Return names of networks, ``architecture-backbone``; the table of backbones is read, not imported."""
    tree = ast.parse((_HOME / "models" / "_backbones.py").read_text(encoding="utf-8"))
    tables = [(ast.unparse(node.targets[0]), node.value) for node in tree.body if isinstance(node, ast.Assign)]
    keys = next(table.keys for name, table in tables if name == "BACKBONES" and isinstance(table, ast.Dict))
    backbones = [key.value for key in keys if isinstance(key, ast.Constant)]
    return [f"{arch}-{backbone}" for arch in _files("models") for backbone in backbones]


def students() -> list[str]:
    """Return networks, and backbones alone, which take ``--arch``."""
    names = models()
    return [*dict.fromkeys(name.partition("-")[2] for name in names), *names]


def teachers() -> list[str]:
    """Return what may teach."""
    return ["self", *students(), *runs()]


def presets() -> list[str]:
    """Return the published recipes."""
    from ..settings.presets import PRESETS

    return sorted(PRESETS)


def data() -> list[str]:
    """Return the data sets that have a name, and the folders here."""
    return [*(name for name in _files("data") if name != "folder"), *_folders()]


def papers() -> list[str]:
    """Return the papers with tables."""
    return ["all", *sorted(path.stem for path in (_HOME / "papers").glob("*.yaml"))]


def runs() -> list[str]:
    """Return the runs in ``runs/``, the newest first."""
    names = sorted((path.parent.name for path in _RUNS.glob("*/run.json")), reverse=True)
    return names if "last" in names or not names else ["last", *names]


def _folders() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(registry: str) -> list[str]:
    """Return the names in a registry: its files."""
    return sorted(path.stem for path in (_HOME / registry).glob("[!_]*.py"))


#: by the name of a parameter
_BY_NAME = {
    "method": methods,
    "methods": methods,
    "student": students,
    "teacher": teachers,
    "preset": presets,
    "data": data,
    "paper": papers,
    "arch": lambda: _files("models"),
    "split": lambda: ["train", "val", "test"],
}
#: by a word of a metavar
_BY_WORD = {"RUN": runs, "MODEL": students, "METHOD": methods, "DATA": data}
