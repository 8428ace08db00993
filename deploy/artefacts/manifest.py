"""The manifest of a new file: what it is and what it was made from, bound to it by its hash."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Self

from ...distill.preprocess import Policy
from ...distill.run.files import write_json
from ...distill.run.records import Record
from .beside import NATIVE, manifest_path
from .signature import signed


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """A manifest to write; every kind of file adds its own facts, and fields are written in the order of the class.

    Attributes:
        file: name of the file.
        sha256: of the file.
        kind: "onnx", "openvino", "aoti", "engine" or "bundle".
        fit: how it takes images of other sizes than its own, see ``evaluation.fit``.
    """

    OPTIONAL: ClassVar = ("weights", "ran", "gate")

    file: str
    sha256: str
    kind: str
    fit: Policy

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the file, so that it can be gated."""
        return True

    def with_gate(self, gate: Record, ran: Record) -> Self:
        """Add the result of the gate, and what really ran there where manifests of the kind say it."""
        known = {each.name for each in fields(self)}
        return replace(self, **{name: value for name, value in (("gate", gate), ("ran", ran)) if name in known})


def write_manifest(artefact: Path, manifest: Manifest) -> None:
    """Write the manifest beside a file, signed where the file holds native code.

    Raises:
        WeightsError: the user's signing key cannot be used.
    """
    values = json.loads(json.dumps(manifest.to_dict(), default=str))
    write_json(manifest_path(artefact), signed(values) if artefact.suffix.lower() in NATIVE else values)
