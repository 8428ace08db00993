"""How good a network is on a split: one function for a checkpoint, an ONNX file and every other runtime."""

import time
from pathlib import Path
from typing import Any

from ..distill import console
from ..distill.errors import DataError, UsageError, WeightsError
from ..distill.evaluate import Predict, evaluate
from ..distill.run import Run, find_run
from .runtime import TORCH_FILES, owner


def evaluate_source(
    source: str | Path | Run | None,
    *,
    data: str | None = None,
    split: str = "val",
    device: str = "cpu",
    provider: str | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a run, a checkpoint or an ONNX file on whole images.

    Args:
        source: what to judge; None is the last run.
        data: a data set's name or folder (default: the data of the run that the file belongs to).
        split: of the data.
        device: "cpu" or "cuda".
        provider: an ONNX Runtime provider, for an ONNX file.
        size: input height and width, for an ONNX file that leaves them free.
        limit: only the first so many images.
        options: of ``open_data``, with ``data``.

    Returns:
        Plain values: what was judged and what ran it, the data, ``Scores.to_dict()`` under ``scores``, seconds.

    Raises:
        UsageError: no data are known, or a flag that does not fit the file.
        DataError: the split cannot be evaluated, or its classes are not those of the network.
        WeightsError: a broken file.
    """
    file = Path(str(source)) if source is not None and not isinstance(source, Run) else None
    is_file = file is not None and file.suffix.lower() in (*TORCH_FILES, ".onnx", ".engine", ".plan")
    if is_file and file is not None and not file.is_file():
        raise WeightsError(f"{file} does not exist")
    run = owner(file) if is_file and file is not None else source if isinstance(source, Run) else find_run(source)
    if data is not None:
        from ..distill.data import open_data

        dataset = open_data(data, split, **options)
    elif run is not None:
        dataset = run.open_data(split)
    else:
        raise UsageError(f"{file} lies in no run folder, so its data are not known; name them: --data NAME|DIR")
    predict, facts = _open(file if is_file else run, device, provider, size)
    classes = facts.pop("num_classes")
    if classes and classes != dataset.num_classes:
        raise DataError(
            f"the network has {classes} classes, {dataset.name} has {dataset.num_classes}; name its own data"
        )
    indices = range(min(limit, len(dataset))) if limit else None
    start = time.perf_counter()
    scores = evaluate(predict, dataset, indices=indices, label="evaluating")
    return {
        "source": str(file if is_file or run is None else run.path),
        **facts,
        # a label-assisted teacher is shown the label: its scores are no student's
        "privileged": bool(getattr(predict, "privileged", False)),
        "data": dataset.name,
        "split": dataset.split,
        "fingerprint": dataset.fingerprint(),
        "scores": scores.to_dict(),
        "seconds": round(time.perf_counter() - start, 2),
    }


def _open(
    source: Path | Run | None, device: str, provider: str | None, size: tuple[int, int] | None
) -> tuple[Predict, dict[str, Any]]:
    assert source is not None
    if isinstance(source, Run) or source.suffix.lower() in TORCH_FILES:
        # not through a runtime: a checkpoint takes every image at its own size, as validation in training does
        from ..distill.checkpoint import load_student
        from ..distill.evaluate import model_predictor
        from .torch_runtime import need_device

        if provider is not None:
            raise UsageError(f"--provider {provider} is for ONNX files; a checkpoint runs in torch")
        if size is not None:
            raise UsageError("--size is for ONNX files; a checkpoint takes every image at its own size")
        need_device(device)
        model = load_student(source)
        return model_predictor(model, device), {"ran_on": f"torch {device}", "num_classes": model.num_classes}
    from .runtime import open_runtime, predictor

    runtime = open_runtime(source, device=device, provider=provider, size=size)
    facts = {"ran_on": f"{runtime.name} {runtime.provider}", "precision": runtime.precision}
    return predictor(runtime), facts | {"num_classes": len(runtime.spec.classes)}


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
