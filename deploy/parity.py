"""The gate between two forms of one network: real images through both, and how much may differ."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distill import console
from ..distill.errors import DataError, NumbersError
from ..distill.metrics import Scores
from ..distill.run import sha256, write_json
from .runtime import Runtime, labels

if TYPE_CHECKING:
    from ..distill.data import Dataset
    from ..distill.run import Run

LEDGER = "gates.json"


@dataclass(frozen=True)
class Tolerances:
    """What a gate lets pass; None = measured, not judged."""

    #: largest ``|d| / max(1, |z|)`` over all logits ``z`` of the reference
    max_diff: float | None = None
    #: least share of pixels with the same class, ties not held against the candidate
    agreement: float = 0.9999
    #: largest loss of mIoU, in points of 100
    miou_drop: float | None = None
    #: a class is as good as the reference's if the reference scores it lower by at most ``tie * max(1, |z|)``
    tie: float = 0.0


#: by the precision of the candidate
DEFAULTS = {
    "fp32": Tolerances(max_diff=1e-4, agreement=0.9999),
    # four units in float16's last place: below that a network that hardly decides flips, whatever computes it
    "fp16": Tolerances(agreement=0.999, tie=2**-9),
    "int8": Tolerances(agreement=0.99, miou_drop=0.5),
}


@dataclass
class Difference:
    """How far two runtimes are apart, summed up image by image."""

    images: int = 0
    pixels: int = 0
    #: pixels whose class is the same, and those that differ between classes which the reference scores alike
    same: int = 0
    ties: int = 0
    #: largest ``|d|`` and ``|d| / max(1, |z|)``; None until logits were seen, inf where a candidate is not finite
    max_diff: float | None = None
    max_relative: float | None = None

    @property
    def agreement(self) -> float:
        """Share of pixels with the same class."""
        return self.same / max(self.pixels, 1)

    @property
    def tied(self) -> float:
        """Share of pixels that differ at a tie."""
        return self.ties / max(self.pixels, 1)

    def add_logits(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Compare logits ``(N, K, H, W)``.

        Raises:
            NumbersError: the shapes differ.
        """
        _refuse_other_shape(reference, candidate)
        wide = reference.astype(np.float64)
        apart = np.abs(candidate - wide)
        apart[~np.isfinite(apart)] = np.inf
        self.max_diff = max(self.max_diff or 0.0, float(apart.max()))
        self.max_relative = max(self.max_relative or 0.0, float((apart / np.maximum(1, np.abs(wide))).max()))

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
    """One line of the ledger."""

    passed: bool
    #: why not, in words; empty when passed
    reasons: list[str]
    images: int
    agreement: float
    #: share of pixels that differ at a tie, see ``Tolerances``
    tied: float
    max_diff: float | None
    max_relative: float | None
    #: fractions; None on unlabelled images
    miou_reference: float | None
    miou_candidate: float | None
    reference: str
    candidate: str
    data: str
    tolerances: Tolerances
    seconds: float
    #: sha256 of the file that was judged
    sha256: str = ""
    keys: list[str] = field(default_factory=list)

    @property
    def miou_drop(self) -> float | None:
        """Loss of mIoU in points of 100."""
        if self.miou_reference is None or self.miou_candidate is None:
            return None
        return 100 * (self.miou_reference - self.miou_candidate)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON (an infinite difference as the text "inf")."""
        values = asdict(self) | {"miou_drop": self.miou_drop}
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


def spread(length: int, images: int | None) -> list[int]:
    """Return ``images`` indices evenly spread over ``length`` (all of them for None)."""
    if images is None or images >= length:
        return list(range(length))
    return sorted({int(i) for i in np.linspace(0, length - 1, images)})


def gate(
    reference: Runtime, candidate: Runtime, dataset: "Dataset", tolerances: Tolerances, *, images: int | None = 16
) -> GateResult:
    """Run both runtimes on the same real images and judge the candidate.

    Logits are compared where both give them, masks in any case. A candidate for any batch sees batches of 1, 2 and 3.

    Args:
        reference: what is trusted, of the same input size; with head "logits" it can tell ties.
        candidate: what is judged.
        dataset: the split that both see.
        tolerances: what may differ.
        images: how many, evenly spread over the split; None for all.

    Raises:
        DataError: the split is empty.
    """
    start = time.perf_counter()
    chosen = spread(len(dataset), images)
    if not chosen:
        raise DataError(f"split '{dataset.split}' of {dataset.name} holds no image to compare on")
    difference, both = Difference(), (Scores.empty(dataset.classes), Scores.empty(dataset.classes))
    for indices in _batches(chosen, candidate.spec.batch):
        pairs = [dataset.read(i) for i in indices]
        for group in _same_size(pairs):
            pixels = np.stack([image for image, _ in group])
            outputs = [runtime.infer(runtime.prepare(pixels)) for runtime in (reference, candidate)]
            masks = [labels(out, out.shape[2:]) if out.ndim == 4 else out for out in outputs]
            if all(out.ndim == 4 for out in outputs):
                difference.add_logits(*outputs)
            trusted = outputs[0] if outputs[0].ndim == 4 else None
            difference.add_masks(masks[0], masks[1], trusted, tolerances.tie)
            if dataset.labelled:
                _score(both, masks, [label for _, label in group])
    scores = [each.miou if dataset.labelled else None for each in both]
    return GateResult(
        passed=not (reasons := _reasons(difference, scores, tolerances)),
        reasons=reasons,
        images=difference.images,
        agreement=difference.agreement,
        tied=difference.tied,
        max_diff=difference.max_diff,
        max_relative=difference.max_relative,
        miou_reference=scores[0],
        miou_candidate=scores[1],
        reference=f"{reference.name} ({reference.provider})",
        candidate=f"{candidate.name} ({candidate.provider})",
        data=f"{dataset.name} {dataset.split}",
        tolerances=tolerances,
        seconds=time.perf_counter() - start,
        keys=[dataset.key(i) for i in chosen],
    )


def write_gate(run: "Run | Path", stage: str, result: GateResult, **facts: Any) -> Path:
    """Enter a result into the ledger of a run (or folder), in place of an older one of the same stage."""
    folder = run if isinstance(run, Path) else run.path
    entry = {"stage": stage, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **result.to_dict(), **facts}
    write_json(folder / LEDGER, [*(old for old in read_gates(folder) if old["stage"] != stage), entry])
    return folder / LEDGER


def read_gates(run: "Run | Path") -> list[dict[str, Any]]:
    """Return the ledger, oldest entry first; empty where there is none."""
    path = (run if isinstance(run, Path) else run.path) / LEDGER
    return json.loads(path.read_text()) if path.exists() else []


def manifest_path(artefact: Path) -> Path:
    """Return where the manifest of an exported file lies."""
    return artefact.with_name(f"{artefact.name}.json")


def discard(run: "Run | Path", files: Sequence[Path]) -> None:
    """Remove files of a run with their manifests and their lines of the ledger; one that is not there is no error."""
    for file in files:
        file.unlink(missing_ok=True)
        manifest_path(file).unlink(missing_ok=True)
    names, ledger = {file.name for file in files}, read_gates(run)
    kept = [entry for entry in ledger if entry.get("file") not in names]
    if len(kept) < len(ledger):
        write_json((run if isinstance(run, Path) else run.path) / LEDGER, kept)


def judge(run: "Run | Path", stage: str, file: Path, result: GateResult, cure: str) -> GateResult:
    """Enter the result for ``file`` and say it; a file that failed is removed with its manifest, and ``cure`` said.

    Raises:
        NumbersError: the gate failed.
    """
    result.sha256 = sha256(file)
    write_gate(run, stage, result, file=file.name)
    if not result.passed:
        file.unlink()
        manifest_path(file).unlink(missing_ok=True)
        raise NumbersError(f"{file.name} did not pass its gate and was removed: {'; '.join(result.reasons)}; {cure}")
    console.say(f"gate {stage}: passed, {result.line()}")
    return result


def _reasons(difference: Difference, scores: list[float | None], tolerances: Tolerances) -> list[str]:
    reasons, apart, allowed = [], difference.max_relative, tolerances.max_diff
    if apart == float("inf"):
        reasons.append("the candidate gives values that are not finite")
    elif apart is not None and allowed is not None and apart > allowed:
        reasons.append(f"logits differ by {apart:.2g} x max(1, |z|), {allowed:.2g} is allowed")
    share = difference.agreement + difference.tied
    if share < tolerances.agreement:
        reasons.append(f"{100 * share:.3f} % of pixels agree, {100 * tolerances.agreement:.2f} % is needed")
    if tolerances.miou_drop is not None and scores[0] is not None and scores[1] is not None:
        drop = 100 * (scores[0] - scores[1])
        if drop > tolerances.miou_drop:
            reasons.append(f"mIoU falls by {drop:.2f} points, {tolerances.miou_drop:.2f} is allowed")
    return reasons


def _score(both: tuple[Scores, Scores], masks: list[np.ndarray], truths: "Iterable[np.ndarray | None]") -> None:
    for n, truth in enumerate(truths):
        if truth is not None:
            for scores, mask in zip(both, masks, strict=True):
                scores.add(np.ascontiguousarray(mask[n, : truth.shape[0], : truth.shape[1]]), truth)


def _batches(indices: list[int], batch: int | None) -> Iterator[list[int]]:
    """Split into batches of the fixed size, or of 1, 2, 3, 1, 2, 3, ... where any size will do."""
    start, sizes = 0, (batch,) if batch else (1, 2, 3)
    for turn in range(len(indices)):
        size = sizes[turn % len(sizes)]
        part = indices[start : start + size]
        start += size
        if len(part) == size or (part and not batch):
            yield part


def _same_size(pairs: list[tuple[np.ndarray, Any]]) -> Iterator[list[tuple[np.ndarray, Any]]]:
    """Group images that can be stacked."""
    for shape in dict.fromkeys(image.shape for image, _ in pairs):
        yield [pair for pair in pairs if pair[0].shape == shape]


def _refuse_other_shape(reference: np.ndarray, candidate: np.ndarray) -> None:
    if reference.shape != candidate.shape:
        shapes = ("x".join(map(str, array.shape)) for array in (candidate, reference))
        raise NumbersError("the candidate gives {}, the reference {}: not the same network".format(*shapes))
