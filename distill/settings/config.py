"""The settings of a run: one strict schema, and the order in which flags, files, presets and recipes fill it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..errors import UsageError, closest
from ..preprocess import PAD, Policy
from ..yaml_text import parse_yaml
from .yaml_files import flat_yaml, flatten

#: of an input or a crop
MOST_PIXELS = 2**28


def parse_size(text: str) -> tuple[int, int]:
    """Read ``HxW``, as in ``96x192``.

    Raises:
        UsageError: it is not two positive whole numbers, or more than ``MOST_PIXELS``.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip().lower())
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < height * width <= MOST_PIXELS:
        raise UsageError(f"size {text!r} is not HEIGHTxWIDTH, such as 512x1024, of at most {MOST_PIXELS} pixels")
    return height, width


def _size(value: Any) -> Any:
    """Read ``HxW``, or a list of both, wherever a size is set."""
    if value is None:
        return value
    try:
        return parse_size("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    except UsageError as error:
        raise ValueError(str(error)) from error


#: settings by dotted key, such as ``train.lr``
Dotted = dict[str, str | int | float | bool | tuple[int, int] | list[str] | None]
#: no person sets more; a slip of the keyboard must not fill the memory or start a million processes
Steps = Annotated[int, Field(ge=1, le=10**9)]
Images = Annotated[int, Field(ge=1, le=2**20)]
Processes = Annotated[int, Field(ge=1, le=2**12)]
Factor = Annotated[float, Field(gt=0, le=16)]
Size = Annotated[tuple[int, int], BeforeValidator(_size)]
#: YAML reads a bare 32 as a number
Precision = Annotated[Literal["32", "bf16-mixed", "16-mixed"], BeforeValidator(str)]


class Section(BaseModel):
    """A part of the configuration; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how to read them; a key that is not named here is an option of the reader, which checks it."""

    model_config = ConfigDict(extra="allow", validate_default=True)
    source: str = "builtin"
    #: for validation
    split: str = "val"
    classes: int | list[str] | dict[int, str] | str | None = None
    ignore_index: int | list[int] | None = None
    size: Size | None = None
    #: how images of other sizes meet a file that is exported for one; networks in training take every size
    fit: Policy = PAD

    def options(self) -> dict[str, Any]:
        """Return the reader's options that were set."""
        return self.model_dump(exclude={"source", "split", "fit"}, exclude_none=True)


class Model(Section):
    """The two networks and the weights that they start from."""

    student: str = "deeplabv3-r18"
    teacher: str | None = None
    arch: str = "deeplabv3"
    #: None = the architecture's own: 16 of deeplabv3plus, 8 of the others
    output_stride: Literal[8, 16] | None = None
    teacher_stride: Literal[8, 16] | None = None
    student_weights: str | None = None
    teacher_weights: str | None = None
    init: str | None = None
    #: None keeps the architecture's own dropout
    dropout: float | None = Field(default=None, ge=0, lt=1)
    #: of a teacher that a phase trains
    teacher_dropout: float | None = Field(default=None, ge=0, lt=1)
    preprocess: Literal["imagenet", "bgr-mean"] = "imagenet"
    #: the network that is trained is shown the label as a fourth channel: a label-assisted teacher
    hint: bool = False
    #: compare the teacher's mIoU with chance before it teaches
    teacher_check: bool = True


class Train(Section):
    """The optimisation: defaults are the CIRKD recipe (methods book, section 5)."""

    iters: int = Field(default=40000, ge=0, le=10**9)
    #: optimiser steps of the short teacher fit on the built-in data; None = as many as ``iters``
    teacher_iters: int | None = Field(default=None, ge=0, le=10**9)
    #: images per optimiser step, over all devices and micro-batches
    batch: Images = 16
    accumulate: Images = 1
    crop: Size = (512, 512)
    scale: tuple[Factor, Factor] = (0.5, 2.0)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, le=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.02, gt=0)
    #: of the student's heads; None = ``lr``, which backbone and adapters have
    head_lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    power: float = Field(default=0.9, ge=0)
    warmup: int = Field(default=0, ge=0, le=10**9)
    clip: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    precision: Precision = "32"
    compile: bool = False
    channels_last: bool = True
    freeze_bn: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    #: loader processes; None = none on a CPU, up to 8 a GPU; the result does not depend on it
    workers: int | None = Field(default=None, ge=0, le=1024)
    #: seconds without images after which loader processes count as stuck; 0 waits for ever
    worker_timeout: float = Field(default=180, ge=0)
    #: torch threads; None = OMP_NUM_THREADS, else one a core; recorded in the run
    threads: Processes | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Processes = 1
    nodes: Processes = 1
    val_every: Steps = 800
    #: validation images looked at during training; None = all of them
    val_images: Steps | None = None
    save_every: Steps = 500
    log_every: Steps = 10

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        parts = self.devices * self.nodes * self.accumulate
        if self.batch % parts:
            raise ValueError(
                f"train.batch={self.batch} cannot be shared equally by {self.devices} devices x {self.nodes} nodes x "
                f"{self.accumulate} micro-batches; take a multiple of {parts}"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"train.scale={self.scale} must be (smallest, largest), both above 0")
        return self


class Task(Section):
    """The supervised loss."""

    #: of the whole loss beside the terms of the method; 0 learns from the teacher alone, and needs no labels
    weight: float = Field(default=1.0, ge=0)
    aux_weight: float = Field(default=0.4, ge=0)
    #: divide the task loss once more by the images of a micro-batch, as AmirMansurian/AICSD does
    divide_by_batch: bool = False
    #: of a network that is shown the label (model.hint): two codings of each label or one, the weight of their
    #: agreement, and the noise on the codes
    dual_path: bool = True
    consistency: float = Field(default=5.0, ge=0)
    hint_noise: float = Field(default=0.03, ge=0)


class MethodSettings(BaseModel):
    """The distillation method: ``name`` (``kt``, ``lad+kd``, ``none``) and, by method, its settings."""

    model_config = ConfigDict(extra="allow")
    name: str = "none"

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings by method: ``{"kt": {"lt": 2.0, "T": "linear(4,1,1000)"}}``."""
        return {key.replace("_", "-"): dict(value) for key, value in (self.model_extra or {}).items()}

    @model_validator(mode="after")
    def _by_method(self) -> "MethodSettings":
        for key, value in (self.model_extra or {}).items():
            if not isinstance(value, Mapping):
                raise ValueError(f"method.{key}={value!r}: settings belong to a method, as in method.kt.T=4")
        return self


class Gate(Section):
    """How far a file of one precision may differ from its source; None = measured, not gated."""

    #: least share of pixels with the same class, borderline pixels not held against the file
    agreement: float = Field(ge=0, le=1)
    #: largest difference of a logit ``z``, as a share of ``max(1, |z|)``
    max_diff: float | None = Field(default=None, gt=0)
    #: largest loss of mIoU, in points of 100
    miou_drop: float | None = Field(default=None, ge=0)
    #: a pixel is borderline where the class chosen scores lower by at most ``tie * max(1, |z|)``
    tie: float = Field(default=0.0, ge=0)


class Gates(Section):
    """The gates by precision of the file; a key that is set leaves the others as they are."""

    fp32: Gate = Gate(max_diff=1e-4, agreement=0.9999)
    # a tie is four roundings of the type: below that a network that hardly decides flips, whatever computes it
    fp16: Gate = Gate(agreement=0.999, tie=2**-9)
    bf16: Gate = Gate(agreement=0.99, miou_drop=0.5, tie=2**-6)
    int8: Gate = Gate(agreement=0.99, miou_drop=0.5)
    fp8: Gate = Gate(agreement=0.98, miou_drop=0.5)

    @model_validator(mode="before")
    @classmethod
    def _key_by_key(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: defaults.get(name, {}) | value if isinstance(value, Mapping) else value
            for name, value in values.items()
        }


class Quantise(Section):
    """Quantisation-aware training, as ``kdc calib --qat`` sets it: see ``training.fake_quantise``."""

    grid: Literal["s8", "u8", "e4m3"]
    #: name of a layer and the range of its input that is represented; layers that are not named compute in full
    layers: list[tuple[str, float, float]]
    narrow: bool = False  # weights of 7 bits
    left_high: list[str] = []  # nodes and groups of the file that are not quantised
    calibrator: str | None = None  # what found the ranges
    run: str | None = None  # the run whose method's own parts this one starts from
    after: int = Field(default=0, ge=0)  # steps that the student has taken before


class Config(Section):
    """Every value of a run, as resolved."""

    # pydantic copies a default that is a model, so that no two configurations share one
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    task: Task = Task()
    method: MethodSettings = MethodSettings()
    gates: Gates = Gates()
    quantise: Quantise | None = None

    @property
    def before(self) -> int:
        """Steps that the student took in the run that this one continues; schedules count from there."""
        return self.quantise.after if self.quantise else 0

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML that ``--config`` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def changed(self, **dotted: Any) -> "Config":
        """Return a copy with dotted keys (``train__iters=5``) replaced."""
        nested = self.model_dump()
        for key, value in dotted.items():
            _put(nested, key.replace("__", "."), value)
        return _validated(nested)


#: settings whose value on a command line is taken as it is, not as YAML
_TEXTS = ("data.source", "data.images", "data.labels")


def resolve(
    flags: Mapping[str, Any],
    sets: Iterable[str] = (),
    file: Path | None = None,
    layers: Iterable[Mapping[str, Any]] = (),
) -> Config:
    """Fill the schema: flags over ``--set`` over ``--config`` over ``layers`` (later over earlier) over defaults.

    Args:
        flags: dotted keys of the command line; None means not given.
        sets: texts such as ``train.lr=0.01``; the value is read as YAML.
        file: a YAML file, nested or with dotted keys.
        layers: flat dictionaries of dotted keys: the data's recipe, then the preset.

    Raises:
        UsageError: an unknown key or a value that the schema refuses.
    """
    nested: dict[str, Any] = {}

    for layer in layers:
        for key, value in layer.items():
            _put(nested, key, value)
    for key, value in (flat_yaml(file) if file else {}).items():
        _put(nested, key, value)
    for text in sets:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text!r} is not key=value, such as --set train.lr=0.01")
        try:
            _put(nested, key.strip(), value if key.strip() in _TEXTS else _tuple(parse_yaml(value)))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text!r}: the value is not YAML ({str(error).splitlines()[0]})") from error
    for key, value in flags.items():
        if value is not None:
            _put(nested, key, value)
    return _validated(nested)


def _put(nested: dict[str, Any], dotted: str, value: Any) -> None:
    parts = dotted.split(".")
    if parts[0] == "method" and len(parts) > 3:  # method.kt.tailor.train: one setting of one method
        parts = [*parts[:2], ".".join(parts[2:])]
    if parts[0] == "method" and len(parts) == 3:
        parts[1] = parts[1].replace("-", "_")
    for part in parts[:-1]:
        nested = nested.setdefault(part, {})
        if not isinstance(nested, dict):
            raise UsageError(f"{part} is a section and cannot be a value of its own; set its keys, as in {dotted}")
    nested[parts[-1]] = value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _validated(nested: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown setting {key!r}{closest(key, _keys())}") from error
        if first["type"] == "model_type":
            raise UsageError(
                f"{key}={first['input']!r}: {key} is a section; set keys of it, such as --set {_example(key)}"
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(message if not key or "=" in message else f"{key}={first['input']!r}: {message}") from error


def _example(section: str) -> str:
    keys = ((key, value) for key, value in flatten(Config().model_dump()) if key.startswith(f"{section}."))
    return "=".join(map(str, next(keys, (f"{section}.KEY", "VALUE"))))


def _keys() -> list[str]:
    return [key for key, _ in flatten(Config().model_dump())]
