"""The house: which folders there are, what lies at the top, how long files are, what is imported when."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("calib", "deploy", "distill", "export")
#: a new method, network or data set is a new file there, so they may grow; their helpers begin with an underscore
REGISTRIES = {ROOT / "distill" / name for name in ("data", "methods", "models")}
#: the most Python files in any other folder
MOST_FILES = 22
SOURCES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"])

#: Files that may be longer than the rest, with the reason.
LONG: dict[str, str] = {}
#: Nothing of these before a command runs: `kdc --help` answers at once.
HEAVY = {"torch", "torchvision", "numpy", "cv2", "timm", "onnx", "onnxruntime", "onnxscript", "jinja2"}
HEAVY |= {"lightning_fabric", "pydantic", "yaml", "safetensors", "tensorrt", "tensorrt_rtx", "rich", "PIL", "scipy"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_at_top(file: Path) -> set[str]:
    """Names of the packages that a module imports when it is imported itself (not those inside functions)."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_package_list_equals_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {file.parent for file in SOURCES}
    expected = {".".join(("kdc", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(listed) == expected
    assert listed == sorted(listed)
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_root_holds_four_python_files() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "api.py", "cli.py"}


@pytest.mark.parametrize("word", ["utils", "util", "common", "core", "helpers", "helper", "misc"])
def test_no_catch_all_names(word: str) -> None:
    assert not [
        relative(file) for file in SOURCES if word in (*file.relative_to(ROOT).parts[:-1], file.stem.strip("_"))
    ]


def test_files_are_right_sized() -> None:
    lengths = {relative(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert not {name: lines for name, lines in lengths.items() if lines > 350 and name not in LONG}
    assert not [name for name in LONG if lengths.get(name, 0) <= 350], "take it off the list"


def test_every_module_opens_with_a_sentence() -> None:
    for file in SOURCES:
        opening = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        assert opening and opening.split("\n\n")[0].rstrip().endswith((".", ")")), relative(file)


def is_command(file: Path) -> bool:
    return file.stem.removesuffix("s").endswith("command") or file.parent.name == "commands"


def test_folders_are_right_sized() -> None:
    sizes = {folder: len([*folder.glob("*.py")]) for folder in {file.parent for file in SOURCES} - REGISTRIES}
    assert not {relative(folder): size for folder, size in sizes.items() if size > MOST_FILES}


def test_an_underscore_means_helper_of_a_registry() -> None:
    private = [file for file in SOURCES if file.name.startswith("_") and not file.name.startswith("__")]
    assert not [relative(file) for file in private if file.parent not in REGISTRIES]


def test_commands_are_cheap_to_import() -> None:
    for file in (file for file in SOURCES if is_command(file) or file.stem == "flags"):
        assert not imports_at_top(file) & HEAVY, relative(file)


def test_only_commands_import_commands() -> None:
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in SOURCES if is_command(file)}
    doors = ("api.py", "cli.py", "flags.py")
    for file in (file for file in SOURCES if not is_command(file) and file.name not in doors):
        folder = file.relative_to(ROOT).parts[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                start = [
                    *folder[: len(folder) - node.level + 1],
                    *((node.module or "").split(".") if node.module else ()),
                ]
                imported = {".".join(start), *(".".join([*start, alias.name]) for alias in node.names)}
                assert not imported & names, f"{relative(file)}:{node.lineno}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_its_docstring_only(room: str) -> None:
    body = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1


def test_no_file_shadows_a_library() -> None:
    assert not [relative(file) for file in SOURCES if file.stem in HEAVY]


def test_nothing_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|mnt|Users)/\w")
    hits = [
        f"{relative(file)}:{number}: {line.strip()}"
        for file in (*TEXTS, *SOURCES)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert not hits
