"""Accuracy against cost: mIoU over latency, arithmetic and parameters, and which networks nothing else beats.

As the cost-accuracy figures of the distillation papers, but of files as they are deployed, on the machine at hand.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import ExportError, KdcError, UsageError
from ...distill.run.files import write_bytes, write_json
from ...distill.run.folder import Run, find_run, relative
from ..artefacts.beside import owner
from ..machine.passport import passport
from ..runtimes.options import CPU, RuntimeOptions, is_torch
from .accuracy import evaluate_source
from .costs import deployed
from .latency import time_plan
from .plan import Plan, Source, info_of, make_plan, may_be_refused, nothing_left, row_names
from .record import ROUNDS, check, conditions, keep, ran_on, record_path
from .tradeoff_chart import tradeoff_chart

#: the costs that accuracy is set against: key of a row, what it is called, and its unit
COSTS = {"latency_ms": ("latency, p50", "ms"), "gflops": ("FLOPs", "G"), "params_m": ("parameters", "M")}
#: the scores of a row
SCORES = ("miou", "miou_present", "boundary_miou", "pixel_accuracy")
FILE = "tradeoff"


def family(run: Run) -> list[Run]:
    """Return a run, what it is compared with (the student alone, or before rounding), and the teacher's, if found."""
    card = run.card
    others = (card.baseline or card.tuned_from, card.teacher.run if card.teacher else None)
    return [run, *(found for spec in others if (found := relative(run, spec)))]


def bench_accuracy(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    data: str | None = None,
    split: str = "val",
    limit: int | None = None,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
    **data_options: Any,
) -> dict[str, Any]:
    """Judge runs, each with every exported file, and single files on the same images.

    Args:
        sources: runs or files; None is the last run.
        size: input height and width, for files that leave them free.
        data: a data set's name or folder (default: the data of the first run).
        split: of the data.
        limit: only the first so many images.
        options: what runs them, and on which device.
        out: folder of the record (default: ``bench/`` of the run, else ``bench/`` here).
        data_options: of ``open_data``, with ``data``.

    Returns:
        ``rows`` with the scores, ``ran_on`` and the change of mIoU from the first row, what was not measured, the
        device passport, and the file that holds all of it.

    Raises:
        UsageError: nothing to judge, or no data are known.
        KdcError: as ``evaluate_source``.
    """
    plan = make_plan(sources, size=size, batch=None, options=options)
    rows = _judge(plan, data, split, limit, data_options)
    first = rows[0]["scores"]["miou"]
    for row in rows:
        row["change"] = row["scores"]["miou"] - first
    result = {
        "kind": "accuracy",
        "device": options.device,
        "data": rows[0]["data"],
        "split": split,
        "images": rows[0]["scores"]["images"],
        "rows": rows,
        "not_measured": plan.missing,
        "passport": passport(),
    }
    return keep(result, plan.home, out)


def _judge(
    plan: Plan, data: str | None, split: str, limit: int | None, data_options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Evaluate every source of a plan on one data set; what cannot be judged joins ``plan.missing``."""
    plan.options.refuse_torch_modes()
    if data is not None:
        from ...distill.data import open_data

        dataset = open_data(data, split, **data_options)
    elif plan.home is not None:
        dataset = plan.home.open_data(split)
    else:
        raise UsageError("these files lie in no run folder, so their data are not known; name them: --data NAME|DIR")
    rows, kind = [], UsageError
    for source, label in zip(plan.chosen, row_names(plan.chosen), strict=True):
        info = info_of(source)
        try:
            result = evaluate_source(
                source,
                data=dataset,
                options=plan.options.for_source(source),
                size=None if is_torch(source) or (info is not None and None not in info.size) else plan.size,
                limit=limit,
            )
        except KdcError as error:
            misfit = isinstance(error, UsageError)  # made for smaller images: its latency may be measured all the same
            if not misfit and not may_be_refused(source, plan, error):
                raise
            kind = kind if misfit else ExportError
            plan.missing.append({"file": label, "why": f"{'accuracy ' * misfit}not measured: {error}"})
            continue
        rows.append({"name": label, **result})
    if not rows:
        raise kind(nothing_left(plan.missing, "judge"))
    return rows


def bench_tradeoff(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 6.0,
    runs: int = 1,
    rounds: int = ROUNDS,
    options: RuntimeOptions = CPU,
    data: str | None = None,
    split: str = "val",
    limit: int | None = None,
    out: Path | None = None,
    seed: int = 0,
    in_process: bool = False,
    **data_options: Any,
) -> dict[str, Any]:
    """Measure latency and accuracy of every source, count its arithmetic and parameters, and find who is on the front.

    Args:
        sources: runs or files; None is the last run with the student alone and the teacher that it came from.
        size: see ``bench_latency``, as ``batch``, ``threads``, ``seconds``, ``runs``, ``rounds``, ``options``,
            ``out``, ``seed`` and ``in_process``.
        data: see ``bench_accuracy``, as ``split``, ``limit`` and ``options``.

    Returns:
        ``rows`` by falling mIoU, each with its scores, its costs (None: not measured) and ``pareto``: by cost, whether
        no other row is as accurate for less. Written to ``record``, which stays, and as the latest one to ``files``:
        ``tradeoff.json``, ``.csv`` and ``.svg``, where the report looks.

    Raises:
        KdcError: as ``bench_latency`` and ``bench_accuracy``.
    """
    check(mode="net", seconds=seconds, rounds=rounds, batch=batch, threads=threads)
    chosen: Sequence[Source] = sources or family(find_run(None))
    plan = make_plan(chosen, size=size, batch=batch, options=options)
    labels = dict(zip(row_names(plan.chosen), plan.chosen, strict=True))
    before = passport()  # judging loads the machine, too
    # accuracy first: it is what fails, where something does
    scores = {row["name"]: row for row in _judge(plan, data, split, limit, data_options)}
    timed = time_plan(
        plan,
        threads=threads,
        seconds=seconds,
        runs=runs,
        rounds=rounds,
        mode="net",
        codec="jpg",
        out=out,
        seed=seed,
        in_process=in_process,
        before=before,
    )
    rows = [_row(row, labels[row["name"]], scores.get(row["name"]), plan) for row in timed["backends"]]
    for cost in COSTS:
        for row in rows:
            row["pareto"][cost] = on_front(row, rows, cost)
    rows.sort(key=lambda row: -(row["miou"] if row["miou"] is not None else -1.0))
    judged = next(iter(scores.values()))
    keys = ("device", "size", "batch", "threads", "not_measured", "flags", "passport")
    result: dict[str, Any] = {
        "kind": "tradeoff",
        **{key: timed[key] for key in keys},
        "data": judged["data"],
        "split": split,
        "images": judged["scores"]["images"],
        "rows": rows,
        "latency_record": timed["record"],
    }
    record = record_path(plan.home, out, FILE)
    files = {kind: record.with_name(f"{FILE}.{kind}") for kind in ("json", "csv", "svg")}
    for path in (record, files["json"]):
        write_json(path, result)
    write_bytes(files["csv"], table(rows).encode())
    write_bytes(files["svg"], tradeoff_chart(rows, COSTS, conditions(result)).encode())
    return result | {"files": {kind: str(path) for kind, path in files.items()}, "record": str(record)}


def _row(timed: dict[str, Any], source: Path | Run, judged: dict[str, Any] | None, plan: Plan) -> dict[str, Any]:
    run = source if isinstance(source, Run) else owner(source)
    params, macs = deployed(source, plan.size)
    found = (judged or {}).get("scores", {})
    return {
        "name": timed["name"],
        "network": run.path.name if run else str(source),
        "precision": timed["precision"],
        "ran_on": ran_on(timed),
        **{key: found.get(key) for key in SCORES},
        "latency_ms": timed["p50"],
        "latency_p95_ms": timed["p95"],
        "images_per_s": timed["images_per_s"],
        "gflops": None if macs is None else round(2 * macs / 1e9, 4),
        "params_m": None if params is None else round(params / 1e6, 4),
        "size_mb": timed["size_mb"],
        "pareto": {},
    }


def on_front(row: dict[str, Any], rows: Sequence[dict[str, Any]], cost: str) -> bool | None:
    """Tell whether no other row is at least as accurate for at most the cost, and better in one; None: not measured."""
    if row["miou"] is None or row[cost] is None:
        return None
    mine = (row["miou"], -row[cost])
    others = [(r["miou"], -r[cost]) for r in rows if r["miou"] is not None and r[cost] is not None]
    return not any(one[0] >= mine[0] and one[1] >= mine[1] and one != mine for one in others)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as CSV: one line a network, empty where nothing was measured."""
    text = io.StringIO()
    columns = [key for key in rows[0] if key != "pareto"] + [f"pareto_{cost}" for cost in COSTS]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        front = {f"pareto_{cost}": row["pareto"][cost] for cost in COSTS}
        writer.writerow({key: value for key, value in row.items() if key != "pareto"} | front)
    return text.getvalue()


def show_accuracy(result: dict[str, Any]) -> None:
    """Print the scores of several networks for people."""
    rows = []
    for row in result["rows"]:
        cells = [_percent(row["scores"].get(key)) for key in SCORES]
        rows.append([row["name"], row.get("precision", "fp32"), row["ran_on"], *cells, f"{100 * row['change']:+.2f}"])
    title = f"accuracy in per cent on {result['data']} {result['split']}, {result['images']} images"
    columns = ["network", "precision", "ran on", "mIoU", "mIoU present", "boundary", "pixels", "mIoU change"]
    console.table(title, columns, rows)
    for m in result["not_measured"]:
        console.say(f"{m['file']}: {m['why']}")
    console.say(f"record: {result['record']}")


def show(result: dict[str, Any]) -> None:
    """Print a trade-off for people; a star marks what is on the front of that cost."""
    rows = []
    for row in result["rows"]:
        costs = [
            "not measured" if row[cost] is None else f"{row[cost]:.2f}{' *' if row['pareto'][cost] else '  '}"
            for cost in COSTS
        ]
        rows.append(
            [row["name"], row["precision"], row["ran_on"], _percent(row["miou"]), *costs, f"{row['size_mb']:.1f}"]
        )
    columns = ["network", "precision", "ran on", "mIoU %", *(f"{name} {unit}" for name, unit in COSTS.values()), "MB"]
    console.table(f"trade-off, {conditions(result)}, {result['data']} {result['split']}", columns, rows)
    console.say("*: no other is as accurate for less of that cost (the Pareto front)")
    for m in result["not_measured"]:
        console.say(f"{m['file']}: {m['why']}")
    for flag in result["flags"]:
        console.warn(flag)
    console.say(f"files: {', '.join(result['files'].values())}; record: {result['record']}")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f}"
