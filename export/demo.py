"""The whole job on generated scenes in minutes: teacher, baseline, distillation, export, gates, speed, report."""

import time
from dataclasses import dataclass
from pathlib import Path

from ..calib.calibrate import calibrate_run
from ..deploy.artefacts.ledger import GateRow, read_gates
from ..deploy.bench.latency import bench_latency
from ..deploy.bench.latency_record import LatencyRecord
from ..deploy.bench.record import Effort
from ..deploy.report.report import collect, write_report
from ..distill import console
from ..distill.data import recipe
from ..distill.errors import ExportError, NumbersError, ResourceError
from ..distill.job import run_job
from ..distill.run.folder import Run
from ..distill.run.records import Record
from ..distill.settings.config import Config, resolve
from ..distill.units import file_size, milliseconds
from .demo_time import expected_seconds
from .to_onnx import export_run
from .to_trt import build_engine, engine_path
from .trt_manifest import EngineManifest

TEACHER, STUDENT = "deeplabv3-r18", "deeplabv3-mv2_050"
#: optimiser steps of each of the three fits: minutes on two CPU cores
ITERS = 120
#: seconds of measuring for each of the three backends
BENCH_SECONDS = 3.0
STEPS = (
    f"fit the teacher, {TEACHER}",
    f"fit the student alone, {STUDENT}: the baseline",
    "distil the teacher into the student with kt: same start, same data order, same budget",
    "export to ONNX and check parity with torch",
    "quantise to INT8 for ONNX Runtime and check it",
    "build a TensorRT engine",
    "measure latency: torch, ONNX, ONNX INT8",
    "write the report",
)


@dataclass(frozen=True)
class DemoPlan(Record):
    """The steps of a demo, and about how many seconds it takes on this machine."""

    data: str
    seed: int
    steps: list[str]
    seconds: float


@dataclass(frozen=True)
class DemoResult(Record):
    """The measurements of a demo."""

    data: str
    seed: int
    #: of the runs "teacher", "baseline" and "distilled", as their folders in ``runs``
    miou: dict[str, float | None]
    gates: list[GateRow]
    latency: LatencyRecord
    engine: EngineManifest | None
    runs: dict[str, str]
    report: str
    seconds: float


def run_demo(seed: int = 0, root: Path | None = None) -> DemoResult:
    """Do the main job on generated scenes and measure it.

    Args:
        seed: of weights, sample order and augmentation; the scenes are the same for every seed.
        root: where the runs go (default ``runs/``).

    Raises:
        KdcError: whatever the step that failed raises; TensorRT's absence alone does not end the demo.
    """
    start = time.perf_counter()
    _forecast(seed)

    _step(1)
    teacher = run_job(_config(seed, TEACHER), root=root, kind="teacher")
    _step(2)
    baseline = run_job(_config(seed, STUDENT), root=root)
    _step(3)
    student = run_job(_config(seed, STUDENT, method="kt", teacher=str(teacher.path)), root=root)

    _step(4)
    exported = export_run(student)[0]
    _step(5)
    int8 = _int8(student)
    _step(6)
    engine = _engine(exported.path)

    _step(7)
    latency = bench_latency([student, exported.path, *int8], Effort(seconds=BENCH_SECONDS))
    _step(8)
    report = write_report(student, collect(student, baseline))

    runs = {"teacher": teacher, "baseline": baseline, "distilled": student}
    result = DemoResult(
        data="builtin (generated scenes)",
        seed=seed,
        miou={name: run.card.miou for name, run in runs.items()},
        gates=read_gates(student),
        latency=latency,
        engine=engine,
        runs={name: str(run.path) for name, run in runs.items()},
        report=str(report),
        seconds=round(time.perf_counter() - start, 1),
    )
    _show_summary(result, student)
    return result


def plan_demo(seed: int = 0) -> DemoPlan:
    """Say what ``run_demo`` would do and how long it would take; write nothing."""
    seconds = _forecast(seed)
    for number, text in enumerate(STEPS, 1):
        console.say(f"[{number}/{len(STEPS)}] {text}")
    console.say("three runs would be written to runs/, with the exported files and report.html in the last of them")
    return DemoPlan("builtin (generated scenes)", seed, list(STEPS), round(seconds, 1))


def _forecast(seed: int) -> float:
    console.say("THE DEMO RUNS ON GENERATED SCENES: its numbers say nothing about real images")
    seconds, step = expected_seconds(_config(seed, TEACHER), _config(seed, STUDENT))
    minutes = max(round(seconds / 60), 1)
    console.say(f"about {console.plural(minutes, 'minute')} on this machine (one teacher step takes {step:.2f} s)")
    return seconds


def _config(seed: int, network: str, method: str = "none", teacher: str | None = None) -> Config:
    networks = {"model.student": network, "model.teacher": teacher, "method.name": method}
    return resolve({**networks, "train.iters": ITERS, "train.seed": seed}, layers=[recipe("builtin")])


def _step(number: int) -> None:
    console.say()
    console.say(f"[{number}/{len(STEPS)}] {STEPS[number - 1]}")


def _int8(run: Run) -> list[Path]:
    try:
        return [calibrate_run(run).path]
    except NumbersError as error:  # a gate may fail: its result is in gates.json and in the report
        console.warn(f"no INT8 file: {error}")
        return []


def _engine(onnx: Path) -> EngineManifest | None:
    try:
        return build_engine(onnx, engine_path(onnx))
    except (ExportError, ResourceError) as error:
        console.warn(f"no engine: {error}")
        return None


def _show_summary(result: DemoResult, student: Run) -> None:
    teacher, baseline, distilled = (100 * (result.miou[name] or 0.0) for name in ("teacher", "baseline", "distilled"))
    rows = [
        (f"teacher mIoU, {TEACHER}", f"{teacher:.2f} %"),
        (f"student alone mIoU, {STUDENT}", f"{baseline:.2f} %"),
        ("student distilled with kt mIoU", f"{distilled:.2f} % ({distilled - baseline:+.2f} points)"),
    ]
    for gate in result.gates:
        rows.append((f"parity of {gate.stage}", f"{100 * gate.agreement:.3f} % of pixels"))
    for row in result.latency.backends:
        rows.append((row.name, f"{milliseconds(row.times.p50)} median, {file_size(1e6 * row.backend.size_mb)}"))
    if result.engine:
        ran = "run" if result.engine.proof else "not run here"
        rows.append(
            (f"TensorRT engine ({result.engine.built.flavour})", f"{file_size(result.engine.bytes)}, built, {ran}")
        )

    console.say()
    console.table(f"measured here in {result.seconds:.0f} s on generated scenes (seed {result.seed})", ("", ""), rows)
    console.say(f"report: {result.report}")
    console.say("next:")
    console.say("  kdc distill --data DIR --teacher r101 --student r18 --method kt    your own images and masks")
    console.say(f"  kdc export trt {student.path.name}")
    console.say(f"  kdc bench latency {student.path.name} --mode e2e")
