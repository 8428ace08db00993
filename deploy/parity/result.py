"""The result of a gate."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...distill.run.records import Record
from .difference import WorstClass
from .tolerances import Tolerances

if TYPE_CHECKING:
    from .golden import Golden


@dataclass(kw_only=True)
class GateResult(Record):
    """One comparison of the ledger: a candidate, what it was compared with, and how far apart they are.

    What older ledgers lack has a default.
    """

    passed: bool
    #: why not, in words; empty when passed
    reasons: list[str]
    images: int
    agreement: float
    #: share of pixels that differ at a tie, see ``Tolerances``
    tied: float
    max_diff: float | None
    max_relative: float | None
    mean_diff: float | None = None
    #: logits that are NaN or infinite, of the reference and of the candidate
    not_finite: tuple[int, int] = (0, 0)
    #: fractions; None on unlabelled images
    miou_reference: float | None
    miou_candidate: float | None
    #: the labelled class that lost most, with its loss of IoU in points of 100
    worst_class: WorstClass | None
    #: loss of mIoU along boundaries, in points of 100
    boundary_drop: float | None
    reference: str
    candidate: str
    #: of the candidate
    precision: str = ""
    #: sha256 of how each side prepares an image
    preprocess: dict[str, str] = field(default_factory=dict)
    data: str
    #: as they were asked for; where either side computes in TF32 those of ``in_tf32`` were allowed
    tolerances: Tolerances
    seconds: float
    tf32: bool = False
    #: sha256 of the file that was gated, and of what it was compared with
    sha256: str = ""
    reference_sha256: str = ""
    keys: list[str] = field(default_factory=list)
    #: one image with its answers, to travel with the file; not part of the record
    golden: "Golden | None" = field(default=None, repr=False, compare=False)

    @property
    def miou_drop(self) -> float | None:
        """Loss of mIoU in points of 100."""
        if self.miou_reference is None or self.miou_candidate is None:
            return None
        return 100 * (self.miou_reference - self.miou_candidate)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = super().to_dict() | {"miou_drop": self.miou_drop}
        del values["golden"]
        return values

    def line(self) -> str:
        """Say it in one line."""
        ties = f" and {100 * self.tied:.3f} % are ties" if self.tied else ""
        parts = [f"{100 * self.agreement:.3f} % of pixels agree{ties} on {self.images} images of {self.data}"]
        if self.max_diff is not None:
            parts.append(f"max logit difference {self.max_diff:.2g} (relative {self.max_relative:.2g})")
        if self.miou_drop is not None:
            parts.append(f"mIoU {100 * (self.miou_candidate or 0):.2f} against {100 * (self.miou_reference or 0):.2f}")
        return ", ".join(parts)
