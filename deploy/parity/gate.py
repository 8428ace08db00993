"""The gate between two forms of one network, and the ledger of all gates: real images through both, one line each."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...distill import console
from ...distill.errors import DataError, NumbersError
from ...distill.evaluation.metrics import Scores
from ...distill.run.files import sha256
from ..runtimes.base import Runtime, answers
from .difference import Difference, add_scores, boundary_drop, reasons, worst_class
from .golden import Golden, GoldenFacts, capture
from .result import GateResult
from .tolerances import Tolerances

if TYPE_CHECKING:
    from ...distill.data import Dataset


class Sample(NamedTuple):
    """What both sides are shown of an image of the data."""

    key: str
    image: np.ndarray
    label: np.ndarray | None


def spread(length: int, images: int | None) -> list[int]:
    """Return ``images`` indices evenly spread over ``length`` (all of them for None)."""
    if images is None or images >= length:
        return list(range(length))
    return sorted({int(i) for i in np.linspace(0, length - 1, images)})


def gate(
    reference: Runtime, candidate: Runtime, dataset: "Dataset", tolerances: Tolerances, *, images: int | None = 16
) -> GateResult:
    """Run both runtimes on the same real images and gate the candidate.

    Logits are compared where both give them, masks in any case, and the image alone: not the colour that fills it up to
    the network's size. Both see what the candidate's ``fit`` makes of an image that has another size, and its labels
    likewise. Each side runs in the batch that it is made for; a candidate for any sees batches of 1, 2 and 3.

    Args:
        reference: what is trusted, of the same input size; with head "logits" it can tell ties.
        candidate: what is gated.
        dataset: the split that both see.
        tolerances: what may differ.
        images: how many, evenly spread over the split; None for all.

    Raises:
        DataError: the split is empty, or its labels are of other classes than the network's.
        NumbersError: the two take other sizes, or give other shapes.
    """
    start = time.perf_counter()
    digest, reference_digest = (_digest(runtime) for runtime in (candidate, reference))
    # what can be refused
    if reference.spec.size != candidate.spec.size:
        sizes = ("{}x{}".format(*runtime.spec.size) for runtime in (candidate, reference))
        raise NumbersError("the candidate takes {}, the reference {}: compare files for one size".format(*sizes))
    if dataset.labelled and (classes := len(candidate.spec.classes)) not in (0, dataset.num_classes):
        raise DataError(
            f"the network has {classes} classes, {dataset.name} has {dataset.num_classes}; name its own data"
        )
    tf32 = bool(candidate.tf32 or reference.tf32)
    allowed = tolerances.in_tf32() if tf32 else tolerances  # the record keeps what was asked for, of any device
    indices = spread(len(dataset), images)
    if not indices:
        raise DataError(f"split '{dataset.split}' of {dataset.name} holds no image to compare on")

    difference, both = Difference(), (Scores.empty(dataset.classes), Scores.empty(dataset.classes))
    golden: Golden | None = None
    most = 0
    keys: list[str] = []
    batches = list(_batches(indices, candidate.spec.batch and max(candidate.spec.batch, reference.spec.batch or 1)))
    for batch in console.progress(batches, len(batches), "comparing"):
        samples = [
            Sample(dataset.key(i), view.image, view.label)
            for i in batch
            for view in candidate.fit.views(*dataset.read(i))
        ]
        for group in _same_size(samples):
            pixels = np.stack([each.image for each in group])
            outputs = [answers(runtime, pixels) for runtime in (reference, candidate)]
            masks = [out.argmax(1).astype(np.uint8) if out.ndim == 4 else out for out in outputs]
            if all(out.ndim == 4 for out in outputs):
                difference.add_logits(*outputs)
            trusted = outputs[0] if outputs[0].ndim == 4 else None
            difference.add_masks(masks[0], masks[1], trusted, allowed.tie)
            if dataset.labelled:
                add_scores(both, masks, [each.label for each in group])
            keys += [each.key for each in group]
            for n, each in enumerate(group):
                # the image that tests most is the one with the most classes
                if (classes := len(np.unique(masks[0][n]))) > most:
                    most = classes
                    logits = None if trusted is None else trusted[n]
                    golden = capture(pixels[n], (masks[0][n], masks[1][n]), logits, allowed.tie, GoldenFacts(each.key))

    prepared = [runtime.spec.preprocess for runtime in (reference, candidate)]
    preprocess = {side: each.sha() for side, each in zip(("reference", "candidate"), prepared, strict=True)}
    scores = both if dataset.labelled else None

    result = GateResult(
        passed=not (faults := reasons(difference, scores, preprocess, allowed)),
        reasons=faults,
        images=len(indices),
        agreement=difference.agreement,
        tied=difference.tied,
        max_diff=difference.max_diff,
        max_relative=difference.max_relative,
        mean_diff=difference.mean_diff,
        not_finite=difference.not_finite,
        miou_reference=both[0].miou if scores else None,
        miou_candidate=both[1].miou if scores else None,
        worst_class=worst_class(*both),
        boundary_drop=boundary_drop(*both),
        reference=f"{reference.name} ({reference.provider})",
        candidate=f"{candidate.name} ({candidate.provider})",
        precision=candidate.precision,
        preprocess=preprocess,
        data=f"{dataset.name} {dataset.split}",
        tolerances=tolerances,
        tf32=tf32,
        seconds=time.perf_counter() - start,
        sha256=digest,
        reference_sha256=reference_digest,
        keys=list(dict.fromkeys(keys)),
    )

    if golden is not None:
        facts = replace(
            golden.facts,
            data=result.data,
            generated=dataset.name == "builtin",
            reference=result.reference,
            tolerances=tolerances,
            preprocess=prepared[0],
            size=list(reference.spec.size),
        )
        result.golden = replace(golden, facts=facts)
    return result


def _digest(runtime: Runtime) -> str:
    return sha256(runtime.source) if runtime.source.is_file() else ""


def _batches(indices: list[int], batch: int | None) -> Iterator[list[int]]:
    """Split into batches of the fixed size, or of 1, 2, 3, 1, 2, 3, ... where any will do; the last may be smaller."""
    start, sizes = 0, itertools.cycle((batch,) if batch else (1, 2, 3))
    while start < len(indices):
        size = next(sizes)
        yield indices[start : start + size]
        start += size


def _same_size(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Group images that can be stacked."""
    for shape in dict.fromkeys(sample.image.shape for sample in samples):
        yield [sample for sample in samples if sample.image.shape == shape]
