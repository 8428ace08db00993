"""YAML files of settings, nested or with dotted keys."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from ..yaml_text import load_yaml


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises:
        UsageError: the file is missing or holds no mapping.
    """
    try:
        values = load_yaml(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"{file} holds {type(values).__name__}; a mapping of settings is needed, such as train: {{lr: 0.01}}"
        )
    return values


def flat_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file, nested or with dotted keys, as a flat dictionary of dotted keys.

    Raises:
        UsageError: as ``read_yaml``.
    """
    pairs = list(flatten(read_yaml(file)))
    counts = Counter(key for key, _ in pairs)
    if twice := next((key for key, count in counts.items() if count > 1), None):
        raise UsageError(f"{file} sets {twice} twice; once is needed")
    return dict(pairs)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted keys and plain values of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
