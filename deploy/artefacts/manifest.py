"""The manifest of a new file: what it is and what it was made from, bound to it by its hash."""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ...distill.errors import UsageError, WeightsError
from ...distill.run.folder import Run
from .beside import owner


class Record(Protocol):
    """What gives plain values, ready for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest to write; every kind of file adds its own facts, and fields are written in the order of the class.

    Attributes:
        file: name of the file.
        sha256: of the file.
        kind: "onnx", "openvino", "aoti", "engine" or "bundle".
    """

    #: fields whose keys are written as the manifest's own, and fields that are left out while they have no value
    spread: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ("weights", "ran", "gate")

    file: str
    sha256: str
    kind: str

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the file, so that it can be gated."""
        return True

    def with_gate(self, gate: Record, ran: Record) -> Self:
        """Add the result of the gate, and what really ran there where manifests of the kind say it."""
        known = {each.name for each in fields(self)}
        return replace(self, **{name: value for name, value in (("gate", gate), ("ran", ran)) if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name in self.spread:
                values |= _plain(value)
            elif value is not None or name not in self.optional:
                values[name] = _plain(value)
        return values


def run_of(path: Path) -> Run:
    """Return the run that a file belongs to.

    Raises:
        WeightsError: there is no such file.
        UsageError: it belongs to none, so that there are no images to gate it on.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if (run := owner(path)) is None:
        raise UsageError(f"{path} lies in no run folder, so there are no images to prove the result on; name the run")
    return run


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
