"""A checkpoint run by torch: the reference that every exported file is compared with."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...distill.errors import ExportError, UsageError, one_line
from ...distill.evaluation.argmax import labels_of
from ...distill.losses import upsample
from ...distill.models import SegmentationModel
from ...distill.run.card import DataCard
from ...distill.run.checkpoint import load_deployable, read_card, student_file
from ...distill.run.folder import Run
from ..artefacts.beside import owner
from .base import DEVICES, Runtime, Spec, export_size
from .torch_mode import TorchMode

#: as a ``TorchMode`` writes a type -> torch's
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def need_device(device: str) -> None:
    """Refuse a device that is unknown (UsageError) or missing (ExportError)."""
    if device not in DEVICES:
        raise UsageError(f"device '{device}' is not known; accepted: {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ExportError("device 'cuda': torch sees no GPU here; kdc doctor says what is missing")


def need_compiler() -> str:
    """Return the C++ compiler that torch's Inductor would call.

    Raises:
        ExportError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError(
            "torch needs a C++ compiler to compile a network, and there is none: apt-get install g++ "
            "(macOS: xcode-select --install), or name one in the environment variable CXX"
        ) from error


def timed_by_clock(
    forward: Callable[[Tensor], Any], x: Tensor, stream: torch.cuda.Stream | None
) -> Callable[[], float]:
    """Return what ``Runtime.staged`` does, for a network of torch's and its input on the device."""
    on_stream = torch.cuda.stream(stream) if stream else contextlib.nullcontext()
    if stream:
        torch.cuda.synchronize()

    @torch.inference_mode()
    def step() -> float:
        start = time.perf_counter_ns()
        with on_stream:
            forward(x)
        if stream:
            stream.synchronize()
        return (time.perf_counter_ns() - start) / 1e6

    return step


def timed_on_gpu(
    forward: Callable[[Tensor], Tensor], host: Tensor, stream: torch.cuda.Stream
) -> Callable[[], dict[str, float]]:
    """Return what ``Runtime.timed`` does, for a network of torch's and an input in pinned memory."""
    x = host.to("cuda")
    with torch.inference_mode():
        back = torch.empty_like(forward(x), device="cpu", pin_memory=True)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
    torch.cuda.synchronize()

    @torch.inference_mode()
    def step() -> dict[str, float]:
        start = time.perf_counter_ns()
        with torch.cuda.stream(stream):
            marks[0].record()
            x.copy_(host, non_blocking=True)
            marks[1].record()
            launched = time.perf_counter_ns()
            out = forward(x)
            enqueued = time.perf_counter_ns()
            marks[2].record()
            back.copy_(out, non_blocking=True)
            marks[3].record()
        stream.synchronize()
        total = time.perf_counter_ns() - start
        spans = zip(("h2d", "compute", "d2h"), marks[:-1], marks[1:], strict=True)
        parts = {name: one.elapsed_time(other) for name, one, other in spans}
        return parts | {"enqueue": (enqueued - launched) / 1e6, "total": total / 1e6}

    return step


class TorchRuntime(Runtime):
    """The student of a run or of a kdc safetensors file, without its aux head, in inference mode.

    Images and logits are float32 whatever the network computes in. A compiled one compiles with its first input.
    """

    name = "torch"

    def __init__(
        self,
        source: Run | str | Path,
        *,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
        head: str = "logits",
        mode: TorchMode = TorchMode(),  # noqa: B008 - it cannot be changed
    ) -> None:
        """See ``open_runtime``."""
        if head not in ("logits", "argmax"):
            raise UsageError(f"head '{head}' is not known; accepted: logits, argmax")
        need_device(device)
        if threads:
            torch.set_num_threads(threads)

        self.source = student_file(source) if isinstance(source, Run) else Path(source)
        run = source if isinstance(source, Run) else owner(source)
        card = run.card if run else read_card(self.source)
        data = card.data if card else DataCard()

        self.device = device
        self.model: SegmentationModel = load_deployable(self.source)
        self.model.aux_head = None
        self._aligned = self.model.align_corners
        # layout, type and compiler of the mode
        self.mode, self.precision, self._dtype = mode, mode.precision, DTYPES[mode.precision]
        self._layout = torch.contiguous_format if mode.way == "eager" else torch.channels_last
        self.model.to(device, self._dtype).to(memory_format=self._layout)
        if mode.way == "compiled":
            need_compiler()
            # all of it or an error: a part that cannot be compiled would run as it is, and be timed as compiled;
            # the result keeps the network's interface, which the return type of torch.compile does not say
            whole = torch.compile(self.model, fullgraph=True)
            self.model = whole  # pyright: ignore[reportAttributeAccessIssue]

        if size is None:
            if data.size is None:
                raise UsageError(f"{self.source} does not say which image size it is for; name it: --size HxW")
            size = export_size(data.size, self.model.output_stride)
        height, width = size
        palette = tuple((int(r), int(g), int(b)) for r, g, b in data.palette)
        classes = tuple(data.classes)
        shape, prepare = (None, 3, height, width), self.model.preprocess
        self.spec = Spec(shape, "float32", "NCHW", head, prepare, classes, palette, fit=data.fit)
        self.provider = f"torch {device} {mode.way}"

        self._stream = None
        if device == "cuda":
            # sizes are fixed, and ONNX Runtime searches its convolutions by default too
            torch.backends.cudnn.benchmark = True
            self.tf32 = bool(torch.backends.cudnn.allow_tf32)
            # one stream for all inputs: the caching allocator keeps a pool of its own for every stream
            self._stream = torch.cuda.Stream()

    def _forward(self, x: Tensor) -> Tensor:
        try:
            logits = self.model(x).logits.float()
        except RuntimeError as error:  # torch's own exceptions are all of this class
            if self.mode == TorchMode():
                raise
            cure = "; kdc doctor shows the compiler, and other modes need none" if self.mode.way == "compiled" else ""
            raise ExportError(f"torch cannot run {self.source} as {self.mode} here: {one_line(error)}{cure}") from error
        if not self._aligned:
            logits = upsample(logits, self.spec.size, align_corners=False)
        return labels_of(logits, self.spec.size) if self.spec.head == "argmax" else upsample(logits, self.spec.size)

    def _stage(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.device, self._dtype).contiguous(memory_format=self._layout)

    @torch.inference_mode()
    def _infer(self, x: np.ndarray) -> np.ndarray:
        return self._forward(self._stage(x)).contiguous().cpu().numpy()

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone, by the wall clock from the call to the end of its stream, as for every runtime."""
        self.check(x)
        return timed_by_clock(self._forward, self._stage(x), self._stream)

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]] | None:
        """Time transfers and network apart by CUDA events, from and to pinned memory."""
        self.check(x)
        if self._stream is None:
            return None
        # in the network's layout and type before it is pinned: a transfer is then a copy and nothing else
        host = torch.from_numpy(x).to(self._dtype).contiguous(memory_format=self._layout).pin_memory()
        return timed_on_gpu(self._forward, host, self._stream)

    def close(self) -> None:
        """Drop the weights."""
        del self.model
        if self.device == "cuda":
            torch.cuda.empty_cache()
