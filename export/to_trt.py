"""From an ONNX file to a TensorRT engine, through whichever TensorRT is installed; types come from the file alone.

One path serves ``tensorrt`` 10.12+ and 11 and ``tensorrt_rtx`` (which builds without a GPU): strongly typed networks,
no precision flags. The builder is native code that can die or take minutes, so it works in a process of its own.
Where there is a GPU the engine then runs: it must compute in the precision that its file asks for, and segment as that.
"""

import importlib
import os
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..deploy.artefacts.beside import golden_path, manifest_path, owner
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import write_manifest
from ..deploy.artefacts.safe_onnx import external, whole
from ..deploy.child import ChildDiedError, call
from ..deploy.gpu.device import Gpu, gpu
from ..deploy.parity.golden import hand_on, read_golden
from ..deploy.parity.produce import Trial, not_kept, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.parity.trt_first_run import FirstRun, FirstRunRequest
from ..deploy.runtimes.file_info import FileInfo, spec_of
from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..deploy.runtimes.trt.manifest import FLAVOURS, EngineCard, check_fits
from ..distill import console
from ..distill.errors import ExportError, KdcError, NumbersError, ResourceError, UsageError, closest
from ..distill.run.records import Record
from ..distill.run.stale import refuse_stale
from ..distill.units import file_size
from .settings import DEFAULTS, NO_FLAGS, BuildFlags, ExportSettings
from .trt_builder import BuildReport, BuildRequest
from .trt_manifest import EngineManifest, describe
from .trt_shapes import plan_profile

OLDEST = (10, 12)
#: TensorRT-RTX without a target, as NVIDIA's page "CPU-Only AOT and TensorRT-RTX Engines" has it
PORTABLE = "any GPU of compute capability 8.0, 8.6, 8.9, 12.0 and later"
#: what ``--hardware`` accepts -> TensorRT's name of the compatibility level
HARDWARE = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
CURE = "the types stand in the ONNX file: look at its casts and Q/DQ; --no-tf32 keeps float32 exact"


def flavour(named: str | None = None) -> tuple[ModuleType, str, str]:
    """Import the TensorRT that is installed: module, name, version.

    ``tensorrt`` needs a GPU to build, so without one ``tensorrt_rtx`` goes first where both are installed.

    Raises:
        ExportError: none is installed (the message says what to do), or it is too old.
        UsageError: ``named`` is no flavour.
    """
    if named is not None and named not in FLAVOURS:
        raise UsageError(f"--flavour {named!r}: accepted are {' and '.join(FLAVOURS)}{closest(named, FLAVOURS)}")

    order = [named] if named else sorted(FLAVOURS, key=lambda name: name == "tensorrt" and gpu() is None)
    for name in order:
        if find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            raise ExportError(
                f"{name} is installed but does not load ({error}); install it again, or use the other --flavour"
            ) from error
        version = str(module.__version__)
        if name == "tensorrt" and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise ExportError(
                f"tensorrt {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed; pip install -U 'kdc[trt]'"
            )
        return module, name, version
    raise ExportError(
        f"no engine was built, {' or '.join(sorted(order))} is not installed: pip install 'kdc[trt-rtx]' builds "
        "without a GPU; or take the ONNX files to the target: pip install 'kdc[trt]' && kdc export trt FILE.onnx"
    )


@alone
def build_engine(
    onnx_path: Path,
    engine_path: Path,
    flags: BuildFlags = NO_FLAGS,
    settings: ExportSettings = DEFAULTS,
    said: Said = NOTHING,
) -> EngineManifest:
    """Build an engine in a process of its own and put it in its place with its manifest ``<engine>.json``.

    Where there is a GPU for it, it first runs there; an engine of a run then goes through the gate too.

    Args:
        onnx_path: a file with the types as they shall run.
        engine_path: where the engine goes.
        flags: how it is built.
        settings: of the gate.
        said: what is known of a file of another maker that it does not say itself; the engine's manifest keeps it.

    Returns:
        The manifest.

    Raises:
        ExportError: no TensorRT, the parser or builder refused the file, or the builder died.
        UsageError: a flag that the flavour or the file has no use for, or a shape that the network does not take.
        WeightsError: the file is missing or no segmentation network.
        NumbersError: the engine ran here and does not compute in the precision of its file, or segments otherwise; it
            is not kept.
        ResourceError: the builder was killed, as when memory runs out.
    """
    # what can be refused, before minutes of building
    refuse_stale(onnx_path)
    weights, info = external(onnx_path), read_info(onnx_path)
    name, version = check_flags(flags)
    if flags.strip_weights and weights:
        raise UsageError(f"--strip-weights: {onnx_path} keeps weights in '{weights}'; it must hold all of them itself")
    profile, device, run = plan_profile(onnx_path, info, flags.batches, flags.sizes), gpu(), owner(engine_path)
    info = _settled(onnx_path, info, flags.sizes and flags.sizes[1], said)
    if golden_path(onnx_path).is_file():
        read_golden(onnx_path)
    trial = None
    if run and device is not None:
        limits = tolerances(info.precision, run, agreement=settings.agreement)
        trial = Trial(onnx_path, limits, CURE, settings.images, device="cuda")

    def write(path: Path) -> EngineManifest:
        targets = [each.lower() for each in flags.targets]
        default = PORTABLE if name == "tensorrt_rtx" else str(device or "the GPU of this machine")
        target = ", ".join(targets) or default
        console.warn(f"{name} {version} builds {path.name} for {target}")
        with tempfile.TemporaryDirectory() as folder:
            single = onnx_path
            if weights:  # the builder reads one file
                single = Path(folder) / onnx_path.name
                single.write_bytes(whole(onnx_path))
            request = _request(single, path, name, flags, profile)
            subject = f"the {name} builder died on {onnx_path}"
            built = BuildReport.from_dict(_in_child("export.trt_builder", request, subject))
        for text in built.notes:
            console.warn(text)
        if built.warnings:
            console.warn(f"{name} warned {built.warnings} times; see notes in {manifest_path(path).name}")
        manifest = describe(onnx_path, path, built, flags, info, device, target)

        # where it first runs it needs its manifest, its golden image, and the weights that it was stripped of
        if flags.strip_weights:
            path.with_name(onnx_path.name).symlink_to(onnx_path.resolve())
        write_manifest(path, manifest)
        hand_on(onnx_path, path)
        manifest = _first_run(path, engine_path, manifest, device)
        ran = manifest.proof.line() if manifest.proof else "not run here"
        facts = f"{info.precision}, {file_size(manifest.bytes)}, built in {built.build_seconds:.1f} s ({ran})"
        console.say(f"{path.name}: {facts}")
        return manifest

    return produce(run, engine_path, write, trial).manifest


def _settled(path: Path, info: FileInfo, size: tuple[int, int] | None, said: Said) -> FileInfo:
    """Add to what a file of another maker states what is settled of it: an engine has no nodes that tell."""
    if info.own or ("kdc.answer" in info.metadata and not said.flags):
        return info
    if all(port.shape and None not in port.shape[1:] for port in info.outputs):
        spec = spec_of(info, path, size, said)
    else:
        with open_runtime(path, size=size, said=said) as runtime:
            spec = runtime.spec
    facts = {"preprocess": spec.preprocess.to_dict(), "answer": spec.answer.to_dict()}
    return replace(info, metadata=info.metadata | {f"kdc.{key}": value for key, value in facts.items()})


def _request(
    onnx_path: Path, path: Path, name: str, flags: BuildFlags, profile: dict[str, list[int]] | None
) -> BuildRequest:
    """Tell the builder what to build."""
    return BuildRequest(
        flavour=name,
        targets=[each.lower() for each in flags.targets],
        profile=profile,
        workspace_mib=flags.workspace_mib,
        opt_level=flags.opt_level,
        timing_cache=str(flags.timing_cache) if flags.timing_cache else None,
        parent=os.getpid(),
        flags=list(flags.builder_flags.values()),
        tf32=flags.tf32,
        hardware=HARDWARE[flags.hardware] if flags.hardware else None,
        onnx=str(onnx_path),
        engine=str(path),
    )


def _first_run(path: Path, final: Path, manifest: EngineManifest, device: Gpu | None) -> EngineManifest:
    """Run a new engine in a process of its own; return its manifest as it was, and say why, if no GPU here is for it.

    Raises:
        ExportError: it cannot be opened or dies.
        NumbersError: it does not compute in the precision of its file, or segments the golden image otherwise.
    """
    if device is None:
        return manifest
    try:
        check_fits(EngineCard.from_dict(manifest.to_dict()), final, manifest.built.version, device)
    except ExportError as error:
        console.warn(f"{path.name} was built but not run: {error}")
        return manifest
    try:
        subject = f"{path.name} was built and died when it ran"
        order = FirstRunRequest(str(path))
        first = FirstRun.from_dict(_in_child("deploy.parity.trt_first_run", order, subject))
    except ResourceError as error:  # of this moment: the engine is not to blame
        console.warn(f"{path.name} was built but not run: {error}; gate it later with kdc parity")
        return manifest
    except KdcError as error:
        raise ExportError(f"{error}; {path.name} {not_kept(final)}") from error
    if reasons := [*first.proof.reasons, *(first.golden.reasons if first.golden else ())]:
        raise NumbersError(f"{path.name} {not_kept(final)}: {'; '.join(reasons)}; {CURE}")
    return replace(manifest, proof=first.proof, golden=first.golden)


def check_flags(flags: BuildFlags = NO_FLAGS) -> tuple[str, str]:
    """Return name and version of the TensorRT that ``build_engine`` would take, if every flag means something to it.

    Raises:
        ExportError: see ``flavour``.
        UsageError: a value that is not accepted, or that this flavour has no use for.
    """
    batches, targets = flags.batches or (1, 1, 1), [each.lower() for each in flags.targets]
    if len(batches) != 3 or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise UsageError(
            f"--batches {','.join(map(str, batches))}: smallest, usual and largest batch are needed, such as 1,4,16"
        )
    if flags.workspace_mib is not None and flags.workspace_mib < 1:
        raise UsageError(f"--workspace {flags.workspace_mib}: at least 1 MiB is needed")
    if flags.opt_level is not None and not 0 <= flags.opt_level <= 5:
        raise UsageError(f"--opt-level {flags.opt_level}: accepted are 0 (quick build) to 5 (quick engine)")
    if flags.hardware is not None and flags.hardware not in HARDWARE:
        near = closest(flags.hardware, HARDWARE)
        raise UsageError(f"--hardware {flags.hardware!r}: accepted are {' and '.join(HARDWARE)}{near}")

    module, name, version = flavour(flags.flavour_name)
    if name == "tensorrt_rtx":
        _check_rtx(flags)
    elif targets:
        raise UsageError("--target is for tensorrt_rtx; tensorrt builds for the GPU of its machine")
    for word, flag in flags.builder_flags.items():
        if not hasattr(module.BuilderFlag, flag):
            raise UsageError(f"{name} {version} does not know {word}; leave it out, or use another --flavour")
    if targets:
        known = [key.lower() for key in module.ComputeCapability.__members__ if key != "NONE"]
        for target in targets:
            if target not in known:
                raise UsageError(f"--target {target!r}: {name} builds for {', '.join(known)}{closest(target, known)}")
    return name, version


def _check_rtx(flags: BuildFlags) -> None:
    """Refuse what TensorRT-RTX has no use for, or does only on a GPU (both tried with 1.7)."""
    idle = {"--opt-level": flags.opt_level is not None, "--timing-cache": flags.timing_cache is not None}
    for word in (word for word, on in idle.items() if on):
        raise UsageError(f"{word} does nothing in tensorrt_rtx, which tries no kernels while it builds; leave it out")
    if flags.hardware is not None:
        raise UsageError("--hardware does nothing in tensorrt_rtx; its engines are portable, or name GPUs by --target")
    if flags.version_compatible:
        raise UsageError("--version-compatible needs the lean runtime, which tensorrt_rtx does not bring; leave it out")
    if (flags.refit or flags.strip_weights) and gpu() is None:
        word = "--strip-weights" if flags.strip_weights else "--refit"
        raise UsageError(f"{word}: tensorrt_rtx builds such engines on a GPU only, and there is none here")


def _in_child(module: str, request: Record, subject: str) -> dict[str, Any]:
    """Do as ``call`` does; a child that dies is told of with ``subject``, and one that is killed ran out of memory."""
    try:
        return call(module, request.to_dict())
    except ChildDiedError as error:
        kind = ResourceError if error.exit_code == ResourceError.exit_code else ExportError
        raise kind(f"{subject} ({error.end}); its last message: {error.last_words}{error.cure}") from error


#: words in a file's name that say its types
_TYPED = {"fp16", "bf16", "int8", "fp8"}


def engine_path(onnx: Path) -> Path:
    """Name the engine of an ONNX file: ``model.fp32.engine`` for ``model.onnx``, else as the file."""
    stem = onnx.name.removesuffix(".onnx")
    named = not _TYPED.isdisjoint(stem.split("."))
    return onnx.with_name(f"{stem}.engine" if named else f"{stem}.fp32.engine")
