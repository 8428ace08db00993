"""Values of JSON as the types that a record's fields name, or an error that says which is another."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

#: stands for a value that is not of a type
_NOT = object()
#: plain types, and what of JSON (or of numpy) fits them; True is no number
_PLAIN: dict[Any, type] = {int: Integral, float: Real, str: str, bool: bool}


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """Return the types of which a value may be any."""
    return get_args(kind) if get_origin(kind) is UnionType else (kind,)


def typed(value: Any, kind: Any, name: str) -> Any:
    """Return a value of a JSON object as a field of type ``kind`` holds it: records and tuples.

    A type that JSON has no form for is not looked at.

    Raises:
        ValueError: it is of another type; ``name`` is the field's.
    """
    for each in kinds_of(kind):
        if (fitting := _as(value, each, name)) is not _NOT:
            return fitting
    words = " or ".join(getattr(each, "__name__", str(each)) for each in kinds_of(kind) if each is not NoneType)
    raise ValueError(f"{name} is {repr(value)[:60]}, where {words} is expected")


def _as(value: Any, kind: Any, name: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value) if isinstance(value, Mapping) else value if isinstance(value, kind) else _NOT
    if kind is NoneType:
        return value if value is None else _NOT
    if origin is Literal:
        return value if value in parts else _NOT
    if kind is float and value == "inf":  # as ``plain`` writes it
        return value
    if kind in _PLAIN:
        return value if isinstance(value, _PLAIN[kind]) and isinstance(value, bool) == (kind is bool) else _NOT

    if kind in (list, tuple, dict) or origin in (list, tuple, dict, Sequence, Mapping):
        return _as_many(value, origin or kind, parts, name)
    return value


def _as_many(value: Any, kind: Any, parts: tuple[Any, ...], name: str) -> Any:
    """Return a value as a collection of ``parts``."""
    if kind in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return _NOT
        return {key: typed(item, parts[1], f"{name}.{key}") for key, item in value.items()} if parts else value
    if not isinstance(value, list | tuple):
        return _NOT
    if kind is not tuple:
        return [typed(item, parts[0], name) for item in value] if parts else value
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(typed(item, parts[0], name) for item in value)
    if len(parts) != len(value) and parts:
        return _NOT
    return tuple(typed(item, part, name) for item, part in zip(value, parts, strict=True)) if parts else tuple(value)
