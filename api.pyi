"""What editors are told about ``kdc.api``; written by ``python tests/_stub.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from .calib.calibrate import CalibrationPlan
from .calib.commands import CalibratedFile
from .deploy.artefacts.signature import TrustedKey
from .deploy.artefacts.trust_command import Keys, PublicKeyRecord
from .deploy.bench.accuracy import AccuracyRecord, Evaluation
from .deploy.bench.commands import Costs, LatencyRecords
from .deploy.bench.latency_record import LatencyRecord
from .deploy.bench.memory import MemoryRecord
from .deploy.bench.throughput import ThroughputRecord
from .deploy.bench.tradeoff import TradeoffRecord
from .deploy.commands import ReportPage
from .deploy.doctor.doctor import Examination
from .deploy.parity.command import GoldenCheck, ParityResult
from .deploy.predict.predict import Prediction
from .deploy.runtimes.base import Runtime
from .deploy.runtimes.said import Said
from .distill.commands.data import DataInfo, DataSets
from .distill.commands.methods import MethodCard, Methods
from .distill.commands.models import ModelCost, Models
from .distill.commands.runs import RunInfo, Runs
from .distill.commands.training import TrainingResult
from .distill.compare.compare import ComparisonPlan
from .distill.compare.results import Results
from .distill.data._check import CheckReport
from .distill.papers.claims import Verification
from .distill.probe.records import Probe, RunPlan
from .distill.run.folder import Run
from .distill.run.seal import RunCheck
from .export.commands import EnginePlan, Engines, NamedFile
from .export.demo import DemoPlan, DemoResult
from .export.targets_command import ExportedFiles
from .export.to_aoti import AotiManifest
from .export.to_bundle import PackedBundle
from .export.to_onnx import ExportPlan
from .export.to_triton import TritonModel

progress: bool

def bench_accuracy(
    sources: str | Path | Sequence[str | Path] | None = None,
    data: str | Path | None = None,
    split: str = "val",
    classes: int | None = None,
    ignore_index: int | None = None,
    limit: int | None = None,
    sets: str | Sequence[str] | None = None,
    size: str | tuple[int, int] | None = None,
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    out: str | Path | None = None,
) -> AccuracyRecord:
    """Evaluate torch and every exported file of a run on the same images: mIoU, boundaries, pixel accuracy."""

def bench_flops(
    networks: str | Path | Sequence[str | Path] | None = None,
    classes: int | None = None,
    size: str | tuple[int, int] | None = None,
    stride: int | None = None,
    counter: str = "true",
) -> Costs:
    """Count multiply-adds (MACs) and FLOPs = 2 x MACs of networks for one image."""

def bench_latency(
    sources: str | Path | Sequence[str | Path] | None = None,
    size: str | tuple[int, int] | None = None,
    batch: str = "1",
    threads: int | None = None,
    seconds: float = 6.0,
    runs: int = 100,
    rounds: int = 10,
    mode: str = "net",
    codec: str = "jpg",
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    torch_mode: str = "channels-last",
    out: str | Path | None = None,
    seed: int = 0,
) -> LatencyRecord | LatencyRecords:
    """Time torch and every exported file of a run side by side, in interleaved rounds."""

def bench_memory(
    sources: str | Path | Sequence[str | Path] | None = None,
    size: str | tuple[int, int] | None = None,
    batch: str = "1",
    threads: int | None = None,
    runs: int = 3,
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> MemoryRecord:
    """Read what each network adds to an idle process, opened and at its peak, and its size on disk."""

def bench_params(
    networks: str | Path | Sequence[str | Path] | None = None,
    classes: int | None = None,
    stride: int | None = None,
) -> Costs:
    """Count the parameters of networks, with and without the auxiliary head."""

def bench_throughput(
    sources: str | Path | Sequence[str | Path] | None = None,
    size: str | tuple[int, int] | None = None,
    batch: str = "1,4",
    streams: str = "1,2",
    threads: int | None = None,
    seconds: float = 3.0,
    rounds: int = 5,
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    torch_mode: str = "channels-last",
    out: str | Path | None = None,
    seed: int = 0,
) -> ThroughputRecord:
    """Count images per second over batches and streams: what a server gets, where latency is what a camera sees."""

def bench_tradeoff(
    sources: str | Path | Sequence[str | Path] | None = None,
    data: str | Path | None = None,
    split: str = "val",
    classes: int | None = None,
    ignore_index: int | None = None,
    limit: int | None = None,
    sets: str | Sequence[str] | None = None,
    size: str | tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 6.0,
    runs: int = 100,
    rounds: int = 10,
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> TradeoffRecord:
    """Set mIoU against latency, FLOPs and parameters, and mark what nothing else beats: table, CSV and SVG.

    Without a name: the last run, the student alone and the teacher it came from, each with its exported files.
    """

@overload
def calibrate(
    run: str | Path | None = None,
    to: str = "int8",
    target: str | None = None,
    images: int | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    calibrator: str | None = None,
    compared: bool = False,
    sensitivity: bool = False,
    budget: float | None = None,
    max_drop: float | None = None,
    agreement: float | None = None,
    qat: bool = False,
    qat_iters: int | None = None,
    qat_lr: float | None = None,
    keep: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    high: str | None = None,
    caster: str = "kdc",
    seed: int = 0,
    size: str | tuple[int, int] | None = None,
    out: str | Path | None = None,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    dry_run: Literal[False] = False,
) -> CalibratedFile:
    """Make a smaller file of an exported network, calibrated on real images and checked against float32."""

@overload
def calibrate(
    run: str | Path | None = None,
    to: str = "int8",
    target: str | None = None,
    images: int | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    calibrator: str | None = None,
    compared: bool = False,
    sensitivity: bool = False,
    budget: float | None = None,
    max_drop: float | None = None,
    agreement: float | None = None,
    qat: bool = False,
    qat_iters: int | None = None,
    qat_lr: float | None = None,
    keep: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    high: str | None = None,
    caster: str = "kdc",
    seed: int = 0,
    size: str | tuple[int, int] | None = None,
    out: str | Path | None = None,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    *,
    dry_run: Literal[True],
) -> CalibrationPlan:
    """Return the plan; write nothing."""

@overload
def compare(
    methods: str | None = None,
    seeds: str = "3",
    grid: str | Sequence[str] | None = None,
    teacher: str | Path | None = None,
    student: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    dry_run: Literal[False] = False,
) -> Results:
    """Train several methods under one protocol and compare each, seed by seed, with the student alone.

    The same command goes on where it was stopped; another method, seed or grid value extends the folder.
    """

@overload
def compare(
    methods: str | None = None,
    seeds: str = "3",
    grid: str | Sequence[str] | None = None,
    teacher: str | Path | None = None,
    student: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    *,
    dry_run: Literal[True],
) -> ComparisonPlan:
    """Return the plan; write nothing."""

def data_check(
    source: str | Path,
    classes: int | None = None,
    ignore_index: int | None = None,
    sets: str | Sequence[str] | None = None,
) -> CheckReport:
    """Decode every image and mask, list every problem and count the classes."""

def data_info(
    source: str | Path,
    classes: int | None = None,
    ignore_index: int | None = None,
    sets: str | Sequence[str] | None = None,
) -> DataInfo:
    """Show the classes, splits and sizes of a data set or folder."""

def data_ls() -> DataSets:
    """List the data sets that kdc knows by name."""

@overload
def demo(
    seed: int = 0,
    dry_run: Literal[False] = False,
) -> DemoResult:
    """Do the whole job on generated scenes, say at the start how long it takes, and end with what was measured."""

@overload
def demo(
    seed: int = 0,
    *,
    dry_run: Literal[True],
) -> DemoPlan:
    """Return the plan; write nothing."""

@overload
def distill(
    teacher: str | Path | None = None,
    student: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    at: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    dry_run: Literal[False] = False,
) -> TrainingResult:
    """Distil a teacher into a student."""

@overload
def distill(
    teacher: str | Path | None = None,
    student: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    at: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    *,
    dry_run: Literal[True],
) -> RunPlan:
    """Return the plan; write nothing."""

def doctor() -> Examination:
    """Say what this machine has, what it lacks, and the command that cures it."""

def evaluate(
    source: str | Path | None = None,
    data: str | Path | None = None,
    split: str = "val",
    classes: int | None = None,
    ignore_index: int | None = None,
    device: str = "cpu",
    provider: str | None = None,
    size: str | tuple[int, int] | None = None,
    limit: int | None = None,
    sets: str | Sequence[str] | None = None,
    tile: str | tuple[int, int] = "off",
    overlap: float | None = None,
    blend: str | None = None,
    fit: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> Evaluation:
    """Evaluate a network on whole images: mIoU, per-class IoU, boundaries, pixel accuracy."""

def export_aoti(
    run: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    images: int | None = None,
    agreement: float | None = None,
    which: str | None = None,
    fit: str | None = None,
) -> AotiManifest:
    """Compile the network for this machine with torch's AOTInductor (.pt2) and compare it with torch on real images.

    It needs a C++ compiler and a minute or so; a package beyond the gate's tolerance is not kept (exit 6).
    """

def export_bundle(
    source: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    out: str | Path | None = None,
    golden_image: bool = True,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> PackedBundle:
    """Pack an ONNX file (of a run: model.onnx; or any maker's) with labels, gates, a golden image and a runner.

    The zip runs with numpy and ONNX Runtime alone: python run.py IMAGE --out mask.png; python run.py --check tests it.
    """

@overload
def export_onnx(
    run: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    images: int | None = None,
    agreement: float | None = None,
    keep_fp32: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    caster: str | None = None,
    which: str | None = None,
    fit: str | None = None,
    drop_stale: bool = False,
    data: str | Path | None = None,
    out: str | Path | None = None,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    dry_run: Literal[False] = False,
) -> ExportedFiles | NamedFile:
    """Write self-contained ONNX files (fp32 unless --precision says more) and compare each with torch on real images.

    Of another maker's file: write one that says all that was settled of it. What fails its gate is not kept (exit 6).
    """

@overload
def export_onnx(
    run: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    images: int | None = None,
    agreement: float | None = None,
    keep_fp32: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    caster: str | None = None,
    which: str | None = None,
    fit: str | None = None,
    drop_stale: bool = False,
    data: str | Path | None = None,
    out: str | Path | None = None,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    *,
    dry_run: Literal[True],
) -> ExportPlan:
    """Return the plan; write nothing."""

def export_openvino(
    source: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    precision: str = "fp32",
    images: int | None = None,
    agreement: float | None = None,
    which: str | None = None,
    fit: str | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> ExportedFiles:
    """Write OpenVINO files (.xml and .bin) from a gated ONNX file, or any maker's, and compare each on OpenVINO.

    A file beyond the gate's tolerance is not kept, an earlier one stays (exit 6).
    """

def export_triton(
    source: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    max_batch: int | None = None,
    preferred: int | Sequence[int] | None = None,
    queue_delay: int = 100,
    instances: int = 1,
    device: str | None = None,
    cuda_graph: bool = False,
    warmup: bool = True,
    trust: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> TritonModel:
    """Lay out a model repository for NVIDIA's Triton server from an ONNX file, an engine or an OpenVINO file.

    Of a run, the ONNX file with the mask inside and a free batch is served; it is exported first if it is missing.
    """

@overload
def export_trt(
    run: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    images: int | None = None,
    agreement: float | None = None,
    keep_fp32: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    caster: str | None = None,
    which: str | None = None,
    fit: str | None = None,
    drop_stale: bool = False,
    flavour: str | None = None,
    target: str | Sequence[str] | None = None,
    batches: str | None = None,
    workspace: int | None = None,
    opt_level: int | None = None,
    timing_cache: str | Path | None = None,
    sizes: str | None = None,
    version_compatible: bool = False,
    hardware: str | None = None,
    refit: bool = False,
    strip_weights: bool = False,
    no_tf32: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    dry_run: Literal[False] = False,
) -> Engines:
    """Write typed ONNX files (fp32, fp16) through their gates, then build engines with the installed TensorRT."""

@overload
def export_trt(
    run: str | Path | None = None,
    size: str | tuple[int, int] | None = None,
    head: str | None = None,
    input: str | None = None,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    images: int | None = None,
    agreement: float | None = None,
    keep_fp32: str | Sequence[str] | None = None,
    allow_partial: bool = False,
    caster: str | None = None,
    which: str | None = None,
    fit: str | None = None,
    drop_stale: bool = False,
    flavour: str | None = None,
    target: str | Sequence[str] | None = None,
    batches: str | None = None,
    workspace: int | None = None,
    opt_level: int | None = None,
    timing_cache: str | Path | None = None,
    sizes: str | None = None,
    version_compatible: bool = False,
    hardware: str | None = None,
    refit: bool = False,
    strip_weights: bool = False,
    no_tf32: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
    *,
    dry_run: Literal[True],
) -> EnginePlan:
    """Return the plan; write nothing."""

def methods_info(
    name: str,
    size: str | tuple[int, int] = "512x1024",
    classes: int = 19,
    teacher: str = "deeplabv3-r101",
    student: str = "deeplabv3-r18",
) -> MethodCard:
    """Show a method's equations, taps, phases, options, cost, and where paper and code differ."""

def methods_ls() -> Methods:
    """List the distillation methods."""

def models_info(
    name: str,
    classes: int = 19,
    size: str | tuple[int, int] = "512x1024",
    output_stride: int | None = None,
) -> ModelCost:
    """Show a network's parameters, multiply-adds and taps."""

def models_ls() -> Models:
    """List the networks."""

def open_run(
    spec: str | Path | None = None,
    root: Path | None = None,
) -> Run:
    """Find a run: a folder, a file inside one, a name below ``runs/``, or None for the last one.

    Raises:
        UsageError: there is no such run.
    """

def open_runtime(
    source: str | Path | Run,
    device: str = "cpu",
    provider: str | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    head: str = "logits",
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    torch_mode: str = "channels-last",
    said: Said | None = None,
) -> Runtime:
    """Open a run, a kdc checkpoint, or a file by its suffix.

    ``.onnx`` runs in ONNX Runtime (or OpenVINO, as the provider says), ``.xml`` in OpenVINO, ``.pt2`` as AOTInductor
    compiled it, ``.engine`` and ``.plan`` in TensorRT, ``.safetensors``, ``.pt`` and ``.pth`` in torch.

    Args:
        source: what to open; a name is looked for below ``runs/``.
        device: "cpu" or "cuda".
        provider: an ONNX Runtime execution provider or "openvino", where ``device`` does not say enough.
        size: input height and width, for what is not made for one size: a checkpoint, a dynamic ONNX file.
        threads: CPU threads within an operator (default: OMP_NUM_THREADS, else the runtime's own choice).
        head: "logits" or "argmax", for a checkpoint; a file has the head it was exported with.
        trust: run native code (``.pt2``, engines) that is signed neither by the user nor by a trusted key.
        buffers: library for the GPU memory of an engine: "auto", "pycuda", "cuda-python" or "torch".
        cuda_graph: start an engine as one CUDA graph.
        torch_mode: how torch runs a checkpoint, see ``TorchMode``.
        said: what is known of an exported file that it does not say itself.

    Raises:
        UsageError: no such run, or a flag that does not fit the file.
        WeightsError: the file is missing or broken, or was changed since kdc wrote it.
        ExportError: the runtime, device or provider is not available.
    """

def parity(
    first: str | Path | None = None,
    second: str | Path | None = None,
    images: int | None = None,
    explain: bool = False,
    data: str | Path | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    compiled: bool = False,
    device: str = "cpu",
    provider: str | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> ParityResult | GoldenCheck:
    """Compare exported files with what they were made from: logits, masks, scores, preprocessing (exit 6 if broken)."""

def predict(
    words: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    masks: bool | None = None,
    overlay: bool = True,
    colour: bool = False,
    alpha: float = 0.5,
    legend: bool = True,
    stream: bool = False,
    every: int = 1,
    limit: int | None = None,
    tile: str | tuple[int, int] = "off",
    overlap: float | None = None,
    blend: str | None = None,
    fit: str | None = None,
    device: str = "cpu",
    provider: str | None = None,
    size: str | tuple[int, int] | None = None,
    bits: int | None = None,
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    output_name: str | None = None,
    layout: str | None = None,
    scores: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    bgr: bool | None = None,
) -> Prediction:
    """Segment images, videos, cameras and streams: masks, overlays and the share of each class."""

def probe(
    teacher: str | Path | None = None,
    student: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    at: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    images: int = 32,
    batches: int = 4,
) -> Probe:
    """Look before a long run, with the flags of distill: what the teacher knows, what each term does, what it costs."""

def report(
    run: str | Path | None = None,
    baseline: str | Path | None = None,
    features: str | None = None,
    others: str | Path | Sequence[str | Path] | None = None,
) -> ReportPage:
    """Write one HTML file with everything that is known about a run."""

def runs_check(
    run: str | Path | None = None,
    accept: bool = False,
) -> RunCheck:
    """Compare every file of a run with what kdc wrote: whole, changed, missing, or unknown to its seal.

    It shows that a file changed, not who wrote it; and what is stale, since it was made from a file that has changed.
    """

def runs_info(
    run: str | Path | None = None,
) -> RunInfo:
    """Show the settings of a run and how it ended."""

def runs_ls() -> Runs:
    """List the runs in runs/, newest last; those that cannot be opened come first."""

def runs_rm(
    run: str | Path,
    yes: bool = False,
) -> None:
    """Remove a run folder."""

@overload
def train(
    student: str | None = None,
    preset: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    dry_run: Literal[False] = False,
) -> TrainingResult:
    """Train a network without a teacher: a baseline, or a teacher to be."""

@overload
def train(
    student: str | None = None,
    preset: str | None = None,
    data: str | Path | None = None,
    classes: int | None = None,
    ignore_index: int | None = None,
    split: str | None = None,
    size: str | tuple[int, int] | None = None,
    iters: int | None = None,
    batch: int | None = None,
    crop: str | tuple[int, int] | None = None,
    lr: float | None = None,
    seed: int | None = None,
    arch: str | None = None,
    student_weights: str | Path | None = None,
    init: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    sets: str | Sequence[str] | None = None,
    config: str | Path | None = None,
    *,
    dry_run: Literal[True],
) -> RunPlan:
    """Return the plan; write nothing."""

def trust_add(
    key: str,
    name: str = "",
) -> TrustedKey:
    """Trust somebody else's key: what is signed with it runs here without --trust.

    Take the key from its owner, not from the file that you want to run.
    """

def trust_ls() -> Keys:
    """List the keys whose files run here."""

def trust_rm(
    key: str,
) -> TrustedKey:
    """Trust a key no longer."""

def trust_show() -> PublicKeyRecord:
    """Show your own public key, for others to trust; it is made if you have none."""

def verify(
    paper: str | Path = "all",
    trained: str | Path | Sequence[str | Path] | None = None,
    within: float = 1.0,
    strict: bool = False,
    out: str | Path | None = None,
) -> Verification:
    """Count the papers' Params and FLOPs again and find where their tables contradict each other.

    Needs neither data nor weights. Each number is tried under a fixed order of conventions: FLOPs or multiply-adds,
    with or without the auxiliary head, dilation ignored as CIRKD's counter does, V1 or V2 heads, input sizes; then what
    contradicts the row: other classes, another backbone. The first that gives the printed digits is shown.
    """
