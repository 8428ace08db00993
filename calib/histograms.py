"""What values the tensors of an ONNX graph take on real images: exact extremes, and histograms that double their range.

The range of a histogram is always a power of two, so widening it merges whole bins: the result does not depend on the
order of the images, and nothing has to be known in advance.
"""

import hashlib
import itertools
import json
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
from .onnx_graph import activations

#: bins on each side of zero
BINS = 2048
#: at most so many values of a tensor enter its histogram per batch; its extremes are those of all values
SAMPLED = 1 << 16
#: bytes of activations that are held at once
MEMORY = 1 << 29
#: of the cache file; statistics of another one are collected anew
FORMAT = 1


class Histogram:
    """Counts of values in ``2 * BINS`` equal bins over ``[-reach, reach)``; exact zeros are counted apart."""

    def __init__(self) -> None:
        self.low, self.high, self.reach, self.zeros = np.inf, -np.inf, 0.0, 0
        self.counts = np.zeros(2 * BINS, np.int64)

    @property
    def largest(self) -> float:
        """The largest magnitude seen."""
        return float(np.maximum(abs(self.low), abs(self.high)))  # a NaN stays one

    def add(self, values: np.ndarray) -> None:
        """Add values of any shape; where one is not finite, ``largest`` is not either and the rest is not counted."""
        flat = values.reshape(-1)
        least, most = float(flat.min()), float(flat.max())
        self.low, self.high = float(np.minimum(self.low, least)), float(np.maximum(self.high, most))
        if not np.isfinite(self.largest):
            return
        self._widen()
        # an odd step, which does not fall on the same columns of every row
        taken = flat[:: max(1, flat.size // SAMPLED) | 1].astype(np.float64)
        live = taken[taken != 0]
        self.zeros += taken.size - live.size
        if live.size:
            bins = np.floor(live * (BINS / self.reach)).astype(np.int64) + BINS
            self.counts += np.bincount(bins, minlength=2 * BINS)

    def _widen(self) -> None:
        wanted = 2.0 ** int(np.frexp(max(self.largest, 2.0**-100))[1])  # strictly above the largest value
        while 0 < self.reach < wanted:
            merged = np.zeros_like(self.counts)
            merged[BINS // 2 : BINS // 2 + BINS] = self.counts.reshape(-1, 2).sum(1)
            self.counts, self.reach = merged, 2 * self.reach
        self.reach = self.reach or wanted

    def magnitudes(self) -> np.ndarray:
        """Return how often each magnitude occurs, in ``BINS`` bins over ``[0, reach)``; exact zeros are left out."""
        return self.counts[BINS:] + self.counts[:BINS][::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; empty bins at both ends are left out."""
        used = np.flatnonzero(self.counts)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        values = {"low": self.low, "high": self.high, "reach": self.reach, "zeros": self.zeros, "first": first}
        return values | {"counts": self.counts[first:last].tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Histogram":
        """Rebuild what ``to_dict`` gave."""
        made = cls()
        made.low, made.high, made.reach, made.zeros = (values[key] for key in ("low", "high", "reach", "zeros"))
        made.counts[values["first"] : values["first"] + len(values["counts"])] = values["counts"]
        return made


@dataclass
class Statistics:
    """A histogram for every activation of a graph, and of what they were taken."""

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
        """Read a cache; None where there is none, it is broken, or it is of another model or of other images."""
        try:
            values = json.loads(path.read_text())
            if (values["format"], values["fingerprint"], values["bins"]) != (FORMAT, fingerprint, BINS):
                return None
            tensors = {name: Histogram.from_dict(json.loads(each)) for name, each in values["tensors"].items()}
            return cls(tensors, values["images"], fingerprint)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def fingerprint(model: Path, data: str, keys: Sequence[str]) -> str:
    """Return a sha256 of what statistics depend on: the model's file, the data and which images of it, in any order."""
    return hashlib.sha256(json.dumps([FORMAT, sha256(model), data, sorted(keys)]).encode()).hexdigest()


def cache_path(folder: Path, fingerprint: str) -> Path:
    """Return where a run keeps statistics."""
    return folder / f"statistics-{fingerprint[:12]}.json"


def collect(path: Path, images: Iterable[np.ndarray], fingerprint: str = "") -> Statistics:
    """Run a float32 ONNX file on images and gather the statistics of its input and of every activation.

    Args:
        path: a file that ``open_runtime`` opens.
        images: uint8 RGB ``(H, W, 3)``, prepared by the file's own preprocessing, a batch at a time.
        fingerprint: what the result is called.

    Raises:
        UsageError: no images, or one that is larger than the network's input.
        NumbersError: an activation is not finite.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    with open_runtime(path) as runtime:
        batch = runtime.spec.batch or 1
        sizes = activations(model.graph)
        session, name = _session(model, list(sizes)), model.graph.input[0].name
        found = {tensor: Histogram() for tensor in sizes}
        passes, count, source = list(_passes(sizes, batch)), 0, iter(images)
        while group := list(itertools.islice(source, batch)):
            x = _prepared(runtime, group, batch)
            for wanted in passes:
                made = [x] if wanted == [name] else session.run(wanted, {name: x})
                for tensor, values in zip(wanted, made, strict=True):
                    found[tensor].add(values)
                    if not np.isfinite(found[tensor].largest):
                        raise NumbersError(
                            f"{path.name}: {tensor} is not finite on calibration image {count + 1}; "
                            "the float32 network itself is broken there"
                        )
            count += len(group)
    if not count:
        raise UsageError("no calibration images were given; at least 1 is needed")
    return Statistics(found, count, fingerprint)


def _prepared(runtime: Runtime, group: list[np.ndarray], batch: int) -> np.ndarray:
    """Make one input; where the batch is not full its last image is repeated."""
    whole = group + [group[-1]] * (batch - len(group))
    if len({image.shape for image in whole}) == 1:
        return runtime.prepare(np.stack(whole))
    return np.concatenate([runtime.prepare(image[None]) for image in whole])


def _session(model: onnx.ModelProto, names: list[str]) -> Any:
    ort = need("onnxruntime", "cpu")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in [*watched.graph.output, *watched.graph.input]}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _passes(sizes: dict[str, int], batch: int) -> Iterable[list[str]]:
    """Part the tensors so that what one run returns fits into ``MEMORY``; the input is a pass of its own."""
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
