"""Records: dataclasses that are kept as JSON objects."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Record:
    """Base of such dataclasses: its JSON has a key for each field, in their order.

    Attributes:
        MERGED: fields with a ``to_dict`` of their own (or None), whose keys stand among those of this one.
        OPTIONAL: fields that are left out where they are None.
    """

    MERGED: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = plain(getattr(self, field.name))
            if field.name in self.MERGED:
                values |= value or {}
            elif value is not None or field.name not in self.OPTIONAL:
                values[field.name] = value
        return values


def plain(value: Any) -> Any:
    """Return a value with its records, and all else that has a ``to_dict``, as dictionaries at any depth."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
