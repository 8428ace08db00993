"""The plan of a comparison: the baseline and every method at every seed and grid point, as whole configurations.

One protocol: data, networks, start and optimisation are the same in all runs, but for what a grid changes. A preset
gives the settings of its method, never its optimisation.
"""

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import methods
from ..console import note
from ..errors import UsageError, closest
from ..network_spec import NetworkSpec
from ..run.baseline import INDIFFERENT
from ..run.checkpoint import read_card
from ..run.folder import find_run
from ..settings.config import Config
from ..settings.layers import resolve_flags
from ..settings.presets import PRESETS, preset
from ..settings.yaml_files import flat_yaml

#: the method of the student that is trained alone
BASELINE = "none"
#: settings that no grid varies, and the way to vary them
_NOT_A_GRID = {
    "method.name": "--methods names the methods",
    "train.seed": "--seeds names the seeds",
    "train.teacher_iters": "the teacher is made once; go over teachers with --grid model.teacher=RUN,RUN",
}


@dataclass(frozen=True)
class Choice:
    """One of the methods compared: the composition, and the preset whose settings it has."""

    #: its name in tables: kt, lad+kd, preset:lad, none
    label: str
    spec: str
    preset: str | None = None

    @property
    def parts(self) -> list[str]:
        """The methods of the composition."""
        return [] if self.spec == BASELINE else [methods.hyphen(part) for part in self.spec.split("+")]


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    #: of its folder: kt_s0, lad_ad-10_s1
    name: str
    method: str
    seed: int
    #: the values of the grid, as they were typed
    grid: dict[str, str]
    #: the run that it is paired with: the same seed and shared grid values without a teacher; None of a baseline
    baseline: str | None
    config: Config

    @property
    def label(self) -> str:
        """Its name beside the seed, such as ``lad ad=10``."""
        return label_of(self.method, self.grid)


def label_of(method: str, grid: Mapping[str, str]) -> str:
    """Name a method at a grid point for people."""
    name = "no teacher" if method == BASELINE else method
    return " ".join([name, *(f"{_short(key, method)}={value}" for key, value in grid.items())])


def shared(key: str) -> bool:
    """Whether a grid key concerns the baseline as well."""
    return not key.startswith(("method.", "model.teacher"))


def parse_methods(text: str) -> list[Choice]:
    """Read ``kd,lad+kd,preset:kt``; the baseline comes first whether it is named or not.

    A name that is both a method's and a preset's means the method with its own defaults; ``preset:kt`` is the other.

    Raises:
        UsageError: a name that is neither.
    """
    choices = [Choice(BASELINE, BASELINE)]
    for name in split(text, "--methods"):
        if name.startswith("preset:") or (name in PRESETS and name not in methods.names()):
            choices.append(_of_preset(name.removeprefix("preset:")))
            continue
        for part in (p for p in name.split("+") if name != BASELINE):
            if methods.hyphen(part) not in methods.names():
                accepted = [*methods.names(), *PRESETS]
                raise UsageError(
                    f"--methods: no method or preset '{part}'{closest(part, accepted)}; see: kdc methods ls"
                )
        choices.append(Choice(name, name))
    if both := [choice.label for choice in choices if choice.label in PRESETS]:
        note(f"read as methods with their own defaults, not as the presets of the name: {', '.join(both)}")
    return list(dict.fromkeys(choices))


def _of_preset(name: str) -> Choice:
    spec = str(preset(name).get("method.name", BASELINE))
    if spec == BASELINE:
        raise UsageError(f"--methods: preset {name} sets no method, so there is nothing to compare")
    return Choice(f"preset:{name}", spec, name)


def parse_seeds(text: str, first: int) -> list[int]:
    """Read a number of seeds, counted from ``first``, or the seeds themselves: ``0,4,7`` (``7,`` is one seed).

    Raises:
        UsageError: anything else.
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if not all(part.isdigit() for part in parts) or text.strip() == "0":
        raise UsageError(f"--seeds {text!r}: accepted are how many, such as 3, or which, such as 0,4,7")
    if "," not in text:
        return list(range(first, first + int(text)))
    return list(dict.fromkeys(map(int, parts)))


def parse_grid(texts: Iterable[str]) -> dict[str, list[str]]:
    """Read ``key=a,b,c`` texts; commas within brackets belong to a value, as in ``linear(4,1,100)``.

    Raises:
        UsageError: no values, or a key that a grid cannot go over.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, sign, values = (part.strip() for part in text.partition("="))
        if not sign:
            raise UsageError(f"--grid {text!r} is not key=a,b,c, such as --grid method.lad.ad=1,3,10")
        if key in _NOT_A_GRID:
            raise UsageError(f"--grid {key}: {_NOT_A_GRID[key]}")
        if key.startswith("method.") and key.count(".") < 2:
            raise UsageError(f"--grid {key}: name the setting, such as --grid {key}.T=1,4")
        grid[key] = split(values, f"--grid {key}")
    return grid


def split(text: str, flag: str) -> list[str]:
    """Cut at the commas that stand in no bracket; each value once.

    Raises:
        UsageError: a value is empty.
    """
    values, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            values.append("")
        else:
            values[-1] += sign
    values = [value.strip() for value in values]
    if not all(values):
        raise UsageError(f"{flag}={text}: a value between the commas is missing")
    return list(dict.fromkeys(values))


def make_entries(
    choices: Sequence[Choice],
    seeds: str,
    grid: Mapping[str, Sequence[str]],
    flags: dict[str, Any],
    sets: Sequence[str] = (),
    file: Path | None = None,
) -> tuple[Config, list[Entry]]:
    """Return the configuration of the protocol, and all runs: seed by seed, each seed's baseline first.

    Args:
        choices: of ``parse_methods``.
        seeds: as typed.
        grid: of ``parse_grid``: a key of one method goes with that method, one of the teacher with all methods, any
            other with the baseline as well.
        flags: dotted keys of the command line; ``sets`` and ``file`` as in ``resolve``.

    Raises:
        UsageError: a value that the schema refuses, a setting of a method that is not compared, or two equal names.
    """
    _check_parts(choices, grid, sets, file)
    base = resolve_flags(dict(flags), list(sets), file, None, BASELINE, None)
    flags = {**flags, "data.source": base.data.source}
    # an ordinary teacher, which a label-assisted method cannot use
    mixed = any(choice.spec != BASELINE and not methods.assisted(choice.spec) for choice in choices)

    entries = []
    for seed in parse_seeds(seeds, base.train.seed):
        for choice in choices:
            keys = [key for key in grid if _concerns(key, choice)]
            for values in itertools.product(*(grid[key] for key in keys)):
                point = dict(zip(keys, values, strict=True))
                own = [*sets, *(f"{key}={value}" for key, value in point.items())]
                here = {key: value for key, value in flags.items() if key not in point} | {"train.seed": seed}
                config = resolve_flags(here, own, file, choice.preset, choice.spec, None, of_preset=())
                if mixed and methods.assisted(choice.spec):
                    config = _with_a_teacher_to_train(config, choice)

                both = {key: value for key, value in point.items() if shared(key)}
                baseline = None if choice.spec == BASELINE else _name(BASELINE, both, seed)
                name = _name(choice.label, point, seed)
                entries.append(Entry(name, choice.label, seed, point, baseline, _of_its_own(config, choice)))

    names = [entry.name for entry in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two runs would be called {twice[0]}; write the values of --grid so that they differ in more")
    return base, entries


def protocol(base: Config) -> dict[str, Any]:
    """Return the settings that all runs of a comparison share, as plain values."""
    values = base.model_dump(mode="json", exclude={"method"})
    values["train"] = {key: value for key, value in values["train"].items() if key not in _FREE}
    return values


def same_run(a: Config, b: Config) -> bool:
    """Whether two configurations compute the same."""
    return a.method.model_dump(mode="json") == b.method.model_dump(mode="json") and (
        protocol(a) == protocol(b) and a.train.seed == b.train.seed
    )


#: settings that may change from command to command within one comparison
_FREE = (INDIFFERENT - {"teacher_iters"}) | {"seed"}


def _concerns(key: str, choice: Choice) -> bool:
    if key.startswith("method."):
        return methods.hyphen(key.split(".")[1]) in choice.parts
    return shared(key) or choice.spec != BASELINE


def _check_parts(
    choices: Sequence[Choice], grid: Mapping[str, Sequence[str]], sets: Sequence[str], file: Path | None
) -> None:
    """Check that every setting of a method belongs to a method of the comparison."""
    parts = {part for choice in choices for part in choice.parts}

    def stray(keys: Iterable[str]) -> list[str]:
        settings = [key for key in map(str.strip, keys) if key.startswith("method.") and key != "method.name"]
        return [key for key in settings if methods.hyphen(key.split(".")[1]) not in parts]

    for flag, keys in (("--grid", [*grid]), ("--set", [text.partition("=")[0] for text in sets])):
        if others := stray(keys):
            name = others[0].split(".")[1]
            raise UsageError(f"{flag} {others[0]}: no method of the comparison is '{name}'{closest(name, parts)}")
    if file and (others := stray(flat_yaml(file))):
        note(f"{file}: left out, for no method of the comparison has it: {', '.join(others)}")


def _of_its_own(config: Config, choice: Choice) -> Config:
    """Leave out the settings of other methods and, of the baseline, the teacher."""
    own = {name: values for name, values in config.method.settings().items() if name in choice.parts}
    config = config.changed(method={"name": choice.spec, **{key.replace("-", "_"): own[key] for key in own}})
    return config.changed(model__teacher=None, model__teacher_weights=None) if choice.spec == BASELINE else config


def _with_a_teacher_to_train(config: Config, choice: Choice) -> Config:
    """Keep only the architecture of an ordinary teacher: the method's phase trains one that is shown the label."""
    changed = config
    if config.model.teacher_weights not in (None, "imagenet"):
        changed = changed.changed(model__teacher_weights=None)
    spec = _network_of(config.model.teacher) if config.model.teacher else None
    if spec and spec.in_channels == 3:
        changed = changed.changed(model__teacher=spec.name, model__teacher_stride=spec.output_stride)

    line = f"{choice.label}: the teacher must be shown the label, so a phase of each run trains its architecture anew"
    if changed is not config:
        note(line)
    return changed


def _network_of(teacher: str) -> NetworkSpec | None:
    """Return the network of a run or a checkpoint of kdc's, None where ``teacher`` is neither."""
    if Path(teacher).suffix == ".safetensors":
        card = read_card(Path(teacher))
        return card.model if card and card.model.name else None
    with contextlib.suppress(UsageError):  # the name of an architecture is no run
        return find_run(teacher).card.student
    return None


def _name(label: str, grid: Mapping[str, str], seed: int) -> str:
    words = [label.replace(":", "-"), *(f"{_short(key, label)}-{value}" for key, value in grid.items()), f"s{seed}"]
    return "_".join(re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in words)


def _short(key: str, method: str) -> str:
    """Return a grid key without the parts that the method's name implies."""
    parts = key.split(".")
    return ".".join(parts[1 if parts[0] == "method" and "+" in method else 2 if parts[0] == "method" else 1 :])
