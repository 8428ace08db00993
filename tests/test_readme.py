"""What the documents show: commands that exist, with options and values of the right kind, and that run."""

import re
import shlex
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from kdc import cli
from kdc.distill.data._street import scene

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(page: Path) -> list[str]:
    """The lines of fenced blocks and the inline code of a page; a trailing backslash joins lines."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fence = re.compile(r"^ *```.*?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    blocks = [line for block in fence.findall(text) for line in block.splitlines()]
    rest = fence.sub("", text)
    indented = [line for line in rest.splitlines() if line.startswith("    ")]
    return [line.strip().removeprefix("$ ") for line in blocks + indented + re.findall(r"`([^`\n]+)`", rest)]


def commands(page: Path, program: str) -> list[str]:
    return [line for line in dict.fromkeys(code_lines(page)) if line.startswith(f"{program} ") and "..." not in line]


def parse(line: str) -> None:
    """Parse a ``kdc`` line as the program would, running nothing.

    Raises:
        typer.TyperException: no such command or option, or a value of the wrong kind.
    """
    command, context = typer.main.get_command(cli.app), None
    words = cli._spelt_out(shlex.split(line, comments=True)[1:])
    while True:
        group = getattr(command, "commands", None)
        context = command.make_context(command.name or "kdc", words, parent=context, resilient_parsing=bool(group))
        if not group:
            return
        words = [word for word in words if word != "--debug"]
        assert words and words[0] in group, f"no such command: {line}"
        command, words = group[words[0]], words[1:]


SHOWN = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for line in commands(page, "kdc")
    if not {"--help", "--version", "--install-completion"} & {*line.split()}
]


@pytest.mark.parametrize("line", SHOWN)
def test_command_parses(line: str) -> None:
    parse(line)


def test_the_readme_shows_the_main_job() -> None:
    shown = commands(ROOT / "README.md", "kdc")
    main_job = ["kdc distill --teacher r101 --student r18 --method kt", "kdc export trt", "kdc bench latency"]
    assert [line for line in shown if line in main_job] == main_job


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert not [line for line in commands(page, "make") if line.split()[1] not in targets]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("line", ["kdc nothing", "kdc methods ls --nonsense", "kdc distill --iters many"])
def test_a_wrong_command_would_be_seen(line: str) -> None:
    with pytest.raises((typer.TyperException, AssertionError)):
        parse(line)


def test_what_pip_is_told_to_install_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [shlex.split(line, comments=True)[2:] for line in commands(ROOT / "README.md", "pip")]
    needed = {re.split(r"[<>=\[]", each)[0] for each in project["dependencies"]}
    assert lines[0] == ["torch", "torchvision", "--index-url", "https://download.pytorch.org/whl/cpu"]
    assert {"torch", "torchvision"} <= needed  # before kdc, which would bring other builds of them
    assert lines[1] and set(re.findall(r"[\w-]+", lines[1][0])) <= set(project["optional-dependencies"])


#: what makes a command of the README a matter of seconds, by its first words; the rest is as it stands there
_SMALL = "--crop 32x64 --batch 2 --iters 1 --lr 0.0001 --set train.threads=1 --set model.teacher_check=false"
_SCENES = "--size 32x64 --set data.count=4 --set data.val_count=2 --set train.teacher_iters=1"
SMALLER = {
    "kdc distill": _SMALL,
    "kdc train": _SMALL,
    "kdc probe": f"{_SMALL} {_SCENES} --images 2 --batches 1",
    "kdc compare": f"{_SMALL} {_SCENES} --seeds 1",
    "kdc calib": "--images 2",
    "kdc bench latency": "--seconds 0.1 --rounds 2",
    "kdc bench tradeoff": "--seconds 0.1 --rounds 2",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README speaks of: DIR, a picture, a film, more pictures."""
    for i in range(6):
        image, label = scene((32, 64), (0, 0, i))
        split = "train" if i < 4 else "val"
        for kind, pixels in (("images", image[..., ::-1]), ("labels", label)):
            (tmp_path / "DIR" / kind / split).mkdir(parents=True, exist_ok=True)
            assert pixels is not None and cv2.imwrite(str(tmp_path / "DIR" / kind / split / f"{i}.png"), pixels)
    (tmp_path / "more").mkdir()
    picture = np.ascontiguousarray(scene((32, 64), (0, 1, 0))[0][..., ::-1])
    for name in ("street.jpg", "more/a.png", "more/b.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    film = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 32))
    for _ in range(3):
        film.write(picture)
    film.release()
    assert (tmp_path / "drive.mp4").stat().st_size
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_readmes_commands_do_what_they_say(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Typed from top to bottom in one folder, on small images and for one step."""
    blocks = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line[:4] == "kdc "]
    assert len(lines) > 30
    failed = []
    for line in lines:
        words = shlex.split(line)[1:]
        small = next((more for start, more in SMALLER.items() if line.startswith(start)), "")
        small += f" {_SCENES}" if line.startswith(("kdc distill", "kdc train")) and "--data" not in line else ""
        code = cli.run(words if "--help" in words else [*words, *small.split()])
        said = capsys.readouterr()
        gate = line.startswith("kdc calib") and "gate" in said.err  # one step trains no network that survives INT8
        if code and not (code == 6 and gate):
            failed.append((line, code, said.err[-300:]))
    assert not failed
    assert (desk / "runs" / "last" / "export" / "model.onnx").is_file()
