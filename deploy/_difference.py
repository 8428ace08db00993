"""How far two forms of one network are apart: what is measured, what may differ, and the record of it."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distill.errors import NumbersError, UsageError, WeightsError
from ..distill.metrics import Scores, iou_of

if TYPE_CHECKING:
    from .golden import Golden


#: of TF32: four roundings, as the ties of FP16 are; and a sum of many
TF32_TIE, _TF32_DIFF = 2**-9, 2**-5


@dataclass(frozen=True)
class Tolerances:
    """What a gate lets pass; None = measured, not judged. The defaults by precision are in ``distill.config.Gates``."""

    #: largest ``|d| / max(1, |z|)`` over all logits ``z`` of the reference
    max_diff: float | None = None
    #: least share of the images' pixels with the same class, ties not held against the candidate
    agreement: float = 0.9999
    #: largest loss of mIoU, in points of 100
    miou_drop: float | None = None
    #: a class is as good as the reference's if the reference scores it lower by at most ``tie * max(1, |z|)``
    tie: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no limit with a UsageError: nothing is larger than NaN, so that it lets everything pass."""
        if not 0 <= self.agreement <= 1:
            raise UsageError(
                f"agreement {self.agreement:g} is not accepted: it is a share from 0 to 1, such as 0.99; "
                "set --agreement or gates in the configuration"
            )
        flags = {"max_diff": "gates", "miou_drop": "--max-drop or gates", "tie": "gates"}
        for name, flag in flags.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(
                    f"{name} {value:g} is not accepted: it is a finite number from 0 on; set {flag} in the "
                    "configuration"
                )

    def in_tf32(self) -> "Tolerances":
        """Return what a network may differ by whose products are rounded to TF32, which has the mantissa of FP16."""
        apart = None if self.max_diff is None else max(self.max_diff, _TF32_DIFF)
        return replace(self, max_diff=apart, tie=max(self.tie, TF32_TIE))

    @classmethod
    def read(cls, values: Any, path: Path, cure: str) -> "Tolerances":
        """Take what stands in the file ``path``.

        Raises:
            WeightsError: it says something else; the message names ``cure``.
        """
        names = {each.name for each in fields(cls)}
        try:
            if not isinstance(values, dict) or "agreement" not in values:
                raise UsageError("it holds no tolerances")
            if strange := sorted(values.keys() - names):
                raise UsageError(f"no tolerance is called {strange[0]}; accepted: {', '.join(sorted(names))}")
            return cls(**values)
        except (TypeError, ValueError, UsageError) as error:
            raise WeightsError(f"{path} cannot be read ({error}); {cure}") from error


@dataclass
class Difference:
    """How far two runtimes are apart, summed up image by image."""

    images: int = 0
    pixels: int = 0
    #: pixels whose class is the same, and those that differ between classes which the reference scores alike
    same: int = 0
    ties: int = 0
    #: largest ``|d|`` and ``|d| / max(1, |z|)``; None until logits were seen, inf where one side is not finite
    max_diff: float | None = None
    max_relative: float | None = None
    #: logits that are NaN or infinite, of the reference and of the candidate
    not_finite: tuple[int, int] = (0, 0)
    _sum: float = 0.0
    _finite: int = 0

    @property
    def agreement(self) -> float:
        """Share of pixels with the same class."""
        return self.same / max(self.pixels, 1)

    @property
    def tied(self) -> float:
        """Share of pixels that differ at a tie."""
        return self.ties / max(self.pixels, 1)

    @property
    def mean_diff(self) -> float | None:
        """Mean ``|d|`` over the logits that are finite on both sides; None until logits were seen."""
        return None if self.max_diff is None else self._sum / max(self._finite, 1)

    def add_logits(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Compare logits ``(N, K, H, W)``.

        Raises:
            NumbersError: the shapes differ.
        """
        _refuse_other_shape(reference, candidate)
        wide = reference.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.abs(candidate - wide)
        finite = np.isfinite(apart)
        self._sum += float(apart[finite].sum())
        self._finite += int(finite.sum())
        bad = tuple(int(each.size - np.isfinite(each).sum()) for each in (reference, candidate))
        self.not_finite = (self.not_finite[0] + bad[0], self.not_finite[1] + bad[1])
        apart[~finite] = np.inf
        scale = np.maximum(1, np.abs(np.where(np.isfinite(wide), wide, 0)))
        self.max_diff = max(self.max_diff or 0.0, float(apart.max()))
        self.max_relative = max(self.max_relative or 0.0, float((apart / scale).max()))

    def add_masks(
        self, reference: np.ndarray, candidate: np.ndarray, logits: np.ndarray | None = None, tie: float = 0.0
    ) -> None:
        """Compare class masks ``(N, H, W)``; with the reference's ``logits``, differences within ``tie`` are ties.

        Raises:
            NumbersError: the shapes differ.
        """
        _refuse_other_shape(reference, candidate)
        self.images += len(reference)
        self.pixels += reference.size
        n, y, x = np.nonzero(reference != candidate)
        self.same += reference.size - len(n)
        if logits is not None and tie and len(n):
            best, other = (logits[n, mask[n, y, x], y, x].astype(np.float64) for mask in (reference, candidate))
            self.ties += int((best - other <= tie * np.maximum(1, np.abs(best))).sum())


@dataclass
class GateResult:
    """One arrow of the ledger: a candidate, what it was compared with, and how far apart they are."""

    passed: bool
    #: why not, in words; empty when passed
    reasons: list[str]
    images: int
    agreement: float
    #: share of pixels that differ at a tie, see ``Tolerances``
    tied: float
    max_diff: float | None
    max_relative: float | None
    mean_diff: float | None
    #: logits that are NaN or infinite, of the reference and of the candidate
    not_finite: tuple[int, int]
    #: fractions; None on unlabelled images
    miou_reference: float | None
    miou_candidate: float | None
    #: the labelled class that lost most, with its loss of IoU in points of 100
    worst_class: dict[str, Any] | None
    #: loss of mIoU along boundaries, in points of 100
    boundary_drop: float | None
    reference: str
    candidate: str
    #: of the candidate
    precision: str
    #: sha256 of how each side prepares an image
    preprocess: dict[str, str]
    data: str
    #: as they were asked for; where either side computes in TF32 those of ``in_tf32`` were allowed
    tolerances: Tolerances
    seconds: float
    tf32: bool = False
    #: sha256 of the file that was judged, and of what it was compared with
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
        """Return plain values, ready for JSON (an infinite difference as the text "inf")."""
        values = asdict(replace(self, golden=None)) | {"miou_drop": self.miou_drop}
        del values["golden"]
        return {key: "inf" if value == float("inf") else value for key, value in values.items()}

    def line(self) -> str:
        """Say it in one line."""
        ties = f" and {100 * self.tied:.3f} % are ties" if self.tied else ""
        parts = [f"{100 * self.agreement:.3f} % of pixels agree{ties} on {self.images} images of {self.data}"]
        if self.max_diff is not None:
            parts.append(f"max logit difference {self.max_diff:.2g} (relative {self.max_relative:.2g})")
        if self.miou_drop is not None:
            parts.append(f"mIoU {100 * (self.miou_candidate or 0):.2f} against {100 * (self.miou_reference or 0):.2f}")
        return ", ".join(parts)


def reasons(
    difference: Difference, both: tuple[Scores, Scores] | None, preprocess: dict[str, str], tolerances: Tolerances
) -> list[str]:
    """Say why a candidate fails; nothing if it passes. ``both`` are the scores, where there are labels."""
    found, apart, allowed = [], difference.max_relative, tolerances.max_diff
    if preprocess["reference"] != preprocess["candidate"]:
        found.append(
            "the two prepare images differently (mean, deviation or channel order): their masks do not compare"
        )
    for side, count in zip(("reference", "candidate"), difference.not_finite, strict=True):
        if count:
            found.append(f"the {side} gives values that are not finite ({count} logits)")
    if not any(difference.not_finite) and apart is not None and allowed is not None and apart > allowed:
        found.append(f"logits differ by {apart:.2g} x max(1, |z|), {allowed:.2g} is allowed")
    share = difference.agreement + difference.tied
    if share < tolerances.agreement:
        found.append(f"{100 * share:.3f} % of pixels agree, {100 * tolerances.agreement:.2f} % is needed")
    if tolerances.miou_drop is not None and both is not None:
        drop = 100 * (both[0].miou - both[1].miou)
        if drop > tolerances.miou_drop:
            found.append(f"mIoU falls by {drop:.2f} points, {tolerances.miou_drop:.2f} is allowed")
    return found


def worst_class(reference: Scores, candidate: Scores) -> dict[str, Any] | None:
    """Return the labelled class that lost most IoU and how much, in points of 100; None where nothing is labelled."""
    labelled = reference.confusion.sum(1) > 0
    if not labelled.any():
        return None
    lost = 100 * (iou_of(reference.confusion)[0] - iou_of(candidate.confusion)[0])
    worst = int(np.where(labelled, lost, -np.inf).argmax())
    return {"name": reference.classes[worst], "drop": float(lost[worst])}


def boundary_drop(reference: Scores, candidate: Scores) -> float | None:
    """Return the loss of mIoU along boundaries, in points of 100, over the classes labelled there; None without any.

    The same classes on both sides: one stray pixel of another must not change what is averaged over.
    """
    labelled = reference.band_confusion.sum(1) > 0
    if not labelled.any():
        return None
    before, after = (iou_of(each.band_confusion)[0][labelled].mean() for each in (reference, candidate))
    return float(100 * (before - after))


def _refuse_other_shape(reference: np.ndarray, candidate: np.ndarray) -> None:
    if reference.shape != candidate.shape:
        shapes = ("x".join(map(str, array.shape)) for array in (candidate, reference))
        raise NumbersError("the candidate gives {}, the reference {}: not the same network".format(*shapes))
