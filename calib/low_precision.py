"""Low-precision files of one float32 ONNX file: written with any calibrator, and with any nodes left high."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from onnx import ModelProto, numpy_helper

from ..deploy.artefacts.beside import artefact_bytes
from ..deploy.artefacts.safe_onnx import save_own
from ..deploy.bench.onnx_cost import node_macs
from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.ort_runtime import read_info
from ..distill import console
from ..distill.errors import NumbersError, UsageError, WeightsError, closest
from ..distill.settings.config import Quantise
from ..distill.training.fake_quantise import TOP
from .autocast import autocast, tool
from .calibration import Calibration
from .calibrators import CALIBRATORS, check_calibrator, ranges
from .cast import CastReport, cast_half, cast_model
from .heldout import HeldOut, Outcome
from .onnx_graph import finished, inputs, layers, load_named, makers, products, short, tail
from .openvino_int8 import quantise_for_openvino
from .ort_int8 import quantise_for_ort
from .qdq import Quantised, inspect, least_opset, place, precision_of, share_of

Grid = Literal["u8", "s8", "e4m3"]
#: precision -> the runtimes that read a file of it, the default first
TARGETS = {"int8": ("ort", "trt", "openvino"), "fp8": ("trt",), "fp16": ("trt", "ort"), "bf16": ("trt",)}
#: target -> how it rounds activations to 8 bits
_GRIDS: dict[tuple[str, str], Grid] = {("int8", "ort"): "u8", ("int8", "trt"): "s8", ("fp8", "trt"): "e4m3"}
#: the smallest squared error on the grid: of the four it agreed best for a student trained on CamVid
CALIBRATOR = "mse"
#: least share of the multiply-adds that a low-precision file has in low precision
HALF = 0.5
#: height and width at which the layers of a file for any size are weighed against each other
ANY_SIZE = 512
#: what casts to FP16 and BF16, the default first
CASTERS = ("kdc", "modelopt")


def check_caster(caster: str) -> None:
    """Refuse an unknown caster (UsageError), or one that is not installed (ExportError)."""
    if caster not in CASTERS:
        raise UsageError(f"--caster {caster!r}: accepted are {' and '.join(CASTERS)}{closest(caster, CASTERS)}")
    if caster == "modelopt":
        tool()


@dataclass(frozen=True)
class Form:
    """Target precision and runtime of a low-precision file."""

    to: str
    target: str
    #: type in which the rest of a quantised graph computes
    high: str = "fp32"

    @classmethod
    def of(cls, to: str, target: str | None, high: str | None) -> "Form":
        """Check the flags and fill in the defaults.

        Raises:
            UsageError: a precision, target or high type that is not accepted, or not together.
        """
        if to not in TARGETS:
            raise UsageError(f"--to {to} is not known; accepted: {', '.join(TARGETS)}{closest(to, list(TARGETS))}")
        known = sorted({name for names in TARGETS.values() for name in names})
        if target is not None and target not in known:
            raise UsageError(f"--for {target} is not known; accepted: {', '.join(known)}{closest(target, known)}")
        if target is not None and target not in TARGETS[to]:
            raise UsageError(f"--for {target} has no use for {to}; accepted with --to {to}: {', '.join(TARGETS[to])}")
        target = target or TARGETS[to][0]
        if high not in (None, "fp16", "fp32"):
            raise UsageError(f"--high {high} is not known; accepted: fp16, fp32")
        if high is not None and (to, target) not in (("int8", "trt"), ("fp8", "trt")):
            raise UsageError("--high says what the rest of an INT8 or FP8 file for trt computes in: leave it out here")
        # TensorRT computes a float32 rest of an INT8 network more slowly than all of it in float16
        return cls(to, target, high or ("fp16" if target == "trt" and to in ("int8", "fp8") else "fp32"))

    @property
    def is_cast(self) -> bool:
        """Whether the file is cast, not quantised."""
        return self.to in ("fp16", "bf16")

    @property
    def grid(self) -> Grid | None:
        """The grid that activations are rounded to; None for a cast, and where NNCF decides."""
        return _GRIDS.get((self.to, self.target))

    @property
    def precision(self) -> str:
        """The precision that the file states."""
        return precision_of(self.grid, self.high) if self.grid else self.to

    def path(self, source: Path) -> Path:
        """Name the file: ``model.int8.ort.onnx``, ``model.int8.trt.onnx``, ``model.fp16.onnx``, ..."""
        kind = "xml" if self.target == "openvino" else "onnx"
        middle = self.to if self.to == "fp16" else f"{self.to}.{self.target}"
        middle = middle if self.high == "fp32" else f"{self.to}.fp16.{self.target}"
        return source.with_name(f"{source.name.removesuffix('.onnx')}.{middle}.{kind}")

    def calibrators(self) -> list[str]:
        """Name the calibrators that suit this form."""
        return [each for each in CALIBRATORS if self.grid and not (self.grid == "e4m3" and each == "entropy")]

    def check(self, calibrator: str | None) -> None:
        """Refuse an unknown calibrator, or one that has no effect here, with a UsageError."""
        if calibrator is None:
            return
        check_calibrator(calibrator, self.grid or "s8")
        if not self.grid:
            why = "NNCF has its own" if self.target == "openvino" else f"--to {self.to} rounds nothing to a range"
            raise UsageError(f"--calibrator {calibrator} does nothing here ({why}): leave it out")


def refuse_partial(report: Quantised | CastReport, form: Form) -> None:
    """Refuse a file that is less than half of what it is called.

    Raises:
        NumbersError: less than ``HALF`` of the multiply-adds are in low precision.
    """
    if report.share < HALF:
        high = report.products_high if isinstance(report, CastReport) else report.left_high
        raise NumbersError(
            f"only {report.share:.0%} of the multiply-adds would be in {form.to.upper()}, at least {HALF:.0%} are "
            f"needed: left in {'fp32' if form.is_cast else form.high} are {short(high, 8)}; --allow-partial writes "
            "the file all the same"
        )


class LowPrecisionWriter:
    """Writes files of one form of one float32 file."""

    def __init__(
        self, form: Form, calibration: Calibration, aware: Quantise | None = None, caster: str = CASTERS[0]
    ) -> None:
        """Take what every file needs.

        Args:
            form: of the files.
            calibration: of the float32 file.
            aware: the layers and ranges that the network was trained with; they override those of the statistics.
            caster: what casts to FP16 and BF16, one of ``CASTERS``.
        """
        self.form, self.calibration, self.source = form, calibration, calibration.source
        self._aware, self._caster = aware, caster
        self._ranges: dict[str, dict[str, tuple[float, float]]] = {}

    @cached_property
    def model(self) -> ModelProto:
        """The float32 graph, every node named, in an opset that the form can be written in; not to be changed."""
        return load_named(str(self.source), least_opset(self.form.grid, self.form.high))

    @cached_property
    def work(self) -> dict[str, int]:
        """The multiply-adds of each product of the float32 graph, by the name of its node."""
        names = products(self.model.graph)
        size = read_info(self.source).size
        try:
            counts = node_macs(self.source, (size[0] or ANY_SIZE, size[1] or ANY_SIZE))[0]
        except WeightsError as error:
            console.warn(f"what is in low precision is counted in layers, not in multiply-adds: {error}")
            counts = {node.output[0]: 1 for node in self.model.graph.node if node.name in names}
        return {node.name: counts.get(node.output[0], 0) for node in self.model.graph.node if node.name in names}

    def write(self, out: Path, *, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> Quantised | CastReport:
        """Write a file and report on it.

        Args:
            out: where it goes.
            calibrator: see ``ranges``.
            keep: names of nodes left high.
        """
        form = self.form
        if form.is_cast:
            cast = autocast if self._caster == "modelopt" else cast_half
            report = cast(self.source, out, low=form.to, block_nodes=keep, largest=self._largest())
            report.products_high = [name for name in self.work if name in report.float_nodes]
            report.share = share_of([name for name in self.work if name not in report.float_nodes], self.work)
            return report

        if form.target == "openvino":
            report = quantise_for_openvino(self.source, out, self.calibration.images, named=self.model, keep=keep)
        else:
            model, narrow = self._quantised(calibrator, keep)
            save_own(model, out)
            report = replace(
                inspect(model.graph, self.work),
                precision=form.to,
                target=form.target,
                calibrator=calibrator,
                images=self.calibration.statistics.images,
                high=form.high,
                reduced_range=narrow,
            )

        return replace(
            report,
            left_high=list(dict.fromkeys([*report.left_high, *keep, *tail(self.model.graph)])),
            bytes_before=artefact_bytes(self.source),
            bytes_after=artefact_bytes(out),
        )

    def score(self, images: HeldOut, *, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> Outcome:
        """Write a temporary file and compare it with the float32 one on held-out images."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.form.path(Path(folder) / self.source.name)
            self.write(path, calibrator=calibrator, keep=keep)
            with open_runtime(path) as runtime:
                return images.score(runtime)

    def input_ranges(self, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> dict[str, tuple[float, float]]:
        """Return the range that the input of each convolution has in the file, by the name of its node.

        It may be wider than the tensor's own: joined or pooled tensors share one scale.
        """
        grid = self.form.grid
        assert grid is not None
        graph = self._quantised(calibrator, keep)[0].graph
        maker, weighted = makers(graph), layers(self.model.graph)
        stored = {tensor.name: tensor for tensor in graph.initializer}

        input_ranges = {}
        for node in graph.node:
            source = maker.get(node.input[0]) if node.name in weighted else None
            if source is not None and source.op_type == "Cast":
                source = maker.get(source.input[0])
            if source is None or source.op_type != "DequantizeLinear":
                continue
            step = float(numpy_helper.to_array(stored[source.input[1]]))
            zero = int(numpy_helper.to_array(stored[source.input[2]])) if grid == "u8" else 0
            low, high = (0, int(TOP[grid])) if grid == "u8" else (-TOP[grid], TOP[grid])
            input_ranges[node.name] = (low - zero) * step, (high - zero) * step
        return input_ranges

    def _largest(self) -> dict[str, float]:
        return {name: each.largest for name, each in self.calibration.statistics.tensors.items()}

    def _trained_ranges(self) -> dict[str, tuple[float, float]]:
        names, layers = inputs(self.model.graph), self._aware.layers if self._aware else []
        if missing := [name for name, *_ in layers if name not in names]:
            raise WeightsError(
                f"the network was trained with a range for {missing[0]}, which {self.source.name} does not have; "
                "write it again: kdc export onnx"
            )
        return {names[name][0]: (low, high) for name, low, high in layers}

    def _quantised(self, calibrator: str, keep: Sequence[str]) -> tuple[ModelProto, bool]:
        """Return the quantised graph, and whether its weights have 7 bits."""
        form = self.form
        assert form.grid is not None
        if calibrator not in self._ranges:
            self._ranges[calibrator] = ranges(self.calibration.statistics.tensors, calibrator, form.grid)
        kept, trained = self._ranges[calibrator], self._trained_ranges()
        if form.target == "ort":
            narrow = self._aware and self._aware.narrow
            model, narrow = quantise_for_ort(self.model, kept, keep=keep, narrow=narrow, trained=trained)
            return finished(model, form.precision, keep), narrow
        model = ModelProto()
        model.CopyFrom(self.model)
        place(model, kept, grid=form.grid, keep=keep, high=form.high, trained=trained)
        if form.high == "fp16":
            cast_model(model, largest=self._largest())
        return finished(model, form.precision, keep), False
