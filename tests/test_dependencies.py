"""What the package imports is what pyproject.toml asks for, and the other way round."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("calib", "deploy", "distill", "export")
SOURCES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: what a package is imported as, where it is not its own name with underscores
MODULES = {
    "cuda-python": {"cuda"},
    "nvidia-ml-py": {"pynvml"},
    "nvidia-modelopt": {"modelopt"},
    "onnxruntime-gpu": {"onnxruntime"},
    "opencv-python-headless": {"cv2"},
    "pillow": {"PIL"},
    "protobuf": {"google"},
    "pyyaml": {"yaml"},
    "tensorrt": {"tensorrt", "tensorrt_libs"},
}
#: asked for and not imported by name, with the reason
UNNAMED = {
    "onnxscript": "torch.onnx exports with it",
    "tensorrt": "the manifest names the flavour",
    "tensorrt_rtx": "the manifest names the flavour",
    "tritonclient": "kdc doctor looks for it",
}
#: calls that import by name
CALLS = {"need", "import_module", "importlib.import_module", "find_spec", "importlib.util.find_spec"}


def modules(requirements: Iterable[str]) -> set[str]:
    """Return the modules of requirements, the project's own extras left out."""
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements} - {"kdc"}
    return {module for name in names for module in MODULES.get(name, {name.replace("-", "_")})}


def imports(tree: ast.AST) -> set[str]:
    """Return the packages that a module imports anywhere, by a statement or by a call that holds the name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS and node.args:
            name = node.args[0]
            found |= {name.value} if isinstance(name, ast.Constant) and isinstance(name.value, str) else set()
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names


CORE = modules(PROJECT["dependencies"])
EXTRA = modules(each for name, extra in PROJECT["optional-dependencies"].items() if name != "dev" for each in extra)
IMPORTED = {file: imports(ast.parse(file.read_text(encoding="utf-8"))) for file in SOURCES}


def test_every_import_is_declared() -> None:
    undeclared = {file.relative_to(ROOT).as_posix(): names - CORE - EXTRA for file, names in IMPORTED.items()}
    assert not {file: names for file, names in undeclared.items() if names}


def test_every_dependency_is_imported() -> None:
    assert (CORE | EXTRA) - set().union(*IMPORTED.values()) == set(UNNAMED)


def test_what_only_an_extra_brings_is_imported_late() -> None:
    early = {
        file.stem
        for file in SOURCES
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and imports(node) & (EXTRA - CORE)
    }
    assert all("pycuda" in name for name in early)  # a file that is imported late itself


def test_messages_recommend_extras_that_exist() -> None:
    for file in [*SOURCES, ROOT / "README.md", ROOT / "Makefile"]:
        for group in re.findall(r"(?:kdc|'?\.)\[([a-z][a-z,-]*)\]", file.read_text(encoding="utf-8")):
            assert set(group.split(",")) <= set(PROJECT["optional-dependencies"]), (file.name, group)
        for extra in re.findall(r'(?<![.\w])need\("[\w.]+", "([\w-]+)"\)', file.read_text(encoding="utf-8")):
            assert extra in PROJECT["optional-dependencies"], (file.name, extra)
