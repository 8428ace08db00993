"""``kdc data``: list, describe and check data sets."""

import typer

from .. import console
from .flags import Classes, Ignore, Json, Sets, print_result


def data_ls(json: Json = False) -> None:
    """List the data sets that kdc knows by name."""
    from ..data import load, names

    rows = [{"name": name, "summary": (load(name).__doc__ or "").splitlines()[0]} for name in names()]
    print_result(json, {"data": rows}, "data sets", ("name", "what it is"), [(r["name"], r["summary"]) for r in rows])


def data_info(source: str, classes: Classes = None, ignore_index: Ignore = None, json: Json = False) -> None:
    """Show the classes, splits and sizes of a data set or folder."""
    from ..data import open_data, splits

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
    print_result(json, info, first.name, ("", ""), rows + [("note", note) for note in first.notes])


def data_check(
    source: str, classes: Classes = None, ignore_index: Ignore = None, sets: Sets = None, json: Json = False
) -> None:
    """Decode every image and mask, list every problem and count the classes."""
    from ..data._check import check_data
    from ..settings.config import resolve

    console.json_mode = json
    config = resolve({"data.source": source, "data.classes": classes, "data.ignore_index": ignore_index}, sets or [])
    report = check_data(source, **config.data.options())
    report.show()
    if json:
        console.emit(report.to_dict())
    if report.problems:
        raise typer.Exit(3)
