"""``kdc calib``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..deploy.flags import read_size, takes_said
from ..distill.commands.command import command
from ..distill.run.records import Record
from ..distill.units import file_size

if TYPE_CHECKING:
    from ..deploy.runtimes.said import Said
    from .calibrate import CalibrationPlan
    from .low_manifest import LowPrecisionManifest
    from .qat import Exporter

Source = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Run folder or name; or a float32 ONNX file [default: the last run]"),
]
To = Annotated[str, typer.Option("--to", help="int8, fp8, fp16 or bf16")]
Target = Annotated[
    str | None,
    typer.Option(
        "--for",
        help="Runtime of the file: trt (TensorRT), ort (ONNX Runtime on a CPU) or openvino "
        "[default: ort for int8, trt for the others]",
    ),
]
Images = Annotated[
    int | None, typer.Option(help="Calibration images, chosen so that every class is in them [default: 128]")
]
Data = Annotated[
    str | None, typer.Option(metavar="NAME|DIR", help="Data of the calibration images [default: the run's own]")
]
Split = Annotated[str | None, typer.Option(help="Split of these data [default: train]")]
Calibrator = Annotated[
    str | None, typer.Option(help="minmax, entropy, percentile or mse [default: mse, or the best of --compare]")
]
Compared = Annotated[
    bool, typer.Option("--compare", help="Compare the calibrators on held-out images and take the best")
]
Sensitive = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="Measure what each block costs and leave the costliest in high precision "
        "until --agreement and --max-drop hold",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES",
        min=0.1,
        help="Time of --sensitivity; where it is too short, fewer images are used and blocks are measured together "
        "[default: 6]",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Largest loss of mIoU in points; implies --sensitivity for INT8 and FP8 [default: 0.5]",
    ),
]
Agreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Smallest share of agreeing pixels [default: 0.99 INT8 and BF16, 0.98 FP8, 0.999 FP16]"
    ),
]
Qat = Annotated[
    bool,
    typer.Option(
        "--qat",
        help="First train on, as a run of its own, with the teacher and with convolutions that round as in the "
        "file (INT8 and FP8 for ort and trt)",
    ),
]
QatIters = Annotated[
    int | None, typer.Option("--qat-iters", min=1, help="Steps of --qat [default: a tenth of the run's]")
]
QatLr = Annotated[
    float | None,
    typer.Option("--qat-lr", min=0, help="Learning rate of --qat [default: a hundredth of the run's]"),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="NODE", help="Node or block left in high precision; may be repeated"),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--allow-partial", help="Write the file even if less than half of its multiply-adds are in low precision"
    ),
]
High = Annotated[
    str | None,
    typer.Option(help="What the rest of an INT8 or FP8 file for trt computes in: fp16 or fp32 [default: fp16]"),
]
Caster = Annotated[
    str, typer.Option(help="What casts an FP16 or BF16 file: kdc, or modelopt (NVIDIA ModelOpt's AutoCast)")
]
Seed = Annotated[int, typer.Option(help="Seed of the choice of images")]
CalibSize = Annotated[
    str | None, typer.Option("--size", metavar="HxW", help="Input size, for an ONNX file that leaves it free")
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the new file [default: that of the float32 file]")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan; calibrate and write nothing")]


@dataclass(frozen=True)
class CalibratedFile(Record):
    """A file that passed its gate, and its manifest."""

    MERGED = ("manifest",)

    path: Path
    manifest: "LowPrecisionManifest"


def register(app: typer.Typer, export_like: "Exporter") -> None:
    """Add ``kdc calib``; the room above exports the network that ``--qat`` has trained."""
    app.command("calib")(command(calib_with(export_like)))


def calib_with(export_like: "Exporter") -> "Callable[..., CalibratedFile | CalibrationPlan]":
    """Return the function of ``kdc calib`` for an exporter."""

    @takes_said
    def calib(
        run: Source = None,
        to: To = "int8",
        target: Target = None,
        images: Images = None,
        data: Data = None,
        split: Split = None,
        calibrator: Calibrator = None,
        compared: Compared = False,
        sensitivity: Sensitive = False,
        budget: Budget = None,
        max_drop: MaxDrop = None,
        agreement: Agreement = None,
        qat: Qat = False,
        qat_iters: QatIters = None,
        qat_lr: QatLr = None,
        keep: Keep = None,
        allow_partial: Partial = False,
        high: High = None,
        caster: Caster = "kdc",
        seed: Seed = 0,
        size: CalibSize = None,
        out: Out = None,
        *,
        said: "Said",
        dry_run: Dry = False,
    ) -> "CalibratedFile | CalibrationPlan":
        """Make a smaller file of an exported network, calibrated on real images and checked against float32."""
        from ..deploy.artefacts.beside import owner
        from ..distill import console
        from ..distill.errors import UsageError, WeightsError
        from ..distill.run.folder import find_run
        from .calibrate import Settings, calibrate_file, calibrate_run, plan_run
        from .qat import Tuning, plan_qat, tune_and_calibrate

        source = Path(run) if run and run.endswith(".onnx") else None
        if source and not source.is_file():
            raise WeightsError(f"{source} does not exist; name a run, or a float32 ONNX file")
        folder = owner(source) if source else find_run(run)
        if folder is None and qat:
            raise UsageError(f"--qat trains the network of a run on, and {source} is in none: leave it out")

        if not qat and (qat_iters is not None or qat_lr is not None):
            raise UsageError("--qat-iters and --qat-lr set how --qat trains: add --qat, or leave them out")
        tuning = Tuning(export_like, qat_iters, qat_lr) if qat else None
        settings = Settings(
            to=to,
            target=target,
            source=source,
            images=images,
            data=data,
            split=split or "train",
            calibrator=calibrator,
            compared=compared,
            sensitivity=sensitivity or (max_drop is not None and to in ("int8", "fp8")),
            budget=budget,
            keep=keep or (),
            high=high,
            caster=caster,
            seed=seed,
            agreement=agreement,
            max_drop=max_drop,
            allow_partial=allow_partial,
            size=read_size(size),
            said=said,
            out=out,
        )

        if dry_run:
            plan = plan_qat(folder, tuning, settings) if folder and tuning else plan_run(folder, settings)
            for name, value in plan.to_dict().items():
                console.say(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
            return plan

        if source and folder is None:
            file = calibrate_file(source, settings)
        else:
            folder = folder or find_run(run)
            file = tune_and_calibrate(folder, tuning, settings) if tuning else calibrate_run(folder, settings)
        console.say(f"{file.path} ({file_size(file.manifest.bytes)})")
        return CalibratedFile(file.path, file.manifest)

    return calib
