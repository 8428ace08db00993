"""The commands that look at what there is: data, models, methods and runs, which may also be removed."""

from typing import Annotated, Any

import typer

from . import console
from .console import say

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any configuration key, as in train.clip=1 or method.kt.T=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes of a folder of masks.")]
Ignore = Annotated[int | None, typer.Option(help="Label value in the files that counts nowhere.")]


def register(app: typer.Typer) -> None:
    """Add the groups data, models, methods and runs to the command line."""
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
    cells = [(r["name"], f"{r['params']:,}", r["imagenet"] or "none", r["stem"]) for r in rows]
    _show(
        json,
        {"models": rows},
        "networks (parameters at 19 classes, aux head included)",
        ("name", "params", "ImageNet start", "stem"),
        cells,
    )


def models_info(
    name: str,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 19,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input size of the MACs.")] = "512x1024",
    output_stride: Annotated[int | None, typer.Option(help="8 or 16; the architecture's own if not given.")] = None,
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
        "output_stride": model.output_stride,
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
    cells = [
        (r["name"], ", ".join(f"{t}={w:g}" for t, w in r["terms"].items()), ", ".join(r["taps"]), r["summary"])
        for r in rows
    ]
    _show(json, {"methods": rows}, "methods", ("name", "terms and default weights", "taps", "what it is"), cells)


def methods_info(
    name: str,
    size: Annotated[str, typer.Option(metavar="HxW", help="Crop of the cost.")] = "512x1024",
    classes: Annotated[int, typer.Option(min=2, max=255, help="Number of classes of the cost.")] = 19,
    teacher: Annotated[str, typer.Option(metavar="NAME", help="Teacher of the cost.")] = "deeplabv3-r101",
    student: Annotated[str, typer.Option(metavar="NAME", help="Student of the cost.")] = "deeplabv3-r18",
    json: Json = False,
) -> None:
    """Show a method's equations, taps, phases, options, cost, and where paper and code differ."""
    from . import methods
    from .config import parse_size
    from .method_cost import method_cost

    console.json_mode = json
    info = methods.info(name)
    cost = method_cost(info["name"], student=student, teacher=teacher, classes=classes, size=parse_size(size))
    if json:
        console.emit({**info, "cost": cost})
        return
    own, macs = cost["parameters"], cost["macs"]
    say(f"{info['name']}: {info['description']}\n")
    say(f"paper:   {info['paper']}\ntaps:    {', '.join(info['taps'])}")
    say(f"terms:   {', '.join(f'{t}={w:g}' for t, w in info['terms'].items())}")
    say(f"options: {', '.join(f'{key}={value}' for key, value in info['options'].items()) or 'none'}")
    trains = [f"{own['trained']:,} parameters with the student"] if own["trained"] else []
    trains += [f"a critic of {own['critics']:,} parameters"] if own["critics"] else []
    say(f"trains:  {', '.join(trains) or 'nothing of its own'}; fixed: {own['fixed']:,} parameters")
    unless = ", unless the teacher comes trained" if info["assisted"] else ""
    phases = [f"{phase['name']} first{unless}" for phase in cost["phases"]]
    say(f"phases:  {', '.join(phases) or 'none'}")
    say(
        f"cost:    {cost['student']} taught by {cost['teacher']}, one image of {size}, {classes} classes: "
        f"{macs['forward'] / 1e9:.2f} GMACs forward, {macs['step'] / 1e9:.2f} with backward"
        + (f", {macs['critics'] / 1e9:.2f} for the critic's step" if macs["critics"] else "")
        + f"; {cost['kept_mib']:.1f} MiB kept for backward; {own['buffers'] * 4 / 2**20:.0f} MiB of buffers"
    )
    for difference in info["differences"]:
        say(f"differs: {difference}")
    say(f"set one with: --set method.{info['name']}.KEY=VALUE; weights and T also take linear(a,b,n) and step(a,b,n)")


def runs_ls(json: Json = False) -> None:
    """List the runs in runs/, newest last."""
    from .run import all_runs

    rows = [
        {
            "name": r.path.name,
            "kind": r.card.get("kind"),
            "status": r.card.get("status"),
            "privileged": bool(r.card.get("privileged")),
            "best": final_miou(r.card),
            "path": str(r.path),
        }
        for r in all_runs()
    ]
    if not rows and not json:
        say("no runs in runs/; start one with: kdc distill --teacher r101 --student r18 --method kt")
        return
    cells = [
        (
            r["name"],
            f"{r['kind']} (privileged)" if r["privileged"] else r["kind"],
            r["status"],
            "" if r["best"] is None else f"{100 * r['best']:.2f}",
        )
        for r in rows
    ]
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
    best = final_miou(card)
    rows += [("val mIoU %", f"{100 * best:.2f}")] if best is not None else []
    _show(json, {"path": str(found.path), **card}, found.path.name, ("", ""), rows)


def runs_rm(
    run: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a run folder."""
    import shutil

    from .run import LAST, RUNS, all_runs, find_run, point_last

    found = find_run(run)
    if not yes and not typer.confirm(f"remove {found.path} and everything in it?"):
        raise typer.Exit(0)
    found.lock()
    link = RUNS / LAST
    if link.is_symlink() and link.resolve() == found.path:
        link.unlink()
        others = [r for r in all_runs() if r.path != found.path and r.card.get("status") == "finished"]
        if rest := [r for r in others if r.card.get("kind") != "teacher"]:
            point_last(rest[-1])
    shutil.rmtree(found.path)
    say(f"removed {found.path.name}")


def final_miou(card: dict[str, Any]) -> float | None:
    """Return the validation mIoU that a run ended with, or None."""
    return (card.get("final") or {}).get("miou")


def _show(json: bool, result: dict[str, Any], title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    console.json_mode = json
    if json:
        console.emit(result)
    else:
        console.table(title, columns, rows)
