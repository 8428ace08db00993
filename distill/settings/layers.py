"""The layers of settings: defaults, preset, file, --set, flags."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import note, say
from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

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

    own = recipe(str(source or "builtin"))
    crop = recommended.pop("train.crop", None) if "train.crop" in own else None
    layers = [{"method.name": "kt"}, own, recommended]
    config = resolve(flags, sets, file, layers)
    if preset:
        config = _adapted(config, recommended, lambda: resolve(flags, sets, file, layers), preset, crop)

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


def _adapted(
    config: "Config", recommended: "Dotted", again: "Callable[[], Config]", preset: str, crop: Any
) -> "Config":
    """Fit what a preset recommends to the networks, the data and the rate of a run, and say what was changed.

    Args:
        config: as resolved.
        recommended: the preset's settings, one of the layers that ``again`` resolves.
        again: resolves all layers.
        preset: its name.
        crop: the preset's crop, where the data have their own instead.
    """
    from .presets import DROPOUTS

    if crop is not None and config.train.crop != tuple(crop):
        note(f"preset {preset}: crop {_size(config.train.crop)}, the data's own; published {_size(crop)} (--crop)")
    elif recommended.get("train.crop") == config.train.crop:
        note(f"preset {preset}: crop {_size(config.train.crop)}, as published; --crop HxW for images of another size")

    if kept := [key for key in DROPOUTS if key in recommended and _is_pspnet(config, key)]:
        for key in kept:
            del recommended[key]
        config = again()
        note(f"preset {preset}: a PSPNet keeps its own dropout, as published; {' and '.join(kept)} left out")

    head_lr, lr = recommended.get("train.head_lr"), recommended.get("train.lr")
    if (
        isinstance(head_lr, float)
        and isinstance(lr, float)
        and config.train.head_lr == head_lr
        and config.train.lr != lr
    ):
        recommended["train.head_lr"] = head_lr * config.train.lr / lr
        config = again()
        note(f"preset {preset}: train.head_lr {config.train.head_lr:g}, {head_lr / lr:g} times train.lr as published")
    return config


def _size(size: Any) -> str:
    return "x".join(map(str, size))


def _is_pspnet(config: "Config", key: str) -> bool:
    """Tell whether the network whose dropout ``key`` sets is a PSPNet."""
    from ..models import expand

    model = config.model
    name = model.student if key == "model.dropout" or model.teacher == "self" else model.teacher
    try:
        return name is not None and expand(name, model.arch).startswith("pspnet-")
    except UsageError:  # a run or a file, which keeps the dropout that it was trained with
        return False
