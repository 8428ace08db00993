"""The layers of settings: defaults, preset, file, --set, flags."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import note, say
from ..errors import UsageError

if TYPE_CHECKING:
    from .config import Config, Dotted


def resolve_flags(
    flags: "Dotted", sets: list[str], file: Path | None, preset: str | None, method: str | None, at: str | None,
    of_preset: tuple[str, ...] = ("train.", "task.", "model."),
) -> "Config":  # fmt: skip
    """Layer the configuration: the data's recipe, the preset, the file, ``--set``, the flags; kt is the default.

    Args:
        flags: the settings that flags stand for.
        sets: texts such as ``train.lr=0.01``.
        file: a YAML file of settings.
        preset: the name of a published recipe.
        method: ``method.name``; of the preset its settings of this method and the sections ``of_preset`` are taken.
        at: the tap that the methods compare.
        of_preset: see ``method``.

    Raises:
        UsageError: a name, key or value that is not accepted.
    """
    from ..data import recipe
    from .config import resolve
    from .presets import preset as load_preset
    from .yaml_files import flat_yaml

    named = {key: value for key, _, value in (text.partition("=") for text in sets)}
    in_file = flat_yaml(file) if file else {}
    source = flags.get("data.source") or named.get("data.source") or in_file.get("data.source")
    if source is None:
        say("data: none named, so the BUILT-IN GENERATED SCENES are used; --data NAME|DIR names yours")

    recommended = load_preset(preset) if preset else {}
    if method is not None:
        flags = {**flags, "method.name": method}
    if spec := method or named.get("method.name") or in_file.get("method.name"):
        mine = (*of_preset, *(f"method.{part}." for part in spec.split("+")))
        left = [key for key in recommended if not key.startswith(mine) and key != "method.name"]
        recommended = {key: value for key, value in recommended.items() if key.startswith(mine)}
        if left and spec != "none":
            note(f"preset {preset} for method {spec}: {', '.join(left)} left out; its other settings hold")

    layers = [{"method.name": "kt"}, recipe(str(source or "builtin")), recommended]
    config = resolve(flags, sets, file, layers)

    if at:
        from ..methods import load, names, options

        parts = [part for part in config.method.name.split("+") if part != "none" and "at" in options(load(part))]
        if not parts:
            methods = ", ".join(name for name in names() if "at" in options(load(name)))
            raise UsageError(f"--at names the feature of {methods}; the method is {config.method.name}")
        config = resolve(flags, [*sets, *(f"method.{part}.at={at}" for part in parts)], file, layers)
    return config


def data_options(
    source: str, classes: int | None = None, ignore_index: int | None = None, sets: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the options of ``open_data`` that flags and ``--set data.KEY=VALUE`` name.

    Raises:
        UsageError: a setting that is not of the data.
    """
    from .config import resolve

    for text in sets or []:
        if not text.startswith("data."):
            raise UsageError(f"--set {text} is about no data; accepted here: data.KEY=VALUE, such as data.labels=masks")
        if (key := text.partition("=")[0].strip()) in ("data.source", "data.split"):
            raise UsageError(f"--set {key}: the command has an argument or flag for that")
    flags = {"data.source": source, "data.classes": classes, "data.ignore_index": ignore_index}
    return resolve(flags, sets or []).data.options()
