"""The commands of this room: train and distil, and look at models, methods, data and runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .console import say
from .errors import UsageError

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any configuration key, as in train.clip=1 or method.kt.T=2."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Read settings from a YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan and a memory estimate; write nothing.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|DIR", help="Data set or folder; the built-in generated scenes if not named."),
]
Classes = Annotated[int | None, typer.Option(help="Number of classes of a folder of masks.")]
Ignore = Annotated[int | None, typer.Option(help="Label value in the files that counts nowhere.")]
Split = Annotated[str | None, typer.Option(help="The split to validate on.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; a new one below runs/ if not named.")]
Resume = Annotated[
    str | None, typer.Option(metavar="[RUN]", help="Go on with this run, or with the newest unfinished one.")
]
Student = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Architecture-backbone, such as deeplabv3-r18 or pspnet-mv2; r18 alone takes --arch."
    ),
]
StudentWeights = Annotated[
    str | None, typer.Option(metavar="imagenet|FILE", help="Trained backbone that the student starts from.")
]
Init = Annotated[
    str | None, typer.Option(metavar="RUN", help="Start from the weights of another run of the same network.")
]
Arch = Annotated[str | None, typer.Option(help="Architecture of names that are a backbone alone.")]
Iters = Annotated[int | None, typer.Option(help="Optimiser steps.")]
BatchSize = Annotated[int | None, typer.Option("--batch", help="Images per optimiser step, over all devices.")]
Crop = Annotated[str | None, typer.Option(metavar="HxW", help="Training crop.")]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="HxW", help="Size of the built-in scenes.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate at the start.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, sample order and augmentation.")]
Workers = Annotated[int | None, typer.Option(help="Loader processes; the result does not depend on it.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[int | None, typer.Option(help="Devices on this node.")]
Nodes = Annotated[int | None, typer.Option(help="Nodes.")]
Precision = Annotated[str | None, typer.Option(help="32, bf16-mixed or 16-mixed.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Compile the networks with torch.compile.")
]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    app.command("distill")(distill)
    app.command("train")(train)
    for name, text, commands in (
        ("data", "Look at data sets and check folders.", (("ls", data_ls), ("info", data_info), ("check", data_check))),
        ("models", "Look at networks.", (("ls", models_ls), ("info", models_info))),
        ("methods", "Look at distillation methods.", (("ls", methods_ls), ("info", methods_info))),
        ("runs", "Look at runs and remove them.", (("ls", runs_ls), ("info", runs_info), ("rm", runs_rm))),
    ):
        group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
        for command, function in commands:
            group.command(command)(function)
        app.add_typer(group, name=name)


def distill(
    teacher: Annotated[
        str | None,
        typer.Option(metavar="NAME|RUN|FILE", help="Who teaches: an architecture (r101), a run, or a checkpoint."),
    ] = None,
    student: Student = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME[+NAME]", help="Distillation method, such as kt, lad or kt+kd; see: kdc methods ls."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe: method, weights and optimisation.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TAP", help="Feature that lad, cad, pad and cwd compare: bb, dec, logits, ...")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: Ignore = None,
    split: Split = None,
    size: SizeOption = None,
    iters: Iters = None,
    batch: BatchSize = None,
    crop: Crop = None,
    lr: Lr = None,
    seed: Seed = None,
    arch: Arch = None,
    teacher_weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Fully trained weights of the teacher.")
    ] = None,
    student_weights: StudentWeights = None,
    init: Init = None,
    workers: Workers = None,
    device: Device = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compile: Compile = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Distil a teacher into a student."""
    flags = _flags(locals())
    _train(flags, sets, config, preset, method or "kt", at, out, resume, workers, dry_run, json)


def train(
    student: Student = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe; its method is left out.")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: Ignore = None,
    split: Split = None,
    size: SizeOption = None,
    iters: Iters = None,
    batch: BatchSize = None,
    crop: Crop = None,
    lr: Lr = None,
    seed: Seed = None,
    arch: Arch = None,
    student_weights: StudentWeights = None,
    init: Init = None,
    workers: Workers = None,
    device: Device = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compile: Compile = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Train a network without a teacher: a baseline, or a teacher to be."""
    flags = _flags(locals())
    _train(flags, sets, config, preset, "none", None, out, resume, workers, dry_run, json)


_KEYS = {
    "teacher": "model.teacher",
    "student": "model.student",
    "teacher_weights": "model.teacher_weights",
    "student_weights": "model.student_weights",
    "init": "model.init",
    "arch": "model.arch",
    "data": "data.source",
    "classes": "data.classes",
    "ignore_index": "data.ignore_index",
    "split": "data.split",
    "size": "data.size",
    **{name: f"train.{name}" for name in ("iters", "batch", "crop", "lr", "seed", "workers")},
    **{name: f"train.{name}" for name in ("device", "devices", "nodes", "precision", "compile")},
}


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """Turn a command's arguments into dotted keys, without those that were not given."""
    from .config import parse_size

    flags = {_KEYS[name]: value for name, value in given.items() if name in _KEYS and value is not None}
    for key in ("train.crop", "data.size"):
        if key in flags:
            flags[key] = parse_size(flags[key])
    return flags


def _train(
    flags: dict[str, Any], sets: list[str] | None, file: Path | None, preset: str | None, method: str, at: str | None,
    out: Path | None, resume: str | None, workers: int | None, dry_run: bool, json: bool,
) -> None:  # fmt: skip
    console.json_mode = json
    if resume is not None:
        extra = sorted(key for key in flags if key != "train.workers")
        if extra or sets or file or preset or out:
            raise UsageError(
                "--resume takes its settings from the run; only --workers may be given with it, not "
                f"{', '.join(extra) or 'a configuration'}"
            )
        from .job import resume_job

        run = resume_job(None if resume == "" else resume, workers=workers)
    else:
        config = _resolve(flags, sets or [], file, preset, method, at)
        if dry_run:
            from .plan import plan

            result = plan(config)
            if json:
                console.emit(result)
            return
        from .job import run_job

        run = run_job(config, out=out)
    if json:
        console.emit(
            {
                "run": str(run.path),
                "status": run.card["status"],
                "best": _best(run.card),
                "teacher": run.card.get("teacher"),
                "baseline": run.card.get("baseline"),
            }
        )


def _resolve(
    flags: dict[str, Any], sets: list[str], file: Path | None, preset: str | None, method: str, at: str | None
) -> Any:
    """Layer the configuration: the data's recipe, the preset, the file, ``--set``, the flags."""
    from .config import read_yaml, resolve
    from .data import recipe
    from .presets import preset as load_preset

    named = {key: value for key, _, value in (text.partition("=") for text in sets)}
    in_file = (read_yaml(file).get("data") or {}).get("source") if file else None
    source = flags.get("data.source") or named.get("data.source") or in_file
    if source is None:
        say(
            "data: none named, so the BUILT-IN GENERATED SCENES are used; numbers on them say nothing about real "
            "images (--data NAME|DIR)"
        )
    layers = [recipe(source or "builtin")]
    if preset:
        layers.append(load_preset(preset))
    if method == "none":
        layers[1:] = [{k: v for k, v in layer.items() if not k.startswith("method.")} for layer in layers[1:]]
        flags["method.name"] = "none"
    elif not preset and "method.name" not in named and not (file and "method" in read_yaml(file)):
        flags["method.name"] = method
    config = resolve(flags, sets, file, layers)
    if at:
        parts = [part for part in config.method.name.split("+") if part in ("lad", "cad", "pad", "cwd")]
        if not parts:
            raise UsageError(f"--at names the feature of lad, cad, pad or cwd; the method is {config.method.name}")
        config = resolve(flags, [*sets, *(f"method.{part}.at={at}" for part in parts)], file, layers)
    return config


def data_ls(json: Json = False) -> None:
    """List the data sets that kdc knows by name."""
    from .data import load, names

    rows = [{"name": name, "summary": (load(name).__doc__ or "").splitlines()[0]} for name in names()]
    _show(json, {"data": rows}, "data sets", ("name", "what it is"), [(r["name"], r["summary"]) for r in rows])


def data_info(source: str, classes: Classes = None, ignore_index: Ignore = None, json: Json = False) -> None:
    """Show what a data set or folder holds."""
    from .data import open_data, splits

    options = {key: value for key, value in (("classes", classes), ("ignore_index", ignore_index)) if value is not None}
    opened = {split: open_data(source, split, **options) for split in splits(source, **options)}
    first = next(iter(opened.values()))
    info = {
        "name": first.name,
        "classes": list(first.classes),
        "num_classes": first.num_classes,
        "size": list(first.size()),
        "splits": {split: {"images": len(d), "labelled": d.labelled} for split, d in opened.items()},
        "notes": list(first.notes),
    }
    rows = [
        ("classes", f"{first.num_classes}: {', '.join(first.classes)}"),
        ("first image", "x".join(map(str, first.size()))),
    ]
    rows += [(split, f"{len(d)} images{'' if d.labelled else ', no labels'}") for split, d in opened.items()]
    _show(json, info, first.name, ("", ""), rows + [("note", note) for note in first.notes])


def data_check(
    source: str, classes: Classes = None, ignore_index: Ignore = None, sets: Sets = None, json: Json = False
) -> None:
    """Decode every image and mask, list every problem and count the classes."""
    from .config import resolve
    from .data._check import check

    console.json_mode = json
    config = resolve({"data.source": source, "data.classes": classes, "data.ignore_index": ignore_index}, sets or [])
    report = check(source, **config.data.options())
    report.show()
    if json:
        console.emit(report.to_dict())
    if report.problems:
        raise typer.Exit(3)


def models_ls(json: Json = False) -> None:
    """List the networks."""
    from . import models

    rows = [models.describe(name) for name in models.names()]
    cells = [(r["name"], f"{r['params']:,}", r["imagenet"] or "none", r["note"]) for r in rows]
    _show(
        json,
        {"models": rows},
        "networks (parameters at 19 classes, aux head included)",
        ("name", "params", "ImageNet start", "note"),
        cells,
    )


def models_info(
    name: str,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 19,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input size of the MACs.")] = "512x1024",
    output_stride: Annotated[int, typer.Option(help="8 or 16.")] = 8,
    json: Json = False,
) -> None:
    """Show a network's parameters, multiply-adds and taps."""
    import torch

    from . import cost, models
    from .config import parse_size

    height, width = parse_size(size)
    with torch.device("meta"):
        model = models.build(models.expand(name), classes, output_stride=output_stride)
    with_aux, without = cost.params(model)
    macs, bare = cost.macs(model, (height, width)), cost.macs(model, (height, width), aux=False)
    info = {
        "name": model.name,
        "classes": classes,
        "size": [height, width],
        "output_stride": output_stride,
        "params": with_aux,
        "params_without_aux": without,
        "macs": macs,
        "macs_without_aux": bare,
        "flops": 2 * macs,
        "macs_cirkd_counter": cost.macs(model, (height, width), counter="cirkd"),
        "taps": {tap: {"channels": t.channels, "stride": t.stride} for tap, t in model.taps.items()},
    }
    rows = [
        ("parameters", f"{with_aux:,}"),
        ("without the aux head (exported)", f"{without:,}"),
        (f"MACs at {height}x{width}, aux included", f"{macs / 1e9:.2f} G"),
        ("without the aux head", f"{bare / 1e9:.2f} G"),
        ("FLOPs = 2 x MACs", f"{2 * macs / 1e9:.2f} G"),
        ("as the CIRKD tables count (dilation ignored)", f"{info['macs_cirkd_counter'] / 1e9:.2f} G"),
    ]
    rows += [(f"tap {tap}", f"{t.channels} channels at 1/{t.stride}") for tap, t in model.taps.items()]
    _show(json, info, f"{model.name}, {classes} classes", ("", ""), rows)


def methods_ls(json: Json = False) -> None:
    """List the distillation methods."""
    from . import methods

    rows = [methods.info(name) for name in methods.names()]
    cells = [(r["name"], ", ".join(f"{t}={w:g}" for t, w in r["terms"].items()), r["summary"]) for r in rows]
    _show(json, {"methods": rows}, "methods", ("name", "terms and default weights", "what it is"), cells)


def methods_info(name: str, json: Json = False) -> None:
    """Show a method's equations, taps, terms and options."""
    from . import methods

    info = methods.info(name)
    if json:
        console.emit(info)
        return
    say(f"{info['name']}: {info['description']}\n")
    say(f"paper:   {info['paper']}\ntaps:    {', '.join(info['taps'])}")
    say(f"terms:   {', '.join(f'{t}={w:g}' for t, w in info['terms'].items())}")
    say(f"options: {', '.join(f'{key}={value}' for key, value in info['options'].items()) or 'none'}")
    say(f"set one with: --set method.{info['name']}.KEY=VALUE; weights and T also take linear(a,b,n) and step(a,b,n)")


def runs_ls(json: Json = False) -> None:
    """List the runs in runs/, newest last."""
    from .run import all_runs

    rows = [
        {
            "name": r.path.name,
            "kind": r.card.get("kind"),
            "status": r.card.get("status"),
            "best": _best(r.card),
            "path": str(r.path),
        }
        for r in all_runs()
    ]
    cells = [(r["name"], r["kind"], r["status"], "" if r["best"] is None else f"{100 * r['best']:.2f}") for r in rows]
    _show(json, {"runs": rows}, "runs", ("name", "kind", "status", "val mIoU %"), cells)


def runs_info(run: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None, json: Json = False) -> None:
    """Show what a run was and how it ended."""
    from .run import find_run

    found = find_run(run)
    card = found.card
    rows = [
        (key, card[key])
        for key in ("kind", "status", "created", "method", "seed", "device")
        if card.get(key) is not None
    ]
    rows += [("teacher", card["teacher"]["name"])] if card.get("teacher") else []
    rows += [
        ("student", card["student"]["name"]),
        ("data", card["data"]["name"]),
        ("command", " ".join(card["command"])),
    ]
    best = _best(card)
    rows += [("val mIoU %", f"{100 * best:.2f}")] if best is not None else []
    _show(json, {"path": str(found.path), **card}, found.path.name, ("", ""), rows)


def runs_rm(
    run: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a run folder."""
    import shutil

    from .run import LAST, find_run

    found = find_run(run)
    if not yes and not typer.confirm(f"remove {found.path} and everything in it?"):
        raise typer.Exit(0)
    found.lock()
    link = found.path.parent / LAST
    if link.is_symlink() and link.resolve() == found.path:
        link.unlink()
    shutil.rmtree(found.path)
    say(f"removed {found.path.name}")


def _best(card: dict[str, Any]) -> float | None:
    return (card.get("final") or {}).get("miou")


def _show(json: bool, result: dict[str, Any], title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    if json:
        console.json_mode = True
        console.emit(result)
    else:
        console.table(title, columns, rows)
