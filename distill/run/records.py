"""Records: dataclasses that are kept as JSON objects."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Any, ClassVar, Self

from ..typed import kinds_of, typed


class Record:
    """Base of such dataclasses: its JSON has a key for each field, in their order.

    Attributes:
        MERGED: fields that are records or dictionaries (or None), whose keys stand among those of this one.
        OPTIONAL: fields that are left out where they are None.
    """

    MERGED: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo ``to_dict``; unknown keys are ignored, and what is missing or null has its default, or is None.

        Raises:
            TypeError: a field is missing that has no default and is never None.
            ValueError: a value is of another type than its field.
        """
        known: dict[str, Any] = {}
        for field in fields(cls):
            kinds = kinds_of(field.type)
            value = values.get(field.name)
            if field.name in cls.MERGED:
                there = NoneType not in kinds or any(each.name in values for each in fields(kinds[0]))
                value = values if there else None

            if value is not None:
                value = typed(value, field.type, field.name)
            required = field.default is field.default_factory is MISSING
            if value is not None or (required and (field.name in values or NoneType in kinds)):
                known[field.name] = value
        return cls(**known)


def plain(value: Any) -> Any:
    """Return a value with its dataclasses, and all else that has a ``to_dict``, as dictionaries at any depth.

    JSON has no infinity: it becomes the text "inf".
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return "inf" if isinstance(value, float) and value == math.inf else value
