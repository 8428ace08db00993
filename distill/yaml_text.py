"""The one reader of YAML: safe, small, and without riddles.

``{split}`` is text in it: YAML itself would take the brace for the start of a mapping.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

#: characters, levels, and values with those that aliases repeat; settings and cards have far fewer
LONGEST, DEEPEST, MOST = 2**18, 50, 20_000
#: whole numbers end at this many bits
BITS = 64

_SPLIT = re.compile(r"(?m)^(\s*[\w.]+\s*:\s*)(\{split\}\S*)")


def load_yaml(path: Path) -> Any:
    """Read a YAML file as ``parse_yaml`` does.

    Raises:
        yaml.YAMLError: as ``parse_yaml``.
        OSError: it cannot be read, or is no file.
        UnicodeDecodeError: it is no UTF-8.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(f"{path} is no file")
    with path.open(encoding="utf-8") as file:
        return parse_yaml(file.read(LONGEST + 1))


def parse_yaml(text: str) -> Any:
    """Read YAML safely.

    Raises:
        yaml.YAMLError: it is none, gives a key twice, or is longer, deeper or more than the limits of this file.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has more than {LONGEST} characters")
    try:
        return yaml.load(_SPLIT.sub(r"\1'\2'", text), _Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, OverflowError) as error:  # a date of no calendar, a number of thousands of digits
        raise yaml.YAMLError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Counts while it reads, so that a few lines cannot stand for billions of values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth, self.sizes = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        if self.depth == DEEPEST:
            raise yaml.YAMLError(f"it nests more than {DEEPEST} levels deep")

        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is None:
            return None
        if not alias:
            _refuse_twice(node)
            self.sizes[id(node)] = self._size(node)
        elif id(node) not in self.sizes:
            raise yaml.YAMLError("an alias stands within what it stands for")
        return node

    def _size(self, node: yaml.Node) -> int:
        """Return how many values a node stands for, those that aliases repeat included."""
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        size = 1 + sum(self.sizes[id(part)] for part in parts)
        if size > MOST:
            raise yaml.YAMLError(f"it holds more than {MOST} values")
        return size

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if number.bit_length() > BITS:
            raise yaml.YAMLError(f"a number of {len(node.value)} digits; whole numbers of {BITS} bits are read")
        return number


def _refuse_twice(node: yaml.Node) -> None:
    """Refuse a mapping in which a key stands twice: YAML's readers would take the last, in silence."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise yaml.YAMLError(f"the key {twice!r} stands twice in the mapping at line {node.start_mark.line + 1}")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
