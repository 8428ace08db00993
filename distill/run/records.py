"""Records: dataclasses that are kept as JSON objects."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
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
        """Undo ``to_dict``; unknown keys are ignored, and what is missing or null has its default, if it has one."""
        known: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if value is not None and (value := _typed(value, field.type)) is not None:
                known[field.name] = value
            elif field.name in values and field.default is field.default_factory is MISSING:
                known[field.name] = None
        return cls(**known)


def plain(value: Any) -> Any:
    """Return a value with its dataclasses, and all else that has a ``to_dict``, as dictionaries at any depth."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _typed(value: Any, kind: Any) -> Any:
    """Return a value of a JSON object as a record or a tuple where its field is one."""
    for each in get_args(kind) if get_origin(kind) is UnionType else (kind,):
        if hasattr(each, "from_dict"):
            return each.from_dict(value) if isinstance(value, Mapping) else None
        if get_origin(each) is tuple:
            return tuple(item for item, _ in zip(value, get_args(each), strict=True))
    return value
