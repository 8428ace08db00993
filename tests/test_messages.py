"""What the package's texts advise: every command and every flag that they name exists, and fits where it is named."""

import ast
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from kdc import cli

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("calib", "deploy", "distill", "export")
SOURCES = sorted([ROOT / "cli.py", ROOT / "api.py", *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
ADVICE = re.compile(r"\bkdc ([a-z][\w-]*)((?:[ |][^ \n;,()'\"`]+)*)")
#: what is no command and looks like one
PROSE = {"exported", "uses", "compares", "runs the"}
#: flags of other programs, and of the runner in a bundle
OTHERS = {"--index-url", "--model-repository", "--check", "--help", "--debug", "--install", "--force-reinstall"}
OTHERS |= {"--gpu-architecture", "--query-gpu", "--query-compute-apps", "--format", "--always", "--dirty"}
#: whose messages they are: what a file advises without naming a command is a flag of one of these
OF = {
    "calib/": ("calib", "export onnx", "export trt"),
    "export/to_aoti.py": ("export aoti",),
    "export/to_bundle.py": ("export bundle",),
    "export/to_openvino.py": ("export openvino",),
    "export/to_triton.py": ("export triton", "export onnx"),
    "export/to_trt.py": ("export trt",),
    "export/trt_": ("export trt",),
    "export/from_file.py": ("export onnx",),
    "export/graph.py": ("export onnx",),
    "deploy/parity/": ("parity", "export onnx", "export trt", "export openvino", "calib"),
    "deploy/predict/": ("predict", "eval"),
    "deploy/bench/": ("bench latency", "bench throughput", "bench memory", "bench accuracy", "bench flops", "eval"),
}


@cache
def tree() -> dict[str, set[str]]:
    """Return the flags of every command, by its words."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        found[" ".join(words)] = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*words, name))

    walk(typer.main.get_command(cli.app), ())
    return found


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file with their lines; what is put in when it runs is ``X``, docstrings are left out."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inside |= {id(each) for each in node.values}
            parts = [each.value if isinstance(each, ast.Constant) else "X" for each in node.values]
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def faults(text: str, own: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield what a text advises and does not exist."""
    rest, commands = text, tree()
    groups = {name.partition(" ")[0] for name in commands if " " in name}
    for first, more in ADVICE.findall(text):
        words = [word.rstrip(".") for word in more.replace("|", " ").split()]
        named = [f"{first} {word}" for word in words[: more.partition(" --")[0].count("|") + 1]]
        named = named if first in groups and words and words[0][0].islower() else [first.rstrip(".")]
        if not all(name in commands for name in named):  # prose, such as "kdc itself", is like no command
            like = any(get_close_matches(name, commands, cutoff=0.7) for name in named)
            if "--" in more or (like and not PROSE.intersection(named)):
                yield f"kdc {' or '.join(named)} is no command"
            continue

        for flag in FLAG.findall(more):
            rest = rest.replace(flag, "", 1)
            has = any(flag in commands.get(name, ()) for name in named)
            if "X" not in words[:1] and flag not in OTHERS and not has:
                yield f"kdc {' or '.join(named)} has no {flag}"

    known = set().union(*(tree()[name] for name in own)) if own else set().union(*tree().values())
    for flag in FLAG.findall(rest):
        if flag not in known | OTHERS:
            yield f"{flag} is no flag of kdc {' or '.join(own)}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_what_is_advised_exists(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    own = next((commands for start, commands in OF.items() if name.startswith(start)), ())
    found = [f"{name}:{line}: {fault}" for line, text in texts(file) for fault in faults(text, own)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("make it with: kdc calibrate RUN", "kdc calibrate is no command"),
        ("kdc export tensorrt builds it", "kdc export tensorrt is no command"),
        ("do: kdc report RUN --size 3x3", "kdc report has no --size"),
        ("leave out --nonsense", "--nonsense is no flag of kdc "),
    ],
)
def test_wrong_advice_would_be_seen(text: str, fault: str) -> None:
    assert list(faults(text)) == [fault]
