"""YAML in which ``{split}`` is text: YAML itself would take the brace for the start of a mapping."""

import re
from typing import Any

import yaml

_SPLIT = re.compile(r"(?m)^(\s*[\w.]+\s*:\s*)(\{split\}\S*)")


def parse_yaml(text: str) -> Any:
    """Read YAML safely.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.safe_load(_SPLIT.sub(r"\1'\2'", text))
