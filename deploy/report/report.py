"""One self-contained HTML page about a run: settings, results, gates, and the commands that repeat it."""

import operator
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...distill import console, cost
from ...distill.charts.svg import data_uri
from ...distill.errors import UsageError, WeightsError, one_line
from ...distill.models import SegmentationModel
from ...distill.pages.render import render
from ...distill.run.card import DataCard, FinalScores, RunCard, TeacherCard
from ...distill.run.files import write_bytes
from ...distill.run.folder import Run, relative, unstamped
from ...distill.run.stale import stale_files
from ..artefacts.ledger import read_gates
from ..bench.record import EFFORT, is_quick, newest
from ..bench.tradeoff import TradeoffRecord
from ..machine.passport import Passport
from ..parity.result import GateResult
from ..pictures import ERROR_COLOURS
from .activations import default_tap, legend
from .charts import charts
from .deployment import deployment
from .latencies import benches
from .networks import further_runs, networks, picture
from .page import Best, ClassRow, Cost, History, Page, Row
from .records import Gate, Line, read_lines, scores_of
from .shipped import shipped

METRICS = (
    ("miou", "mIoU, all classes"),
    ("miou_present", "mIoU, classes present"),
    ("boundary_miou", "mIoU along boundaries"),
    ("pixel_accuracy", "pixel accuracy"),
)


def write_report(run: Run, page: Page) -> Path:
    """Write a page of ``collect`` to ``report.html`` in the run folder; what is missing is "not measured" there."""
    titles = {"net": "The network alone", "e2e": "Image to mask"}
    template = Path(__file__).with_name("report.html.jinja")
    html = render(
        template, vars(page) | {"page": page, "bench_titles": titles, "is_quick": is_quick, "usual": EFFORT.seconds}
    )

    path = run.path / "report.html"
    write_bytes(path, html.encode())
    return path


def collect(
    run: Run,
    baseline: Run | None = None,
    *,
    device: str = "cpu",
    pictures: bool = True,
    features: str | None = None,
    others: Sequence[Run] = (),
) -> Page:
    """Collect everything the page shows.

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
    card = run.card
    data, teacher = card.data, card.teacher or TeacherCard()
    tuned = card.kind == "qat"
    distilled = tuned or card.kind in (None, "distill")
    builtin = "builtin" in (data.name, data.source)
    baseline = baseline or relative(run, card.tuned_from if tuned else card.baseline)
    teacher_run = relative(run, teacher.run)
    names = _names(card, teacher, baseline)
    family = {"teacher": teacher_run, "before": baseline, "after": run}

    lines, alone = read_lines(run), read_lines(baseline)
    scores = {"after": scores_of(card, lines)}
    scores["before"] = scores_of(baseline.card, alone) if baseline else FinalScores()
    scores["teacher"] = scores_of(teacher_run.card, read_lines(teacher_run)) if teacher_run else FinalScores()
    if scores["teacher"].miou is None and teacher.check:
        scores["teacher"] = FinalScores(miou=teacher.check.miou, images=teacher.check.images)
    scores = {role: scores[role] for role in names}

    further = further_runs(run, others)
    nets, trouble = networks(run, baseline, teacher, names, further)
    tap = default_tap(run.config.method) if features == "" else features
    drawn, maps, why_not = [], [], "they were not asked for"
    if pictures:
        pictured = names | {name: name for name in further}
        drawn, maps, why_not = picture(run, nets, pictured, device, trouble, tap)

    timings, ledger, measured = run.records("timing"), _gates(run), benches(run)
    rates = sorted(timing["images_per_s"] for timing in timings if timing.get("images_per_s"))
    settings = _settings(run)
    same = baseline is not None and settings == _settings(baseline) and card.student == baseline.card.student
    teacher_miou = scores["teacher"].miou if "teacher" in scores else None
    return Page(
        title=card.name or run.path.name,
        card=card,
        data=data,
        builtin=builtin,
        teacher=teacher,
        distilled=distilled,
        tuned=tuned,
        settings=settings,
        names=names,
        scores=scores,
        metrics=[Row.of(label, scores, operator.attrgetter(key)) for key, label in METRICS],
        classes=_classes(data, scores),
        equal=same,
        baseline=baseline.path.name if baseline else None,
        folders={
            name: names[role]
            for role, each in family.items()
            if each and role in names
            for name in (unstamped(each.path.name), each.path.name)
        },
        best=_best(run, lines),
        charts=charts(lines, alone, teacher_miou, names),
        strips=drawn,
        further={name: other.path.name for name, other in further.items()},
        tap=tap,
        maps=maps,
        heat=Markup(legend()) if maps else Markup(),
        why_no_strips=why_not,
        error_colours={name: _hex(rgb) for name, rgb in ERROR_COLOURS.items()},
        gates=ledger,
        benches=measured,
        shipped=shipped(run, ledger, [bench.shown for bench in measured]),
        tradeoff=newest(run, "tradeoff.json", TradeoffRecord),
        tradeoff_chart=_chart(run),
        costs=_costs(nets, data, names),
        deployment=deployment(run),
        rate=rates[len(rates) // 2] if rates else None,
        memory=max((timing["memory_mib"] for timing in timings if timing.get("memory_mib")), default=None),
        device=_device(measured[0].shown.passport) if measured else [],
        notes=list(dict.fromkeys([*card.notes, *([] if builtin else data.notes), *trouble])),
        commands=_commands(run, baseline, teacher_run),
    )


def _names(card: RunCard, teacher: TeacherCard, baseline: Run | None) -> dict[str, str]:
    """Return what the page calls each role, in the order of every table, chart and strip.

    A plain training has one, and what has no baseline has no role for it.
    """
    if card.kind not in (None, "distill", "qat"):
        return {"after": "network"}

    names = {"teacher": "teacher", "before": "student alone", "after": "distilled"}
    if card.kind == "qat":
        names |= {"before": "before", "after": "trained on"}
    for role, spec in (("teacher", teacher.spec), ("after", card.student)):
        if spec.in_channels == 4:  # such a network's scores are no student's
            names[role] += " (shown the label)"
    if baseline is None:
        del names["before"]
    return names


def _best(run: Run, lines: list[Line]) -> Best | None:
    vals = [(line.step, line.val) for line in lines if line.val]
    images = _validated(run)
    bests = [Best(step, val.miou, val.images or images) for step, val in vals if val.miou is not None]
    return max(bests, key=lambda best: best.miou, default=None)


def _validated(run: Run) -> int | None:
    """Return on how many images the training validated; None where the run does not say."""
    try:
        limit = run.config.train.val_images
    except UsageError:
        return None
    images = run.card.data.val_images
    return min(limit or images, images) or None


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


def _classes(data: DataCard, scores: dict[str, FinalScores]) -> list[ClassRow]:
    after = scores["after"]
    names = data.classes or after.classes or [f"class {i}" for i in range(len(after.iou))]
    palette, pixels = data.palette, after.label_pixels
    rows = []
    for i, name in enumerate(names):
        iou = Row.of(name, scores, lambda values, i=i: values.iou[i] if i < len(values.iou) else None)
        share = pixels[i] / max(sum(pixels), 1) if i < len(pixels) else None
        rows.append(ClassRow(iou, share, _hex(palette[i]) if i < len(palette) else "#888888"))
    return rows


def _hex(rgb: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _costs(nets: dict[str, SegmentationModel], data: DataCard, names: dict[str, str]) -> list[Cost]:
    rows = []
    for role, name in names.items():
        if role in nets:
            net = nets[role]
            with_aux, without = cost.params(net)
            macs = cost.macs(net, data.size, aux=False) if data.size else None
            rows.append(Cost(name, net.name, with_aux, without, macs))
    return rows


def _gates(run: Run) -> list[Gate]:
    try:
        old = {path.name: origin for path, origin in stale_files(run.path).items()}
        rows = read_gates(run)
    except WeightsError as error:
        console.warn(f"the gates are left out: {one_line(error)}")
        return []

    gates = []
    for row in rows:
        try:
            result = GateResult.from_dict(row.to_dict())
            gates.append(Gate(row, row.fits(run.export), result, old.get(str(row.file), "")))
        except (TypeError, ValueError) as error:
            why = one_line(error).partition("() ")[2] or one_line(error)
            console.warn(f"the gate '{row.stage}' is left out: {why}; kdc parity {run.spec} measures it anew")
    return gates


def _chart(run: Run) -> str | None:
    """Return the chart of ``kdc bench tradeoff`` as a data URI, since inline its style would reach others."""
    chart = run.bench / "tradeoff.svg"
    return data_uri(chart.read_text()) if chart.is_file() else None


def _device(passport: Passport) -> list[tuple[str, str]]:
    """Return the lines of a device passport that a reader needs to place the milliseconds."""
    cpu = passport.cpu
    lines = [
        ("CPU", cpu.model),
        ("Cores", f"{cpu.cores} usable of {cpu.logical or '?'}"),
        ("CPU features", ", ".join(cpu.features)),
        ("Load before measuring", str(cpu.load)),
        ("Memory", f"{passport.memory_gib} GiB"),
        ("System", passport.os),
    ]
    for gpu in passport.gpus:
        about = (gpu.name, gpu.driver and f"driver {gpu.driver}", gpu.memory_mib and f"{gpu.memory_mib} MiB")
        lines.append(("GPU", ", ".join(str(each) for each in about if each)))
    if not passport.gpus:
        lines.append(("GPU", "none"))
    return [(name, value) for name, value in lines if value]


def _commands(run: Run, baseline: Run | None, teacher_run: Run | None) -> list[History]:
    """Return the commands that made this run and those before it, the oldest first, each once."""
    chain = [teacher_run, baseline, *(relative(run, spec) for spec in run.card.parents), run]
    histories: dict[Path, History] = {}
    for each in (r for r in chain if r is not None):
        texts = [shlex.join(command) for command in (each.card.command, *each.card.commands)]
        histories[each.path] = History(each.path.name, "\n".join(texts), each.card.created)
    return list(histories.values())
