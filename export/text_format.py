"""Plain values in the text format of protocol buffers."""

from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """A value of the text format without quotes: the name of an enumeration's member."""


def text_format(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Write plain values in the text format of protocol buffers."""
    for key, value in values.items():
        for each in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
            if isinstance(each, dict):
                yield f"{indent}{key} {{"
                yield from text_format(each, f"{indent}  ")
                yield f"{indent}}}"
            elif not isinstance(each, list):
                yield f"{indent}{key}: {_scalar(each)}"
            elif each:
                yield f"{indent}{key}: [{', '.join(_scalar(one) for one in each)}]"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
