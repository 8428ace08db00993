"""One float32 ONNX file and what is to be made of it: writes it with any calibrator, and any nodes left high."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from ..deploy.artefacts.safe_onnx import save_own
from ..deploy.runtimes.open import open_runtime
from ..distill.errors import UsageError, WeightsError, closest
from ..distill.run.files import replacing
from ..distill.settings.config import Quantise
from ..distill.training.fake_quantise import TOP
from .calibrators import CALIBRATORS, check_calibrator, ranges
from .cast import CastReport, cast_half, cast_model
from .heldout import HeldOut, Outcome
from .histograms import Statistics
from .onnx_graph import WEIGHTED, finished, inputs, load_named, tail
from .openvino_int8 import quantise_for_openvino
from .ort_int8 import quantise_for_ort
from .qdq import Quantised, inspect, place, precision_of

#: precision -> the targets that a file of it is for, the default first
TARGETS = {"int8": ("ort", "trt", "openvino"), "fp8": ("trt",), "fp16": ("trt", "ort"), "bf16": ("trt",)}
#: target -> how it rounds activations to 8 bits
_GRIDS = {("int8", "ort"): "u8", ("int8", "trt"): "s8", ("fp8", "trt"): "e4m3"}
#: the smallest squared error on the grid: of the four it agreed best for a student trained on CamVid
CALIBRATOR = "mse"


@dataclass(frozen=True)
class Form:
    """What is to be made."""

    to: str
    target: str
    #: what the rest of a quantised graph computes in
    high: str = "fp32"

    @classmethod
    def of(cls, to: str, target: str | None, high: str | None) -> "Form":
        """Check what was asked for and fill in what was not.

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
    def grid(self) -> str | None:
        """How activations are rounded; None for a cast, and where NNCF decides."""
        return _GRIDS.get((self.to, self.target))

    @property
    def precision(self) -> str:
        """The precision as the file will say it."""
        return precision_of(self.grid, self.high) if self.grid else self.to

    def path(self, source: Path) -> Path:
        """Name the file: ``model.int8.ort.onnx``, ``model.int8.trt.onnx``, ``model.fp16.onnx``, ..."""
        kind = "xml" if self.target == "openvino" else "onnx"
        middle = self.to if self.to == "fp16" else f"{self.to}.{self.target}"
        middle = middle if self.high == "fp32" else f"{self.to}.fp16.{self.target}"
        return source.with_name(f"{source.name.removesuffix('.onnx')}.{middle}.{kind}")

    def calibrators(self) -> list[str]:
        """Name the calibrators that say something about this form."""
        return [each for each in CALIBRATORS if self.grid and not (self.grid == "e4m3" and each == "entropy")]

    def check(self, calibrator: str | None) -> None:
        """Refuse a calibrator that is not known, or that is idle here, with a UsageError."""
        if calibrator is None:
            return
        check_calibrator(calibrator, self.grid or "s8")
        if not self.grid:
            why = "NNCF has its own" if self.target == "openvino" else f"--to {self.to} rounds nothing to a range"
            raise UsageError(f"--calibrator {calibrator} does nothing here ({why}): leave it out")


class Maker:
    """Makes files of one form of one float32 file."""

    def __init__(
        self,
        source: Path,
        form: Form,
        statistics: Callable[[], Statistics],
        images: Callable[[], Iterable[np.ndarray]],
        fingerprint: str = "",
        aware: Quantise | None = None,
    ) -> None:
        """Take what every file needs.

        Args:
            source: the float32 file.
            form: what is made of it.
            statistics: gives those of ``source``; called at most once, and not for NNCF.
            images: gives the calibration images anew, for NNCF.
            fingerprint: of the statistics.
            aware: what the network was trained to feel: its ranges come before those of the statistics.
        """
        self.source, self.form, self._collect, self._images = source, form, statistics, images
        self.fingerprint, self._aware = fingerprint, aware

    @cached_property
    def statistics(self) -> Statistics:
        """Of the float32 file on the calibration images."""
        return self._collect()

    @cached_property
    def model(self) -> ModelProto:
        """The float32 graph, every node named; not to be changed."""
        return load_named(str(self.source))

    def make(self, out: Path, *, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> Quantised | CastReport:
        """Write a file and say what was done.

        Args:
            out: where it goes, atomically.
            calibrator: see ``ranges``.
            keep: names of nodes left high.
        """
        form = self.form
        if not form.grid and form.target != "openvino":
            return self._cast(out, keep)
        if form.target == "openvino":
            report = quantise_for_openvino(self.source, out, self._images(), graph=self.model.graph, keep=keep)
        else:
            model, facts = self._quantised(calibrator, keep)
            with replacing(out) as beside:
                save_own(model, beside)
            report = inspect(model.graph)
            report.precision, report.target, report.calibrator = form.to, form.target, calibrator
            report.images, report.high = self.statistics.images, form.high
            for name, value in facts.items():
                setattr(report, name, value)
        report.left_high = [*keep, *(name for name in tail(self.model.graph) if name not in keep)]
        report.bytes_before = self.source.stat().st_size
        beside = out.with_suffix(".bin")
        report.bytes_after = out.stat().st_size + (beside.stat().st_size if form.target == "openvino" else 0)
        return report

    def score(self, images: HeldOut, *, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> Outcome:
        """Make a file for a moment and compare it with the float32 one on held-out images."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.form.path(Path(folder) / self.source.name)
            self.make(path, calibrator=calibrator, keep=keep)
            with open_runtime(path) as runtime:
                return images.score(runtime)

    def written(self, calibrator: str = CALIBRATOR, keep: Sequence[str] = ()) -> dict[str, tuple[float, float]]:
        """Return the range that the input of each convolution has in the file, by the name of its node.

        It may be wider than the tensor's own: what is joined or pooled shares one scale.
        """
        grid = self.form.grid
        assert grid is not None
        graph = self._quantised(calibrator, keep)[0].graph
        made = {name: node for node in graph.node for name in node.output}
        stored = {tensor.name: tensor for tensor in graph.initializer}
        found = {}
        for node in graph.node:
            source = made.get(node.input[0]) if node.op_type in WEIGHTED else None
            if source is not None and source.op_type == "Cast":
                source = made.get(source.input[0])
            if source is None or source.op_type != "DequantizeLinear":
                continue
            step = float(numpy_helper.to_array(stored[source.input[1]]))
            zero = int(numpy_helper.to_array(stored[source.input[2]])) if grid == "u8" else 0
            low, high = (0, int(TOP[grid])) if grid == "u8" else (-TOP[grid], TOP[grid])
            found[node.name] = (low - zero) * step, (high - zero) * step
        return found

    def _fixed(self) -> dict[str, tuple[float, float]]:
        there, layers = inputs(self.model.graph), self._aware.layers if self._aware else []
        if missing := [name for name, *_ in layers if name not in there]:
            raise WeightsError(
                f"the network was trained with a range for {missing[0]}, which {self.source.name} has not; write it "
                "again: kdc export onnx"
            )
        return {there[name][0]: (low, high) for name, low, high in layers}

    def _cast(self, out: Path, keep: Sequence[str]) -> CastReport:
        largest = {name: each.largest for name, each in self.statistics.tensors.items()}
        how = cast_half
        return how(self.source, out, low=self.form.to, block_nodes=keep, largest=largest)

    def _quantised(self, calibrator: str, keep: Sequence[str]) -> tuple[ModelProto, dict[str, Any]]:
        form = self.form
        assert form.grid is not None
        kept = ranges(self.statistics.tensors, calibrator, form.grid) | self._fixed()
        if form.target == "ort":
            narrow = self._aware.narrow if self._aware else None
            model, narrow = quantise_for_ort(self.model, kept, keep=keep, narrow=narrow)
            return finished(model, form.precision, keep), {"reduced_range": narrow}
        model = ModelProto()
        model.CopyFrom(self.model)
        place(model, kept, grid=form.grid, keep=keep, high=form.high)
        if form.high == "fp16":
            largest = {name: each.largest for name, each in self.statistics.tensors.items()}
            cast_model(model, largest=largest)
        return finished(model, form.precision, keep), {}
