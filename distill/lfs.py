"""Git LFS leaves a few lines of text in the place of a file that was not fetched."""

from pathlib import Path

_FIRST = b"version https://git-lfs.github.com/spec/"


def is_pointer(content: bytes) -> bool:
    """Tell whether a file's bytes, or the first of them, are such a text."""
    return content.startswith(_FIRST)


def pointer_at(path: Path) -> str:
    """Return what a file is, with the cure, where it is such a text; else an empty string."""
    try:
        with path.open("rb") as file:
            return CURE if path.is_file() and is_pointer(file.read(len(_FIRST))) else ""
    except OSError:
        return ""


CURE = "is a git-lfs pointer, not the file that it stands for; fetch that: git lfs pull"
