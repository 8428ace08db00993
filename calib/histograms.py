"""Statistics of the tensors of an ONNX graph on real images: exact extremes, and histograms that double their range.

The range of a histogram is always a power of two, so widening it merges whole bins: the result does not depend on the
order of the images, and nothing has to be known in advance.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..deploy.runtimes.base import Runtime
from ..deploy.runtimes.open import open_runtime
from ..distill.errors import NumbersError, UsageError, need
from ..distill.run.files import sha256, write_json
from ..distill.run.seal import check_sealed
from ..distill.threads import asked_threads
from .onnx_graph import activations

#: bins on each side of zero
BINS = 2048
#: the most values of a tensor that enter its histogram per batch; its extremes are those of all values
SAMPLED = 1 << 16
#: the most bytes of activations in memory at once
MEMORY = 1 << 29
#: version of the cache file; a file of another version is collected anew
FORMAT = 1


class Histogram:
    """Counts of values in ``2 * BINS`` equal bins over ``[-reach, reach)``; exact zeros are counted apart."""

    def __init__(self) -> None:
        self.low, self.high, self.reach, self.zeros = np.inf, -np.inf, 0.0, 0
        self.counts = np.zeros(2 * BINS, np.int64)

    @property
    def largest(self) -> float:
        """The largest magnitude of any value."""
        return float(np.maximum(abs(self.low), abs(self.high)))  # a NaN stays one

    def add(self, values: np.ndarray) -> None:
        """Add values of any shape; one that is not finite makes ``largest`` so, and ends the counting."""
        flat = values.reshape(-1)
        least, most = float(flat.min()), float(flat.max())
        self.low, self.high = float(np.minimum(self.low, least)), float(np.maximum(self.high, most))
        if not np.isfinite(self.largest):
            return
        self._widen()
        # an odd step, which does not hit the same columns of every row
        sample = flat[:: max(1, flat.size // SAMPLED) | 1].astype(np.float64)
        nonzero = sample[sample != 0]
        self.zeros += sample.size - nonzero.size
        if nonzero.size:
            bins = np.floor(nonzero * (BINS / self.reach)).astype(np.int64) + BINS
            self.counts += np.bincount(bins, minlength=2 * BINS)

    def _widen(self) -> None:
        reach = 2.0 ** int(np.frexp(max(self.largest, 2.0**-100))[1])  # strictly above the largest value
        while 0 < self.reach < reach:
            merged = np.zeros_like(self.counts)
            merged[BINS // 2 : BINS // 2 + BINS] = self.counts.reshape(-1, 2).sum(1)
            self.counts, self.reach = merged, 2 * self.reach
        self.reach = self.reach or reach

    def magnitudes(self) -> np.ndarray:
        """Count the magnitudes in ``BINS`` bins over ``[0, reach)``; exact zeros are left out."""
        return self.counts[BINS:] + self.counts[:BINS][::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; empty bins at both ends are left out."""
        used = np.flatnonzero(self.counts)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        values = {"low": self.low, "high": self.high, "reach": self.reach, "zeros": self.zeros, "first": first}
        return values | {"counts": self.counts[first:last].tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Histogram":
        """Read what ``to_dict`` wrote."""
        histogram = cls()
        histogram.low, histogram.high = values["low"], values["high"]
        histogram.reach, histogram.zeros = values["reach"], values["zeros"]
        histogram.counts[values["first"] : values["first"] + len(values["counts"])] = values["counts"]
        limits = (histogram.low, histogram.high, histogram.reach)
        if not all(isinstance(each, float | int) and math.isfinite(each) for each in limits):
            raise ValueError(f"limits of {limits}")
        return histogram


@dataclass
class Statistics:
    """A histogram for every activation of a graph, and what identifies the images and the file."""

    tensors: dict[str, Histogram]
    images: int
    fingerprint: str

    def save(self, path: Path) -> None:
        """Write everything as one JSON file, atomically."""
        tensors = {name: each.to_dict() for name, each in self.tensors.items()}
        values = {"format": FORMAT, "fingerprint": self.fingerprint, "images": self.images, "bins": BINS}
        # as one string a tensor: a line for every count would make the file ten times as long
        write_json(path, values | {"tensors": {name: json.dumps(each) for name, each in tensors.items()}})

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> "Statistics | None":
        """Read a cache; None where there is none, it is broken, or it belongs to another model or other images.

        Raises:
            WeightsError: it was changed since kdc wrote it.
        """
        check_sealed(path)
        try:
            values = json.loads(path.read_text())
            if (values["format"], values["fingerprint"], values["bins"]) != (FORMAT, fingerprint, BINS):
                return None
            tensors = {name: Histogram.from_dict(json.loads(each)) for name, each in values["tensors"].items()}
            return cls(tensors, values["images"], fingerprint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def fingerprint(model: Path, data: str, keys: Sequence[str]) -> str:
    """Return a sha256 of all that statistics depend on: the model's file, the data and its images, in any order."""
    return hashlib.sha256(json.dumps([FORMAT, sha256(model), data, sorted(keys)]).encode()).hexdigest()


def cache_path(folder: Path, fingerprint: str) -> Path:
    """Return where a run keeps statistics."""
    return folder / f"statistics-{fingerprint[:12]}.json"


def collect(path: Path, images: Iterable[np.ndarray], fingerprint: str = "") -> Statistics:
    """Run a float32 ONNX file on images and gather the statistics of its input and of every activation.

    Args:
        path: a file that ``open_runtime`` opens.
        images: uint8 RGB ``(H, W, 3)`` of any size, prepared by the file's own preprocessing, a batch at a time.
        fingerprint: of the result.

    Raises:
        UsageError: no images.
        NumbersError: an activation is not finite.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))

    with open_runtime(path) as runtime:
        batch = runtime.spec.batch or 1
        sizes = activations(model.graph)
        session, name = _session(model, list(sizes)), model.graph.input[0].name
        histograms = {tensor: Histogram() for tensor in sizes}
        passes, count = list(_passes(sizes, batch)), 0
        # counted where an image begins, since one in tiles gives several views
        source = ((n == 0, view.image) for image in images for n, view in enumerate(runtime.fit.views(image)))

        while group := list(itertools.islice(source, batch)):
            x = _input_of(runtime, [view for _, view in group], batch)
            for names in passes:
                outputs = [x] if names == [name] else session.run(names, {name: x})
                for tensor, values in zip(names, outputs, strict=True):
                    histograms[tensor].add(values)
                    if not np.isfinite(histograms[tensor].largest):
                        raise NumbersError(
                            f"{path.name}: {tensor} is not finite on calibration image {count + 1}; "
                            "the float32 network itself is broken there"
                        )
            count += sum(first for first, _ in group)

    if not count:
        raise UsageError("no calibration images were given; at least 1 is needed")
    return Statistics(histograms, count, fingerprint)


def _input_of(runtime: Runtime, group: list[np.ndarray], batch: int) -> np.ndarray:
    """Return one input batch; where there are too few images the last is repeated."""
    whole = group + [group[-1]] * (batch - len(group))
    if len({image.shape for image in whole}) == 1:
        return runtime.prepare(np.stack(whole))
    return np.concatenate([runtime.prepare(image[None]) for image in whole])


def _session(model: onnx.ModelProto, names: list[str]) -> Any:
    ort = need("onnxruntime", "cpu")
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    known = {value.name for value in [*observed.graph.output, *observed.graph.input]}
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = asked_threads() or 0
    options.log_severity_level = 4
    return ort.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _passes(sizes: dict[str, int], batch: int) -> Iterable[list[str]]:
    """Divide the tensors so that the outputs of one run fit into ``MEMORY``; the input is a pass of its own."""
    names = list(sizes)
    yield names[:1]
    part, held = [], 0
    for name in names[1:]:
        if part and held + 4 * batch * sizes[name] > MEMORY:
            yield part
            part, held = [], 0
        part.append(name)
        held += 4 * batch * sizes[name]
    if part:
        yield part
