"""One lane of an engine: a context, a stream and their buffers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Lane:
    """The memory of an input of one shape and of its output: pinned arrays of the host, addresses on the GPU."""

    shape: tuple[int, ...]
    host_in: np.ndarray
    host_out: np.ndarray
    device_in: int
    device_out: int
    #: starts the network as one CUDA graph, if it is run as one
    launch: Callable[[], None] | None = None
    #: what was captured: it holds the context that the graph needs
    queue: Callable[[int], None] | None = None
