"""One self-contained HTML page about a run: what was done, what came of it, what was proved, and how to repeat it."""

import base64
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ...distill import cost
from ...distill.errors import UsageError
from ...distill.models import SegmentationModel
from ...distill.run.card import DataCard, TeacherCard
from ...distill.run.files import write_bytes
from ...distill.run.folder import Run, relative
from ..pictures import ERROR_COLOURS
from .activations import default_tap, legend
from .charts import charts
from .deployment import deployment, read_json
from .formats import FILTERS, sign
from .networks import further_runs, networks, picture

METRICS = (
    ("miou", "mIoU, all classes"),
    ("miou_present", "mIoU, classes present"),
    ("boundary_miou", "mIoU along boundaries"),
    ("pixel_accuracy", "pixel accuracy"),
)


def write_report(
    run: Run,
    *,
    baseline: Run | None = None,
    device: str = "cpu",
    pictures: bool = True,
    features: str | None = None,
    others: Sequence[Run] = (),
) -> Path:
    """Write ``report.html`` into the run folder; what is missing is called "not measured" there.

    Args:
        run: a run of any kind and state.
        baseline: the same student trained alone (default: the run's own ``baseline``), or, of a run that was trained
            on with rounding, the one that it goes on from.
        device: where the networks of the pictures run.
        pictures: draw the strips of validation images, which needs the data and the checkpoints.
        features: draw where this tap is active, too; "" is the one that the method compares.
        others: further runs on the same data, whose networks are pictured beside this one's.

    Raises:
        UsageError: no network has the tap, or another run has other data.
    """
    path = run.path / "report.html"
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    page = environment.get_template("report.html.jinja").render(
        facts(run, baseline, device=device, pictures=pictures, features=features, others=others)
    )
    write_bytes(path, page.encode())
    return path


def facts(
    run: Run,
    baseline: Run | None = None,
    *,
    device: str = "cpu",
    pictures: bool = True,
    features: str | None = None,
    others: Sequence[Run] = (),
) -> dict[str, Any]:
    """Collect everything the page shows; plain values, None where something was not measured."""
    card = run.card
    data, teacher = card.data, card.teacher or TeacherCard()
    tuned = card.kind == "qat"
    distilled = tuned or card.kind in (None, "distill")
    builtin = "builtin" in (data.name, data.source)
    baseline = baseline or relative(run, card.tuned_from if tuned else card.baseline)
    teacher_run = relative(run, teacher.run)
    # the roles in the order of every table, chart and strip; a plain training has but one
    names = {"teacher": "teacher", "before": "student alone", "after": "distilled"}
    names |= {"before": "before", "after": "trained on"} if tuned else {}
    names = names if distilled else {"after": "network"}
    for role, spec in (("teacher", teacher.spec), ("after", card.student)):
        if role in names and spec.in_channels == 4:  # such a network's scores are no student's
            names[role] += " (shown the label)"
    scores = {
        "teacher": _scores(teacher_run) or (asdict(teacher.check) if teacher.check else None),
        "before": _scores(baseline),
        "after": _scores(run),
    }
    scores = {role: scores[role] or {} for role in names}
    further = further_runs(run, others)
    nets, trouble = networks(run, baseline, teacher, names, further)
    tap = default_tap(run.config.method) if features == "" else features
    shown, maps, why_not = [], [], "they were not asked for"
    if pictures:
        pictured = names | {name: name for name in further}
        shown, maps, why_not = picture(run, nets, pictured, device, trouble, tap)
    benches = _benches(run)
    return {
        "title": card.name or run.path.name,
        "card": card,
        "data": data,
        "builtin": builtin,
        "teacher": teacher,
        "student": card.student,
        "distilled": distilled,
        "tuned": tuned,
        "method": card.method or "no method",
        "terms": ", ".join(f"{name} {weight}" for name, weight in card.terms.items()),
        "settings": _settings(run),
        "names": names,
        "scores": scores,
        "metrics": [_compared(scores, label, lambda s, key=key: s.get(key)) for key, label in METRICS],
        "gain": _gain(scores),
        "equal": baseline is not None
        and _settings(run) == _settings(baseline)
        and card.student == baseline.card.student,
        "baseline": baseline.path.name if baseline else None,
        "best": _best(run),
        "classes": _classes(data, scores),
        "charts": charts(run, baseline, scores, names),
        "strips": shown,
        "further": {name: other.path.name for name, other in further.items()},
        "tap": tap,
        "maps": maps,
        "heat": Markup(legend()) if maps else "",
        "why_no_strips": why_not,
        "error_colours": {name: _hex(rgb) for name, rgb in ERROR_COLOURS.items()},
        "gates": read_json(run.path / "gates.json") or [],
        "benches": benches,
        "tradeoff": _tradeoff(run),
        "bench_titles": {"net": "The network alone", "e2e": "Image to mask"},
        "costs": _costs(nets, data, names),
        "deployment": deployment(run),
        "speed": _speed(run),
        "device": _device(benches[0]["passport"] if benches else None),
        "notes": list(dict.fromkeys([*card.notes, *([] if builtin else data.notes), *trouble])),
        "commands": _commands(run, baseline, teacher_run),
        "sign": sign,
    }


def _scores(run: Run | None) -> dict[str, Any] | None:
    """Return the final scores of a run, or those of its last validation."""
    if run is None:
        return None
    vals = [record["val"] for record in run.records() if "val" in record]
    if final := run.card.final:
        return {key: value for key, value in asdict(final).items() if value is not None}
    return vals[-1] if vals else None


def _best(run: Run) -> dict[str, Any] | None:
    vals = [{"step": r["step"], "miou": r["val"]["miou"]} for r in run.records() if "val" in r]
    return max(vals, key=lambda v: v["miou"], default=None)


def _settings(run: Run) -> list[tuple[str, Any]]:
    """Return the settings of the training that a reader asks for first."""
    try:
        train = run.config.train
    except UsageError:
        return []
    return [
        ("Steps", train.iters),
        ("Batch and crop", f"{train.batch} of {train.crop[0]}\u00d7{train.crop[1]}"),
        ("Optimiser", f"{train.optimizer}, learning rate {train.lr:g}, weight decay {train.weight_decay:g}"),
        ("Seed and precision", f"{train.seed}, {train.precision}"),
    ]


def _gain(scores: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return what distillation brought over the baseline, and how much of the way to the teacher that is."""
    teacher, before, after = (scores.get(role, {}).get("miou") for role in ("teacher", "before", "after"))
    if after is None or before is None:
        return {"points": None, "closed": None}
    closed = (after - before) / (teacher - before) if teacher is not None and teacher > before else None
    return {"points": after - before, "closed": closed}


def _compared(
    scores: dict[str, dict[str, Any]], name: str, of: Callable[[dict[str, Any]], float | None]
) -> dict[str, Any]:
    """Return one row: the value of each role, and the change from "before" to "after"."""
    row: dict[str, Any] = {"name": name} | {role: of(found) for role, found in scores.items()}
    before, after = row.get("before"), row["after"]
    return row | {"change": None if before is None or after is None else after - before}


def _classes(data: DataCard, scores: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    after = scores["after"]
    names = data.classes or after.get("classes") or [f"class {i}" for i in range(len(after.get("iou") or ()))]
    palette, pixels = data.palette, after.get("label_pixels") or []
    rows = []
    for i, name in enumerate(names):
        row = _compared(scores, name, lambda s, i=i: s["iou"][i] if i < len(s.get("iou") or ()) else None)
        share = pixels[i] / max(sum(pixels), 1) if i < len(pixels) else None
        rows.append(row | {"share": share, "colour": _hex(palette[i]) if i < len(palette) else "#888888"})
    return rows


def _hex(rgb: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _costs(nets: dict[str, SegmentationModel], data: DataCard, names: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for role, name in names.items():
        if role in nets:
            net, size = nets[role], data.size
            with_aux, without = cost.params(net)
            macs = cost.macs(net, (int(size[0]), int(size[1])), aux=False) if size else None
            rows.append({"role": name, "name": net.name, "params": with_aux, "deployed": without, "macs": macs})
    return rows


def _benches(run: Run) -> list[dict[str, Any]]:
    """Return the newest latency record of each mode, device, size and batch."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(run.bench.glob("latency-*.json"), key=lambda p: p.stat().st_mtime_ns):
        bench = read_json(path)
        if isinstance(bench, dict) and bench.get("backends"):
            bench["slowest"] = max(row.get("p50") or 0.0 for row in bench["backends"]) or 1.0
            shape = (*bench.get("size", ()), bench.get("batch", 1))
            found[bench.get("mode", "net"), bench.get("device", "cpu"), shape] = {
                "file": path.name,
                "passport": None,
                "flags": [],
                "not_measured": [],
            } | bench
    return list(found.values())


def _tradeoff(run: Run) -> dict[str, Any] | None:
    """Return what ``kdc bench tradeoff`` wrote; its chart as a data URI, since inline its style would reach others."""
    found = read_json(run.bench / "tradeoff.json")
    if not isinstance(found, dict) or not found.get("rows"):
        return None
    chart = run.bench / "tradeoff.svg"
    svg = base64.b64encode(chart.read_bytes()).decode() if chart.is_file() else None
    return found | {"svg": f"data:image/svg+xml;base64,{svg}" if svg else None}


def _device(passport: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the lines of a device passport that a reader needs to place the milliseconds."""
    if not passport:
        return []
    cpu = passport.get("cpu") or {}
    lines = [("CPU", cpu.get("model"))]
    if cpu.get("cores"):
        lines.append(("Cores", f"{cpu['cores']} usable of {cpu.get('logical', '?')}"))
    lines.append(("CPU features", ", ".join(cpu.get("features") or ())))
    if cpu.get("load") is not None:
        lines.append(("Load before measuring", str(cpu["load"])))
    if passport.get("memory_gib"):
        lines.append(("Memory", f"{passport['memory_gib']} GiB"))
    lines.append(("System", passport.get("os")))
    for gpu in passport.get("gpus") or ():
        about = (
            f"driver {gpu['driver']}" if gpu.get("driver") else "",
            f"{gpu['memory_mib']} MiB" if gpu.get("memory_mib") else "",
        )
        lines.append(("GPU", ", ".join(filter(None, (gpu.get("name"), *about)))))
    if not passport.get("gpus"):
        lines.append(("GPU", "none"))
    return [(name, str(value)) for name, value in lines if value]


def _speed(run: Run) -> dict[str, Any]:
    """Return the median images per second, the peak memory and the time spent training."""
    timings = run.records("timing")
    rates = sorted(t["images_per_s"] for t in timings if t.get("images_per_s"))
    memory = [t["memory_mib"] for t in timings if t.get("memory_mib")]
    return {"rate": rates[len(rates) // 2] if rates else None, "memory": max(memory, default=None)}


def _commands(run: Run, baseline: Run | None, teacher_run: Run | None) -> list[dict[str, Any]]:
    """Return the commands that made this run and those before it, the oldest first, each once."""
    chain = [teacher_run, baseline, *(relative(run, spec) for spec in run.card.parents), run]
    found: dict[Path, dict[str, Any]] = {}
    for each in (r for r in chain if r is not None):
        texts = [shlex.join(command) for command in (each.card.command, *each.card.commands)]
        found[each.path] = {"run": each.path.name, "command": "\n".join(texts), "created": each.card.created or None}
    return list(found.values())
