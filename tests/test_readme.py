"""Every command that the documents show exists, with those options and values of the right kind."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from kdc import cli

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
    if "--help" not in line and "--version" not in line
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
