"""How good a network is on a split: one function for a checkpoint, an ONNX file and every other runtime."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...distill import console
from ...distill.errors import DataError, UsageError
from ...distill.evaluation.evaluate import evaluate
from ...distill.run.folder import Run
from ..predict.segmenter import Windows, locate, open_segmenter
from ..runtimes.options import CPU, RuntimeOptions

if TYPE_CHECKING:
    from ...distill.data import Dataset


def evaluate_source(
    source: str | Path | Run | None,
    *,
    data: "str | Dataset | None" = None,
    split: str = "val",
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    windows: Windows | None = None,
    **data_options: Any,
) -> dict[str, Any]:
    """Evaluate a run, a checkpoint or an ONNX file on whole images.

    Args:
        source: what to judge; None is the last run.
        data: a data set, its name or folder (default: the data of the run that the file belongs to).
        split: of the data.
        options: what runs it, and on which device.
        size: input height and width, for an ONNX file that leaves them free.
        limit: only the first so many images.
        windows: take larger images in tiles, as ``kdc predict`` does.
        data_options: of ``open_data``, with ``data``.

    Returns:
        Plain values: what was judged and what ran it, the data, ``Scores.to_dict()`` under ``scores``, seconds.

    Raises:
        UsageError: no data are known, or a flag that does not fit the file.
        DataError: the split cannot be evaluated, or its classes are not those of the network.
        WeightsError: a broken file.
    """
    chosen, run = locate(source)
    if isinstance(data, str):
        from ...distill.data import open_data

        dataset = open_data(data, split, **data_options)
    elif data is not None:
        dataset = data
    elif run is not None:
        dataset = run.open_data(split)
    else:
        raise UsageError(f"{chosen} lies in no run folder, so its data are not known; name them: --data NAME|DIR")
    segmenter = open_segmenter(chosen, options=options, size=size, windows=windows, assisted=True)
    try:
        classes = segmenter.num_classes
        if classes and classes != dataset.num_classes:
            raise DataError(
                f"the network has {classes} classes, {dataset.name} has {dataset.num_classes}; name its own data"
            )
        indices = range(min(limit, len(dataset))) if limit else None
        start = time.perf_counter()
        scores = evaluate(segmenter.predict, dataset, indices=indices, label="evaluating")
    finally:
        segmenter.close()
    return {
        "source": str(chosen.path if isinstance(chosen, Run) else chosen),
        **segmenter.facts,
        # a label-assisted teacher is shown the label: its scores are no student's
        "privileged": bool(getattr(segmenter.predict, "privileged", False)),
        "data": dataset.name,
        "split": dataset.split,
        "fingerprint": dataset.fingerprint(),
        "scores": scores.to_dict(),
        "seconds": round(time.perf_counter() - start, 2),
    }


def show(result: dict[str, Any]) -> None:
    """Print an evaluation for people."""
    scores = result["scores"]
    title = f"{result['source']} ({result['ran_on']}) on {result['data']} {result['split']}, {scores['images']} images"
    title += ", PRIVILEGED: it is shown the label" if result.get("privileged") else ""
    rows = [
        [name, f"{100 * iou:.2f}" if iou is not None else "-"]
        for name, iou in zip(scores["classes"], scores["iou"], strict=True)
    ]
    console.table(title, ["class", "IoU %"], rows)
    names = {
        "miou": "mIoU (all classes)",
        "miou_present": "mIoU (present classes)",
        "boundary_miou": "boundary mIoU",
        "pixel_accuracy": "pixel accuracy",
    }
    console.table(
        "",
        ["score", "%"],
        [[label, f"{100 * scores[key]:.2f}" if scores.get(key) is not None else "-"] for key, label in names.items()],
    )
