"""What a comparison found: by method the mean, its spread, and the paired difference against the student alone."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from ..run.folder import Run
from .folder import Comparison
from .paired import holm, paired
from .plan import BASELINE, Entry, label_of, shared

READING = (
    "mIoU: the checkpoint that was best on the validation split, judged on that whole split over all classes, as the "
    "papers report it; what the last step reached stands in the last column.",
    "Difference: against the same student trained without a teacher, seed by seed (paired), in points of mIoU; "
    "interval: 95 %, Student's t. A gain or a loss is one whose interval leaves out 0; the rest is not shown, nor is "
    "anything with fewer than two pairs of seeds.",
)


def collect(folder: Comparison) -> dict[str, Any]:
    """Read every run of a comparison and compute its tables; all scores are fractions in [0, 1].

    Returns:
        ``runs`` (one a run), ``summary`` (one a method and grid point), ``classes`` (one a class of each),
        ``teachers``, ``failed``, ``states`` (how many runs are in which), ``names`` of the classes and ``notes``.
    """
    runs = [_run(folder, entry) for entry in folder.entries]
    by_name = {row["name"]: row for row in runs}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(runs, key=lambda row: row["baseline"] is not None):
        groups.setdefault(row["label"], []).append(row)
    names = next((row["classes"] for row in runs if row["classes"]), [])
    summary = [_summary(label, rows, by_name, names) for label, rows in groups.items()]
    tested = [row for row in summary if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    states = [row["state"] for row in runs]
    teachers = [
        {"name": known["card"]["name"], "source": known["card"]["source"], "miou": known["scores"]["miou"]}
        | {"iou": known["scores"]["iou"], "privileged": known["privileged"]}
        for known in folder.teachers.values()
        if known["card"]
    ]
    return {
        "out": str(folder.path),
        "commands": folder.commands,
        "protocol": folder.protocol,
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "failed": {row["name"]: row["error"] for row in runs if row["state"] == "failed"},
        "teachers": teachers,
        "names": names,
        "summary": summary,
        "runs": [{key: value for key, value in row.items() if key != "classes"} for row in runs],
        "classes": [row for label, rows in groups.items() for row in _classes(label, rows, by_name, names)],
        "notes": _notes(folder, runs, tested),
    }


def _run(folder: Comparison, entry: Entry) -> dict[str, Any]:
    state, run = folder.state(entry.name), folder.run(entry.name)
    final = run.card.final if run and state == "finished" else None
    vals = [r for r in run.records() if "val" in r] if run and final else []
    best = max(vals, key=lambda r: r["val"]["miou"], default=None)  # the first of equals, as training keeps it
    return {
        "name": entry.name,
        "label": entry.label,
        "method": entry.method,
        "grid": entry.grid,
        "seed": entry.seed,
        "baseline": entry.baseline,
        "state": state,
        "error": folder.failed[entry.name]["error"] if state == "failed" else None,
        "miou": final.miou if final else None,
        "miou_last": vals[-1]["val"]["miou"] if vals else None,
        "best_step": best["step"] if best else None,
        "boundary_miou": final.boundary_miou if final else None,
        "pixel_accuracy": final.pixel_accuracy if final else None,
        "iou": final.iou if final else None,
        "classes": final.classes if final else None,
        "device": _device(run) if final and run else None,
    }


def _device(run: Run) -> str:
    card = run.card
    return f"{card.device}, kdc {card.versions['kdc']}, torch {card.versions['torch']}"


def _pairs(rows: Sequence[dict[str, Any]], by_name: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each finished run with its finished baseline."""
    pairs = [(row, by_name.get(row["baseline"])) for row in rows if row["iou"]]
    return [(row, other) for row, other in pairs if other and other["iou"]]


def _summary(label: str, rows: list[dict[str, Any]], by_name: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    done = [row for row in rows if row["iou"]]
    pairs = _pairs(rows, by_name)
    found = paired([row["miou"] - other["miou"] for row, other in pairs])
    classes = [(name, _mean(row["iou"][i] - other["iou"][i] for row, other in pairs)) for i, name in enumerate(names)]
    changes = sorted(((name, value) for name, value in classes if value is not None), key=lambda pair: pair[1])
    method, grid = rows[0]["method"], rows[0]["grid"]
    baseline = label_of(BASELINE, {key: value for key, value in grid.items() if shared(key)})
    return {
        "label": label,
        "method": method,
        "grid": grid,
        "seeds": [row["seed"] for row in done],
        "planned": len(rows),
        "failed": sum(row["state"] == "failed" for row in rows),
        "scores": [row["miou"] for row in done],
        "miou": _mean(row["miou"] for row in done),
        "sd": statistics.stdev(row["miou"] for row in done) if len(done) > 1 else None,
        "baseline": None if method == BASELINE else baseline,
        "baseline_miou": _mean(other["miou"] for _, other in pairs),
        "pairs": [[row["miou"], other["miou"]] for row, other in pairs],
        "difference": found.mean if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "p": found.p if found else None,
        "p_holm": None,
        "verdict": "" if method == BASELINE else found.verdict if found else "not shown",
        "best_class": dict(zip(("name", "difference"), changes[-1], strict=True)) if changes else None,
        "worst_class": dict(zip(("name", "difference"), changes[0], strict=True)) if changes else None,
        "miou_last": _mean(row["miou_last"] for row in done),
    }


def _classes(
    label: str, rows: list[dict[str, Any]], by_name: dict[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    done, pairs = [row for row in rows if row["iou"]], _pairs(rows, by_name)
    found = []
    for i, name in enumerate(names if done else ()):
        change = paired([row["iou"][i] - other["iou"][i] for row, other in pairs])
        row = {"label": label, "class": name, "seeds": len(done), "iou": _mean(row["iou"][i] for row in done)}
        row |= {"pairs": len(pairs), "difference": change.mean if change else None}
        found.append(row | {"low": change.low if change else None, "high": change.high if change else None})
    return found


def _notes(folder: Comparison, runs: list[dict[str, Any]], tested: list[dict[str, Any]]) -> list[str]:
    """Say what a reader must know before believing the table."""
    done = [run for row in runs if row["iou"] and (run := folder.run(row["name"]))]
    notes = [*READING, *dict.fromkeys(line for run in done for line in run.card.data.notes)]
    if len(tested) > 1:
        notes.append(
            f"{len(tested)} comparisons are made at once: of methods without effect, one interval in twenty leaves out "
            "0 by chance. p (Holm) is corrected for that; the intervals and verdicts are not."
        )
    few = {len(row["pairs"]) for row in tested} or {0}
    if 0 < min(few) < 5:
        notes.append(
            f"{min(few)} pairs of seeds make wide intervals: 'not shown' does not mean that there is no effect."
        )
    limits = {entry.config.train.val_images for entry in folder.entries if entry.config.train.val_images}
    if limits:
        notes.append(f"The best checkpoint was chosen, and the last step judged, on {max(limits)} images.")
    if len(devices := sorted({row["device"] for row in runs if row["device"]})) > 1:
        notes.append(f"The runs were not all made alike: {'; '.join(devices)}.")
    if any(known["card"] is None for known in folder.teachers.values()):
        notes.append("The teacher of a label-assisted method is trained by a phase of each run, with the run's seed.")
    return notes


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
