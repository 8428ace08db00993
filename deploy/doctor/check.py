"""One finding of ``kdc doctor``."""

from dataclasses import dataclass

from ...distill.run.records import Record


@dataclass(frozen=True)
class Check(Record):
    """One finding: ``state`` is "ok", "note" (works without) or "missing" (something kdc offers will not work)."""

    what: str
    state: str
    found: str
    cure: str = ""
