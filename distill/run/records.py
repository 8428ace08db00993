"""Records: dataclasses that are kept as JSON objects."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin


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
        """
        known: dict[str, Any] = {}
        for field in fields(cls):
            kinds = _kinds(field.type)
            value = values.get(field.name)
            if field.name in cls.MERGED:
                there = NoneType not in kinds or any(each.name in values for each in fields(kinds[0]))
                value = values if there else None

            if value is not None:
                value = _typed(value, kinds)
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


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is UnionType else (kind,)


def _typed(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Return a value of a JSON object as a record, a tuple, or a collection of records where its field is one."""
    for kind in kinds:
        origin, args = get_origin(kind), get_args(kind)
        if hasattr(kind, "from_dict"):
            return kind.from_dict(value) if isinstance(value, Mapping) else None
        if origin is tuple:
            return tuple(item for item, _ in zip(value, args, strict=True))
        if origin is list and isinstance(value, list):
            return [_typed(item, _kinds(args[0])) for item in value]
        if origin is dict and isinstance(value, dict):
            return {key: _typed(item, _kinds(args[1])) for key, item in value.items()}
    return value
