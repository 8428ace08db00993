"""Images to masks with an engine whose graph does less: bytes are normalised and classes chosen on the GPU."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ...gpu.buffers import DeviceBuffers
from ...gpu.kernels import levels
from ..base import Spec, labels

if TYPE_CHECKING:
    from .lane import Lane


class Frames:
    """uint8 RGB ``(N, H, W, 3)`` to uint8 ``(N, H, W)`` for one shape; only bytes travel, in either direction."""

    def __init__(
        self,
        buffers: DeviceBuffers,
        lane: "Lane",
        spec: Spec,
        prepare: Callable[[np.ndarray], np.ndarray],
        start: "Callable[[Lane], None]",
    ) -> None:
        """Compile the kernels that run before and after the engine.

        Args:
            buffers: the GPU's memory and stream.
            lane: the memory of the engine's input and output.
            spec: what the engine takes and gives.
            prepare: prepares images on the CPU for an engine that does not take them as they are.
            start: queues the engine.

        Raises:
            ExportError: the kernels cannot be compiled here.
        """
        self._buffers, self._lane, self._spec, self._prepare, self._start = buffers, lane, spec, prepare, start
        height, width = spec.size
        count = lane.shape[0]
        self._pixels, self._area = count * height * width, height * width
        self._before: Callable[..., None] | None = None
        self._after: Callable[..., None] | None = None
        if spec.dtype == "float32" and spec.layout == "NCHW":
            self._before = buffers.kernel(_typed("normalise", lane.host_in))
            self._bytes_in = buffers.pinned((count, height, width, 3), "uint8")
            self._device_in = buffers.alloc(self._bytes_in.nbytes)
            table = buffers.pinned((3, 256), "float32")
            table[:] = levels(spec.preprocess)
            self._table = buffers.alloc(table.nbytes)
            buffers.upload(self._table, table)
        # logits of another size are enlarged first, by OpenCV
        plain = spec.answer.axes == "NCHW" and lane.host_out.shape[1] == spec.answer.classes
        if spec.head == "logits" and plain and lane.host_out.shape[2:] == spec.size:
            self._after = buffers.kernel(_typed("argmax", lane.host_out))
            self._mask = buffers.pinned((count, height, width), "uint8")
            self._device_out = buffers.alloc(self._mask.nbytes)

    def segment(self, images: np.ndarray) -> np.ndarray:
        """Segment images of the input's size; the result is a view of memory that the next call uses again."""
        lane, buffers, spec = self._lane, self._buffers, self._spec
        if self._before is not None:
            np.copyto(self._bytes_in, images)
            buffers.upload(self._device_in, self._bytes_in)
            flip = int(spec.preprocess.order == "bgr")
            self._before(self._pixels, self._device_in, self._table, lane.device_in, self._pixels, self._area, flip)
        else:
            np.copyto(lane.host_in, self._prepare(images))
            buffers.upload(lane.device_in, lane.host_in)
        self._start(lane)
        if self._after is not None:
            classes = lane.host_out.shape[1]
            self._after(self._pixels, lane.device_out, self._device_out, self._pixels, self._area, classes)
            buffers.download(self._mask, self._device_out)
            buffers.synchronize()
            return self._mask
        buffers.download(lane.host_out, lane.device_out)
        buffers.synchronize()
        out = spec.answer.read(lane.host_out, spec.size)
        return labels(out, spec.size) if spec.head == "logits" else out


def _typed(kernel: str, array: np.ndarray) -> str:
    return f"{kernel}_{'half' if array.dtype == np.float16 else 'float'}"
