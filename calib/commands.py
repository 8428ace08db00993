"""``kdc calib``."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command("calib")(calib)


def calib(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Run folder or name; or one of its float32 ONNX files [default: the last run]"
        ),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="int8, fp8, fp16 or bf16")] = "int8",
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="What will run it: trt (TensorRT), ort (ONNX Runtime on a CPU) or openvino "
            "[default: ort for int8, trt for the others]",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Calibration images, chosen so that every class is in them [default: 128]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="Data that they come from [default: the run's own]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of these data [default: train]")] = None,
    calibrator: Annotated[
        str | None, typer.Option(help="minmax, entropy, percentile or mse [default: mse, or the best of --compare]")
    ] = None,
    compared: Annotated[
        bool, typer.Option("--compare", help="Compare the calibrators on held-out images and take the best")
    ] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Measure what each block costs and leave the costliest high until --agreement and --max-drop hold",
        ),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Largest loss of mIoU in points, implies --sensitivity for INT8 and FP8 [default: 0.5]",
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Least share of agreeing pixels [default: 0.99 INT8 and BF16, 0.98 FP8, 0.999 FP16]"
        ),
    ] = None,
    qat: Annotated[
        bool,
        typer.Option(
            "--qat",
            help="First train on, as a run of its own, with the teacher and with convolutions that round as the file "
            "will (INT8 and FP8 for ort and trt)",
        ),
    ] = False,
    qat_iters: Annotated[
        int | None, typer.Option("--qat-iters", min=1, help="Steps of --qat [default: a tenth of the run's]")
    ] = None,
    qat_lr: Annotated[
        float | None,
        typer.Option("--qat-lr", min=0, help="Learning rate of --qat [default: a hundredth of the run's]"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="NODE", help="Node or block left high; may be repeated")
    ] = None,
    high: Annotated[
        str | None,
        typer.Option(help="What the rest of an INT8 or FP8 file for trt computes in: fp16 or fp32 [default: fp16]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of images [default: 0]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; calibrate and write nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object")] = False,
) -> None:
    """Make a smaller file of an exported network, calibrated on real images and checked against float32."""
    from ..distill import console
    from ..distill.errors import UsageError, WeightsError
    from ..distill.run.folder import find_run
    from .calibrate import Settings, calibrate_run, plan_run
    from .qat import plan_qat, tune_and_calibrate

    console.json_mode = as_json
    flags = {"target": target, "images": images, "data": data, "split": split, "calibrator": calibrator}
    flags |= {"high": high, "seed": seed}
    settings: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    settings |= {"to": to, "compared": compared, "keep": keep or (), "agreement": agreement, "max_drop": max_drop}
    settings["sensitivity"] = sensitivity or (max_drop is not None and to in ("int8", "fp8"))
    source = Path(run) if run and run.endswith(".onnx") else None
    if source and not source.is_file():
        raise WeightsError(f"{source} does not exist; name a run, or a float32 ONNX file in a run's export folder")
    settings["source"] = source
    found = find_run(run)
    if not qat and (qat_iters is not None or qat_lr is not None):
        raise UsageError("--qat-iters and --qat-lr say how --qat trains: give --qat, too, or leave them out")
    how: dict[str, Any] = {"export": context.obj["export_like"], "iters": qat_iters, "lr": qat_lr} if qat else {}
    if dry_run:
        plan = plan_qat(found, **how, **settings) if qat else plan_run(found, Settings(**settings))
        for name, value in plan.items():
            console.say(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
        if as_json:
            console.emit(plan)
        return
    done = tune_and_calibrate(found, **how, **settings) if qat else calibrate_run(found, Settings(**settings))
    console.say(f"{done.path} ({done.manifest.bytes / 1e6:.1f} MB)")
    if as_json:
        console.emit({"path": str(done.path), **done.manifest.to_dict()})
