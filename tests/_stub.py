"""Write ``api.pyi``, which tells editors what ``kdc.api`` holds: ``python tests/_stub.py``."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

from kdc import api

FILE = Path(__file__).resolve().parents[1] / "api.pyi"
HEAD = '"""What editors are told about ``kdc.api``; written by ``python tests/_stub.py``."""'
#: what a flag's metavar, or an argument's name, says of the text that it takes
A_PATH = re.compile(r"\b(RUN|FILE|DIR|PATH|SOURCE|SRC)\b")
A_SIZE = re.compile(r"\bHxW\b")


class Stub:
    """The text of the stub, and the types that it names: name -> module."""

    def __init__(self) -> None:
        self.imports = {"Path": "pathlib", "Sequence": "collections.abc"}

    def text(self) -> str:
        """Return the whole file."""
        functions = [self.function(name, getattr(api, name)) for name in dir(api) if name != "progress"]
        return "\n".join([HEAD, "", *self.import_lines(), "", "progress: bool", "", *functions])

    def function(self, name: str, function: Callable[..., Any]) -> str:
        """Return one function: a line for each argument, and its docstring; with ``dry_run`` it returns its plan."""
        signature, module = inspect.signature(function), function.__module__
        lines = {}
        for each in signature.parameters.values():
            default = "" if each.default is each.empty else f" = {_literal(each.default)}"
            lines[each.name] = f"    {each.name}: {self.argument(each, module)}{default},\n"

        first, *rest = (inspect.getdoc(function) or "").split("\n")
        text = textwrap.indent("\n".join([f'"""{first}', *rest]), "    ") + ('\n    """' if rest else '"""')
        returned = self.type(signature.return_annotation, module).split(" | ")
        plan = next((kind for kind in returned if kind.endswith("Plan")), None)
        if plan is None or "dry_run" not in lines:
            return _definition(name, lines, returned, text)

        self.note("Literal", "typing")
        self.note("overload", "typing")
        del lines["dry_run"]
        real = lines | {"dry_run": "    dry_run: Literal[False] = False,\n"}
        dry = lines | {"dry_run": "    *,\n    dry_run: Literal[True],\n"}
        others = [kind for kind in returned if kind != plan]
        planned = '    """Return the plan; write nothing."""'
        both = _definition(name, real, others, text), _definition(name, dry, [plan], planned)
        return "\n".join(f"@overload\n{each}" for each in both)

    def argument(self, parameter: inspect.Parameter, module: str) -> str:
        """Return the type of what is accepted for a flag: ``api`` makes the flag's own type of it."""
        annotation, mark = parameter.annotation, None
        if get_origin(annotation) is Annotated:
            annotation, mark = get_args(annotation)[:2]
        elif annotation is not str:
            return self.type(annotation, module)
        hint = getattr(mark, "metavar", None) or parameter.name.upper()

        kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
        words: list[str] = []
        for kind in kinds:
            if get_origin(kind) is list:
                one = _accepted(get_args(kind)[0], hint)
                words += [*one, f"Sequence[{' | '.join(one)}]"]
            else:
                words += _accepted(kind, hint)
        return " | ".join(words)

    def type(self, annotation: Any, module: str) -> str:
        """Return a type as the function's file writes it, and note where its names come from."""
        if get_origin(annotation) is UnionType:
            return " | ".join(self.type(each, module) for each in get_args(annotation))
        if annotation in (None, NoneType):
            return "None"
        if isinstance(annotation, str):
            known = _names(module)
            used = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
            for name in used & known.keys():
                self.note(name, known[name])
            return annotation
        if get_origin(annotation) is not None or annotation.__module__ == "builtins":
            return inspect.formatannotation(annotation)
        self.note(annotation.__name__, "pathlib" if annotation is Path else annotation.__module__)  # not pathlib._local
        return annotation.__name__

    def note(self, name: str, module: str) -> None:
        """Import a name (ValueError where two modules have one of that name)."""
        if self.imports.setdefault(name, module) != module:
            raise ValueError(f"{name} is in {self.imports[name]} and in {module}")

    def import_lines(self) -> list[str]:
        """Return the imports: Python's, then, after an empty line, kdc's relative ones."""
        modules: dict[str, list[str]] = {}
        for name, module in self.imports.items():
            modules.setdefault(module.removeprefix("kdc"), []).append(name)
        lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]
        kdc = [line for line in lines if line.startswith("from .")]
        return [*(line for line in lines if line not in kdc), "", *kdc]


def _definition(name: str, lines: dict[str, str], returned: list[str], text: str) -> str:
    arguments = "".join(["\n", *lines.values()]) if lines else ""
    return f"def {name}({arguments}) -> {' | '.join(returned)}:\n{text}\n"


def _accepted(kind: type, hint: str) -> list[str]:
    if kind is Path or (kind is str and A_PATH.search(hint)):
        return ["str", "Path"]
    if kind is str and A_SIZE.search(hint):
        return ["str", "tuple[int, int]"]
    return ["None" if kind is NoneType else kind.__name__]


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _names(module: str) -> dict[str, str]:
    """Return where the names of a module come from: its classes, and its imports, also those for type checkers."""
    body = ast.parse(inspect.getsource(import_module(module))).body
    body += [node for block in body if isinstance(block, ast.If) for node in block.body]
    names = {node.name: module for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            home = resolve_name(f"{'.' * node.level}{node.module}", module.rpartition(".")[0])
            names |= {alias.name: home for alias in node.names}
    return names


if __name__ == "__main__":
    FILE.write_text(Stub().text(), encoding="utf-8")
