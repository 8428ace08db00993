"""``kdc calib``."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command("calib")(calib)


def calib(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Run folder or name; or one of its float32 ONNX files [default: the last run]"
        ),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="int8 or fp16")] = "int8",
    target: Annotated[str, typer.Option("--for", help="What will run it: ort (ONNX Runtime)")] = "ort",
    images: Annotated[
        int | None, typer.Option(help="Calibration images, chosen so that every class is in them [default: 128]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split that they come from [default: train]")] = None,
    calibrator: Annotated[str | None, typer.Option(help="minmax or percentile [default: minmax]")] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep-fp32", metavar="NODE", help="Node that stays float32; may be repeated")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of images [default: 0]")] = None,
    agreement: Annotated[
        float | None, typer.Option(help="Least share of agreeing pixels [default: 0.99 INT8, 0.999 FP16]")
    ] = None,
    miou_drop: Annotated[float | None, typer.Option(help="Largest loss of mIoU in points [default: 0.5 INT8]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object")] = False,
) -> None:
    """Make the INT8 or FP16 file of an exported network, calibrated on real images and checked against float32."""
    from ..distill import console
    from ..distill.errors import UsageError
    from ..distill.run import find_run
    from .calibrate import calibrate_run

    console.json_mode = as_json
    flags = {"images": images, "split": split, "calibrator": calibrator, "seed": seed}
    calibration: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if to == "fp16" and calibration:
        idle = ", ".join(f"--{name}" for name in calibration)
        raise UsageError(f"--to fp16 only casts, nothing is calibrated: leave out {idle}")
    source = Path(run) if run and run.endswith(".onnx") else None
    done = calibrate_run(
        find_run(run),
        to=to,
        target=target,
        source=source,
        keep=keep or (),
        agreement=agreement,
        miou_drop=miou_drop,
        **calibration,
    )
    console.say(f"{done.path} ({done.path.stat().st_size / 1e6:.1f} MB)")
    if as_json:
        console.emit({"path": str(done.path), **done.manifest})
